// SPDX-License-Identifier: Apache-2.0
// `fastoci-snapshotter setup` and `uninstall-check`.
#ifndef FASTOCI_TOOLS_SNAPSHOTTER_SETUP_COMMAND_H_
#define FASTOCI_TOOLS_SNAPSHOTTER_SETUP_COMMAND_H_

#include <CLI/CLI.hpp>
#include <string>

namespace fastoci {

struct SetupOptions {
  std::string config = "/etc/containerd/config.toml";
  std::string own_config;
  bool containerd = false, cri = false, undo = false;
};
CLI::App* AddSetupCommand(CLI::App* app, SetupOptions* options);
int RunSetup(const SetupOptions& options);

struct UninstallOptions {
  std::string own_config, root;
  bool json = false;
};
CLI::App* AddUninstallCommand(CLI::App* app, UninstallOptions* options);
// Tells which snapshots still need us: exit code 6, if there are some.
int RunUninstallCheck(const UninstallOptions& options);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_SNAPSHOTTER_SETUP_COMMAND_H_
