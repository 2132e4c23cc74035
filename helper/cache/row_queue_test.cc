// SPDX-License-Identifier: Apache-2.0
#include "cache/row_queue.h"

#include <gtest/gtest.h>

namespace fastoci {
namespace {

SlotRow Row(uint32_t slot, uint32_t chunk) {
  SlotRow row;
  row.slot = slot;
  row.chunk_no = chunk;
  return row;
}

std::vector<std::pair<uint32_t, uint32_t>> Rows(const RowQueue::Batch& batch) {
  std::vector<std::pair<uint32_t, uint32_t>> out;
  for (const auto& [order, row] : batch.rows) out.emplace_back(row.slot, row.chunk_no);
  return out;
}

std::vector<uint32_t> Removed(const RowQueue::Batch& batch) {
  std::vector<uint32_t> out;
  batch.removed.ForEach([&](uint32_t slot) { out.push_back(slot); });
  return out;
}

using Pairs = std::vector<std::pair<uint32_t, uint32_t>>;

TEST(SlotSet, KeepsNumbersInOrder) {
  SlotSet set;
  EXPECT_FALSE(set.Has(1 << 24));
  EXPECT_FALSE(set.Erase(7));
  for (uint32_t slot : {200u, 0u, 63u, 64u}) EXPECT_TRUE(set.Insert(slot));
  EXPECT_FALSE(set.Insert(63));
  EXPECT_TRUE(set.Erase(0));
  std::vector<uint32_t> all;
  set.ForEach([&](uint32_t slot) { all.push_back(slot); });
  EXPECT_EQ(all, (std::vector<uint32_t>{63, 64, 200}));
  EXPECT_EQ(set.size(), 3u);
}

TEST(RowQueue, ASlotHasItsLastChangeAlone) {
  RowQueue queue;
  for (int i = 0; i < 1000; i++) {
    queue.Add(Row(1, 1));
    queue.Remove(1);
    queue.Remove(2);
    queue.Add(Row(2, 2));
  }
  EXPECT_EQ(queue.nr_changes(), 2u);
  const auto batch = queue.Take();
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(Removed(batch), std::vector<uint32_t>{1});
  EXPECT_EQ(Rows(batch), (Pairs{{2, 2}}));
}

TEST(RowQueue, RowsComeInTheOrderOfTheirLastCall) {
  RowQueue queue;
  queue.Add(Row(9, 0));
  queue.Add(Row(8, 1));
  queue.Add(Row(7, 2));
  queue.Add(Row(9, 3));
  EXPECT_EQ(Rows(queue.Take()), (Pairs{{8, 1}, {7, 2}, {9, 3}}));
}

TEST(RowQueue, WhatIsTooManyIsNotKeptAndItsOldRowGoes) {
  RowQueue queue(3);
  for (uint32_t slot : {0u, 1u, 2u}) EXPECT_TRUE(queue.Add(Row(slot, slot)));
  EXPECT_FALSE(queue.Add(Row(3, 3)));
  EXPECT_TRUE(queue.Add(Row(1, 11))) << "a slot that it has already";
  for (uint32_t slot = 4; slot < 1000; slot++) EXPECT_FALSE(queue.Add(Row(slot, slot)));
  EXPECT_EQ(queue.nr_rows(), 3u);
  queue.Remove(0);
  EXPECT_TRUE(queue.Add(Row(3, 33))) << "there is room again";
  const auto batch = queue.Take();
  EXPECT_EQ(Rows(batch), (Pairs{{2, 2}, {1, 11}, {3, 33}}));
  EXPECT_EQ(batch.removed.size(), 997u) << "0 and 4 to 999";
  EXPECT_FALSE(batch.removed.Has(3));
}

TEST(RowQueue, ABatchThatFailedComesBackBehindWhatIsNewer) {
  RowQueue queue(3);
  queue.Remove(5);
  queue.Remove(6);
  for (uint32_t slot : {0u, 1u, 2u}) queue.Add(Row(slot, slot));
  auto batch = queue.Take();
  queue.Add(Row(5, 50));
  queue.Remove(1);
  EXPECT_EQ(queue.PutBack(std::move(batch)), std::vector<uint32_t>{}) << "5, 0 and 2 are three";
  queue.Add(Row(0, 10));
  batch = queue.Take();
  EXPECT_EQ(Rows(batch), (Pairs{{2, 2}, {5, 50}, {0, 10}})) << "the older one is first";
  EXPECT_EQ(Removed(batch), (std::vector<uint32_t>{1, 6}));
  for (uint32_t slot : {7u, 8u}) queue.Add(Row(slot, slot));
  EXPECT_EQ(queue.PutBack(std::move(batch)), (std::vector<uint32_t>{5, 0})) << "room for one";
  batch = queue.Take();
  EXPECT_EQ(Rows(batch), (Pairs{{2, 2}, {7, 7}, {8, 8}}));
  EXPECT_EQ(Removed(batch), (std::vector<uint32_t>{0, 1, 5, 6}));
}

}  // namespace
}  // namespace fastoci
