// SPDX-License-Identifier: Apache-2.0
#include "tools/snapshotter/rpull_command.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "attach/start_trace.h"
#include "base/format.h"
#include "tools/fastoci/access_options.h"
#include "tools/fastoci/output.h"

namespace fastoci {

void AddContainerdOptions(CLI::App* command, std::string* address, std::string* name_space, std::string* snapshotter) {
  command->add_option("-a,--address", *address, std::string("containerd's socket, default ") + kContainerdSocket)
      ->envname("CONTAINERD_ADDRESS")
      ->type_name("SOCKET");
  command->add_option("-n,--namespace", *name_space, "containerd's namespace, default \"default\"")
      ->envname("CONTAINERD_NAMESPACE")
      ->type_name("NAME");
  command->add_option("--snapshotter", *snapshotter, "default fastoci")->type_name("NAME");
}

CLI::App* AddRpullCommand(CLI::App* app, RpullOptions* o) {
  CLI::App* rpull = app->add_subcommand("rpull", "pull an image into containerd, without the data that can be fetched later");
  RpullRequest* r = &o->request;
  rpull->add_option("image", r->ref, "HOST/REPOSITORY:TAG")->required();
  AddContainerdOptions(rpull, &r->address, &r->name_space, &r->snapshotter);
  rpull
      ->add_option_function<std::string>(
          "--platform",
          [r](const std::string& text) {
            auto platform = ParsePlatform(text);
            if (!platform.ok() || platform->any())
              throw CLI::ValidationError("--platform", "\"" + text + "\" is not a platform such as linux/arm64");
            r->platform = *platform;
          },
          "default: this machine's")
      ->type_name("linux/ARCHITECTURE[/VARIANT]");
  rpull->add_flag("--all-platforms", o->all_platforms, "refused: only images of this platform can run here");
  rpull->add_option("--workload", r->workload, "read ahead what the start of this workload reads (see fastoci record)")
      ->type_name("NAME");
  AddAccessOptions(rpull, &r->access, &o->password_stdin, "-u,--username,--user");  // the last is ctr's
  rpull->add_flag("--json", o->json, "print JSON");
  rpull->add_flag("-q,--quiet", o->quiet, "print no progress");
  return rpull;
}

int RunRpull(const RpullOptions& o) {
  RpullRequest request = o.request;
  UseNodeHosts("", &request.access);
  if (o.all_platforms)
    return PrintError(InvalidError("--all-platforms: an image of another platform cannot run here, so there is "
                                   "nothing to pull lazily; copy it with `fastoci copy`, or pull it with ctr"),
                      o.json);
  if (!o.request.workload.empty() && !IsWorkloadName(o.request.workload))
    return PrintError(InvalidError("\"" + o.request.workload + "\" is no name of a workload"), o.json);
  TerminalProgress progress(o.quiet || o.json);
  auto result = Rpull(request, &progress);
  progress.End();
  if (!result.ok()) return PrintError(result.error(), o.json);
  if (o.json) {
    const nlohmann::ordered_json j = {{"image", result->name},
               {"digest", result->digest},
               {"layers", result->layers},
               {"taken", result->taken},
               {"present", result->present},
               {"fetched_bytes", result->fetched_bytes}};
    PrintJson(j);
  } else if (!o.quiet) {
    std::printf("%s: %zu layers, %zu taken without a download, %zu there before, %s downloaded\n",
                result->name.c_str(), result->layers, result->taken, result->present,
                HumanBytes(result->fetched_bytes).c_str());
  }
  return kExitOk;
}

}  // namespace fastoci
