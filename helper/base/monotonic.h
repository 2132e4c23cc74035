// SPDX-License-Identifier: Apache-2.0
// Milliseconds of CLOCK_MONOTONIC, which processes of one machine share.
#ifndef FASTOCI_BASE_MONOTONIC_H_
#define FASTOCI_BASE_MONOTONIC_H_

#include <chrono>
#include <cstdint>

namespace fastoci {

inline int64_t MonotonicMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace fastoci

#endif  // FASTOCI_BASE_MONOTONIC_H_
