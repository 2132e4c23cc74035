// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "broker/job_queue.h"
#include "broker/meta_image.h"
#include "broker/slot_pool.h"
#include "broker/span_plan.h"
#include "base/unique_fd.h"
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
    const BlobInfo b = Gzip({{0, 10}, {15, 20}, {70000, 30000}, {100000, 40000}, {131072, 50000}, {900000, 300000}},
                            1000001, 400000);
    const uint64_t chunk = 1ULL << shift;
    std::vector<int> emitted((b.data_bytes + chunk - 1) / chunk);
    for (uint32_t s = 0; s < b.spans.size(); s++) {
      JobRange j = PlanJob(b, s, shift, false);
      EXPECT_EQ(j.span_data_offset, b.spans[s].data_offset);
      EXPECT_TRUE(j.out_begin % chunk == 0 || j.out_begin == b.data_bytes);
      EXPECT_TRUE(j.out_end % chunk == 0 || j.out_end == b.data_bytes);
      EXPECT_LE(j.input_begin, j.input_end);
      EXPECT_LE(j.input_end, b.blob_bytes);
      EXPECT_LE(j.input_end, PlanJob(b, s, shift, true).input_end);
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
  JobRange guess = PlanJob(b, 0, 16, false), whole = PlanJob(b, 0, 16, true);
  EXPECT_EQ(guess.out_end, 1048576u);
  EXPECT_EQ(guess.input_end, 300000u + 48576 + kTailSlackBytes);
  EXPECT_EQ(whole.input_end, 700001u);
  EXPECT_EQ(PlanJob(b, 2, 16, false).input_end, 900000u);
}

TEST(SpanPlan, RawNeedsJustItsBytes) {
  BlobInfo b;
  b.data_bytes = b.blob_bytes = 2500000;
  for (uint64_t at = 0; at < b.data_bytes; at += kRawSpanBytes) b.spans.push_back({at, at});
  JobRange j = PlanJob(b, 1, 16, false);
  EXPECT_EQ(j.input_begin, 1048576u);
  EXPECT_EQ(j.input_end, 2097152u);
  EXPECT_EQ(PlanJob(b, 2, 16, false).input_end, 2500000u);
}

// ---- job queue ----

constexpr JobKey kA{1, 1, 0}, kB{1, 1, 1}, kC{1, 2, 0};

TEST(JobQueue, DemandComesFirstThenAge) {
  JobQueue q;
  q.Want(kA, 0, FASTOCI_CLASS_AHEAD);
  q.Want(kB, 20, FASTOCI_CLASS_MAYBE);
  q.Want(kC, 0, FASTOCI_CLASS_DEMAND);
  EXPECT_EQ(q.Pick()->key, kC);
  q.Want(kA, 1, FASTOCI_CLASS_MAYBE);  // lifts A, which is older than B
  EXPECT_EQ(q.Pick()->key, kA);
  EXPECT_EQ(q.Pick()->key, kB);
  EXPECT_FALSE(q.Pick());
}

TEST(JobQueue, ASpanHasOneJob) {
  JobQueue q;
  q.Want(kA, 0, FASTOCI_CLASS_DEMAND);
  q.Want(kA, 1, FASTOCI_CLASS_AHEAD);
  ASSERT_TRUE(q.Pick());
  q.Want(kA, 2, FASTOCI_CLASS_DEMAND);
  EXPECT_FALSE(q.Pick());
  EXPECT_EQ(q.Wanted(kA), (std::vector<uint32_t>{0, 1, 2}));
  for (uint32_t c : {0, 1, 2}) q.Resolve(kA, c);
  EXPECT_TRUE(q.IsRunning(kA));
  q.Finish(kA);
  EXPECT_EQ(q.nr_jobs(), 0u);
}

TEST(JobQueue, WhatAJobDidNotResolveIsQueuedAgain) {
  JobQueue q;
  q.Want(kA, 0, FASTOCI_CLASS_DEMAND);
  q.Want(kA, 1, FASTOCI_CLASS_AHEAD);
  EXPECT_EQ(q.Pick()->attempt, 0u);
  q.Resolve(kA, 0);
  q.Finish(kA);
  auto again = q.Pick();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->attempt, 0u) << "the run was of use";
  EXPECT_EQ(again->miss_class, FASTOCI_CLASS_AHEAD);
  q.Finish(kA);
  EXPECT_EQ(q.Pick()->attempt, 1u);
  EXPECT_EQ(q.Drop(kA), std::vector<uint32_t>{1});
  EXPECT_EQ(q.nr_jobs(), 0u);
}

TEST(JobQueue, AQueuedJobThatNobodyWantsGoes) {
  JobQueue q;
  q.Want(kA, 0, FASTOCI_CLASS_DEMAND);
  q.Resolve(kA, 0);
  EXPECT_FALSE(q.Pick());
  EXPECT_EQ(q.nr_queued(), 0u);
  q.Want(kA, 0, FASTOCI_CLASS_AHEAD);
  EXPECT_EQ(q.Drop(kA).size(), 1u);
  EXPECT_FALSE(q.Pick());
}

// ---- slot pool ----

TEST(SlotPool, KeptSlotsAreGivenOutLast) {
  SlotPool p;
  const uint32_t slots[] = {4, 5, 6, 9};
  p.Add(slots);
  SlotRow row;
  row.slot = 5, row.chunk_no = 7;
  EXPECT_TRUE(p.Keep(row));
  EXPECT_FALSE(p.Keep(row)) << "no longer free";
  EXPECT_EQ(p.Take(), 4u);
  EXPECT_EQ(p.Take(), 6u);
  EXPECT_EQ(p.Take(), 9u);
  EXPECT_EQ(p.TakeKept(row.space_id, 8), std::nullopt);
  EXPECT_EQ(p.Take(), 5u);
  EXPECT_EQ(p.TakeKept(row.space_id, 7), std::nullopt) << "given out for another chunk";
  EXPECT_EQ(p.Take(), std::nullopt);
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
      w.U64(data.empty() ? 0 : at), w.U64(data.size()), w.U32(data.empty() ? 0 : Crc32c(data)), w.U32(0);
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
    for (int i = 0; i < n; i++) (*b)[at + static_cast<size_t>(i)] = static_cast<uint8_t>(v >> (8 * i));
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
    EXPECT_FALSE(Read(Make([&](Bytes* blob, Bytes* helper) { set(c.in_blob ? blob : helper, c.at, c.value, c.bytes); })).ok())
        << c.name;
}

TEST_F(MetaTest, RefusesAnImageThatIsCutShort) {
  const Bytes good = Make();
  for (size_t n : {0, 100, 4095, 4096, 8191, 12289}) EXPECT_FALSE(Read(Bytes(good.begin(), good.begin() + n)).ok()) << n;
}

}  // namespace
}  // namespace fastoci
