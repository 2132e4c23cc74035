// SPDX-License-Identifier: Apache-2.0
// RunPlugin: a program that knows credentials (docker-credential-*, kubelet's
// credential providers). It gets its question on stdin and answers on stdout.
// It is somebody else's program: it runs in a session of its own, without
// privileges, with a time limit, and nothing of it is left afterwards.
#ifndef FASTOCI_REGISTRY_PLUGIN_H_
#define FASTOCI_REGISTRY_PLUGIN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "http/secret.h"

namespace fastoci {

struct PluginCommand {
  std::string program;              // a path
  std::vector<std::string> args;    // without argv[0]
  std::vector<std::string> env;     // NAME=VALUE; besides this process's environment
  std::string input;
  int64_t timeout_ms = 30000;
  size_t max_output_bytes = 1 << 20;
  // Root runs it as nobody. With this it may still read every file: providers
  // have configuration that is root's.
  bool may_read_files = false;
};

struct PluginResult {
  int exit_code = 0;  // 128 + N after signal N
  Secret output;
  std::string errors;  // the start of stderr, printable
};

// kUnavailable: it took too long, and was killed. kNotFound: there is no such
// program. kInvalid: it wrote more than max_output_bytes. Any thread.
Result<PluginResult> RunPlugin(const PluginCommand& command);

// Looks in the directories of PATH, and in Debian's where there is no PATH; "" if
// none has it. name: without a slash.
std::string FindProgram(const std::string& name);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_PLUGIN_H_
