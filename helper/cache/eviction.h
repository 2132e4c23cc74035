// SPDX-License-Identifier: Apache-2.0
// EvictionPolicy decides which slots of a cache are evicted first. It is pure: slots in,
// victims out; no clock, no I/O, no locks.
//
// It knows little of accesses: the kernel keeps one access bit per slot, and a sweep
// (GET_SLOTS) reads and clears the bits now and then. So the policy is CLOCK with a
// probation queue before it, as in S3-FIFO:
//
//   Filled --> probation --(first, was accessed)--> main <--(first, count > 0)--.
//                  |                                 |___________________________|
//                  v first, not accessed             v first, count is 0
//                victim, remembered                victim
//   Filled, while remembered --------------------> main
//
// Both queues are ordered by the last sweep that found a slot's bit set: Accessed() moves the slot
// to the end of its queue. Bits tell no order within one sweep, so this is as close to LRU as they
// allow.
//
// A scan (a backup, a virus scanner, an image that is read once) passes through probation, which
// is a tenth of the cache, and leaves main alone. In a small cache probation is longer, because
// otherwise nothing would be read again before it leaves. The policy remembers a victim for a
// while (its ghost). If that chunk is filled again, it goes straight to main.
//
// Memory: 22 to 30 bytes per slot (at most 480 KiB per GB of 64 KiB chunks),
// allocated once. Pick() looks at each slot at most kMaxCount + 2 times.
#ifndef FASTOCI_CACHE_EVICTION_H_
#define FASTOCI_CACHE_EVICTION_H_

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
  // A chunk that an earlier run had cached. It goes to main, because it was of use.
  void Restored(uint32_t slot, uint64_t key);
  // The slot was emptied, but not by Pick(). Does nothing for a slot that is not here.
  void Removed(uint32_t slot);
  // The slot is one of the first victims from now on, until it is accessed.
  void Demote(uint32_t slot);
  // A sweep found the slot's bit set. The first time after Filled() does not count,
  // because the kernel sets the bit at the fill.
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
  std::vector<uint8_t> count_;  // accesses that count; kFresh: no sweep has found it since the fill
  std::vector<Ghost> ghosts_;   // direct-mapped by print, a power of two
  uint32_t evictions_ = 1;
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_EVICTION_H_
