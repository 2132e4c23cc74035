// SPDX-License-Identifier: Apache-2.0
// SlotDb: which chunk is in which slot, as far as the cache device was flushed
// since. A hint: whoever restores from it verifies the content, so a row that is
// out of date costs a read and nothing else. A database that is damaged, or of
// another cache, is started anew.
//
// SQLite with a write-ahead log, synchronous, locked exclusively (which also
// keeps its index in the heap) and without mmap: an I/O error is an error and
// not a signal. One thread at a time.
#ifndef FASTOCI_STORE_SLOT_DB_H_
#define FASTOCI_STORE_SLOT_DB_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/result.h"

struct sqlite3;

namespace fastoci {

struct SlotRow {
  uint32_t slot = 0;
  Sha256Digest data_space_id{};
  uint64_t data_bytes = 0;  // of the data space
  uint32_t chunk_no = 0;
  // ChunkDigest() of its content; none if nobody knows it.
  std::optional<Sha256Digest> digest;
};

class SlotDb {
 public:
  // uuid: of the cache that the rows are about. busy_ms: how long to wait for
  // another process that has it.
  static Result<std::unique_ptr<SlotDb>> Open(const std::string& path,
                                              const std::array<uint8_t, 16>& uuid, int busy_ms);
  ~SlotDb();
  SlotDb(const SlotDb&) = delete;
  SlotDb& operator=(const SlotDb&) = delete;

  Result<std::vector<SlotRow>> Load() const;
  // All or nothing. A row replaces what was known of its slot and of its chunk.
  Status Commit(std::span<const SlotRow> rows, std::span<const uint32_t> freed_slots);
  Result<uint64_t> CountRows() const;

 private:
  SlotDb() = default;
  static Result<std::unique_ptr<SlotDb>> OpenOnce(const std::string& path,
                                                  const std::array<uint8_t, 16>& uuid,
                                                  int busy_ms);
  Status CheckUuid(const std::array<uint8_t, 16>& uuid);
  Status WriteRows(std::span<const SlotRow> rows, std::span<const uint32_t> freed_slots);

  sqlite3* db_ = nullptr;
};

}  // namespace fastoci

#endif  // FASTOCI_STORE_SLOT_DB_H_
