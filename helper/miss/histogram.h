// SPDX-License-Identifier: Apache-2.0
// A histogram of durations, as Prometheus has them: counts by upper bound, and
// the sum. Any thread, without a lock; a reader may see an observation in the
// count and not yet in the sum.
#ifndef FASTOCI_MISS_HISTOGRAM_H_
#define FASTOCI_MISS_HISTOGRAM_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace fastoci {

class Histogram {
 public:
  // Upper bounds in microseconds; what is larger counts in the last bucket.
  static constexpr std::array<uint64_t, 18> kBoundsUs = {
      100,   250,    500,    1000,   2500,    5000,    10000,   25000,    50000,
      100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000, 60000000};
  using Buckets = std::array<uint64_t, kBoundsUs.size() + 1>;  // not cumulative

  void Observe(std::chrono::nanoseconds time) {
    const auto ns = static_cast<uint64_t>(std::max<int64_t>(time.count(), 0));
    const auto* bound = std::lower_bound(kBoundsUs.begin(), kBoundsUs.end(), (ns + 999) / 1000);
    buckets_[static_cast<size_t>(bound - kBoundsUs.begin())]++;
    sum_ns_ += ns;
  }
  Buckets buckets() const {
    Buckets b;
    for (size_t i = 0; i < b.size(); i++) b[i] = buckets_[i].load();
    return b;
  }
  uint64_t sum_ns() const { return sum_ns_.load(); }

 private:
  std::array<std::atomic<uint64_t>, kBoundsUs.size() + 1> buckets_{};
  std::atomic<uint64_t> sum_ns_{0};
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_HISTOGRAM_H_
