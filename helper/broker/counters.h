// SPDX-License-Identifier: Apache-2.0
// What the broker counts since its start; told by "stat".
#ifndef FASTOCI_BROKER_COUNTERS_H_
#define FASTOCI_BROKER_COUNTERS_H_

#include <atomic>
#include <cstdint>

namespace fastoci {

struct Counters {
  using Count = std::atomic<uint64_t>;
  Count misses{0}, fills{0}, fails{0}, retries{0};
  Count restored{0};       // chunks served from verified slots of an earlier run
  Count mismatches{0};     // fetched bytes that did not match their digest
  Count rotten{0};         // cached bytes that did not match any more
  Count planted{0};        // cached bytes that differed from the blob as a whole
  Count scrubbed{0};       // chunks
  Count evictions{0};      // chunks
  Count retired{0};        // slots that the cache device refused
  Count unverified{0};     // pieces without a digest
  Count bytes_fetched{0};  // received for misses: compressed, as a source has them
  Count bytes_background{0};  // of these, by the background download
  Count bytes_decoded{0};  // of data spaces, verified
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_COUNTERS_H_
