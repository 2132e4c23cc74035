// SPDX-License-Identifier: Apache-2.0
// Scheduler: wanted chunks -> jobs, one per span -> ranges, one per request. Pure: no clock, no
// threads, no I/O. Its owner guards it with a lock and tells it what happens.
//
//   Want -> queued -> (Pick) running -> (Finish) gone | queued again
//                        \-> (Requeue) queued again, at its old place
//
// Order: the more urgent class first; within a class the images in turn, so that each gets the
// same share of bytes (deficit round robin); within an image the oldest job.
//
// A space lists the sources of its bytes, in order of preference. A source names a host. A job is
// picked for the first source that it was not tried from and whose host has room. The jobs of a
// space without such a source stay queued and hold up nobody else. A host that is not open has no
// room. Of an open host's window, a part is kept for kMaybe and kDemand.
//
// Invariants:
// 1. A span has at most one job.
// 2. A chunk that is wanted while its job runs belongs to that job. If the job ends without the
//    chunk, it is queued again.
// 3. A host never has more requests than its window, except where a window shrank.
// 4. A range covers adjacent spans, forwards from the job that was picked, so that no job waits
//    for one that came later.
// 5. A host's requests hold no more memory than they leave for other hosts, except a single one. So
//    some is left, however many hosts do not answer.
// 6. An image that always has pickable jobs in a class gets its turn after at most one turn of
//    every other image.
#ifndef FASTOCI_MISS_SCHEDULER_H_
#define FASTOCI_MISS_SCHEDULER_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "miss/urgency.h"

namespace fastoci {

class Scheduler {
 public:
  struct Limits {
    uint64_t range_bytes = 4 << 20;    // of one range, unless its only span is larger
    uint64_t quantum_bytes = 1 << 20;  // that an image gets per turn
  };
  struct Source {
    uint32_t id = 0;  // of the caller
    uint32_t host = 0;
    bool operator==(const Source&) const = default;
  };
  struct Wanted {
    uint32_t chunk_no = 0;
    Urgency urgency = Urgency::kBackground;
    int64_t since = 0;  // the caller's stamp of the first want, or of the first one by a reader
    uint64_t order = 0;  // of all wants: see Resolve()
  };
  struct Range {
    uint32_t space = 0;
    uint32_t first = 0;  // span
    uint32_t nr_spans = 0;
    uint32_t image = 0;
    Urgency urgency = Urgency::kBackground;
    Source source;
    uint64_t bytes = 0;  // of the spans
  };
  // How many bytes of input may be fetched now.
  struct Room {
    uint64_t urgent_bytes = UINT64_MAX;  // for kMaybe and kDemand
    uint64_t other_bytes = UINT64_MAX;
    // What requests hold now, by host; may be null.
    const std::unordered_map<uint32_t, uint64_t>* held = nullptr;
    uint64_t HeldBy(uint32_t host) const {
      if (held == nullptr) return 0;
      auto it = held->find(host);
      return it == held->end() ? 0 : it->second;
    }
  };
  // Input bytes of a span.
  using SpanBytes = std::function<uint64_t(uint32_t span)>;

  explicit Scheduler(Limits limits) : limits_(limits) {}
  Scheduler() : Scheduler(Limits()) {}

  // A host that was never told has no room. window: requests that it takes at a time; 0: none.
  // open: it answered when it was last asked.
  void SetHost(uint32_t host, uint32_t window, bool open = true);
  void RemoveHost(uint32_t host) { hosts_.erase(host); }
  void RemoveHosts() { hosts_.clear(); }
  uint32_t in_flight(uint32_t host) const;

  // max_spans: of one range.
  void AddSpace(uint32_t space, SpanBytes bytes, uint32_t max_spans);
  // Returns what was wanted of it. Jobs that run are gone, too.
  std::vector<Wanted> RemoveSpace(uint32_t space);
  // Replaces the sources. What was tried is remembered by Source::id.
  void SetSources(uint32_t space, std::vector<Source> sources);

  // image: whose share it is charged to. No effect for a space that is not known.
  void Want(uint32_t space, uint32_t span, uint32_t chunk_no, Urgency urgency, uint32_t image,
            int64_t stamp = 0);
  // The next range, one request at its source's host. The caller calls RequestEnded() once for it.
  std::optional<Range> Pick(const Room& room);
  // One more request at a host for a range that runs. False: it has no room.
  bool TakeRequest(uint32_t host, Urgency urgency);
  void RequestEnded(uint32_t host);

  // The chunk came into the cache after all wants up to `order`. Ends such a want and returns it. A
  // later want stays, because the chunk may have been evicted in between.
  std::optional<Wanted> Resolve(uint32_t space, uint32_t span, uint32_t chunk_no,
                                uint64_t order = UINT64_MAX);
  uint64_t last_order() const { return last_order_; }
  // Queues a running job again as it was, unless nothing of it is wanted any more.
  void Requeue(uint32_t space, uint32_t span);
  // The same, but does not pick it for this source before ForgetTried(). False: the job was tried
  // from all sources that the space has now; it still counts as running.
  bool TryOther(uint32_t space, uint32_t span, uint32_t source);
  bool WasTried(uint32_t space, uint32_t span, uint32_t source) const;
  void ForgetTried(uint32_t space, uint32_t span);
  // Ends a running job. If it did not resolve everything, queues it again, after the others. After
  // max_fruitless runs in a row that resolved nothing, gives it up and returns what is wanted.
  std::vector<Wanted> Finish(uint32_t space, uint32_t span, uint32_t max_fruitless);
  // Ends a job in any state: the chunks that were still wanted.
  std::vector<Wanted> Drop(uint32_t space, uint32_t span);

  // Ends all jobs of a space that do not run: what was wanted.
  std::vector<Wanted> DropQueued(uint32_t space);

  bool HasJobs(uint32_t space) const;
  bool IsRunning(uint32_t space, uint32_t span) const;
  std::vector<Wanted> WantedOf(uint32_t space, uint32_t span) const;
  // A space can go on if one of its sources is at an open host, whether or not the host has room
  // now. What is queued for other spaces may stay queued for hours. So it does not count in
  // HasQueued() and nr_queued_of(), for callers that wait until nothing is queued.
  bool CanGoOn(uint32_t space) const;
  bool HasQueued(Urgency at_least) const;  // of spaces that can go on
  size_t nr_queued_of(uint32_t image, Urgency urgency) const;  // likewise
  size_t nr_queued() const { return nr_queued_; }              // of all
  // Of a chunk that is wanted.
  std::optional<Urgency> UrgencyOf(uint32_t space, uint32_t span, uint32_t chunk_no) const;
  size_t nr_jobs() const { return jobs_.size(); }
  // What readers wait for, by space: how many chunks, and the oldest one's stamp.
  struct Waiting {
    uint64_t chunks = 0;
    int64_t oldest = 0;
  };
  std::map<uint32_t, Waiting> WaitingBySpace() const;
  // Jobs that Pick() looked at so far: what it costs.
  uint64_t steps() const { return steps_; }

 private:
  using SpanKey = std::pair<uint32_t, uint32_t>;  // space, span
  struct Job {
    Urgency urgency = Urgency::kBackground;
    uint32_t image = 0;
    bool running = false;
    bool progress = false;  // this run resolved a wanted chunk
    uint32_t fruitless = 0;
    uint64_t seq = 0;
    std::vector<uint32_t> tried;  // sources
    std::map<uint32_t, Wanted> wanted;  // by chunk
  };
  using Queue = std::set<std::pair<uint64_t, uint32_t>>;  // (seq, span) of one space
  struct ImageQueue {
    int64_t deficit = 0;
    size_t nr_jobs = 0;
    std::map<uint32_t, Queue> spaces;
  };
  struct ClassQueue {
    std::unordered_map<uint32_t, ImageQueue> images;
    std::deque<uint32_t> turns;  // of images
  };
  struct Space {
    SpanBytes bytes;
    uint32_t max_spans = 1;
    std::vector<Source> sources;
    std::array<size_t, kNrUrgencies> nr_queued{};
  };
  struct Host {
    uint32_t window = 0;
    bool open = false;
    uint32_t in_flight = 0;
  };
  struct Candidate {
    uint32_t image = 0, space = 0, span = 0;
    uint64_t seq = 0;
    Source source;
  };
  void Enqueue(const SpanKey& key, Job* job);
  void Dequeue(const SpanKey& key, const Job& job);
  void QueueAgain(SpanKey key, Job* job);
  bool HasRoom(uint32_t host, Urgency urgency) const;
  bool CanGoOn(const Space& space) const;
  std::optional<Source> SourceFor(const Space& space, const Job& job, const Room& room,
                                  uint64_t bytes) const;
  std::optional<Candidate> OldestOf(uint32_t image, ImageQueue* queue, const Room& room,
                                    Urgency urgency);
  std::optional<Candidate> NextOf(ClassQueue* queue, const Room& room, Urgency urgency);
  Range Take(const Candidate& candidate, const Room& room, Urgency urgency);
  static bool WasTried(const Job& job, uint32_t source);

  const Limits limits_;
  std::map<SpanKey, Job> jobs_;
  std::array<ClassQueue, kNrUrgencies> classes_;
  std::unordered_map<uint32_t, Space> spaces_;
  std::unordered_map<uint32_t, Host> hosts_;
  uint64_t next_seq_ = 0;
  uint64_t last_order_ = 0;
  size_t nr_queued_ = 0;
  uint64_t steps_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_SCHEDULER_H_
