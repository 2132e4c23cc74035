// SPDX-License-Identifier: Apache-2.0
// MissTracer: what became of each miss and each request, for `fastoci trace`.
// Costs one load while nobody traces. Times are of CLOCK_MONOTONIC, as those of
// the kernel's tracepoints can be.
#ifndef FASTOCI_BROKER_MISS_TRACER_H_
#define FASTOCI_BROKER_MISS_TRACER_H_

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "broker/event_ring.h"
#include "broker/lane.h"

namespace fastoci {

class MissTracer {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr size_t kMaxEvents = 20000;  // that a slow reader may be behind

  struct Chunk {
    Sha256Digest blob;
    uint32_t chunk_no;
    Time since, picked, end;  // missed, taken by a lane, answered
    bool ok;
  };
  struct Request {  // one try of a run
    Sha256Digest blob;
    uint32_t span, nr_spans, attempt;
    bool background;
    Time begin, end = {};
    LaneTimes lane = {};
    std::chrono::nanoseconds verify{0}, write{0};
    uint64_t bytes = 0;
    std::string error = {};
  };

  bool on() const { return readers_ > 0; }
  void Add(const Chunk& chunk);
  // Told when it begins, so that one that outlasts the trace is seen, and when it ended.
  void Add(const Request& request, bool ended);
  EventRing* ring() { return &ring_; }
  // It is on as long as the result lives; what nobody reads any more is forgotten.
  std::shared_ptr<void> Begin();

 private:
  std::atomic<int> readers_{0};
  EventRing ring_{kMaxEvents};
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_MISS_TRACER_H_
