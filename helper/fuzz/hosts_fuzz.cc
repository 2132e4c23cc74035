// SPDX-License-Identifier: Apache-2.0
// hosts.toml: any text gives an error or a list that ends with a server.
#include "registry/hosts.h"

#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  auto hosts =
      ParseHostsToml(std::string(reinterpret_cast<const char*>(data), size), "/d", "docker.io");
  if (!hosts.ok()) {
    Require(!hosts.error().message.empty());
    return 0;
  }
  Require(!hosts->empty() && hosts->size() <= kMaxHosts + 1);
  for (const HostConfig& h : *hosts) {
    Require(h.scheme == "http" || h.scheme == "https");
    Require(IsRegistryHost(h.authority));
    Require(h.path.empty() || h.path[0] == '/');
    Require(h.Url("a", "blobs/x").find_first_of(" \r\n") == std::string::npos);
  }
  return 0;
}
