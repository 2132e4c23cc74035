// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/start_trace.h"

#include <gtest/gtest.h>

namespace fastoci {
namespace {

TraceRead Read(uint64_t sector, uint64_t nr_sectors, TraceRead::Kind kind = TraceRead::kMiss) {
  TraceRead read;
  read.sector = sector;
  read.nr_sectors = nr_sectors;
  read.kind = kind;
  return read;
}

TEST(StartTraceTest, FirstTouchesKeepTheirOrderAndJoin) {
  const auto runs = FirstTouches({Read(1000, 8), Read(0, 8), Read(130, 8), Read(1010, 4, TraceRead::kHit),
                                  Read(5000, 8, TraceRead::kMeta), Read(6000, 8, TraceRead::kZero)});
  EXPECT_EQ(runs, (std::vector<SectorRun>{{896, 128}, {0, 256}}));
}

TEST(StartTraceTest, AReadOverManyPiecesIsOneRun) {
  EXPECT_EQ(FirstTouches({Read(100, 300)}), (std::vector<SectorRun>{{0, 512}}));
}

TEST(StartTraceTest, ThereIsALimit) {
  uint64_t all = 0;
  for (const SectorRun& run : FirstTouches({Read(0, 2 * kMaxStartSectors)})) all += run.nr_sectors;
  EXPECT_EQ(all, kMaxStartSectors);
}

TEST(StartTraceTest, WhatIsKeptIsReadAgain) {
  const std::vector<SectorRun> runs = {{896, 128}, {0, 256}};
  const std::string text = StartToText("abc", runs);
  auto read = StartFromText(text, "abc");
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(*read, runs);
  EXPECT_EQ(StartFromText(text, "abd").error().kind, ErrorKind::kMismatch);
}

TEST(StartTraceTest, WhatIsDamagedIsRefused) {
  for (const std::string rest : {"x\n", "1\n", "1 0\n", "99999999999999999999 1\n", "0 262145\n", "0 262144\n1 1\n"})
    EXPECT_FALSE(StartFromText("fastoci-start 1 abc\n" + rest, "abc").ok()) << rest;
  EXPECT_FALSE(StartFromText("", "abc").ok());
}

}  // namespace
}  // namespace fastoci
