// SPDX-License-Identifier: Apache-2.0
// `fastoci-snapshotter serve`: the daemon.
#ifndef FASTOCI_TOOLS_SNAPSHOTTER_SERVE_COMMAND_H_
#define FASTOCI_TOOLS_SNAPSHOTTER_SERVE_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "snapshotter/config.h"

namespace fastoci {

struct ServeRequest {
  std::string config_path;  // "": the usual one
  // What was said on the command line, which is stronger than the file.
  std::vector<std::function<void(SnapshotterConfig*)>> options;
  bool debug = false;
};

CLI::App* AddServeCommand(CLI::App* app, ServeRequest* request);
// Until SIGTERM; the exit code.
int RunServe(const ServeRequest& request);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_SNAPSHOTTER_SERVE_COMMAND_H_
