// SPDX-License-Identifier: Apache-2.0
// ChunkWriter: puts verified chunks into slots of a cache, in batches, and has the kernel serve
// them.
//
//   NewChunk() -> the caller fills it with verified bytes -> Write() -> done
//                                                              |
//             slots in a run -> one write per run of adjacent slots -> one FILL per batch
//
// Each cache has its own writer with a few threads. An idle thread starts at once with what it
// finds: no chunk waits for company. While all are busy, chunks gather and form the next batch.
// Urgent chunks come first and are written apart from the others; one thread takes nothing else,
// so that an urgent chunk never waits for a large write that began before it.
//
// The chunks of one call of Write() are not split over threads without need. If nobody waits for
// chunks that were decoded in one go, call it once for all of them. For a chunk that a reader waits
// for, call it at once.
//
// Threads that call pwritev() were chosen over io_uring: a batch is one system call either way, a
// node may forbid io_uring (kernel.io_uring_disabled, seccomp profiles), and then these threads
// would be needed all the same.
#ifndef FASTOCI_CACHE_WRITER_H_
#define FASTOCI_CACHE_WRITER_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "cache/cache.h"
#include "cache/chunk_pool.h"

namespace fastoci {

struct ChunkWriterOptions {
  int nr_threads = 4;               // at least 2: one is kept for urgent chunks
  size_t batch_bytes = 1 << 20;     // one thread writes so much at a time, at least one chunk
  size_t pool_bytes = 16 << 20;     // memory for chunks that are filled, queued or written
  size_t spare_bytes = 2 << 20;     // of it, kept while there is nothing to do
};

// A chunk that was verified.
struct VerifiedChunk {
  uint32_t space = 0;  // the kernel's number
  SlotRow row;         // all but the slot, which the writer sets
  ChunkBuffer data;    // the chunk's bytes; the writer zeroes what follows data_bytes
  size_t data_bytes = 0;  // the chunk size, or less in the last chunk of a data space
  bool urgent = false;    // a reader waits for it
  std::shared_ptr<void> owner;  // the caller's; the writer only keeps it
  // For done: OK if the kernel serves the chunk now, from this slot or from another one that had
  // it already. Otherwise ECANCELED in Error::err (the cache is gone, or Stop()), ENOSPC (no slot
  // became free), EROFS (the device takes no writes at all), or what the device or the kernel said.
  Status result = OkStatus();
};

class ChunkWriter {
 public:
  // Called with the chunks of one batch on one of the writer's threads, which holds no lock. It
  // must not call Drain() or Stop(). The chunks' memory goes back to the pool when it returns,
  // unless the callee keeps the chunks.
  using Done = std::function<void(std::vector<VerifiedChunk>)>;

  // kUnavailable: there are no threads to be had.
  static Result<std::unique_ptr<ChunkWriter>> Start(std::shared_ptr<Cache> cache,
                                                    const ChunkWriterOptions& options, Done done);
  ~ChunkWriter();  // Stop()
  ChunkWriter(const ChunkWriter&) = delete;
  ChunkWriter& operator=(const ChunkWriter&) = delete;

  // Memory for one chunk. At the limit of pool_bytes there is none until a call of done returns.
  // NewChunk() does not wait, and returns an empty buffer if there is none. WaitForChunk() waits,
  // and returns an empty buffer at the deadline and after Stop().
  ChunkBuffer NewChunk() { return pool_->Take(); }
  ChunkBuffer WaitForChunk(std::chrono::steady_clock::time_point deadline) {
    return pool_->TakeUntil(deadline);
  }

  // After Stop() has begun: no chunk is written any more.
  bool stopped() const { return pool_->interrupted(); }

  // Queues chunks and returns. Each chunk comes to done exactly once. After Stop() it comes within
  // this call, with ECANCELED. Any thread may call it, also done.
  void Write(std::vector<VerifiedChunk> chunks);

  // Chunks that were queued and are not done yet.
  size_t nr_pending() const;
  // Waits until nothing is queued or written any more; false at the deadline.
  bool Drain(std::chrono::steady_clock::time_point deadline);
  // Ends the writer for good. Chunks that are queued come to done with ECANCELED. Waits for the
  // writes that run; call Cache::Interrupt() before, so that none of them waits for slots. Only
  // one thread may call it.
  void Stop();

 private:
  ChunkWriter(std::shared_ptr<Cache> cache, const ChunkWriterOptions& options, Done done);
  void Work(bool urgent_only);
  std::vector<VerifiedChunk> NextBatch(bool urgent_only) REQUIRES(mutex_);
  void WakeForUrgent() REQUIRES(mutex_);

  const std::shared_ptr<Cache> cache_;
  const ChunkWriterOptions options_;
  const Done done_;
  const std::shared_ptr<ChunkPool> pool_;
  mutable Mutex mutex_;
  CondVar work_;         // chunks were queued, or stop_
  CondVar urgent_work_;  // the same for the thread that takes urgent ones alone
  CondVar idle_;         // a batch is done
  std::deque<VerifiedChunk> urgent_ GUARDED_BY(mutex_);
  std::deque<VerifiedChunk> normal_ GUARDED_BY(mutex_);
  size_t nr_pending_ GUARDED_BY(mutex_) = 0;
  bool urgent_thread_waits_ GUARDED_BY(mutex_) = false;
  bool stop_ GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_WRITER_H_
