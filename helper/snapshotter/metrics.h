// SPDX-License-Identifier: Apache-2.0
// What the snapshotter counts, in Prometheus' text form. Thread-safe.
#ifndef FASTOCI_SNAPSHOTTER_METRICS_H_
#define FASTOCI_SNAPSHOTTER_METRICS_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace fastoci {

class SnapshotterMetrics {
 public:
  using Duration = std::chrono::steady_clock::duration;
  // A request that was answered; code: as gRPC names it, "OK", "NotFound".
  void Answered(const std::string& method, const std::string& code, Duration took);
  // A layer that was committed: kind as layer.h names them.
  void Layer(const std::string& kind);
  // A layer that was not taken lazily although it might have been.
  void Fallback(const std::string& reason);
  void Attached(bool ok, Duration took);
  // What became of a replay of a start trace, in bytes: was in the cache before, was read
  // by others afterwards, was not.
  void Prefetched(uint64_t present, uint64_t used, uint64_t unused);

  // gauges: lines that are known only when they are asked for.
  std::string Render(const std::string& gauges) const;

 private:
  struct Timing {
    uint64_t count = 0;
    double seconds = 0;
    uint64_t buckets[8] = {};
    void Add(Duration took);
    void Render(const std::string& name, const std::string& labels, std::string* out) const;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Timing> methods_;
  std::map<std::pair<std::string, std::string>, uint64_t> answers_;  // method, code
  std::map<std::string, uint64_t> layers_, fallbacks_;
  Timing attach_;
  uint64_t attach_failures_ = 0;
  uint64_t prefetch_present_ = 0, prefetch_used_ = 0, prefetch_unused_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_METRICS_H_
