// SPDX-License-Identifier: Apache-2.0
// The options of all commands that talk to a registry.
#ifndef FASTOCI_TOOLS_FASTOCI_ACCESS_OPTIONS_H_
#define FASTOCI_TOOLS_FASTOCI_ACCESS_OPTIONS_H_

#include <CLI/CLI.hpp>
#include <string>

#include "attach/pull.h"

namespace fastoci {

// user: the names of the option with the password.
void AddAccessOptions(CLI::App* command, RegistryAccess* access, bool* password_stdin,
                      const std::string& user = "-u,--username");

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_FASTOCI_ACCESS_OPTIONS_H_
