// SPDX-License-Identifier: Apache-2.0
#include "http/loopback_host.h"

namespace fastoci {

bool IsLoopbackHost(const std::string& host) {
  if (host.starts_with("[")) return host.substr(0, host.find(']')) == "[::1";
  const std::string name = host.substr(0, host.find(':'));
  if (name == "localhost") return true;
  // Only a dotted quad: "127.evil.example" is a name.
  return name.starts_with("127.") && name.find_first_not_of("0123456789.") == std::string::npos;
}

}  // namespace fastoci
