// SPDX-License-Identifier: Apache-2.0
#include "cache/row_queue.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace fastoci {

bool SlotSet::Insert(uint32_t slot) {
  if (slot / 64 >= words_.size()) words_.resize(slot / 64 + 1);
  const uint64_t bit = uint64_t{1} << slot % 64;
  if (words_[slot / 64] & bit) return false;
  words_[slot / 64] |= bit;
  size_++;
  return true;
}

bool SlotSet::Erase(uint32_t slot) {
  if (!Has(slot)) return false;
  words_[slot / 64] &= ~(uint64_t{1} << slot % 64);
  size_--;
  return true;
}

void SlotSet::Clear() { *this = SlotSet(); }

void SlotSet::ForEach(const std::function<void(uint32_t)>& each) const {
  if (size_ == 0) return;
  for (size_t i = 0; i < words_.size(); i++)
    for (uint64_t word = words_[i]; word != 0; word &= word - 1)
      each(static_cast<uint32_t>(i * 64 + static_cast<size_t>(std::countr_zero(word))));
}

bool RowQueue::Add(const SlotRow& row) {
  auto it = rows_.find(row.slot);
  if (it == rows_.end()) {
    if (rows_.size() >= max_rows_) {
      removed_.Insert(row.slot);
      return false;
    }
    removed_.Erase(row.slot);
    it = rows_.try_emplace(row.slot).first;
  }
  it->second = {next_order_++, row};
  return true;
}

void RowQueue::Remove(uint32_t slot) {
  rows_.erase(slot);
  removed_.Insert(slot);
}

void RowQueue::Clear() {
  rows_ = {};
  removed_.Clear();
}

RowQueue::Batch RowQueue::Take() {
  Batch batch;
  batch.removed = std::exchange(removed_, SlotSet());
  batch.rows.reserve(rows_.size());
  for (const auto& [slot, entry] : rows_) batch.rows.emplace_back(entry.order, entry.row);
  rows_ = {};
  std::sort(batch.rows.begin(), batch.rows.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  return batch;
}

std::vector<uint32_t> RowQueue::PutBack(Batch batch) {
  batch.removed.ForEach([this](uint32_t slot) {
    if (!Has(slot)) removed_.Insert(slot);
  });
  std::vector<uint32_t> lost;
  for (const auto& [order, row] : batch.rows) {
    if (Has(row.slot)) continue;
    if (rows_.size() < max_rows_) {
      rows_[row.slot] = {order, row};
    } else {
      removed_.Insert(row.slot);
      lost.push_back(row.slot);
    }
  }
  return lost;
}

}  // namespace fastoci
