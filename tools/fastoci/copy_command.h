// SPDX-License-Identifier: Apache-2.0
// fastoci copy: an image with all that it needs, from one place to another.
#ifndef FASTOCI_TOOLS_FASTOCI_COPY_COMMAND_H_
#define FASTOCI_TOOLS_FASTOCI_COPY_COMMAND_H_

#include <CLI/CLI.hpp>
#include <string>

#include "attach/pull.h"

namespace fastoci {

struct CopyRequest {
  std::string from, to;
  std::string from_user, to_user;  // "user:password", each for its registry alone
  std::string scratch_dir = "/var/tmp";
};

CLI::App* AddCopyCommand(CLI::App* app, CopyRequest* request);
// Returns the exit code.
int RunCopy(const CopyRequest& request, const RegistryAccess& access, bool json);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_FASTOCI_COPY_COMMAND_H_
