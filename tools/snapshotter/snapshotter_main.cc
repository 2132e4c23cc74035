// SPDX-License-Identifier: Apache-2.0
// fastoci-snapshotter: containerd's proxy plugin. Serves the snapshots service; its
// other subcommands set containerd up and do the work of `fastoci rpull`.
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "base/log.h"
#include "registry/options.h"
#include "tools/fastoci/output.h"
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
  SetupOptions setup;
  UninstallOptions uninstall;
  AddServeCommand(&app, &serve);
  CLI::App* rpull_command = AddRpullCommand(&app, &rpull);
  CLI::App* setup_command = AddSetupCommand(&app, &setup);
  CLI::App* uninstall_command = AddUninstallCommand(&app, &uninstall);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitOk : kExitUsage;
  }
  std::string& user = rpull.request.access.user_password;
  HidePassword(argc, argv, user);
  if (rpull.password_stdin) {
    auto whole = WithPasswordFrom(STDIN_FILENO, user);
    if (!whole.ok()) return PrintError(whole.error(), rpull.json);
    user = std::move(*whole);
  }
  if (*rpull_command) return RunRpull(rpull);
  if (*setup_command) return RunSetup(setup);
  if (*uninstall_command) return RunUninstallCheck(uninstall);
  ::umask(0077);
  SetLogProgram("fastoci-snapshotter");
  return RunServe(serve);
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) { return fastoci::Main(argc, argv); }
