// SPDX-License-Identifier: Apache-2.0
// EvictionPolicy: which slots of a cache go first. Pure: slots in, victims out;
// no clock, no I/O, no locks.
//
// What it hears is coarse: the kernel keeps one access bit per slot, which a
// sweep (GET_SLOTS) reads and clears now and then. So it is CLOCK at heart, with
// a probation in front, as S3-FIFO has it:
//
//   Filled --> probation --(accessed later)--> main <--(accessed)--.
//                  |                             |__________________|
//                  v oldest, not accessed        v CLOCK: count is 0
//                victim, remembered            victim
//   Filled, while remembered ----------------> main
//
// A scan (backup, virus scanner, an image that is read once) passes through
// probation, a quarter of the cache, and leaves main alone; in a small cache it is
// longer, or nothing would be read again before its end. A chunk that is wanted
// again soon after it went is known by its ghost and goes straight to main. Plain
// LRU was no choice: bits know no order.
//
// Memory: 22 to 30 bytes per slot (at most 480 KiB per GB of 64 KiB chunks),
// allocated once. Pick() looks at each slot at most kMaxCount + 2 times.
#ifndef FASTOCI_STORE_EVICTION_H_
#define FASTOCI_STORE_EVICTION_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace fastoci {

class EvictionPolicy {
 public:
  static constexpr uint8_t kMaxCount = 3;

  explicit EvictionPolicy(uint32_t nr_slots);

  // key: a hash of what the slot holds, the same each time it is cached.
  void Filled(uint32_t slot, uint64_t key);
  // What an earlier run had cached: to main, as it has proved itself.
  void Restored(uint32_t slot, uint64_t key);
  // Gone by other means than Pick(). No harm if it is not here.
  void Removed(uint32_t slot);
  // First to go from now on, until it is accessed.
  void Demote(uint32_t slot);
  // A sweep found the slot's bit. The first one after Filled() tells nothing:
  // the kernel sets the bit at the fill.
  void Accessed(uint32_t slot);

  // Takes out at most n slots; fewer if the others are pinned.
  std::vector<uint32_t> Pick(size_t n, const std::function<bool(uint32_t slot)>& pinned);

  size_t size() const {
    return lists_[kProbation].size + lists_[kMain].size + lists_[kDoomed].size;
  }
  size_t nr_probation() const { return lists_[kProbation].size; }

 private:
  enum Queue : uint8_t { kNone, kProbation, kMain, kDoomed, kQueues };
  static constexpr uint32_t kNil = UINT32_MAX;
  struct List {
    uint32_t head = kNil, tail = kNil;
    size_t size = 0;
  };
  struct Ghost {
    uint32_t print = 0;
    uint32_t age = 0;  // evictions_ when it went
  };
  void Append(uint32_t slot, Queue queue);
  void Unlink(uint32_t slot);
  Ghost& GhostOf(uint32_t print);
  void Remember(uint32_t print);
  bool Remembers(uint32_t print);  // once

  List lists_[kQueues];
  std::vector<uint32_t> prev_, next_;
  std::vector<uint32_t> prints_;  // of each slot's key
  std::vector<uint8_t> queue_;
  std::vector<uint8_t> count_;  // accesses seen, kFresh: since the fill none that counts
  std::vector<Ghost> ghosts_;   // direct-mapped by print, a power of two
  uint32_t evictions_ = 1;
};

}  // namespace fastoci

#endif  // FASTOCI_STORE_EVICTION_H_
