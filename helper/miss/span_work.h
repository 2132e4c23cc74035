// SPDX-License-Identifier: Apache-2.0
// SpanWork: one try of a SpanJob on its way through the stages. It has the input as it comes, and
// how the try ended. A try ends once: when it is decoded and each of its chunks is written, or when
// it has failed and none of its chunks is under way any more.
#ifndef FASTOCI_MISS_SPAN_WORK_H_
#define FASTOCI_MISS_SPAN_WORK_H_

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "miss/arena.h"
#include "miss/dispatcher.h"

namespace fastoci {

// What ended a try. If there are several faults, the first one counts.
enum class Fault {
  kNone,
  kFetch,    // its input did not come
  kBytes,    // the input did not give the right bytes
  kDecoder,  // a decoder died or stalled, of it or by itself
  kCache,    // a chunk could not be written
  kStopped,  // the helper, or its cache, ends
};

struct WorkTimes {
  std::chrono::nanoseconds decode{0}, verify{0}, write{0};
  std::chrono::steady_clock::time_point input_complete{};
};

class SpanWork {
 public:
  struct Part {
    std::shared_ptr<ArenaPlace> place;  // keeps it
    uint64_t offset = 0, length = 0;    // of the arena
  };
  struct End {
    Fault fault = Fault::kNone;
    Error error;
    FetchOutcome outcome = FetchOutcome::kDone;  // kFetch
    int64_t retry_at_ms = 0;                     // kFetch
    WorkTimes times;
  };
  using OnEnd = std::function<void(const SpanJob&, const End&)>;

  SpanWork(SpanJob job, OnEnd on_end) : job_(std::move(job)), on_end_(std::move(on_end)) {}
  ~SpanWork();
  SpanWork(const SpanWork&) = delete;
  SpanWork& operator=(const SpanWork&) = delete;
  const SpanJob& job() const { return job_; }

  // ---- of the fetch stage ----
  void AddInput(Part part, bool last) EXCLUDES(mutex_);
  void FailInput(FetchOutcome outcome, Error error, int64_t retry_at_ms) EXCLUDES(mutex_);

  // ---- of the decoder's thread ----
  struct Input {
    std::optional<Part> part;
    bool last = false;     // with part, or: there was no other
    bool failed = false;
  };
  // Whether somebody has taken input.
  bool started() const { return started_; }
  Input TakeInput() EXCLUDES(mutex_);
  bool HasAllInput() EXCLUDES(mutex_);
  // Readable when there is something for TakeInput(); made at the first call.
  int wake_fd() EXCLUDES(mutex_);

  // ---- its end: whoever holds a reference calls Drop() ----
  void Hold() EXCLUDES(mutex_);
  void Fail(Fault fault, Error error) EXCLUDES(mutex_);
  bool failed() EXCLUDES(mutex_);
  void Drop() EXCLUDES(mutex_);
  void AddTimes(const WorkTimes& times) EXCLUDES(mutex_);
  // Hold() and Drop() around the write of one chunk; the time in which any is written counts.
  void BeginWrite() EXCLUDES(mutex_);
  void EndWrite() EXCLUDES(mutex_);

 private:
  void WakeLocked() REQUIRES(mutex_);

  const SpanJob job_;
  const OnEnd on_end_;
  std::atomic<bool> started_{false};
  Mutex mutex_;
  std::deque<Part> parts_ GUARDED_BY(mutex_);
  bool all_input_ GUARDED_BY(mutex_) = false;
  UniqueFd wake_ GUARDED_BY(mutex_);
  int holders_ GUARDED_BY(mutex_) = 1;  // the stage that has it
  int nr_writes_ GUARDED_BY(mutex_) = 0;
  std::chrono::steady_clock::time_point write_begin_ GUARDED_BY(mutex_);
  End end_ GUARDED_BY(mutex_);
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_SPAN_WORK_H_
