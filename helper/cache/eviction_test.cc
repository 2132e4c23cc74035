// SPDX-License-Identifier: Apache-2.0
#include "cache/eviction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace fastoci {
namespace {

uint64_t Key(uint64_t n) { return std::mt19937_64(n)(); }

bool None(uint32_t) { return false; }

TEST(EvictionPolicy, TheOldestOfProbationGoesFirst) {
  EvictionPolicy p(8);
  for (uint32_t s = 0; s < 8; s++) p.Filled(s, Key(s));
  EXPECT_EQ(p.Pick(3, None), (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_EQ(p.size(), 5u);
}

TEST(EvictionPolicy, TheBitOfTheFillItselfDoesNotCount) {
  EvictionPolicy p(16);
  for (uint32_t s = 0; s < 16; s++) p.Filled(s, Key(s));
  for (uint32_t s = 0; s < 16; s++) p.Accessed(s);  // the first sweep
  p.Accessed(0);                                    // the second: 0 was read again
  EXPECT_EQ(p.Pick(2, None), (std::vector<uint32_t>{1, 2}));
  EXPECT_EQ(p.Pick(1, None), (std::vector<uint32_t>{3}));
}

TEST(EvictionPolicy, AScanLeavesMainAlone) {
  EvictionPolicy p(1000);
  for (uint32_t s = 0; s < 700; s++) p.Restored(s, Key(s));
  std::vector<uint32_t> free;
  for (uint32_t s = 700; s < 1000; s++) free.push_back(s);
  for (uint64_t n = 0; n < 10000; n++) {
    if (free.empty()) free = p.Pick(4, None);
    ASSERT_FALSE(free.empty());
    ASSERT_GE(free.back(), 700u) << "a slot of main went for a scan";
    p.Filled(free.back(), Key(100000 + n));
    free.pop_back();
  }
}

TEST(EvictionPolicy, ASmallCacheKeepsWhatIsNewBeforeWhatNobodyReads) {
  EvictionPolicy p(60);
  for (uint32_t s = 0; s < 20; s++) p.Restored(s, Key(s));
  for (uint32_t s = 20; s < 60; s++) p.Filled(s, Key(s));
  for (uint32_t s : p.Pick(20, None)) EXPECT_LT(s, 20u);
  EXPECT_EQ(p.Pick(1, None), std::vector<uint32_t>{20});
}

TEST(EvictionPolicy, WhatIsWantedAgainSoonGoesToMain) {
  EvictionPolicy p(20);
  for (uint32_t s = 0; s < 20; s++) p.Filled(s, Key(s));
  ASSERT_EQ(p.Pick(1, None), std::vector<uint32_t>{0});
  p.Filled(0, Key(0));
  EXPECT_EQ(p.nr_probation(), 19u);
  p.Filled(0, Key(99));
  EXPECT_EQ(p.nr_probation(), 20u) << "an unknown one does not";
}

TEST(EvictionPolicy, MainIsAClock) {
  EvictionPolicy p(4);
  for (uint32_t s = 0; s < 4; s++) p.Restored(s, Key(s));
  for (int i = 0; i < 10; i++) p.Accessed(1);  // counts to kMaxCount
  p.Accessed(0);
  EXPECT_EQ(p.Pick(2, None), (std::vector<uint32_t>{2, 3}));
  EXPECT_EQ(p.Pick(1, None), (std::vector<uint32_t>{0}));
  EXPECT_EQ(p.Pick(1, None), (std::vector<uint32_t>{1}));
  EXPECT_TRUE(p.Pick(1, None).empty());
}

TEST(EvictionPolicy, PinnedOnesStayAndAllPinnedEnds) {
  EvictionPolicy p(64);
  for (uint32_t s = 0; s < 32; s++) p.Filled(s, Key(s));
  for (uint32_t s = 32; s < 64; s++) p.Restored(s, Key(s));
  auto even = [](uint32_t s) { return s % 2 == 0; };
  auto victims = p.Pick(64, even);
  EXPECT_EQ(victims.size(), 32u);
  EXPECT_TRUE(std::none_of(victims.begin(), victims.end(), even));
  EXPECT_TRUE(p.Pick(1, even).empty());
  EXPECT_EQ(p.Pick(64, None).size(), 32u);
}

TEST(EvictionPolicy, DemotedGoesFirstUnlessAccessed) {
  EvictionPolicy p(30);
  for (uint32_t s = 0; s < 30; s++) p.Restored(s, Key(s));
  for (uint32_t s : {7u, 8u, 9u, 10u}) p.Demote(s);
  p.Accessed(9);
  EXPECT_EQ(p.Pick(2, None), (std::vector<uint32_t>{7, 8}));
  EXPECT_EQ(p.Pick(1, None), (std::vector<uint32_t>{10}));
}

// Against a set: whatever is done, each slot is in the policy once or not.
TEST(EvictionPolicy, KeepsTrackOfEverySlot) {
  constexpr uint32_t kSlots = 50;
  EvictionPolicy p(kSlots);
  std::set<uint32_t> model;
  std::mt19937 rng(7);
  for (int i = 0; i < 100000; i++) {
    const uint32_t s = rng() % kSlots;
    switch (rng() % 6) {
      case 0: p.Filled(s, Key(rng() % 200)), model.insert(s); break;
      case 1: p.Restored(s, Key(rng() % 200)), model.insert(s); break;
      case 2: p.Removed(s), model.erase(s); break;
      case 3: p.Demote(s); break;
      case 4: p.Accessed(s); break;
      default:
        for (uint32_t v : p.Pick(rng() % 4, [&](uint32_t x) { return x % 7 == 0; })) {
          ASSERT_EQ(model.erase(v), 1u);
          ASSERT_NE(v % 7, 0u);
        }
    }
    ASSERT_EQ(p.size(), model.size());
  }
}

}  // namespace
}  // namespace fastoci
