// SPDX-License-Identifier: Apache-2.0
// Durations as Go's programs write them: "1h30m", "5s", "1.5ms", "0".
#ifndef FASTOCI_REGISTRY_DURATION_H_
#define FASTOCI_REGISTRY_DURATION_H_

#include <cstdint>
#include <string>

#include "base/result.h"

namespace fastoci {

// In milliseconds, rounded down, at most ten years. kInvalid for anything else.
Result<int64_t> ParseDurationMs(const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_DURATION_H_
