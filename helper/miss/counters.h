// SPDX-License-Identifier: Apache-2.0
// What the broker counts since its start; told by "stat".
#ifndef FASTOCI_MISS_COUNTERS_H_
#define FASTOCI_MISS_COUNTERS_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "base/result.h"
#include "miss/histogram.h"
#include "cache/counters.h"

namespace fastoci {

// The phases of a miss. All but the first are those of one try of adjacent spans, which serves all
// misses of these spans. kWrite overlaps with the others.
enum class Phase : uint8_t {
  kQueue,    // until it was picked: the oldest miss of a request
  kNetwork,  // until all of its input was there
  kDecode,   // waiting for the decoder
  kVerify,   // digests
  kWrite,    // slots and FILL
};
inline constexpr std::array<const char*, 5> kPhaseNames = {"queue", "network", "decode", "verify",
                                                           "write"};

inline constexpr size_t kNrErrorKinds = static_cast<size_t>(ErrorKind::kInternal) + 1;

struct Counters : CacheCounters {
  using Count = std::atomic<uint64_t>;
  using ByCause = std::array<Count, kNrErrorKinds>;
  Count misses{0}, fails{0}, retries{0};
  Count restored{0};       // chunks served from verified slots of an earlier run
  Count mismatches{0};     // fetched bytes that did not match their digest
  Count rotten{0};         // cached bytes that did not match any more
  Count planted{0};        // cached bytes that differed from the blob as a whole
  Count scrubbed{0};       // chunks
  Count unverified{0};     // pieces without a digest
  Count bytes_fetched{0};  // received for misses: compressed, as a source has them
  Count bytes_background{0};  // of these, by the background download
  Count requests{0}, request_retries{0}, tokens{0};  // of the fetcher, see HttpTally
  Count bytes_decoded{0};  // of data spaces, verified
  ByCause retries_by{}, fails_by{};  // by ErrorKind: what retries and fails are the sums of
  Histogram miss;                    // from the kernel's message to FILL or FAIL
  std::array<Histogram, kPhaseNames.size()> phases;  // by Phase
  Histogram& PhaseOf(Phase p) { return phases[static_cast<size_t>(p)]; }
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_COUNTERS_H_
