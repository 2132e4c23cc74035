// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/copy_command.h"

#include <nlohmann/json.hpp>

#include "image/copy.h"
#include "tools/fastoci/output.h"

namespace fastoci {
namespace {

Result<std::string> Copy(const CopyRequest& request, const RegistryAccess& access) {
  FASTOCI_TRY(Credentials credentials, LoadCredentials(access));
  RegistryOptions options;
  options.plain_http = access.plain_http;
  options.http.tls = access.tls;
  FASTOCI_TRY(NamedImage from, OpenNamedImage(request.from, options, credentials, false));
  FASTOCI_TRY(NamedImage to, OpenNamedImage(request.to, options, credentials, true));
  if (to.name.starts_with("sha256:")) return InvalidError("the target wants a tag, not a digest");
  CopyOptions copy;
  copy.scratch_dir = request.scratch_dir;
  return CopyImage(from.store.get(), from.name, to.store.get(), to.name, copy);
}

}  // namespace

CLI::App* AddCopyCommand(CLI::App* app, CopyRequest* request) {
  CLI::App* copy = app->add_subcommand("copy", "copy an image with the layers that it refers to");
  copy->add_option("from", request->from, "HOST/REPOSITORY:TAG or oci:DIR:TAG")->required();
  copy->add_option("to", request->to, "where to, in the same form")->required();
  copy->add_option("--scratch-dir", request->scratch_dir,
                   "space for one layer at a time (default /var/tmp)")
      ->type_name("DIR");
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
