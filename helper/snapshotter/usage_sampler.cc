// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/usage_sampler.h"

#include <algorithm>

#include "snapshotter/directories.h"

namespace fastoci {

using Clock = std::chrono::steady_clock;

UsageSampler::UsageSampler(Keep keep) : keep_(std::move(keep)) {
  thread_ = std::thread([this] { Run(); });
}

UsageSampler::~UsageSampler() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

DiskUsage UsageSampler::Of(int64_t id, const std::string& dir, const DiskUsage& known) {
  std::unique_lock lock(mutex_);
  auto it = samples_.find(id);
  if (it == samples_.end()) {
    Sample sample = {dir, known, {}, false};
    if (known.inodes == 0) {  // a directory at least there is
      lock.unlock();
      sample.usage = MeasureDirectory(dir);
      sample.at = Clock::now();
      keep_(id, sample.usage);
      lock.lock();
    }
    it = samples_.emplace(id, sample).first;
  }
  if (Clock::now() - it->second.at >= kEvery && !it->second.wanted) {
    it->second.wanted = true;
    wake_.notify_all();
  }
  return it->second.usage;
}

void UsageSampler::Forget(int64_t id) {
  std::lock_guard lock(mutex_);
  samples_.erase(id);
}

void UsageSampler::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    auto next = samples_.end();
    wake_.wait(lock, [&] {
      next = std::find_if(samples_.begin(), samples_.end(), [](const auto& s) { return s.second.wanted; });
      return stop_ || next != samples_.end();
    });
    if (stop_) return;
    const int64_t id = next->first;
    const std::string dir = next->second.dir;
    lock.unlock();
    const DiskUsage usage = MeasureDirectory(dir);
    keep_(id, usage);
    lock.lock();
    if (auto it = samples_.find(id); it != samples_.end()) it->second = {dir, usage, Clock::now(), false};
  }
}

}  // namespace fastoci
