// SPDX-License-Identifier: Apache-2.0
#include "cache/eviction.h"

#include <algorithm>
#include <bit>

namespace fastoci {
namespace {

constexpr uint8_t kFresh = 0x80;
constexpr size_t kProbationShare = 10;  // one in so many slots
constexpr size_t kMinProbation = 64;    // but at most 31 of 32 in a small cache
constexpr size_t kGhostShare = 2;       // a ghost lasts for one eviction per so many slots

uint32_t Print(uint64_t key) { return static_cast<uint32_t>(key ^ key >> 32) | 1; }  // not 0

}  // namespace

EvictionPolicy::EvictionPolicy(uint32_t nr_slots)
    : prev_(nr_slots, kNil),
      next_(nr_slots, kNil),
      prints_(nr_slots),
      queue_(nr_slots, kNone),
      count_(nr_slots),
      ghosts_(std::bit_ceil(std::max<size_t>(nr_slots, 1))) {}

void EvictionPolicy::Append(uint32_t slot, Queue queue) {
  List& list = lists_[queue];
  queue_[slot] = queue;
  prev_[slot] = list.tail;
  next_[slot] = kNil;
  (list.tail == kNil ? list.head : next_[list.tail]) = slot;
  list.tail = slot;
  list.size++;
}

void EvictionPolicy::Unlink(uint32_t slot) {
  List& list = lists_[queue_[slot]];
  (prev_[slot] == kNil ? list.head : next_[prev_[slot]]) = next_[slot];
  (next_[slot] == kNil ? list.tail : prev_[next_[slot]]) = prev_[slot];
  list.size--;
  queue_[slot] = kNone;
}

EvictionPolicy::Ghost& EvictionPolicy::GhostOf(uint32_t print) {
  return ghosts_[print * 0x9e3779b1U >> 7 & (ghosts_.size() - 1)];
}

void EvictionPolicy::Remember(uint32_t print) { GhostOf(print) = {print, evictions_}; }

bool EvictionPolicy::Remembers(uint32_t print) {
  Ghost& g = GhostOf(print);
  if (g.print != print) return false;
  const bool recent = evictions_ - g.age <= prev_.size() / kGhostShare;
  g = Ghost();
  return recent;
}

void EvictionPolicy::Filled(uint32_t slot, uint64_t key) {
  Removed(slot);
  prints_[slot] = Print(key);
  count_[slot] = kFresh;
  Append(slot, Remembers(prints_[slot]) ? kMain : kProbation);
}

void EvictionPolicy::Restored(uint32_t slot, uint64_t key) {
  Removed(slot);
  prints_[slot] = Print(key);
  count_[slot] = 0;
  Append(slot, kMain);
}

void EvictionPolicy::Removed(uint32_t slot) {
  if (queue_[slot] != kNone) Unlink(slot);
}

void EvictionPolicy::Demote(uint32_t slot) {
  if (queue_[slot] == kNone) return;
  Unlink(slot);
  count_[slot] = 0;
  Append(slot, kDoomed);
}

void EvictionPolicy::Accessed(uint32_t slot) {
  if (queue_[slot] == kNone) return;
  if (count_[slot] & kFresh) {
    count_[slot] = 0;
    return;
  }
  count_[slot] = std::min<uint8_t>(count_[slot] + 1, kMaxCount);
  const Queue queue = static_cast<Queue>(queue_[slot]);
  Unlink(slot);
  Append(slot, queue == kDoomed ? kMain : queue);
}

std::vector<uint32_t> EvictionPolicy::Pick(size_t n, const std::function<bool(uint32_t)>& pinned) {
  std::vector<uint32_t> victims;
  const size_t share = std::max({size() / kProbationShare,
                                 std::min(size() * 31 / 32, kMinProbation), size_t{1}});
  size_t turned[kQueues] = {};  // pinned ones met in a row
  auto usable = [&](Queue q) { return turned[q] < lists_[q].size; };
  while (victims.size() < n && (usable(kDoomed) || usable(kProbation) || usable(kMain))) {
    Queue queue = usable(kDoomed) ? kDoomed : kMain;
    if (queue == kMain && usable(kProbation) &&
        (lists_[kProbation].size >= share || !usable(kMain)))
      queue = kProbation;
    const uint32_t slot = lists_[queue].head;
    const uint8_t count = count_[slot] & ~kFresh;
    Unlink(slot);
    if (pinned(slot)) {
      Append(slot, queue);
      turned[queue]++;
      continue;
    }
    turned[queue] = 0;
    if (count > 0) {
      count_[slot] = queue == kMain ? count - 1 : 0;
      Append(slot, kMain);
    } else {
      if (queue == kProbation) Remember(prints_[slot]);
      evictions_++;
      victims.push_back(slot);
    }
  }
  return victims;
}

}  // namespace fastoci
