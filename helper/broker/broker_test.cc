// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "broker/job_queue.h"
#include "broker/meta_image.h"
#include "broker/slot_table.h"
#include "broker/span_plan.h"
#include "base/unique_fd.h"
#include "codec/zstd_index.h"
#include "fastoci_meta.h"
#include "fastoci_netlink.h"

namespace fastoci {
namespace {

// ---- span plan ----

BlobInfo Gzip(std::vector<Span> spans, uint64_t data_bytes, uint64_t blob_bytes) {
  BlobInfo b;
  b.codec = FASTOCI_CODEC_GZIP;
  b.spans = std::move(spans);
  b.data_bytes = data_bytes;
  b.blob_bytes = blob_bytes;
  return b;
}

TEST(SpanPlan, EveryChunkHasExactlyOneJobThatEmitsIt) {
  // Short spans, spans without a chunk start, ends in mid-chunk.
  for (uint32_t shift : {16u, 17u, 20u}) {
    const BlobInfo b = Gzip(
        {{0, 10}, {15, 20}, {70000, 30000}, {100000, 40000}, {131072, 50000}, {900000, 300000}},
        1000001, 400000);
    const uint64_t chunk = 1ULL << shift;
    std::vector<int> emitted((b.data_bytes + chunk - 1) / chunk);
    for (uint32_t s = 0; s < b.spans.size(); s++) {
      JobRange j = PlanRun(b, s, 1, shift, false);
      EXPECT_EQ(j.span_data_offset, b.spans[s].data_offset);
      EXPECT_TRUE(j.out_begin % chunk == 0 || j.out_begin == b.data_bytes);
      EXPECT_TRUE(j.out_end % chunk == 0 || j.out_end == b.data_bytes);
      EXPECT_LE(j.input_begin, j.input_end);
      EXPECT_LE(j.input_end, b.blob_bytes);
      EXPECT_LE(j.input_end, PlanRun(b, s, 1, shift, true).input_end);
      for (uint64_t at = j.out_begin; at < j.out_end; at += chunk) {
        emitted[at / chunk]++;
        EXPECT_EQ(SpanOfChunk(b, static_cast<uint32_t>(at / chunk), shift), s);
      }
    }
    for (int n : emitted) EXPECT_EQ(n, 1);
  }
}

TEST(SpanPlan, TheTailIsGuessedAndThenWhole) {
  const BlobInfo b = Gzip({{0, 10}, {1000000, 300000}, {2000000, 700000}}, 3000000, 900000);
  JobRange guess = PlanRun(b, 0, 1, 16, false), whole = PlanRun(b, 0, 1, 16, true);
  EXPECT_EQ(guess.out_end, 1048576u);
  EXPECT_EQ(guess.input_end, 300000u + 48576 + kTailSlackBytes);
  EXPECT_EQ(whole.input_end, 700001u);
  EXPECT_EQ(PlanRun(b, 2, 1, 16, false).input_end, 900000u);
}

// A block of zstd is decoded as a whole.
TEST(SpanPlan, TheTailOfZstdHoldsABlock) {
  BlobInfo b = Gzip({{0, 0}, {1000000, 300000}, {2000000, 700000}}, 3000000, 900000);
  b.codec = FASTOCI_CODEC_ZSTD;
  EXPECT_EQ(PlanRun(b, 0, 1, 16, false).input_end,
            300000u + 48576 + kTailSlackBytes + kZstdBlockBytes);
}

// Layers with no more data than a span (1 MiB) come with the first miss.
TEST(SpanPlan, ASmallLayerIsFetchedWhole) {
  BlobInfo raw;
  raw.data_bytes = raw.blob_bytes = kRawSpanBytes - 1;
  raw.spans.push_back({0, 0});
  for (const BlobInfo& b : {raw, Gzip({{0, 10}}, 1000000, 400000)}) {
    const JobRange j = PlanRun(b, 0, 1, 16, false);
    EXPECT_EQ(j.out_begin, 0u);
    EXPECT_EQ(j.out_end, b.data_bytes);
    EXPECT_EQ(j.input_end, b.blob_bytes);
  }
}

TEST(SpanPlan, RawNeedsJustItsBytes) {
  BlobInfo b;
  b.data_bytes = b.blob_bytes = 2500000;
  for (uint64_t at = 0; at < b.data_bytes; at += kRawSpanBytes) b.spans.push_back({at, at});
  JobRange j = PlanRun(b, 1, 1, 16, false);
  EXPECT_EQ(j.input_begin, 1048576u);
  EXPECT_EQ(j.input_end, 2097152u);
  EXPECT_EQ(PlanRun(b, 2, 1, 16, false).input_end, 2500000u);
}

TEST(SpanPlan, ARunIsItsJobsInOneRequest) {
  const BlobInfo b = Gzip({{0, 10}, {15, 20}, {70000, 30000}, {100000, 40000}, {900000, 300000}},
                          1000001, 400000);
  for (bool whole : {false, true}) {
    for (uint32_t first = 0; first < b.spans.size(); first++) {
      for (uint32_t n = 1; first + n <= b.spans.size(); n++) {
        const JobRange run = PlanRun(b, first, n, 16, whole);
        const JobRange last = PlanRun(b, first + n - 1, 1, 16, whole);
        EXPECT_EQ(run.span_data_offset, b.spans[first].data_offset);
        EXPECT_EQ(run.input_begin, b.spans[first].blob_offset);
        EXPECT_EQ(run.out_begin, PlanRun(b, first, 1, 16, whole).out_begin);
        EXPECT_EQ(run.out_end, std::max(run.out_begin, last.out_end));
        EXPECT_EQ(run.input_end, last.input_end) << first << "+" << n;
      }
    }
  }
}

// ---- job queue ----

constexpr JobKey kA{1, 1, 0}, kB{1, 1, 2}, kC{1, 2, 0};
constexpr Urgency kAny = Urgency::kBackground;

std::vector<uint32_t> Chunks(const std::vector<JobQueue::Wanted>& wanted) {
  std::vector<uint32_t> chunks;
  for (const auto& w : wanted) chunks.push_back(w.chunk_no);
  return chunks;
}

TEST(JobQueue, TheMostUrgentComesFirstThenAge) {
  JobQueue q;
  q.Want(kA, 0, Urgency::kAhead);
  q.Want(kB, 20, Urgency::kMaybe);
  q.Want(kC, 0, Urgency::kDemand);
  EXPECT_EQ(q.Pick(kAny, 1)->first, kC);
  q.Want(kA, 1, Urgency::kMaybe);  // lifts A, which is older than B
  EXPECT_FALSE(q.Pick(Urgency::kDemand, 1)) << "a lane that is kept for demand";
  EXPECT_EQ(q.Pick(kAny, 1)->first, kA);
  EXPECT_EQ(q.Pick(kAny, 1)->first, kB);
  EXPECT_FALSE(q.Pick(kAny, 1));
}

TEST(JobQueue, ASpanHasOneJob) {
  JobQueue q;
  q.Want(kA, 0, Urgency::kDemand);
  q.Want(kA, 1, Urgency::kAhead);
  ASSERT_TRUE(q.Pick(kAny, 1));
  q.Want(kA, 2, Urgency::kDemand);
  EXPECT_FALSE(q.Pick(kAny, 1));
  EXPECT_EQ(Chunks(q.WantedOf(kA)), (std::vector<uint32_t>{0, 1, 2}));
  for (uint32_t c : {0, 1, 2}) q.Resolve(kA, c);
  EXPECT_TRUE(q.IsRunning(kA));
  q.Finish(kA, 3);
  EXPECT_EQ(q.nr_jobs(), 0u);
}

TEST(JobQueue, ARunTakesTheAdjacentSpansBehind) {
  JobQueue q;
  auto key = [](uint32_t span) { return JobKey{1, 1, span}; };
  for (uint32_t span : {3u, 5u, 6u, 7u, 9u}) q.Want(key(span), span, Urgency::kAhead);
  q.Want(key(5), 5, Urgency::kDemand);
  auto run = q.Pick(kAny, 8);
  ASSERT_TRUE(run);
  EXPECT_EQ(run->first, key(5));
  EXPECT_EQ(run->nr_spans, 3u) << "5, 6, 7: not the one before, not behind the gap";
  EXPECT_EQ(run->urgency, Urgency::kDemand);
  EXPECT_TRUE(q.IsRunning(key(7)));
  EXPECT_FALSE(q.IsRunning(key(3)));
  EXPECT_EQ(q.Pick(kAny, 8)->first, key(3));
  q.Want(key(4), 4, Urgency::kDemand);
  EXPECT_EQ(q.Pick(kAny, 8)->nr_spans, 1u) << "the next one runs already";
  for (uint32_t i = 0; i < 3; i++) q.Resolve(run->Key(i), 5 + i), q.Finish(run->Key(i), 3);
  EXPECT_EQ(q.nr_jobs(), 3u);
  JobQueue limited;
  for (uint32_t span = 0; span < 20; span++) limited.Want(key(span), span, Urgency::kAhead);
  EXPECT_EQ(limited.Pick(kAny, 8)->nr_spans, 8u);
}

TEST(JobQueue, WhatAJobDidNotResolveIsQueuedAgainAndGivenUpInTheEnd) {
  JobQueue q;
  q.Want(kA, 0, Urgency::kDemand);
  q.Want(kA, 1, Urgency::kAhead);
  ASSERT_TRUE(q.Pick(kAny, 1));
  q.Resolve(kA, 0);
  EXPECT_TRUE(q.Finish(kA, 2).empty()) << "the run was of use";
  auto again = q.Pick(kAny, 1);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->urgency, Urgency::kAhead);
  EXPECT_TRUE(q.Finish(kA, 2).empty());
  ASSERT_TRUE(q.Pick(kAny, 1));
  EXPECT_TRUE(q.Finish(kA, 2, false).empty()) << "it had no turn";
  ASSERT_TRUE(q.Pick(kAny, 1));
  EXPECT_EQ(Chunks(q.Finish(kA, 2)), std::vector<uint32_t>{1});
  EXPECT_EQ(q.nr_jobs(), 0u);
}

TEST(JobQueue, KeepsSinceWhenAReaderWants) {
  JobQueue q;
  q.Want(kA, 0, Urgency::kBackground, 5);
  q.Want(kA, 0, Urgency::kAhead, 7);
  q.Want(kA, 0, Urgency::kDemand, 9);
  q.Want(kA, 1, Urgency::kDemand, 8);
  q.Want(kA, 2, Urgency::kPrefetch, 1);
  const auto waiting = q.WaitingBySpace();
  ASSERT_EQ(waiting.size(), 1U);
  EXPECT_EQ(waiting.begin()->second.chunks, 2U);
  EXPECT_EQ(waiting.begin()->second.oldest, 7);
  EXPECT_EQ(q.Resolve(kA, 0)->since, 7);
  EXPECT_FALSE(q.Resolve(kA, 0));
  EXPECT_EQ(q.Resolve(kA, 2)->urgency, Urgency::kPrefetch);
}

TEST(JobQueue, AQueuedJobThatNobodyWantsGoes) {
  JobQueue q;
  q.Want(kA, 0, Urgency::kDemand);
  q.Resolve(kA, 0);
  EXPECT_FALSE(q.Pick(kAny, 1));
  EXPECT_EQ(q.nr_queued(), 0u);
  q.Want(kA, 0, Urgency::kAhead);
  EXPECT_EQ(q.Drop(kA).size(), 1u);
  EXPECT_FALSE(q.Pick(kAny, 1));
}

// ---- slot table ----

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

// ---- meta image ----

class MetaTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kData = 200000;
  Bytes Make(const std::function<void(Bytes* blob, Bytes* helper)>& change = {}) {
    ByteWriter helper, blob;
    helper.U64(0), helper.U64(10), helper.U64(100000), helper.U64(5000);  // spans
    helper.Append(AsBytes("index"));
    for (int i = 0; i < 4 * 32; i++) helper.U8(static_cast<uint8_t>(i / 32));
    blob.Zeros(64);
    blob.U64(kData), blob.U64(9000), blob.U32(FASTOCI_CODEC_GZIP), blob.U32(2);
    blob.U64(0), blob.U64(32), blob.U64(5), blob.U64(37), blob.U32(4), blob.U32(0);
    if (change) change(&blob.bytes(), &helper.bytes());
    const std::string json = "{}";
    ByteWriter w;
    w.Append(AsBytes(FASTOCI_META_MAGIC));
    w.U32(1), w.U32(4096), w.Zeros(16), w.Zeros(32);
    w.U64(8), w.U64(12288 + 2), w.U32(static_cast<uint32_t>(blob.size() / 128)), w.U32(1);
    auto region = [&](uint64_t at, ByteSpan data) {
      w.U64(data.empty() ? 0 : at), w.U64(data.size()), w.U32(data.empty() ? 0 : Crc32c(data)),
          w.U32(0);
    };
    region(4096, blob.bytes());
    for (int i = 0; i < 3; i++) region(0, {});
    region(8192, helper.bytes());
    region(12288, AsBytes(json));
    w.Zeros(4096 - w.size());
    const uint32_t crc = Crc32c(w.bytes());
    for (int i = 0; i < 4; i++) w.bytes()[28 + i] = static_cast<uint8_t>(crc >> (8 * i));
    w.Append(blob.bytes()), w.Zeros(8192 - w.size());
    w.Append(helper.bytes()), w.Zeros(12288 - w.size());
    w.Append(AsBytes(json));
    return std::move(w.bytes());
  }
  Result<MetaImage> Read(const Bytes& image) {
    char name[] = "/tmp/meta_test.XXXXXX";
    UniqueFd fd(::mkstemp(name));
    ::unlink(name);
    EXPECT_TRUE(WriteFull(fd.get(), image, name).ok());
    return ReadMetaImage(fd.get(), image.size());
  }
};

TEST_F(MetaTest, ReadsWhatTheBrokerNeeds) {
  auto m = Read(Make());
  ASSERT_TRUE(m.ok()) << m.error().message;
  ASSERT_EQ(m->blobs.size(), 1u);
  EXPECT_EQ(m->blobs[0].spans.size(), 2u);
  EXPECT_EQ(m->blobs[0].spans[1].blob_offset, 5000u);
  EXPECT_EQ(m->blobs[0].index.size(), 5u);
  ASSERT_EQ(m->blobs[0].digests.size(), 4u);
  EXPECT_EQ(m->blobs[0].digests[3][0], 3);
  EXPECT_EQ(m->json.size(), 2u);
}

TEST_F(MetaTest, EachFlippedByteOfAReadRegionIsSeen) {
  const Bytes good = Make();
  for (size_t at = 0; at < good.size(); at += at < 4300 || (at >= 8192 && at < 8400) ? 1 : 97) {
    Bytes bad = good;
    bad[at] ^= 0x40;
    const bool padding = (at >= 4096 + 128 && at < 8192) || (at >= 8192 + 165 && at < 12288);
    EXPECT_EQ(Read(bad).ok(), padding) << at;
  }
}

TEST_F(MetaTest, RefusesBadTablesWithRightChecksums) {
  auto set = [](Bytes* b, size_t at, uint64_t v, int n) {
    for (int i = 0; i < n; i++)
      (*b)[at + static_cast<size_t>(i)] = static_cast<uint8_t>(v >> (8 * i));
  };
  struct Case {
    const char* name;
    bool in_blob;
    size_t at;
    uint64_t value;
    int bytes;
  };
  const Case cases[] = {
      {"data_bytes 0", true, 64, 0, 8},         {"data_bytes too large", true, 64, 1ULL << 45, 8},
      {"blob_bytes 0", true, 72, 0, 8},         {"codec", true, 80, 7, 4},
      {"raw with spans", true, 80, 0, 4},       {"no spans", true, 84, 0, 4},
      {"many spans", true, 84, UINT32_MAX, 4},  {"spans offset", true, 88, ~0ULL, 8},
      {"index offset", true, 96, ~0ULL - 2, 8}, {"index bytes", true, 104, ~0ULL, 8},
      {"digests offset", true, 112, 40, 8},     {"number of digests", true, 120, 3, 4},
      {"flags", true, 124, 1, 4},               {"first span", false, 0, 1, 8},
      {"span order", false, 16, 0, 8},          {"span behind the end", false, 16, kData, 8},
      {"blob offset order", false, 24, 9, 8},   {"blob offset behind the end", false, 24, 9000, 8},
  };
  for (const Case& c : cases)
    EXPECT_FALSE(Read(Make([&](Bytes* blob, Bytes* helper) {
                   set(c.in_blob ? blob : helper, c.at, c.value, c.bytes);
                 })).ok())
        << c.name;
}

TEST_F(MetaTest, RefusesAnImageThatIsCutShort) {
  const Bytes good = Make();
  for (size_t n : {0, 100, 4095, 4096, 8191, 12289})
    EXPECT_FALSE(Read(Bytes(good.begin(), good.begin() + n)).ok()) << n;
}

}  // namespace
}  // namespace fastoci
