// SPDX-License-Identifier: Apache-2.0
#include "cache/slot_table.h"

#include <gtest/gtest.h>

namespace fastoci {
namespace {

TEST(SlotTable, FollowsASlotAroundItsLife) {
  SlotTable t(8);
  EXPECT_FALSE(t.Take());
  for (uint32_t s : {4u, 5u, 1u}) t.Set(s, SlotUse::kReserved);
  EXPECT_EQ(t.Take(), 1u);
  EXPECT_EQ(t.Take(), 4u);
  t.SetChunk(4, SlotUse::kPresent, 9, 1000);
  EXPECT_EQ(t.Find(9, 1000)->slot, 4u);
  EXPECT_FALSE(t.Find(9, 999));
  EXPECT_FALSE(t.Find(8, 1000));
  EXPECT_EQ(t.CountPresent(9), 1u);
  t.SetChunk(6, SlotUse::kRestored, 9, 3);
  EXPECT_EQ(t.Find(9, 3)->use, SlotUse::kRestored);
  EXPECT_EQ(t.CountPresent(9), 1u);
  t.SetChunk(6, SlotUse::kVerifying, 9, 3);
  t.SetChunk(6, SlotUse::kPresent, 9, 3);
  EXPECT_EQ(t.CountPresent(9), 2u);
  t.Set(4, SlotUse::kEvicting);
  EXPECT_FALSE(t.Find(9, 1000));
  EXPECT_EQ(t.chunk_no(4), 1000u) << "until it is used again";
  t.Set(4, SlotUse::kReserved);
  EXPECT_EQ(t.Take(), 5u) << "the next one behind the last";
  EXPECT_EQ(t.Take(), 4u);
  EXPECT_EQ(t.Count(SlotUse::kTaken), 3u);
  EXPECT_EQ(t.Count(SlotUse::kFree), 4u);
}

}  // namespace
}  // namespace fastoci
