// SPDX-License-Identifier: Apache-2.0
// The configuration of `convertor --serve`: convertor-serve.json(5). It is read
// strictly: an unknown key or a wrong type is an error that names it.
#ifndef FASTOCI_SERVE_RULES_H_
#define FASTOCI_SERVE_RULES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "image/platform.h"

namespace fastoci {

// What is converted, and how. The first rule that matches counts.
struct ServeRule {
  std::string repository = "*";          // a pattern: * any text, ? one character
  std::vector<std::string> tags = {"*"};  // any of these patterns; "" stands for no tag
  Platform platform;                     // whose images are converted
  uint64_t min_mb = 0;                   // smaller images are left alone
  std::string fs_type = "ext4";
  bool skip = false;                     // what matches is not converted
};

struct ServeConfig {
  std::string registry;  // HOST[:PORT]
  bool plain = false, insecure = false;
  std::string root_ca, client_cert, hosts_dir;  // as the convertor's flags
  std::string listen = "127.0.0.1:9864";
  std::string token_file;  // what notifications must have as Authorization; "": anything
  std::string directory = "/var/lib/fastoci-convertor";
  uint64_t workers = 1;       // images at a time
  uint64_t layers = 2;        // layers at a time, each
  uint64_t memory_mb = 2048;  // address space of one conversion
  uint64_t timeout_minutes = 120;
  uint64_t tries = 5;
  uint64_t keep_days = 30;  // how long the page shows what is done
  std::vector<ServeRule> rules;
};

// name: for messages.
Result<ServeConfig> ParseServeConfig(const std::string& text, const std::string& name);

// The rule for it; null: it is not converted.
const ServeRule* FindRule(const ServeConfig& config, const std::string& repository,
                          const std::string& tag);

}  // namespace fastoci

#endif  // FASTOCI_SERVE_RULES_H_
