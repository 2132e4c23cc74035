// SPDX-License-Identifier: Apache-2.0
// What the images of this node do now: the difference between two samples of the counters
// of the kernel, the block layer and the helper. Nothing here waits for a read of an image.
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

// Why reads wait: a host that cannot be asked now.
struct HostWait {
  std::string host;  // scheme://authority; empty: the image is not open yet
  std::string cause;
  uint64_t since_ms = 0;     // ago; 0: not known
  uint64_t next_try_ms = 0;  // from now
};
// "http://r: no answer, for 12 s; next try in 3 s"
std::string Describe(const HostWait& wait);

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
  std::vector<HostWait> waits_for;
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
  // The part of the reads that were hits. If there were no reads between the samples, that
  // of all reads since the attach. Nothing: there was no read at all.
  std::optional<double> hit_ratio;
};

Result<UsageSample> SampleUsage(const AttachPaths& paths);
// If an image or the helper began anew between the samples, its counters count from 0.
std::vector<ImageRate> Compare(const UsageSample& before, const UsageSample& now);
// Per second, of a counter.
double RateOf(uint64_t before, uint64_t now, double seconds);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_USAGE_H_
