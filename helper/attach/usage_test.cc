// SPDX-License-Identifier: Apache-2.0
#include "attach/usage.h"

#include <gtest/gtest.h>

namespace fastoci {
namespace {

UsageSample At(int seconds, std::vector<ImageUsage> images) {
  UsageSample s;
  s.at = std::chrono::steady_clock::time_point(std::chrono::seconds(seconds));
  s.images = std::move(images);
  return s;
}

ImageUsage Usage(const std::string& name, uint64_t hits, uint64_t misses, uint64_t read) {
  ImageUsage u;
  u.name = name;
  u.hits = hits;
  u.misses = misses;
  u.read_bytes = read;
  return u;
}

TEST(Compare, TellsRatesOfTheTimeBetween) {
  auto rates = Compare(At(10, {Usage("a", 100, 0, 1000)}), At(12, {Usage("a", 103, 1, 5000)}));
  ASSERT_EQ(rates.size(), 1U);
  EXPECT_DOUBLE_EQ(rates[0].read_per_s, 2000);
  EXPECT_DOUBLE_EQ(rates[0].hit_ratio.value(), 0.75);
}

TEST(Compare, WithoutAReadItTellsTheRatioSinceTheAttach) {
  auto rates = Compare(At(0, {Usage("a", 9, 1, 0), Usage("b", 0, 0, 0)}),
                       At(1, {Usage("a", 9, 1, 0), Usage("b", 0, 0, 0)}));
  ASSERT_EQ(rates.size(), 2U);
  EXPECT_DOUBLE_EQ(rates[0].hit_ratio.value(), 0.9);
  EXPECT_FALSE(rates[1].hit_ratio.has_value());
}

TEST(Compare, WhatIsNewOrWasAttachedAnewHasNoRateYet) {
  auto rates = Compare(At(0, {Usage("a", 50, 50, 9000), Usage("gone", 1, 1, 1)}),
                       At(1, {Usage("a", 1, 3, 100), Usage("new", 4, 0, 4096)}));
  ASSERT_EQ(rates.size(), 2U);
  EXPECT_DOUBLE_EQ(rates[0].read_per_s, 0);
  EXPECT_DOUBLE_EQ(rates[0].hit_ratio.value(), 0.25);
  EXPECT_DOUBLE_EQ(rates[1].read_per_s, 0);
  EXPECT_DOUBLE_EQ(rates[1].hit_ratio.value(), 1);
}

TEST(Compare, FetchedBytesBeginAnewWithTheHelper) {
  ImageUsage before = Usage("a", 0, 0, 0), now = before;
  before.fetched_bytes = 5000;
  now.fetched_bytes = 300;
  EXPECT_DOUBLE_EQ(Compare(At(0, {before}), At(1, {now}))[0].fetched_per_s, 300);
  now.fetched_bytes.reset();  // no helper
  EXPECT_DOUBLE_EQ(Compare(At(0, {before}), At(1, {now}))[0].fetched_per_s, 0);
  EXPECT_DOUBLE_EQ(RateOf(1, 5, 0), 0);
}

}  // namespace
}  // namespace fastoci
