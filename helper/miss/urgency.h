// SPDX-License-Identifier: Apache-2.0
// Why a chunk is wanted; more urgent is larger. The kernel's classes of misses are the upper
// three: somebody waits in them for a read. kReadahead is a guess of the helper's own.
#ifndef FASTOCI_MISS_URGENCY_H_
#define FASTOCI_MISS_URGENCY_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace fastoci {

enum class Urgency : uint8_t { kBackground, kPrefetch, kReadahead, kAhead, kMaybe, kDemand };
inline constexpr size_t kNrUrgencies = 6;

inline bool IsRead(Urgency urgency) { return urgency >= Urgency::kAhead; }

// miss_class: enum fastoci_miss_class, 0 is the least urgent one.
inline Urgency UrgencyOfMiss(uint8_t miss_class) {
  return static_cast<Urgency>(static_cast<uint8_t>(Urgency::kAhead) +
                              (miss_class > 2 ? 2 : miss_class));
}
inline uint8_t MissClassOf(Urgency urgency) {
  return IsRead(urgency) ? static_cast<uint8_t>(static_cast<uint8_t>(urgency) -
                                                static_cast<uint8_t>(Urgency::kAhead))
                         : 0;
}

}  // namespace fastoci

#endif  // FASTOCI_MISS_URGENCY_H_
