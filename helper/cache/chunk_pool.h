// SPDX-License-Identifier: Apache-2.0
// ChunkPool: a bounded number of chunk-sized buffers that O_DIRECT takes.
#ifndef FASTOCI_CACHE_CHUNK_POOL_H_
#define FASTOCI_CACHE_CHUNK_POOL_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "cache/aligned_buffer.h"

namespace fastoci {

class ChunkPool;

// Memory of one chunk, not zeroed. Its destructor gives the memory back to the pool; any thread
// may run it. The buffer keeps the pool alive.
class ChunkBuffer {
 public:
  ChunkBuffer() = default;
  ~ChunkBuffer() { Release(); }
  ChunkBuffer(ChunkBuffer&&) noexcept = default;
  ChunkBuffer& operator=(ChunkBuffer&& other) noexcept {
    Release();
    pool_ = std::move(other.pool_);
    memory_ = std::move(other.memory_);
    return *this;
  }
  // False: there is none, because the pool was at its limit.
  explicit operator bool() const { return memory_ != nullptr; }
  std::span<uint8_t> span() { return memory_->span(); }
  std::span<const uint8_t> span() const { return memory_->span(); }

 private:
  friend class ChunkPool;
  void Release();
  std::shared_ptr<ChunkPool> pool_;
  std::unique_ptr<AlignedBuffer> memory_;
};

// Any thread.
class ChunkPool : public std::enable_shared_from_this<ChunkPool> {
 public:
  // At most max_buffers are out at a time. Those that came back are kept for the next Take(). When
  // none is out, all but max_spare of them are freed. If they were freed earlier, nearly each chunk
  // would cost a system call and new pages while much is decoded.
  static std::shared_ptr<ChunkPool> Make(size_t chunk_bytes, size_t max_buffers, size_t max_spare);

  // Does not wait; empty if the limit is reached.
  ChunkBuffer Take();
  // Waits for a buffer until the deadline. Empty at the deadline, also if the system has no memory
  // for one, and at once after Interrupt().
  ChunkBuffer TakeUntil(std::chrono::steady_clock::time_point deadline);
  // Ends all waiting in TakeUntil(), for good.
  void Interrupt();
  bool interrupted() const;
  size_t chunk_bytes() const { return chunk_bytes_; }
  size_t nr_out() const;
  size_t nr_spare() const;

 private:
  friend class ChunkBuffer;
  ChunkPool(size_t chunk_bytes, size_t max_buffers, size_t max_spare)
      : chunk_bytes_(chunk_bytes), max_buffers_(max_buffers), max_spare_(max_spare) {}
  ChunkBuffer TakeLocked() REQUIRES(mutex_);
  void GiveBack(std::unique_ptr<AlignedBuffer> memory);

  const size_t chunk_bytes_, max_buffers_, max_spare_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool stop_ GUARDED_BY(mutex_) = false;
  size_t nr_out_ GUARDED_BY(mutex_) = 0;
  std::vector<std::unique_ptr<AlignedBuffer>> spare_ GUARDED_BY(mutex_);
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_CHUNK_POOL_H_
