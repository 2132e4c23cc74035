// SPDX-License-Identifier: Apache-2.0
#include "miss/span_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "codec/zstd_index.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

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
      if (j.out_begin < j.out_end) {
        EXPECT_EQ(j.span_data_offset, b.spans[s].data_offset);
      }
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
        if (run.out_begin == run.out_end) continue;
        EXPECT_EQ(run.span_data_offset, b.spans[SpanOfOffset(b, run.out_begin)].data_offset);
        EXPECT_GE(run.input_begin, b.spans[first].blob_offset);
        EXPECT_EQ(run.out_begin, PlanRun(b, first, 1, 16, whole).out_begin);
        EXPECT_EQ(run.out_end, std::max(run.out_begin, last.out_end));
        if (last.out_begin < last.out_end) {
          EXPECT_EQ(run.input_end, last.input_end) << first << "+" << n;
        }
      }
    }
  }
}

// Another index of the same data: what comes out is the same, what goes in is its own.
TEST(SpanPlan, TheOutputOfOneIndexIsDecodedByAnother) {
  const BlobInfo coarse = Gzip({{0, 10}, {2000000, 500000}}, 3000000, 900000);
  const BlobInfo fine =
      Gzip({{0, 10}, {900000, 200000}, {1900000, 470000}, {2500000, 700000}}, 3000000, 900000);
  const JobRange out = OutputOfRun(coarse, 1, 1, 16);
  const JobRange job = PlanInput(fine, out, true);
  EXPECT_EQ(job.out_begin, out.out_begin);
  EXPECT_EQ(job.out_end, 3000000u);
  EXPECT_EQ(job.span_data_offset, 1900000u);
  EXPECT_EQ(job.input_begin, 470000u);
  EXPECT_EQ(job.input_end, 900000u);
}

}  // namespace
}  // namespace fastoci
