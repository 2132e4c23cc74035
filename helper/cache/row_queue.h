// SPDX-License-Identifier: Apache-2.0
// RowQueue: changes of the slot table that wait for their commit. Pure; one thread at a time.
//
// A slot has at most one change, the last one. So the queue cannot grow past the number of slots,
// however long the database refuses writes. The number of rows is bounded as well, because rows
// lie in locked memory. A row past the bound is not kept. Its slot is queued for removal instead,
// because the database's row of that slot is no longer true. The chunk is still served. It is
// forgotten at a restart, unless its row is added again before.
#ifndef FASTOCI_CACHE_ROW_QUEUE_H_
#define FASTOCI_CACHE_ROW_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cache/slot_row.h"

namespace fastoci {

// A set of slot numbers: one bit for each up to the largest one.
class SlotSet {
 public:
  bool Has(uint32_t slot) const {
    return slot / 64 < words_.size() && (words_[slot / 64] >> slot % 64 & 1) != 0;
  }
  bool Insert(uint32_t slot);  // false: it was there
  bool Erase(uint32_t slot);   // false: it was not there
  void Clear();                // and frees the memory
  size_t size() const { return size_; }
  void ForEach(const std::function<void(uint32_t slot)>& each) const;  // in order

 private:
  std::vector<uint64_t> words_;
  size_t size_ = 0;
};

class RowQueue {
 public:
  static constexpr size_t kMaxRows = 65536;  // about 8 MiB, and twice that during a commit

  explicit RowQueue(size_t max_rows = kMaxRows) : max_rows_(max_rows) {}

  // False: the queue is full, and the row was not kept.
  bool Add(const SlotRow& row);
  void Remove(uint32_t slot);
  void Clear();

  bool empty() const { return rows_.empty() && removed_.size() == 0; }
  size_t nr_rows() const { return rows_.size(); }
  size_t nr_changes() const { return rows_.size() + removed_.size(); }
  bool Has(uint32_t slot) const { return rows_.count(slot) != 0 || removed_.Has(slot); }

  // What is to be committed in one go: first the removals, then the rows in the order in which
  // they were added. A later row of a chunk replaces an earlier one of another slot.
  struct Batch {
    SlotSet removed;
    std::vector<std::pair<uint64_t, SlotRow>> rows;  // with the order of their Add()
  };
  // Takes all changes. The queue is then empty.
  Batch Take();
  // Takes a batch back that could not be committed. Changes that came since are newer and stay.
  // Returns the slots of rows that were not kept, because the queue is full.
  std::vector<uint32_t> PutBack(Batch batch);

 private:
  struct Entry {
    uint64_t order = 0;
    SlotRow row;
  };
  const size_t max_rows_;
  uint64_t next_order_ = 0;
  std::unordered_map<uint32_t, Entry> rows_;  // by slot
  SlotSet removed_;                           // none of rows_
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_ROW_QUEUE_H_
