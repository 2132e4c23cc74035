// SPDX-License-Identifier: Apache-2.0
// keep_attach IMAGE STATE NAME DECODER [-u USER:PASSWORD | --credentials FILE | --hosts-dir DIR]: what
// `fastoci attach` does with a registry and keeps on disk for the helper and the next boot
// (STATE/NAME/meta.img and access.json), without what it does with the kernel. A meta image
// that is there already stays, as with an attach of what is attached.
#include <unistd.h>

#include <cstdio>
#include <string>

#include "attach/pull.h"
#include "attach/state.h"
#include "base/digest.h"
#include "testing/silent_progress.h"

namespace fastoci {
namespace {

constexpr int64_t kLockMs = 10000;

Status Keep(const std::string& image, const std::string& root, const std::string& name,
            const RegistryAccess& access) {
  SilentProgress progress;
  FASTOCI_TRY(StateDir dir, StateDir::Open(root, name, kLockMs));
  FASTOCI_TRY(ImagePuller puller, ImagePuller::Open(access));
  FASTOCI_TRY(ResolvedImage resolved, puller.Resolve(image, &progress));
  FASTOCI_TRY(Access kept, puller.AccessFor(resolved));
  FASTOCI_TRY(Sha256Digest digest, ParseDigest(resolved.manifest.digest));
  kept.image_id = HexEncode(digest);
  FASTOCI_CHECK_OK(dir.SaveAccess(kept));
  if (::access(dir.MetaPath().c_str(), F_OK) == 0) return OkStatus();
  return puller.Assemble(resolved, dir.path(), dir.MetaPath(), &progress);
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) {
  fastoci::RegistryAccess access;
  if (argc != 5 && argc != 7) {
    std::fprintf(stderr, "keep_attach: wrong arguments\n");
    return 2;
  }
  access.decoder = argv[4];
  if (argc == 7) {
    const std::string option = argv[5];
    if (option == "-u") access.user_password = argv[6];
    else if (option == "--hosts-dir") access.hosts_dirs = {argv[6]};
    else access.credentials_file = argv[6];
  }
  fastoci::Status status = fastoci::Keep(argv[1], argv[2], argv[3], access);
  if (status.ok()) return 0;
  std::fprintf(stderr, "keep_attach: %s\n", status.error().message.c_str());
  return 1;
}
