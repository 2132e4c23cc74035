// SPDX-License-Identifier: Apache-2.0
#include "miss/cached_queue.h"

#include <gtest/gtest.h>

namespace fastoci {
namespace {

CachedWork Work(uint32_t chunk_no, Urgency urgency, uint32_t space = 1) {
  return {nullptr, space, {chunk_no, urgency, 0, 0}};
}

TEST(CachedQueueTest, TheMoreUrgentComesFirstAndThenTheOlder) {
  CachedQueue q;
  q.Push(Work(1, Urgency::kPrefetch));
  q.Push(Work(2, Urgency::kDemand));
  q.Push(Work(3, Urgency::kAhead));
  q.Push(Work(4, Urgency::kDemand));
  std::vector<uint32_t> order;
  while (auto w = q.Pop(0)) order.push_back(w->wanted.chunk_no);
  EXPECT_EQ(order, (std::vector<uint32_t>{2, 4, 3, 1}));
  EXPECT_TRUE(q.empty());
}

TEST(CachedQueueTest, WhatTheKernelRefusesHasPausesThatGrow) {
  CachedQueue q;
  q.Push(Work(1, Urgency::kDemand));
  int64_t now = 1000, pause = 0;
  for (int i = 0; i < 20; i++) {
    auto w = q.Pop(now);
    ASSERT_TRUE(w);
    q.PushRefused(*w, now);
    EXPECT_FALSE(q.Pop(now));
    EXPECT_FALSE(q.ready());
    EXPECT_EQ(q.size(), 1u);
    ASSERT_TRUE(q.NextChange());
    EXPECT_GE(*q.NextChange() - now, pause);
    pause = *q.NextChange() - now;
    EXPECT_FALSE(q.Pop(*q.NextChange() - 1));
    now = *q.NextChange();
  }
  EXPECT_EQ(pause, CachedQueue::kMaxPauseMs);
  q.Push(Work(2, Urgency::kBackground));
  EXPECT_EQ(q.Pop(now - 1)->wanted.chunk_no, 2u) << "the others have none";
}

TEST(CachedQueueTest, SomeCanBeTakenOut) {
  CachedQueue q;
  for (uint32_t c = 0; c < 6; c++) q.Push(Work(c, Urgency::kDemand, c % 2));
  q.PushRefused(*q.Pop(0), 0);  // chunk 0
  size_t seen = 0;
  q.ForEach([&](const CachedWork&) { seen++; });
  EXPECT_EQ(seen, 6u);
  EXPECT_EQ(q.Take([](const CachedWork& w) { return w.space == 0; }).size(), 3u);
  EXPECT_EQ(q.size(), 3u);
  EXPECT_FALSE(q.NextChange());
  for (uint32_t c : {1, 3, 5}) EXPECT_EQ(q.Pop(0)->wanted.chunk_no, c);
  EXPECT_FALSE(q.Pop(0));
}

// What one look costs does not depend on how many wait.
TEST(CachedQueueTest, ManyAreTakenInNoTime) {
  CachedQueue q;
  constexpr uint32_t kMany = 500000;
  for (uint32_t c = 0; c < kMany; c++)
    q.Push(Work(c, c % 2 ? Urgency::kDemand : Urgency::kPrefetch));
  uint32_t n = 0;
  while (q.Pop(0)) n++;
  EXPECT_EQ(n, kMany);
}

}  // namespace
}  // namespace fastoci
