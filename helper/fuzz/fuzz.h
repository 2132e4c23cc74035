// SPDX-License-Identifier: Apache-2.0
// For the fuzz targets, one per parser of untrusted bytes: <name>_fuzz.cc has its
// seeds in corpus/<name>/. `make fuzz-helper` builds and runs them (FUZZ_SECONDS each).
//
// Checksums would keep a fuzzer at the door, so targets put them right first.
#ifndef FASTOCI_FUZZ_FUZZ_H_
#define FASTOCI_FUZZ_FUZZ_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "base/byte_reader.h"

namespace fastoci {

// Ends the run, and says where, if a property does not hold.
inline void Require(bool holds, int line = __builtin_LINE()) {
  if (holds) return;
  std::fprintf(stderr, "line %d: a property does not hold\n", line);
  std::abort();
}

inline void PutU32(std::span<uint8_t> at, uint32_t v) {
  for (size_t i = 0; i < 4; i++) at[i] = static_cast<uint8_t>(v >> (8 * i));
}

}  // namespace fastoci

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

#endif  // FASTOCI_FUZZ_FUZZ_H_
