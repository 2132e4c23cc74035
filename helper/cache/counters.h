// SPDX-License-Identifier: Apache-2.0
// What the caches of the helper count since its start.
#ifndef FASTOCI_CACHE_COUNTERS_H_
#define FASTOCI_CACHE_COUNTERS_H_

#include <atomic>
#include <cstdint>

namespace fastoci {

// Any thread.
struct CacheCounters {
  std::atomic<uint64_t> fills{0};
  std::atomic<uint64_t> evictions{0};  // chunks
  std::atomic<uint64_t> retired{0};    // slots that the cache device refused
  // Chunks whose rows were not kept because the database took none. They are verified and
  // recorded later.
  std::atomic<uint64_t> missed_rows{0};
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_COUNTERS_H_
