// SPDX-License-Identifier: Apache-2.0
// fastoci prefetch: all of an attached image into the cache, with a bar.
#ifndef FASTOCI_TOOLS_FASTOCI_PREFETCH_COMMAND_H_
#define FASTOCI_TOOLS_FASTOCI_PREFETCH_COMMAND_H_

#include <CLI/CLI.hpp>
#include <string>

#include "attach/attach.h"

namespace fastoci {

struct PrefetchOptions {
  std::string image;
  bool wait = true;
};

CLI::App* AddPrefetchCommand(CLI::App* app, PrefetchOptions* options);
// Returns the exit code: kExitOk when all is there, or begun without waiting.
int RunPrefetch(const PrefetchOptions& options, const AttachPaths& paths, bool json, bool quiet);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_FASTOCI_PREFETCH_COMMAND_H_
