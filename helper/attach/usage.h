// SPDX-License-Identifier: Apache-2.0
// What images of this node do now: the kernel's counters, the block layer's and
// the helper's, looked at twice. Nothing of it waits for a read of an image.
#ifndef FASTOCI_ATTACH_USAGE_H_
#define FASTOCI_ATTACH_USAGE_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attach/attach.h"
#include "base/result.h"

namespace fastoci {

// Of one image, since it was attached.
struct ImageUsage {
  std::string name;
  uint64_t chunks = 0, present = 0;
  uint64_t hits = 0, misses = 0, errors = 0;  // reads
  uint64_t waiting = 0;                       // reads, now
  uint64_t read_bytes = 0;
  std::string helper, policy;
  // Of the helper, if there is one: chunks that are missed and not there yet, since
  // when the first of them is, and what was fetched.
  std::optional<uint64_t> in_flight, oldest_ms, fetched_bytes;
};

struct UsageSample {
  std::chrono::steady_clock::time_point at;
  std::vector<ImageUsage> images;
  bool helper = false;
  uint64_t slots = 0, present_slots = 0, slot_bytes = 0;  // of all caches
  uint64_t fetched_bytes = 0;                             // of the helper
};

// Between two samples.
struct ImageRate {
  ImageUsage now;
  double read_per_s = 0;     // bytes
  double fetched_per_s = 0;  // bytes
  // Hits of all reads; of those since the attach if there was none. Nothing: no
  // read at all.
  std::optional<double> hit_ratio;
};

Result<UsageSample> SampleUsage(const AttachPaths& paths);
// What began anew in between, an image or the helper, counts from 0 on.
std::vector<ImageRate> Compare(const UsageSample& before, const UsageSample& now);
// Per second, of a counter.
double RateOf(uint64_t before, uint64_t now, double seconds);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_USAGE_H_
