// SPDX-License-Identifier: Apache-2.0
// What goes over the control socket with an attach, and lies in a state directory.
#include "registry/access.h"

#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  auto access = AccessFromJson(std::string(reinterpret_cast<const char*>(data), size));
  if (!access.ok()) return 0;
  auto again = AccessFromJson(AccessToJson(*access).Reveal());
  Require(again.ok() && *again == *access);
  return 0;
}
