// SPDX-License-Identifier: Apache-2.0
// `fastoci rpull`, which runs `fastoci-snapshotter rpull`.
#ifndef FASTOCI_TOOLS_SNAPSHOTTER_RPULL_COMMAND_H_
#define FASTOCI_TOOLS_SNAPSHOTTER_RPULL_COMMAND_H_

#include <CLI/CLI.hpp>

#include "containerd/rpull.h"

namespace fastoci {

struct RpullOptions {
  RpullRequest request;
  bool all_platforms = false, password_stdin = false, json = false, quiet = false;
};

// Options that commands share: which containerd is meant.
void AddContainerdOptions(CLI::App* command, std::string* address, std::string* name_space, std::string* snapshotter);

CLI::App* AddRpullCommand(CLI::App* app, RpullOptions* options);
int RunRpull(const RpullOptions& options);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_SNAPSHOTTER_RPULL_COMMAND_H_
