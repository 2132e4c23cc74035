// SPDX-License-Identifier: Apache-2.0
// `fastoci record`, which runs `fastoci-snapshotter record`.
#ifndef FASTOCI_TOOLS_SNAPSHOTTER_RECORD_COMMAND_H_
#define FASTOCI_TOOLS_SNAPSHOTTER_RECORD_COMMAND_H_

#include <CLI/CLI.hpp>

#include "containerd/record.h"

namespace fastoci {

struct RecordOptions {
  RecordRequest request;
  uint64_t megabytes = 0;
  bool password_stdin = false, json = false, quiet = false;
};

CLI::App* AddRecordCommand(CLI::App* app, RecordOptions* options);
int RunRecord(const RecordOptions& options);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_SNAPSHOTTER_RECORD_COMMAND_H_
