// SPDX-License-Identifier: Apache-2.0
#include "attach/attach.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "attach/signature.h"
#include "base/digest.h"
#include "base/open_file.h"
#include "base/unique_fd.h"
#include "fastoci_meta.h"
#include "kernel/loop.h"

namespace fastoci {
namespace {

constexpr int64_t kLockMs = 60000;
constexpr int64_t kControlMs = 10000;

std::string DmName(const std::string& name) { return kDmNamePrefix + name; }
std::string DmUuid(const std::string& name) { return kDmUuidPrefix + name; }

struct MetaInfo {
  std::string image_id;
  uint64_t sectors = 0;
};

// Only what the table line needs; the kernel checks the rest.
Result<MetaInfo> ReadMetaSuperblock(const std::string& path) {
  FASTOCI_TRY(const UniqueFd fd, OpenToRead(path));
  uint8_t sb[FASTOCI_META_SB_BYTES];
  FASTOCI_CHECK_OK(PreadFull(fd.get(), sb, 0, path));
  ByteReader reader(sb);
  ByteSpan magic = reader.Take(8);
  if (std::memcmp(magic.data(), FASTOCI_META_MAGIC, 8) != 0) {
    return Error{ErrorKind::kInvalid, EINVAL,
                 path + " is not an assembled meta image; make one with `fastoci assemble`"};
  }
  reader.Skip(offsetof(struct fastoci_meta_sb, image_id) - 8);
  MetaInfo info;
  info.image_id = HexEncode(reader.Take(32));
  info.sectors = reader.U64();
  if (info.sectors == 0 || info.sectors > FASTOCI_MAX_DEVICE_SECTORS) {
    return InvalidError(path + ": the size of its device is not valid; make the file again with `fastoci assemble`");
  }
  return info;
}

Status RequireCacheDevice(const std::string& path) {
  struct stat st;
  if (::stat(path.c_str(), &st) != 0) return ErrnoError("cache device " + path);
  if (!S_ISBLK(st.st_mode)) return InvalidError("cache device " + path + " is not a block device; name one with --cache-device");
  return OkStatus();
}

// For the helper, which finds it by the image's id.
Status KeepAccess(const AttachPaths& paths, const AttachRequest& request,
                  const ImagePuller& puller, const ResolvedImage& image, const StateDir& dir) {
  Access access;
  if (request.keep_access) {
    FASTOCI_TRY(access, ReadAccess(paths.state_dir, request.name));
  } else if (!image.ref.host.empty()) {
    FASTOCI_TRY(access, puller.AccessFor(image));
  }
  FASTOCI_TRY(Sha256Digest digest, ParseDigest(image.manifest.digest));
  access.image_id = HexEncode(digest);
  return dir.SaveAccess(access);
}

// An image that is attached: what is given now is what the helper uses from now on.
Status RenewAccess(const AttachPaths& paths, const AttachRequest& request,
                   const ImageState& state, const StateDir& dir) {
  const RegistryAccess& a = request.access;
  if (request.ref.empty() || ParseLayoutName(request.ref) || state.manifest_digest.empty())
    return OkStatus();
  ResolvedImage image;
  FASTOCI_TRY(image.ref, ParseReference(request.ref));
  if (!a.given() && CredentialsFileOfEnvironment(image.ref).empty()) return OkStatus();
  FASTOCI_TRY(ImagePuller puller, ImagePuller::Open(a));
  image.manifest.digest = state.manifest_digest;
  FASTOCI_CHECK_OK(KeepAccess(paths, request, puller, image, dir));
  // A helper that does not run will read it anyway.
  (void)CallHelper(paths.control_socket, {{"op", "reopen"}}, kControlMs).ok();
  return OkStatus();
}

// The signature was checked when the seed was imported. If other keys count now, it has to be again.
Status CheckSeededPolicy(const std::vector<SignatureRule>& rules, const ImageState& state) {
  FASTOCI_TRY(const std::string keys, SeedKeysOf(rules, state.ref));
  if (keys.empty() || keys == state.seed_keys) return OkStatus();
  return Error{ErrorKind::kMismatch, EKEYREJECTED,
               state.ref + ": \"signatures\" in the configuration demands other keys than when its seed was imported: "
                           "detach it, and import the seed again"};
}

// Puts a meta image in the state directory, unless it is there and unchanged.
Status Provide(const AttachPaths& paths, const AttachRequest& request, const StateDir& dir,
               ImageState* state, Progress* progress) {
  std::string known = state->meta_sha256;
  if (request.kept) {
    if (known.empty()) return NotFoundError("the meta image of " + state->name + " was not kept; attach the image again");
    FASTOCI_TRY(std::string now, HashFile(state->meta_path));
    if (now == known) return OkStatus();
    return MismatchError(state->meta_path + " has changed since it was attached: its sha256 differs");
  }
  if (!request.meta_image.empty()) {
    char* real = ::realpath(request.meta_image.c_str(), nullptr);
    state->meta_path = real ? real : request.meta_image;
    ::free(real);
    FASTOCI_TRY(state->meta_sha256, HashFile(state->meta_path));
    return OkStatus();
  }
  FASTOCI_TRY(Config node, LoadConfig(paths.config));
  if (state->seeded && state->ref == request.ref && !request.ref.empty()) {
    FASTOCI_CHECK_OK(CheckSeededPolicy(node.signatures, *state));
    FASTOCI_TRY(std::string now, HashFile(state->meta_path));
    if (now != known) return MismatchError(state->meta_path + " has changed since it was seeded: its sha256 differs; import the seed again");
    progress->Step("taking " + request.ref + " as it was seeded");
    return RenewAccess(paths, request, *state, dir);
  }
  RegistryAccess access = request.access;
  access.node_hosts_dir = node.hosts_dir;
  FASTOCI_TRY(ImagePuller puller, ImagePuller::Open(access, node.signatures));
  bool by_config = !request.config.empty();
  FASTOCI_TRY(ResolvedImage image, request.stack ? puller.ResolveStack(*request.stack, progress)
                                   : by_config   ? puller.ResolveConfig(request.config, progress)
                                                 : puller.Resolve(request.ref, progress));
  // A stack's owner has asked before it took the layers.
  if (!request.stack) FASTOCI_CHECK_OK(puller.CheckPolicy(image, progress));
  FASTOCI_CHECK_OK(KeepAccess(paths, request, puller, image, dir));
  state->ref = by_config ? "" : request.ref;
  state->meta_path = dir.MetaPath();
  // Files that a config names may have changed under it.
  if (!by_config && !known.empty() && state->manifest_digest == image.manifest.digest) {
    auto kept = HashFile(state->meta_path);
    if (kept.ok() && *kept == known) return OkStatus();
  }
  FASTOCI_CHECK_OK(puller.Assemble(image, dir.path(), state->meta_path, progress));
  state->manifest_digest = image.manifest.digest;
  FASTOCI_TRY(state->meta_sha256, HashFile(state->meta_path));
  return OkStatus();
}

Result<std::string> NameFor(const AttachRequest& request) {
  if (!request.name.empty()) {
    if (IsImageName(request.name)) return request.name;
    return InvalidError("bad name \"" + request.name +
                        "\": a name has up to 100 letters, digits, '.', '_' and '-', and begins with neither '.' nor '-'");
  }
  if (request.ref.empty())
    return InvalidError("a local meta image or config needs a name: --name");
  if (auto layout = ParseLayoutName(request.ref)) {
    while (layout->directory.ends_with('/')) layout->directory.pop_back();
    return DefaultImageName(layout->directory, layout->tag);
  }
  FASTOCI_TRY(Reference ref, ParseReference(request.ref));
  return DefaultImageName(ref.repository, ref.Identifier());
}

Status CreateDevice(const std::string& name, const std::string& meta_path,
                    const std::string& cache, const std::string& policy, Progress* progress) {
  FASTOCI_TRY(MetaInfo info, ReadMetaSuperblock(meta_path));
  FASTOCI_TRY(AutoclearLoop loop, AutoclearLoop::Open(meta_path));
  if (!loop.direct_io()) {
    progress->Warn(loop.device() + " runs buffered: the file system under " + meta_path +
                   " has no 512-byte direct I/O");
  }
  DmTable table;
  table.sectors = info.sectors;
  std::string options = policy == "hold" ? "1 hold" : "2 " + policy;
  table.params = loop.device() + " " + cache + " " + options;
  return DmCreate(DmName(name), DmUuid(name), table);
}

}  // namespace

Result<AttachResult> AttachImage(const AttachPaths& paths, const AttachRequest& request,
                                 Progress* progress) {
  FASTOCI_TRY(std::string name, NameFor(request));
  FASTOCI_CHECK_OK(DmRequireTarget(kDmTarget));
  FASTOCI_TRY(StateDir dir, StateDir::Open(paths.state_dir, name, kLockMs));
  ImageState state;
  if (auto loaded = dir.Load(); loaded.ok()) state = *loaded;
  state.name = name;

  AttachResult result;
  auto device = DmInfo(DmName(name));
  if (device.ok() && device->has_table) {
    if (!request.ref.empty() && !state.ref.empty() && state.ref != request.ref) {
      return Error{ErrorKind::kIo, EEXIST,
                   "the name " + name + " is taken by " + state.ref + "; choose another: --name"};
    }
    result.already = true;
    FASTOCI_CHECK_OK(RenewAccess(paths, request, state, dir));
    FASTOCI_TRY(result.image, FindImage(paths, name));
    return result;
  }
  if (device.ok()) FASTOCI_CHECK_OK(DmRemove(DmName(name), 0));  // an attach was killed half-way
  bool fresh = state.meta_path.empty();
  Status status = Provide(paths, request, dir, &state, progress);
  std::string cache = request.cache_device;
  if (status.ok() && cache.empty()) {
    auto found = HelperCacheDevice(paths.control_socket, kControlMs);
    if (found.ok()) cache = *found;
    else status = found.error();
  }
  if (status.ok()) status = RequireCacheDevice(cache);
  if (status.ok()) status = dir.Save(state);
  if (status.ok()) {
    progress->Step("creating " + DmNodePath(DmName(name)));
    status = CreateDevice(name, state.meta_path, cache, request.policy, progress);
  }
  if (status.ok()) {
    state.attached = true;
    state.policy = request.policy;
    state.cache_device = request.cache_device;
    status = dir.Save(state);
  }
  if (!status.ok()) {
    if (fresh) (void)dir.Remove().ok();
    return status.error();
  }
  FASTOCI_TRY(result.image, FindImage(paths, name));
  return result;
}

Result<std::string> InspectImage(const std::string& ref, const RegistryAccess& access,
                                 Progress* progress) {
  std::string work = "/tmp/fastoci-inspect.XXXXXX";
  FASTOCI_TRY(ImagePuller puller, ImagePuller::Open(access));
  FASTOCI_TRY(ResolvedImage image, puller.Resolve(ref, progress));
  if (::mkdtemp(work.data()) == nullptr) return ErrnoError("make a directory in /tmp");
  auto report = puller.Inspect(image, work, progress);
  ::rmdir(work.c_str());
  return report;
}

Result<std::vector<std::string>> CheckImage(const std::string& ref, const RegistryAccess& access,
                                            Progress* progress) {
  std::string work = "/var/tmp/fastoci-check.XXXXXX";  // blobs may be large
  FASTOCI_TRY(ImagePuller puller, ImagePuller::Open(access));
  FASTOCI_TRY(ResolvedImage image, puller.Resolve(ref, progress));
  if (::mkdtemp(work.data()) == nullptr) return ErrnoError("make a directory in /var/tmp");
  std::vector<std::string> reports;
  Status status = OkStatus();
  for (size_t i = 0; status.ok() && i < image.fastoci.layers.size(); i++) {
    auto report = puller.CheckLayer(image, i, work, progress);
    if (report.ok()) reports.push_back(std::move(*report));
    else status = report.error();
  }
  ::rmdir(work.c_str());
  if (!status.ok()) return status.error();
  return reports;
}

Status AssembleImage(const std::string& ref, const RegistryAccess& access,
                     const std::string& output, Progress* progress) {
  size_t slash = output.rfind('/');
  std::string parent = slash == std::string::npos ? "." : output.substr(0, slash + 1);
  std::string work = parent + "/.fastoci-assemble.XXXXXX";
  FASTOCI_TRY(ImagePuller puller, ImagePuller::Open(access));
  FASTOCI_TRY(ResolvedImage image, puller.Resolve(ref, progress));
  if (::mkdtemp(work.data()) == nullptr) return ErrnoError("make a directory in " + parent);
  Status status = puller.Assemble(image, work, output, progress);
  ::rmdir(work.c_str());
  return status;
}

}  // namespace fastoci
