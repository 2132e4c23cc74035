// SPDX-License-Identifier: Apache-2.0
// CacheDb: what each slot of a cache holds, in SQLite (WAL, synchronous EXTRA,
// no mmap). It is a hint, not a proof. A chunk that is found here is served only after
// its slot was read and its digest compared.
//
// Add() and Remove() queue changes. Commit() first flushes the device by the function
// that it is given, and then commits. So a row never promises bytes that a power cut
// took. By the schema, a slot holds one chunk and a chunk has one slot. If two rows
// conflict, the later one wins.
//
// Who waits for the disk. Commit(), Pin(), Unpin(), RecordDigests() and RemoveAll() wait
// for writes. ForEach(), Find() and Digests() wait for reads only; they have a connection
// of their own. All other functions touch memory only, and wait neither for the disk nor
// for a commit that runs. No lock is held while the device is flushed.
#ifndef FASTOCI_CACHE_CACHE_DB_H_
#define FASTOCI_CACHE_CACHE_DB_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/digest.h"
#include "base/mutex.h"
#include "base/result.h"
#include "cache/row_queue.h"
#include "cache/slot_row.h"

struct sqlite3;

namespace fastoci {

class CacheDb {
 public:
  // uuid: of the cache. Rows of other caches in the file are left alone.
  // max_queued: the most rows that may wait for a commit, see RowQueue.
  static Result<std::unique_ptr<CacheDb>> Open(const std::string& path,
                                               const std::array<uint8_t, 16>& uuid,
                                               size_t max_queued = RowQueue::kMaxRows);
  ~CacheDb();

  // Queue changes in the order of the calls. Any thread. Add() returns false if the queue is
  // full; then the row is not kept.
  bool Add(const SlotRow& row) EXCLUDES(mutex_);
  void Remove(uint32_t slot) EXCLUDES(mutex_);
  size_t nr_queued() const EXCLUDES(mutex_);
  // True if the queue is at least half full. Then it is time to commit.
  bool NearlyFull() const EXCLUDES(mutex_);

  // Runs flush, then commits the changes that were queued before the call. After an error
  // they are queued again; if newer rows have filled the queue meanwhile, lost gets the
  // slots of the rows that were not kept. One caller at a time.
  Status Commit(const std::function<Status()>& flush, std::vector<uint32_t>* lost = nullptr)
      EXCLUDES(mutex_, write_mutex_);
  // Drops what is queued and what is committed, but no pins.
  Status RemoveAll() EXCLUDES(mutex_, write_mutex_);
  // Calls each for the committed rows, in the order of space and chunk. Of this class, each
  // may call only Add() and Remove().
  Status ForEach(const std::function<void(const SlotRow&)>& each) const EXCLUDES(read_mutex_);
  // The committed row of a slot, if any.
  Result<std::optional<SlotRow>> Find(uint32_t slot) const EXCLUDES(read_mutex_);
  // The number of chunks that would survive a power cut now: committed rows, without those
  // of slots that have changed since.
  uint64_t Count() const EXCLUDES(mutex_);

  // Images that are never evicted, each with its data spaces.
  Status Pin(const Sha256Digest& image_id, std::span<const Sha256Digest> spaces)
      EXCLUDES(mutex_, write_mutex_);
  Status Unpin(const Sha256Digest& image_id) EXCLUDES(mutex_, write_mutex_);
  using PinList = std::vector<std::pair<Sha256Digest, Sha256Digest>>;  // (image, space)
  PinList Pins() const EXCLUDES(mutex_);
  // Unpins the image in every cache of the file, in use or not. False: no cache had the image
  // pinned.
  static Result<bool> UnpinEverywhere(const std::string& path, const Sha256Digest& image_id);

  // For a data space whose meta layer has no digests: the digests of each 64 KiB, recorded
  // once its blob was checked as a whole. Digests() returns none if it was not checked.
  Status RecordDigests(const Sha256Digest& space_id, std::span<const Sha256Digest> digests)
      EXCLUDES(write_mutex_);
  Result<std::vector<Sha256Digest>> Digests(const Sha256Digest& space_id) const
      EXCLUDES(read_mutex_);

 private:
  struct Close {
    void operator()(sqlite3* db) const;
  };
  using Connection = std::unique_ptr<sqlite3, Close>;

  CacheDb(const std::array<uint8_t, 16>& uuid, size_t max_queued)
      : uuid_(uuid), max_queued_(max_queued), queue_(max_queued) {}
  static Result<Connection> Connect(const std::string& path);
  Status Prepare(const std::string& path) REQUIRES(write_mutex_);
  Status LoadCommitted() REQUIRES(write_mutex_) EXCLUDES(mutex_);
  Status LoadPins() REQUIRES(write_mutex_) EXCLUDES(mutex_);
  // replaced: gets the slots that lost their row because their chunk has another slot now.
  Status Apply(const RowQueue::Batch& batch, SlotSet* replaced)
      REQUIRES(write_mutex_);
  Status WriteBatch(const RowQueue::Batch& batch, SlotSet* replaced)
      REQUIRES(write_mutex_);
  void MarkCommitted(const RowQueue::Batch& batch, const SlotSet& replaced)
      REQUIRES(write_mutex_) EXCLUDES(mutex_);

  const std::array<uint8_t, 16> uuid_;
  const size_t max_queued_;
  // Locks, in this order: write_mutex_, mutex_. read_mutex_ is taken with neither of them.
  Mutex write_mutex_ ACQUIRED_BEFORE(mutex_);
  Connection write_db_ PT_GUARDED_BY(write_mutex_);
  mutable Mutex read_mutex_;
  Connection read_db_ PT_GUARDED_BY(read_mutex_);
  mutable Mutex mutex_;  // never held over I/O
  RowQueue queue_ GUARDED_BY(mutex_);
  SlotSet committed_ GUARDED_BY(mutex_);  // slots that hold what their committed row says
  uint64_t removals_ GUARDED_BY(mutex_) = 0;  // calls of RemoveAll()
  PinList pins_ GUARDED_BY(mutex_);
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_CACHE_DB_H_
