// SPDX-License-Identifier: Apache-2.0
// Milliseconds of CLOCK_MONOTONIC, which processes of one machine share.
#ifndef FASTOCI_BASE_MONOTONIC_H_
#define FASTOCI_BASE_MONOTONIC_H_

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdint>

namespace fastoci {

inline int64_t MonotonicMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// How many of them are left until end; 0: it is over. As poll() wants it.
inline int MsUntil(std::chrono::steady_clock::time_point end) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, INT_MAX));
}

}  // namespace fastoci

#endif  // FASTOCI_BASE_MONOTONIC_H_
