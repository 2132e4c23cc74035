// SPDX-License-Identifier: Apache-2.0
// What active snapshots occupy, so that asking for it takes no time. A thread measures the
// snapshots that were asked for, one after the other, each at most once in kEvery. The
// answer is the last figure, which survives a restart.
#ifndef FASTOCI_SNAPSHOTTER_USAGE_SAMPLER_H_
#define FASTOCI_SNAPSHOTTER_USAGE_SAMPLER_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "snapshotter/store.h"

namespace fastoci {

class UsageSampler {
 public:
  static constexpr auto kEvery = std::chrono::seconds(10);
  // Called by its thread.
  using Keep = std::function<void(int64_t id, const DiskUsage&)>;
  explicit UsageSampler(Keep keep);
  ~UsageSampler();

  // Returns the usage of an active snapshot whose files are in dir. known: the last figure that
  // was kept. If there is no figure yet, measures it here.
  DiskUsage Of(int64_t id, const std::string& dir, const DiskUsage& known);
  void Forget(int64_t id);

 private:
  struct Sample {
    std::string dir;
    DiskUsage usage;
    std::chrono::steady_clock::time_point at;
    bool wanted = false;
  };
  void Run();
  const Keep keep_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<int64_t, Sample> samples_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_USAGE_SAMPLER_H_
