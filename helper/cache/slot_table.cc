// SPDX-License-Identifier: Apache-2.0
#include "cache/slot_table.h"

namespace fastoci {
namespace {

// How many reserved slots a search for a run looks at. After an eviction of whole images
// there are many of them, in long runs.
constexpr size_t kMaxLook = 4096;

bool IsMapped(SlotUse use) {
  return use == SlotUse::kRestored || use == SlotUse::kVerifying || use == SlotUse::kPresent;
}

}  // namespace

uint32_t SlotTable::CountPresent(uint32_t space) const {
  auto it = spaces_.find(space);
  return it == spaces_.end() ? 0 : it->second.nr_present;
}

std::optional<SlotTable::Where> SlotTable::Find(uint32_t space, uint32_t chunk_no) const {
  auto it = spaces_.find(space);
  if (it == spaces_.end() || chunk_no >= it->second.slots.size()) return std::nullopt;
  const uint32_t slot = it->second.slots[chunk_no];
  if (slot == 0) return std::nullopt;
  return Where{slot - 1, use_[slot - 1]};
}

std::optional<uint32_t> SlotTable::Take() {
  if (reserved_.empty()) return std::nullopt;
  auto it = reserved_.lower_bound(next_);
  const uint32_t slot = it == reserved_.end() ? *reserved_.begin() : *it;
  next_ = slot + 1;
  Change(slot, SlotUse::kTaken);
  return slot;
}

size_t SlotTable::RunLength(uint32_t first, size_t max) const {
  size_t n = 0;
  for (auto it = reserved_.find(first); it != reserved_.end() && n < max && *it == first + n; ++it)
    n++;
  return n;
}

// The shortest run that is long enough, so that long ones stay whole; else the longest one.
uint32_t SlotTable::BestRun(size_t max) const {
  if (RunLength(next_, max) == max) return next_;
  uint32_t best = *reserved_.begin();
  size_t best_length = 0, looked_at = 0;
  for (auto it = reserved_.begin(); it != reserved_.end() && looked_at < kMaxLook;) {
    const uint32_t first = *it;
    size_t length = 0;
    for (; it != reserved_.end() && *it == first + length; ++it) length++;
    looked_at += length;
    const bool better = best_length < max ? length > best_length
                                          : length >= max && length < best_length;
    if (better) best = first, best_length = length;
  }
  return best;
}

std::vector<uint32_t> SlotTable::TakeRun(size_t max, std::optional<uint32_t> near) {
  std::vector<uint32_t> slots;
  if (reserved_.empty() || max == 0) return slots;
  const uint32_t first = near && reserved_.count(*near) ? *near : BestRun(max);
  const size_t n = RunLength(first, max);
  for (size_t i = 0; i < n; i++) {
    slots.push_back(first + static_cast<uint32_t>(i));
    Change(slots.back(), SlotUse::kTaken);
  }
  next_ = slots.back() + 1;
  return slots;
}

void SlotTable::Change(uint32_t slot, SlotUse use) {
  if (use_[slot] == SlotUse::kReserved) reserved_.erase(slot);
  if (use == SlotUse::kReserved) reserved_.insert(slot);
  count_[static_cast<size_t>(use_[slot])]--;
  count_[static_cast<size_t>(use)]++;
  use_[slot] = use;
}

void SlotTable::Unmap(uint32_t slot) {
  if (!IsMapped(use_[slot])) return;
  auto it = spaces_.find(space_[slot]);
  it->second.slots[chunk_[slot]] = 0;
  if (use_[slot] == SlotUse::kPresent) it->second.nr_present--;
  if (--it->second.nr_mapped == 0) spaces_.erase(it);
}

void SlotTable::SetChunk(uint32_t slot, SlotUse use, uint32_t space, uint32_t chunk_no) {
  Unmap(slot);
  space_[slot] = space;
  chunk_[slot] = chunk_no;
  Change(slot, use);
  Chunks& chunks = spaces_[space];
  if (chunk_no >= chunks.slots.size()) chunks.slots.resize(chunk_no + 1);
  chunks.slots[chunk_no] = slot + 1;
  chunks.nr_mapped++;
  if (use == SlotUse::kPresent) chunks.nr_present++;
}

void SlotTable::Set(uint32_t slot, SlotUse use) {
  Unmap(slot);
  Change(slot, use);
}

}  // namespace fastoci
