// SPDX-License-Identifier: Apache-2.0
// fastoci-snapshotter: containerd's proxy plugin. Serves the snapshots service; its
// other subcommands set containerd up and do the work of `fastoci rpull` and `fastoci record`.
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "base/log.h"
#include "registry/options.h"
#include "tools/fastoci/output.h"
#include "tools/snapshotter/record_command.h"
#include "tools/snapshotter/rpull_command.h"
#include "tools/snapshotter/serve_command.h"
#include "tools/snapshotter/setup_command.h"

namespace fastoci {
namespace {

constexpr char kFooter[] =
    "Examples:\n"
    "  fastoci-snapshotter serve\n"
    "  fastoci-snapshotter setup --containerd --cri\n"
    "  fastoci rpull 127.0.0.1:5000/demo:latest_fastoci\n"
    "See fastoci-snapshotter(8).";

int Main(int argc, char** argv) {
  CLI::App app{"Runs FastOCI images in containerd."};
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("fastoci-snapshotter ") + FASTOCI_VERSION);
  app.require_subcommand(1);
  ServeRequest serve;
  RpullOptions rpull;
  RecordOptions record;
  SetupOptions setup;
  UninstallOptions uninstall;
  AddServeCommand(&app, &serve);
  CLI::App* rpull_command = AddRpullCommand(&app, &rpull);
  CLI::App* record_command = AddRecordCommand(&app, &record);
  CLI::App* setup_command = AddSetupCommand(&app, &setup);
  CLI::App* uninstall_command = AddUninstallCommand(&app, &uninstall);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitOk : kExitUsage;
  }
  const std::pair<RegistryAccess*, bool> given[] = {{&rpull.request.access, rpull.password_stdin},
                                                    {&record.request.access, record.password_stdin}};
  for (const auto& [access, from_stdin] : given) {
    Status taken = TakePassword(argc, argv, from_stdin, &access->user_password);
    if (!taken.ok()) return PrintError(taken.error(), rpull.json || record.json);
  }
  if (*rpull_command) return RunRpull(rpull);
  if (*record_command) return RunRecord(record);
  if (*setup_command) return RunSetup(setup);
  if (*uninstall_command) return RunUninstallCheck(uninstall);
  ::umask(0077);
  SetLogProgram("fastoci-snapshotter");
  return RunServe(serve);
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) { return fastoci::Main(argc, argv); }
