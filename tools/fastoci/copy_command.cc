// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/copy_command.h"

#include <nlohmann/json.hpp>

#include "image/copy.h"
#include "tools/fastoci/output.h"

namespace fastoci {
namespace {

// "" for an OCI layout.
Result<std::string> RegistryOf(const std::string& text) {
  if (ParseLayoutName(text)) return std::string();
  FASTOCI_TRY(Reference ref, ParseReference(text));
  return CanonicalHost(ref.host);
}

// -u is for one registry: a password that was given for one must not reach another.
Status TakeUsers(const CopyRequest& request, RegistryAccess* from, RegistryAccess* to) {
  FASTOCI_TRY(std::string source, RegistryOf(request.from));
  FASTOCI_TRY(std::string target, RegistryOf(request.to));
  if (!from->user_password.empty() && !source.empty() && !target.empty() && source != target)
    return InvalidError("-u is for one registry, and these are two (" + source + ", " + target +
                        "); give --from-username, --to-username or both");
  if (!request.from_user.empty()) from->user_password = request.from_user;
  if (!request.to_user.empty()) to->user_password = request.to_user;
  return OkStatus();
}

Result<std::string> Copy(const CopyRequest& request, const RegistryAccess& access) {
  RegistryAccess source = access, target = access;
  FASTOCI_CHECK_OK(TakeUsers(request, &source, &target));
  FASTOCI_TRY(NamedImage from, OpenImageStore(request.from, source, false));
  FASTOCI_TRY(NamedImage to, OpenImageStore(request.to, target, true));
  if (to.name.starts_with("sha256:")) return InvalidError("the target needs a tag, not a digest: HOST/REPOSITORY:TAG");
  CopyOptions copy;
  copy.scratch_dir = request.scratch_dir;
  return CopyImage(from.store.get(), from.name, to.store.get(), to.name, copy);
}

}  // namespace

CLI::App* AddCopyCommand(CLI::App* app, CopyRequest* request) {
  CLI::App* copy = app->add_subcommand("copy", "copy an image with all layers that it needs");
  copy->add_option("from", request->from, "HOST/REPOSITORY:TAG or oci:DIR:TAG")->required();
  copy->add_option("to", request->to, "where to, in the same form")->required();
  copy->add_option("--scratch-dir", request->scratch_dir,
                   "space for one layer at a time (default /var/tmp)")
      ->type_name("DIR");
  copy->add_option("--from-username", request->from_user, "user:password for the source's registry")
      ->type_name("USER:PASSWORD");
  copy->add_option("--to-username", request->to_user, "user:password for the target's registry")
      ->type_name("USER:PASSWORD");
  copy->footer("Example:\n  fastoci copy registry.example/app:1.0_fastoci oci:/backup/app:1.0_fastoci");
  return copy;
}

int RunCopy(const CopyRequest& request, const RegistryAccess& access, bool json) {
  Result<std::string> digest = Copy(request, access);
  if (!digest.ok()) return PrintError(digest.error(), json);
  if (json) {
    PrintJson({{"image", request.to}, {"digest", *digest}});
  } else {
    std::printf("%s@%s\n", request.to.c_str(), digest->c_str());
  }
  return kExitOk;
}

}  // namespace fastoci
