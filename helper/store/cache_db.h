// SPDX-License-Identifier: Apache-2.0
// CacheDb: what each slot of a cache holds, in SQLite (WAL, synchronous EXTRA,
// no mmap). It is a hint, never a proof: a chunk found here is served only
// after its slot was read and its digest compared.
//
// Add() and Remove() queue; Commit() flushes the device by the given function
// and only then commits, so that a row never promises bytes that a power cut
// took. Invariants, by the schema: a slot has one chunk, a chunk one slot; the
// later of two conflicting rows wins. Pins and what is known of a data space
// are few, and are written at once.
#ifndef FASTOCI_STORE_CACHE_DB_H_
#define FASTOCI_STORE_CACHE_DB_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/result.h"

struct sqlite3;

namespace fastoci {

struct SlotRow {
  Sha256Digest space_id{};
  uint32_t chunk_no = 0;
  uint32_t slot = 0;
  // SHA-256 of the chunk's data up to the end of the data space; of the list
  // of its 64 KiB digests where the chunk is larger than 64 KiB.
  Sha256Digest digest{};
  uint64_t data_bytes = 0;  // of the data space
};

class CacheDb {
 public:
  // uuid: of the cache; rows of another cache in the file are left alone.
  static Result<std::unique_ptr<CacheDb>> Open(const std::string& path,
                                               const std::array<uint8_t, 16>& uuid);
  ~CacheDb();

  // Any thread; in order of the calls.
  void Add(const SlotRow& row);
  void Remove(uint32_t slot);
  size_t nr_queued() const;

  // Runs flush, then commits what was queued before the call. On an error the
  // queue is kept. One caller at a time.
  Status Commit(const std::function<Status()>& flush);
  // Drops what is queued and what is committed, but no pins.
  Status RemoveAll();
  // Committed rows, by space and chunk. each must not call this object.
  Status ForEach(const std::function<void(const SlotRow&)>& each) const;
  // The committed row of a slot, if any.
  Result<std::optional<SlotRow>> Find(uint32_t slot) const;
  // Number of committed rows, without those of slots that were changed since: that
  // many chunks a power cut now would not take.
  Result<uint64_t> Count() const;

  // Images that are never evicted, each with its data spaces.
  Status Pin(const Sha256Digest& image_id, std::span<const Sha256Digest> spaces);
  Status Unpin(const Sha256Digest& image_id);
  Result<std::vector<std::pair<Sha256Digest, Sha256Digest>>> Pins() const;  // (image, space)

  // The digests of a data space whose meta layer has none, of each 64 KiB, once
  // its blob was checked as a whole; none if it was not.
  Status RecordDigests(const Sha256Digest& space_id, std::span<const Sha256Digest> digests);
  Result<std::vector<Sha256Digest>> Digests(const Sha256Digest& space_id) const;

 private:
  struct Change {
    bool add;
    SlotRow row;
  };
  CacheDb() = default;
  Status Exec(const char* sql) const;
  Status Prepare(const std::string& path);
  Status Apply(const std::vector<Change>& changes);

  sqlite3* db_ = nullptr;
  std::array<uint8_t, 16> uuid_{};
  mutable std::mutex mutex_;  // guards queue_
  std::vector<Change> queue_;
  mutable std::mutex db_mutex_;  // statements; taken before mutex_, never after
};

}  // namespace fastoci

#endif  // FASTOCI_STORE_CACHE_DB_H_
