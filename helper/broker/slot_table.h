// SPDX-License-Identifier: Apache-2.0
// SlotTable: what the broker believes of each slot of a cache and, the other
// way, where a chunk lies. Pure. The kernel's own map is the truth; this one
// follows it command by command and is read anew from it at the start.
//
//   kFree -> kReserved -> kTaken -> kPresent -> kEvicting -> kReserved
//   kFree -> kRestored -> kVerifying -> kPresent | kFree
//   kTaken | kPresent | kEvicting -> kRetired
//
// A chunk has at most one slot in kRestored, kVerifying or kPresent. Memory: 9 bytes per
// slot, and 4 per chunk of the data spaces that have one.
#ifndef FASTOCI_BROKER_SLOT_TABLE_H_
#define FASTOCI_BROKER_SLOT_TABLE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

namespace fastoci {

enum class SlotUse : uint8_t {
  kFree,      // the kernel's
  kReserved,  // ours, empty
  kTaken,     // ours, somebody writes it
  kRestored,  // holds a chunk by the database; not verified, not served
  kVerifying, // the same, and somebody reads it
  kPresent,   // served
  kEvicting,  // unpublished, readers may be left
  kRetired,   // nobody's: the device refuses writes (then it stays ours) or reads of it
};

class SlotTable {
 public:
  struct Where {
    uint32_t slot;
    SlotUse use;  // one of those three
  };
  explicit SlotTable(uint32_t nr_slots) : use_(nr_slots), space_(nr_slots), chunk_(nr_slots) {
    count_[0] = nr_slots;
  }

  uint32_t nr_slots() const { return static_cast<uint32_t>(use_.size()); }
  SlotUse use(uint32_t slot) const { return use_[slot]; }
  uint32_t space(uint32_t slot) const { return space_[slot]; }
  uint32_t chunk_no(uint32_t slot) const { return chunk_[slot]; }
  uint32_t Count(SlotUse use) const { return count_[static_cast<size_t>(use)]; }
  uint32_t CountPresent(uint32_t space) const;  // of a space
  std::optional<Where> Find(uint32_t space, uint32_t chunk_no) const;

  // A reserved slot, now kTaken; the lowest behind the last one first, so that
  // the chunks of a span lie side by side.
  std::optional<uint32_t> Take();
  // use: one of those three.
  void SetChunk(uint32_t slot, SlotUse use, uint32_t space, uint32_t chunk_no);
  // To a state without a chunk.
  void Set(uint32_t slot, SlotUse use);

 private:
  void Change(uint32_t slot, SlotUse use);
  void Unmap(uint32_t slot);
  std::vector<SlotUse> use_;
  std::vector<uint32_t> space_, chunk_;
  std::array<uint32_t, 8> count_{};
  std::set<uint32_t> reserved_;  // few: they are asked for in small batches
  uint32_t next_ = 0;
  struct Chunks {
    std::vector<uint32_t> slots;  // slot + 1 by chunk number
    uint32_t nr_mapped = 0, nr_present = 0;
  };
  std::unordered_map<uint32_t, Chunks> spaces_;
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_SLOT_TABLE_H_
