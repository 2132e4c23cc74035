// SPDX-License-Identifier: Apache-2.0
// JobQueue: wanted chunks, gathered into one job per span. Pure: no clock, no
// threads, no I/O; the miss service guards it with its lock.
//
//   Want -> queued -> (Pick) running -> (Finish) gone | queued again
//
// Invariants: 1. a span has at most one job; 2. demand is picked before maybe
// before ahead, within a class the earlier job; 3. a chunk wanted while its
// job runs stays with it, and if the job ends without it, is queued anew; 4. a
// chunk asked for again with a higher class lifts its job.
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

struct JobKey {
  uint32_t cache = 0;
  uint32_t space = 0;
  uint32_t span = 0;
  auto operator<=>(const JobKey&) const = default;
};

class JobQueue {
 public:
  struct Picked {
    JobKey key;
    uint8_t miss_class = 0;
    uint32_t attempt = 0;  // runs in a row that resolved nothing
  };

  void Want(const JobKey& key, uint32_t chunk_no, uint8_t miss_class);
  std::optional<Picked> Pick();
  // The chunk is in the cache, or was failed: nobody waits for it any more.
  void Resolve(const JobKey& key, uint32_t chunk_no);
  // Ends a running job; what it did not resolve, or what was evicted and wanted
  // again meanwhile, is queued again.
  void Finish(const JobKey& key);
  // Ends a job in any state; returns the chunks that were still wanted.
  std::vector<uint32_t> Drop(const JobKey& key);

  size_t nr_queued() const { return order_.size(); }
  size_t nr_jobs() const { return jobs_.size(); }
  bool IsRunning(const JobKey& key) const;
  std::vector<uint32_t> Wanted(const JobKey& key) const;

 private:
  struct Job {
    uint8_t miss_class = 0;
    bool running = false;
    bool progress = false;  // this run resolved a wanted chunk
    uint32_t attempt = 0;
    uint64_t seq = 0;
    std::map<uint32_t, uint8_t> wanted;  // chunk -> class
  };
  using Order = std::tuple<int, uint64_t, JobKey>;  // -class, seq
  static Order OrderOf(const JobKey& key, const Job& job) { return {-job.miss_class, job.seq, key}; }
  void Enqueue(const JobKey& key, Job* job);

  std::map<JobKey, Job> jobs_;
  std::set<Order> order_;  // the queued ones
  uint64_t next_seq_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_JOB_QUEUE_H_
