// SPDX-License-Identifier: Apache-2.0
#include "miss/readahead.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace fastoci {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint32_t kSpans = 1000;

// Spans of 1 MiB of input, and of data.
class ReadaheadTest : public ::testing::Test {
 protected:
  using Ahead = std::pair<uint32_t, uint32_t>;
  Ahead DemandAt(uint64_t data_offset, uint64_t max_bytes = 8 * kMiB) {
    const auto span = static_cast<uint32_t>(data_offset / kMiB);
    auto ahead = r_.OnDemand({span, data_offset, data_offset % kMiB == 0}, kSpans, max_bytes,
                             [](uint32_t) { return kMiB; });
    return {ahead.first, ahead.end};
  }
  // In the middle of the span.
  Ahead Demand(uint32_t span, uint64_t max_bytes = 8 * kMiB) {
    return DemandAt(span * kMiB + kMiB / 2, max_bytes);
  }
  static bool None(Ahead p) { return p.first == p.second; }
  Readahead r_;
};

TEST_F(ReadaheadTest, ARunGrowsUpToTheLimitAndStaysAhead) {
  EXPECT_TRUE(None(Demand(10)));
  EXPECT_EQ(Demand(11), Ahead(12, 13));
  uint32_t end = 13, most = 0;
  for (uint32_t span = 12; span < 100; span++) {
    const auto [first, next] = Demand(span);
    if (first != next) {
      EXPECT_EQ(first, end) << "no gap, nothing twice";
      end = next;
    }
    EXPECT_GT(end, span) << "the reader never gets there first";
    most = std::max(most, end - span - 1);
    if (span > 20) {
      EXPECT_GE(end - span - 1, 6u) << "three quarters of the limit are always on their way";
      EXPECT_TRUE(first == next || next - first >= 2) << "no small requests";
    }
  }
  EXPECT_EQ(most, 8u) << "megabytes ahead";
}

TEST_F(ReadaheadTest, AReaderThatCrossesABorderGetsMuchAtOnce) {
  EXPECT_TRUE(None(DemandAt(10 * kMiB + kMiB / 4)));
  EXPECT_EQ(DemandAt(11 * kMiB), Ahead(12, 16)) << "half of the limit";
  EXPECT_EQ(DemandAt(12 * kMiB), Ahead(16, 21)) << "all of it";
}

// The kernel's readahead of a read at a span's end reaches the next span.
TEST_F(ReadaheadTest, AShortStepOverABorderMayBeChance) {
  EXPECT_TRUE(None(DemandAt(11 * kMiB - 65536)));
  EXPECT_EQ(DemandAt(11 * kMiB), Ahead(12, 13));
}

// What is cached before the reader comes to it raises no miss.
TEST_F(ReadaheadTest, ARunGoesOnBehindWhatCameInTime) {
  (void)DemandAt(10 * kMiB);
  EXPECT_EQ(DemandAt(11 * kMiB), Ahead(12, 16));
  EXPECT_EQ(DemandAt(16 * kMiB), Ahead(17, 25)) << "spans 12 to 15 were there";
  EXPECT_EQ(DemandAt(20 * kMiB), Ahead(25, 29)) << "spans 17 to 19 were there";
}

TEST_F(ReadaheadTest, ASeekBeginsAnew) {
  for (uint32_t span = 10; span < 20; span++) (void)Demand(span);
  EXPECT_TRUE(None(Demand(500)));
  EXPECT_EQ(Demand(501), Ahead(502, 503));
}

TEST_F(ReadaheadTest, RandomReadsAskForLittle) {
  std::mt19937 rng(1);
  uint32_t asked = 0;
  for (int i = 0; i < 1000; i++) {
    const auto [first, end] = Demand(static_cast<uint32_t>(rng()) % 1000);
    asked += end - first;
  }
  EXPECT_LT(asked, 30u);
}

TEST_F(ReadaheadTest, SeveralReadersAreFollowedAtATime) {
  uint32_t asked[3] = {};
  for (uint32_t i = 0; i < 30; i++)
    for (uint32_t reader = 0; reader < 3; reader++) {
      const auto [first, end] = Demand(reader * 300 + i);
      asked[reader] += end - first;
    }
  for (uint32_t n : asked) EXPECT_GE(n, 30u);
}

TEST_F(ReadaheadTest, TheSameSpanAgainIsNoProgress) {
  (void)Demand(10);
  for (int i = 0; i < 5; i++) EXPECT_TRUE(None(Demand(10)));
}

TEST_F(ReadaheadTest, EndsWithTheSpaceAndCanBeOff) {
  (void)Demand(kSpans - 3);
  EXPECT_EQ(Demand(kSpans - 2), Ahead(kSpans - 1, kSpans));
  EXPECT_TRUE(None(Demand(kSpans - 1)));
  (void)Demand(0, 0);
  EXPECT_TRUE(None(Demand(1, 0)));
}

}  // namespace
}  // namespace fastoci
