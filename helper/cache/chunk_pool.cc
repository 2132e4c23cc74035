// SPDX-License-Identifier: Apache-2.0
#include "cache/chunk_pool.h"

#include <utility>

namespace fastoci {

void ChunkBuffer::Release() {
  if (memory_) pool_->GiveBack(std::move(memory_));
  pool_ = nullptr;
}

std::shared_ptr<ChunkPool> ChunkPool::Make(size_t chunk_bytes, size_t max_buffers,
                                           size_t max_spare) {
  return std::shared_ptr<ChunkPool>(new ChunkPool(chunk_bytes, max_buffers, max_spare));
}

ChunkBuffer ChunkPool::TakeLocked() {
  ChunkBuffer buffer;
  if (stop_ || nr_out_ >= max_buffers_) return buffer;
  if (spare_.empty()) {
    auto memory = std::make_unique<AlignedBuffer>(chunk_bytes_);
    if (!memory->ok()) return buffer;
    buffer.memory_ = std::move(memory);
  } else {
    buffer.memory_ = std::move(spare_.back());
    spare_.pop_back();
  }
  nr_out_++;
  buffer.pool_ = shared_from_this();
  return buffer;
}

ChunkBuffer ChunkPool::Take() {
  MutexLock lock(mutex_);
  return TakeLocked();
}

ChunkBuffer ChunkPool::TakeUntil(std::chrono::steady_clock::time_point deadline) {
  MutexLock lock(mutex_);
  for (;;) {
    changed_.WaitUntil(mutex_, deadline,
                       [this]() REQUIRES(mutex_) { return stop_ || nr_out_ < max_buffers_; });
    ChunkBuffer buffer = TakeLocked();
    if (buffer || stop_ || std::chrono::steady_clock::now() >= deadline) return buffer;
    changed_.WaitUntil(mutex_, deadline);  // there is no memory: until some comes back
  }
}

void ChunkPool::GiveBack(std::unique_ptr<AlignedBuffer> memory) {
  MutexLock lock(mutex_);
  nr_out_--;
  spare_.push_back(std::move(memory));
  if (nr_out_ == 0 && spare_.size() > max_spare_) spare_.resize(max_spare_);
  changed_.NotifyOne();
}

void ChunkPool::Interrupt() {
  MutexLock lock(mutex_);
  stop_ = true;
  changed_.NotifyAll();
}

bool ChunkPool::interrupted() const {
  MutexLock lock(mutex_);
  return stop_;
}

size_t ChunkPool::nr_out() const {
  MutexLock lock(mutex_);
  return nr_out_;
}

size_t ChunkPool::nr_spare() const {
  MutexLock lock(mutex_);
  return spare_.size();
}

}  // namespace fastoci
