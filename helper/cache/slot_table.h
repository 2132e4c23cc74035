// SPDX-License-Identifier: Apache-2.0
// SlotTable: what the broker knows of each slot of a cache, and in which slot a chunk
// lies. Pure. The kernel's own map is the truth. This table is read from it at the start
// and follows it command by command.
//
//   kFree -> kReserved -> kTaken -> kPresent -> kEvicting -> kReserved
//   kFree -> kRestored -> kVerifying -> kPresent | kFree
//   kEvicting -> kPresent: the kernel did not evict it
//   kTaken | kPresent | kEvicting -> kRetired
//
// A chunk has at most one slot in kRestored, kVerifying or kPresent. Memory: 9 bytes per
// slot, and 4 per chunk of the data spaces that have one.
#ifndef FASTOCI_CACHE_SLOT_TABLE_H_
#define FASTOCI_CACHE_SLOT_TABLE_H_

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
  kRetired,   // not used: the device refuses writes to it (it stays reserved for us), or reads
};

class SlotTable {
 public:
  struct Where {
    uint32_t slot;
    SlotUse use;  // kRestored, kVerifying or kPresent
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

  // Takes a reserved slot, which becomes kTaken: the next higher one after the slot that was
  // taken last, so that the chunks of a span lie side by side.
  std::optional<uint32_t> Take();
  // Takes at most max adjacent reserved slots, which become kTaken, in order. If near is reserved,
  // the run begins there, so that neighbours in a data space lie together. Otherwise it is a run
  // of max slots, or the longest one that is found. Empty if no slot is reserved.
  std::vector<uint32_t> TakeRun(size_t max, std::optional<uint32_t> near);
  // use: kRestored, kVerifying or kPresent.
  void SetChunk(uint32_t slot, SlotUse use, uint32_t space, uint32_t chunk_no);
  // use: any of the other states, in which the slot has no chunk.
  void Set(uint32_t slot, SlotUse use);

 private:
  void Change(uint32_t slot, SlotUse use);
  size_t RunLength(uint32_t first, size_t max) const;  // of reserved slots
  uint32_t BestRun(size_t max) const;                  // its first slot
  void Unmap(uint32_t slot);
  std::vector<SlotUse> use_;
  std::vector<uint32_t> space_, chunk_;
  std::array<uint32_t, 8> count_{};
  std::set<uint32_t> reserved_;  // few as a rule: they are asked for in small batches
  uint32_t next_ = 0;
  struct Chunks {
    std::vector<uint32_t> slots;  // slot + 1 by chunk number
    uint32_t nr_mapped = 0, nr_present = 0;
  };
  std::unordered_map<uint32_t, Chunks> spaces_;
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_SLOT_TABLE_H_
