// SPDX-License-Identifier: Apache-2.0
// Subcommands that speak to containerd are fastoci-snapshotter's, which is another
// package, so that fastoci needs no gRPC.
#ifndef FASTOCI_TOOLS_FASTOCI_CONTAINERD_COMMAND_H_
#define FASTOCI_TOOLS_FASTOCI_CONTAINERD_COMMAND_H_

#include <CLI/CLI.hpp>

namespace fastoci {

// For --help; what follows them is not looked at.
void AddContainerdCommands(CLI::App* app, const std::string& group);
// If argv names one of them: becomes fastoci-snapshotter, or says that it is missing and
// returns an exit code. -1: another command.
int RunContainerdCommand(int argc, char** argv);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_FASTOCI_CONTAINERD_COMMAND_H_
