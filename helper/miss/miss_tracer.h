// SPDX-License-Identifier: Apache-2.0
// MissTracer: what became of each miss and each request, for `fastoci trace`.
// Costs one load while nobody traces. Times are of CLOCK_MONOTONIC, as those of
// the kernel's tracepoints can be.
#ifndef FASTOCI_MISS_MISS_TRACER_H_
#define FASTOCI_MISS_MISS_TRACER_H_

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "base/event_ring.h"
#include "base/digest.h"

namespace fastoci {

// Where a request's time went in which nothing was verified or written.
struct LaneTimes {
  std::chrono::nanoseconds network{0};  // until all of its input was there
  std::chrono::nanoseconds decode{0};   // waiting for the decoder
};

class MissTracer {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr size_t kMaxEvents = 20000;  // that a slow reader may be behind

  struct Chunk {
    Sha256Digest blob;
    uint32_t chunk_no;
    Time since, picked, end;  // missed, picked, answered
    bool ok;
  };
  struct Request {  // one try of adjacent spans
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
  // Told when it begins and as its bytes come, so that one that outlasts the trace is
  // seen with what it has brought, and when it ended.
  enum class Stage { kBegun, kProgress, kEnded };
  void Add(const Request& request, Stage stage);
  EventRing* ring() { return &ring_; }
  // Tracing is on as long as the result lives. Events are forgotten when nobody reads any more.
  std::shared_ptr<void> Begin();

 private:
  std::atomic<int> readers_{0};
  EventRing ring_{kMaxEvents};
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_MISS_TRACER_H_
