// SPDX-License-Identifier: Apache-2.0
// fastoci top: what images do, anew each second.
#ifndef FASTOCI_TOOLS_FASTOCI_TOP_COMMAND_H_
#define FASTOCI_TOOLS_FASTOCI_TOP_COMMAND_H_

#include <CLI/CLI.hpp>

#include "attach/attach.h"

namespace fastoci {

struct TopRequest {
  bool once = false;
  double interval_s = 1;
};

CLI::App* AddTopCommand(CLI::App* app, TopRequest* request);
// Returns the exit code.
int RunTop(const TopRequest& request, const AttachPaths& paths, bool json);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_FASTOCI_TOP_COMMAND_H_
