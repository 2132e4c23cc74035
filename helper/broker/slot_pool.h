// SPDX-License-Identifier: Apache-2.0
// SlotPool: the slots of one cache that this helper has reserved. It reserves
// all that are free, so that a slot which the database knows to hold a chunk
// can be filled where it lies: restoring needs no copy and no command of its
// own. Such slots are "kept" and are given out for other chunks last, the
// lowest first. Pure.
#ifndef FASTOCI_BROKER_SLOT_POOL_H_
#define FASTOCI_BROKER_SLOT_POOL_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "store/cache_db.h"

namespace fastoci {

class SlotPool {
 public:
  using ChunkId = std::pair<Sha256Digest, uint32_t>;

  void Add(std::span<const uint32_t> slots) { free_.insert(slots.begin(), slots.end()); }
  // The row's slot moves from free to kept; false if it is not here.
  bool Keep(const SlotRow& row) {
    if (!free_.erase(row.slot)) return false;
    kept_[row.slot] = row;
    by_chunk_[{row.space_id, row.chunk_no}] = row.slot;
    return true;
  }
  // Takes the slot that is kept for this chunk.
  std::optional<SlotRow> TakeKept(const Sha256Digest& space_id, uint32_t chunk_no) {
    auto it = by_chunk_.find({space_id, chunk_no});
    if (it == by_chunk_.end()) return std::nullopt;
    SlotRow row = kept_.at(it->second);
    kept_.erase(it->second);
    by_chunk_.erase(it);
    return row;
  }
  bool IsKept(const Sha256Digest& space_id, uint32_t chunk_no) const {
    return by_chunk_.count({space_id, chunk_no}) != 0;
  }
  // Takes any slot. Prefers the one behind the last, for contiguous runs.
  std::optional<uint32_t> Take() {
    if (free_.empty()) {
      if (kept_.empty()) return std::nullopt;
      const SlotRow row = kept_.begin()->second;
      kept_.erase(kept_.begin());
      by_chunk_.erase({row.space_id, row.chunk_no});
      return row.slot;
    }
    auto it = free_.lower_bound(next_);
    if (it == free_.end()) it = free_.begin();
    const uint32_t slot = *it;
    free_.erase(it);
    next_ = slot + 1;
    return slot;
  }
  size_t nr_free() const { return free_.size(); }
  size_t nr_kept() const { return kept_.size(); }

 private:
  std::set<uint32_t> free_;
  std::map<uint32_t, SlotRow> kept_;
  std::map<ChunkId, uint32_t> by_chunk_;
  uint32_t next_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_SLOT_POOL_H_
