// SPDX-License-Identifier: Apache-2.0
// CachedQueue: wanted chunks that somebody looks up in the cache before they are fetched. Pure; the
// dispatcher guards it. Times are of CLOCK_MONOTONIC, ms.
//
// More urgent classes come first. Within a class, the chunk that came first is first. If a chunk is
// there and the kernel refuses to serve it, there is a pause before it is looked up again. The
// pause doubles each time, up to kMaxPauseMs.
#ifndef FASTOCI_MISS_CACHED_QUEUE_H_
#define FASTOCI_MISS_CACHED_QUEUE_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "miss/scheduler.h"

namespace fastoci {

struct SpaceView;

struct CachedWork {
  std::shared_ptr<const SpaceView> view;
  uint32_t space = 0;  // the dispatcher's number
  Scheduler::Wanted wanted;
  uint32_t refusals = 0;  // in a row
};

class CachedQueue {
 public:
  static constexpr int64_t kMinPauseMs = 20, kMaxPauseMs = 2000;

  void Push(CachedWork work) {
    auto& queue = queues_[static_cast<size_t>(work.wanted.urgency)];
    queue.push_back(std::move(work));
    size_++;
  }
  // The kernel refused it once more.
  void PushRefused(CachedWork work, int64_t now) {
    const int64_t pause = std::min(kMinPauseMs << std::min(work.refusals, 10U), kMaxPauseMs);
    work.refusals++;
    paused_.emplace(now + pause, std::move(work));
    size_++;
  }
  std::optional<CachedWork> Pop(int64_t now) {
    while (!paused_.empty() && paused_.begin()->first <= now) {
      CachedWork work = std::move(paused_.begin()->second);
      paused_.erase(paused_.begin());
      size_--;
      Push(std::move(work));
    }
    for (size_t i = kNrUrgencies; i-- > 0;) {
      if (queues_[i].empty()) continue;
      CachedWork work = std::move(queues_[i].front());
      queues_[i].pop_front();
      size_--;
      return work;
    }
    return std::nullopt;
  }
  // When the first pause ends; none: nothing has a pause.
  std::optional<int64_t> NextChange() const {
    return paused_.empty() ? std::nullopt : std::optional(paused_.begin()->first);
  }
  // Takes out all that fulfil a condition.
  std::vector<CachedWork> Take(const std::function<bool(const CachedWork&)>& condition) {
    std::vector<CachedWork> taken;
    for (auto& queue : queues_)
      std::erase_if(queue, [&](CachedWork& work) {
        if (!condition(work)) return false;
        taken.push_back(std::move(work));
        return true;
      });
    std::erase_if(paused_, [&](auto& paused) {
      if (!condition(paused.second)) return false;
      taken.push_back(std::move(paused.second));
      return true;
    });
    size_ -= taken.size();
    return taken;
  }
  void ForEach(const std::function<void(const CachedWork&)>& each) const {
    for (const auto& queue : queues_)
      for (const CachedWork& work : queue) each(work);
    for (const auto& [at, work] : paused_) each(work);
  }
  size_t size() const { return size_; }  // with those that have a pause
  bool empty() const { return size_ == 0; }
  // Something that Pop() gives at once.
  bool ready() const { return size_ > paused_.size(); }

 private:
  std::array<std::deque<CachedWork>, kNrUrgencies> queues_;
  std::multimap<int64_t, CachedWork> paused_;  // by the end of their pause
  size_t size_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_CACHED_QUEUE_H_
