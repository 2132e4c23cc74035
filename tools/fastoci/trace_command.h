// SPDX-License-Identifier: Apache-2.0
// fastoci trace: a picture of an application's start.
#ifndef FASTOCI_TOOLS_FASTOCI_TRACE_COMMAND_H_
#define FASTOCI_TOOLS_FASTOCI_TRACE_COMMAND_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "attach/attach.h"

namespace fastoci {

struct TraceRequestOptions {
  std::string image, output;
  double seconds = 0;                // 0: until the command ends, or Ctrl-C
  std::vector<std::string> command;  // may be empty
};

CLI::App* AddTraceCommand(CLI::App* app, TraceRequestOptions* request);
// Returns the exit code.
int RunTrace(const TraceRequestOptions& request, const AttachPaths& paths, bool json, bool quiet);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_FASTOCI_TRACE_COMMAND_H_
