// SPDX-License-Identifier: Apache-2.0
// JobQueue: wanted chunks, gathered into one job per span, and jobs of adjacent
// spans into one run. Pure: no clock, no threads, no I/O; the miss service
// guards it with its lock.
//
//   Want -> queued -> (Pick) running -> (Finish) gone | queued again
//
// Invariants: 1. a span has at most one job; 2. what is more urgent is picked
// first, within a class the earlier job; 3. a chunk wanted while its job runs
// stays with it, and if the job ends without it, is queued anew; 4. a chunk
// asked for again with a higher class lifts its job; 5. a run grows forwards
// only, so that no job waits for another one that came later.
#ifndef FASTOCI_BROKER_JOB_QUEUE_H_
#define FASTOCI_BROKER_JOB_QUEUE_H_

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

namespace fastoci {

// Why a chunk is wanted; more urgent is larger. The kernel's classes of misses
// are the upper three.
enum class Urgency : uint8_t { kBackground, kPrefetch, kAhead, kMaybe, kDemand };
inline Urgency UrgencyOfMiss(uint8_t miss_class) {
  return static_cast<Urgency>(miss_class > 2 ? 4 : miss_class + 2);
}

struct JobKey {
  uint32_t cache = 0;
  uint32_t space = 0;
  uint32_t span = 0;
  auto operator<=>(const JobKey&) const = default;
};

class JobQueue {
 public:
  struct Run {
    JobKey first;
    uint32_t nr_spans = 1;
    Urgency urgency = Urgency::kBackground;
    JobKey Key(uint32_t i) const { return {first.cache, first.space, first.span + i}; }
  };
  struct Wanted {
    uint32_t chunk_no;
    Urgency urgency;
    int64_t since = 0;  // the caller's stamp of the first want, or of the first by a reader
  };

  void Want(const JobKey& key, uint32_t chunk_no, Urgency urgency, int64_t stamp = 0);
  // The most urgent job, if it is at least that urgent, and those of the spans
  // behind it that are queued too, max_spans in all.
  std::optional<Run> Pick(Urgency at_least, uint32_t max_spans);
  bool HasWork(Urgency at_least) const;
  // The chunk is in the cache, or was failed: nobody waits for it any more. What
  // was wanted, if it was.
  std::optional<Wanted> Resolve(const JobKey& key, uint32_t chunk_no);
  // Ends a running job. What it did not resolve, or what was evicted and wanted
  // again meanwhile, is queued again; but after max_attempts runs in a row that
  // resolved nothing it is given up and returned. tried: the job had its turn.
  std::vector<Wanted> Finish(const JobKey& key, uint32_t max_attempts, bool tried = true);
  // Ends a job in any state; returns the chunks that were still wanted.
  std::vector<Wanted> Drop(const JobKey& key);

  size_t nr_queued() const { return order_.size(); }
  size_t nr_jobs() const { return jobs_.size(); }
  bool IsRunning(const JobKey& key) const;
  std::vector<Wanted> WantedOf(const JobKey& key) const;
  // What readers wait for, by space: how many chunks, and the oldest's stamp.
  struct Waiting {
    uint64_t chunks = 0;
    int64_t oldest = 0;
  };
  std::map<std::pair<uint32_t, uint32_t>, Waiting> WaitingBySpace() const;  // (cache, space)

 private:
  struct Job {
    Urgency urgency = Urgency::kBackground;
    bool running = false;
    bool progress = false;  // this run resolved a wanted chunk
    uint32_t attempt = 0;
    uint64_t seq = 0;
    std::map<uint32_t, Wanted> wanted;  // by chunk
  };
  using Order = std::tuple<int, uint64_t, JobKey>;  // -urgency, seq
  static Order OrderOf(const JobKey& key, const Job& job) {
    return {-static_cast<int>(job.urgency), job.seq, key};
  }
  void Enqueue(const JobKey& key, Job* job);
  void SetRunning(const JobKey& key, Job* job);

  std::map<JobKey, Job> jobs_;
  std::set<Order> order_;  // the queued ones
  uint64_t next_seq_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_JOB_QUEUE_H_
