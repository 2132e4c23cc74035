// SPDX-License-Identifier: Apache-2.0
#include "image/layer_order.h"

namespace fastoci {
namespace {

// What a node of a std::map or an allocation costs in addition, about.
constexpr uint64_t kPerAllocation = 48;

uint64_t MemoryOf(const LayerEntry& entry) {
  const TarEntry& e = entry.tar;
  uint64_t bytes = sizeof(entry) + e.path.capacity() + e.link.capacity();
  for (const auto& [name, value] : e.xattrs)
    bytes += kPerAllocation + 2 * sizeof(std::string) + name.capacity() + value.capacity();
  bytes += e.runs.capacity() * sizeof(TarRun);
  return entry.mapping ? bytes + entry.mapping->memory_bytes() : bytes;
}

}  // namespace

void LayerQueue::Push(LayerEntry entry) {
  bytes_ += MemoryOf(entry);
  entries_.push_back(std::move(entry));
}

uint64_t LayerOrder::Count(LayerQueue* queue) {
  MutexLock lock(count_mutex_);
  queued_bytes_ += queue->bytes_ - queue->counted_;
  queue->counted_ = queue->bytes_;
  return queued_bytes_;
}

Status LayerOrder::AddAll(size_t layer, LayerQueue* queue) {
  if (aborted_) return Error{ErrorKind::kUnavailable, ECANCELED, "another layer failed"};
  if (turn_ != layer) return OkStatus();
  if (!begun_) builder_->BeginLayer();
  begun_ = true;
  for (const LayerEntry& entry : queue->entries_) {
    Status s = builder_->Add(entry);
    if (s.ok()) continue;
    aborted_ = true;
    changed_.NotifyAll();
    return s;
  }
  queue->entries_.clear();
  queue->bytes_ = 0;
  Count(queue);
  if (nr_waiting_ != 0) changed_.NotifyAll();
  return OkStatus();
}

Status LayerOrder::Feed(size_t layer, LayerQueue* queue) {
  if (Count(queue) <= max_queued_bytes_) {
    if (!mutex_.TryLock()) return OkStatus();
    Status added = AddAll(layer, queue);
    mutex_.Unlock();
    return added;
  }
  MutexLock lock(mutex_);
  nr_waiting_++;
  changed_.Wait(mutex_, [&]() REQUIRES(mutex_) {
    return aborted_ || turn_ == layer || Count(queue) <= max_queued_bytes_;
  });
  nr_waiting_--;
  return AddAll(layer, queue);
}

Result<LsmtContent> LayerOrder::Finish(size_t layer, LayerQueue* queue) {
  MutexLock lock(mutex_);
  changed_.Wait(mutex_, [&]() REQUIRES(mutex_) { return aborted_ || turn_ == layer; });
  FASTOCI_CHECK_OK(AddAll(layer, queue));
  auto content = builder_->FinishLayer();
  aborted_ = aborted_ || !content.ok();
  turn_++;
  begun_ = false;
  changed_.NotifyAll();
  return content;
}

void LayerOrder::Abort() {
  {
    MutexLock lock(mutex_);
    aborted_ = true;
  }
  changed_.NotifyAll();
}

size_t LayerOrder::nr_waiting() {
  MutexLock lock(mutex_);
  return nr_waiting_;
}

}  // namespace fastoci
