// SPDX-License-Identifier: Apache-2.0
// Checker compares chunks in the cache with their digests.
//
// Chunks that an earlier run left are verified before they are served. The dispatcher gives those
// that are wanted, most urgent first, and a few threads verify them. The others are verified in the
// background, after everything that readers wait for. A scrub verifies all chunks that are served.
// With verify_on_read, chunks that were read since the last look are verified.
#ifndef FASTOCI_MISS_CHECKER_H_
#define FASTOCI_MISS_CHECKER_H_

#include <optional>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "miss/catalog.h"
#include "verify/slot_check.h"

namespace fastoci {

class Checker {
 public:
  Checker(Catalog* catalog, Dispatcher* dispatcher, Counters* counters, bool verify_on_read,
          int nr_threads);
  ~Checker();  // Stop()
  void Start();
  void Stop() EXCLUDES(mutex_);
  // The dispatcher has chunks to look up. Any thread.
  void Wake() EXCLUDES(mutex_);
  // There may be restored chunks that no one verified.
  void CheckSoon() EXCLUDES(mutex_);
  // Reads all that is cached and compares, in the background.
  void Scrub() EXCLUDES(mutex_);
  // Compares all served chunks of a space with the digests of view's blob, now. Returns how many
  // differed. Nothing: not all were compared, because the helper ends or has no memory.
  std::optional<uint64_t> Compare(const std::shared_ptr<Cache>& cache, const SpaceView& view);

 private:
  void ServeWanted();
  CachedEnd Serve(const CachedWork& work);
  void CheckInBackground();
  bool WaitForIdle() EXCLUDES(mutex_);
  bool CheckSome(Cache* cache, uint32_t* cursor);
  bool ScrubSlots(Cache* cache, const std::vector<uint32_t>& slots);
  bool Check(Cache* cache, const SpaceView& view, const Cache::Unchecked& what,
             AlignedBuffer* buffer, bool planted);

  Catalog* const catalog_;
  Dispatcher* const dispatcher_;
  Counters* const counters_;
  const bool verify_on_read_;
  const int nr_threads_;
  Mutex mutex_;
  CondVar wanted_, background_;
  std::atomic<bool> stop_{false};
  uint64_t wakes_ GUARDED_BY(mutex_) = 0;
  bool check_ GUARDED_BY(mutex_) = false;
  bool scrub_ GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_CHECKER_H_
