// SPDX-License-Identifier: Apache-2.0
#include "miss/span_plan.h"

#include <algorithm>

#include "codec/zstd_index.h"
#include "fastoci_meta.h"

namespace fastoci {

uint32_t SpanOfOffset(const BlobInfo& blob, uint64_t data_offset) {
  auto after =
      std::upper_bound(blob.spans.begin(), blob.spans.end(), data_offset,
                       [](uint64_t offset, const Span& s) { return offset < s.data_offset; });
  return static_cast<uint32_t>(after - blob.spans.begin()) - 1;  // the first one begins at 0
}

JobRange OutputOfRun(const BlobInfo& blob, uint32_t span, uint32_t nr_spans,
                     uint32_t chunk_shift) {
  const uint64_t chunk = 1ULL << chunk_shift;
  auto round_up = [&](uint64_t v) {
    return std::min((v + chunk - 1) & ~(chunk - 1), blob.data_bytes);
  };
  const uint32_t next = span + nr_spans;  // the first one behind the run
  JobRange job;
  job.out_begin = round_up(blob.spans[span].data_offset);
  job.out_end = std::max(
      round_up(next >= blob.spans.size() ? blob.data_bytes : blob.spans[next].data_offset),
      job.out_begin);
  return job;
}

JobRange PlanInput(const BlobInfo& blob, JobRange job, bool whole_tail) {
  if (job.out_begin == job.out_end) return job;
  const Span& first = blob.spans[SpanOfOffset(blob, job.out_begin)];
  job.span_data_offset = first.data_offset;
  job.input_begin = first.blob_offset;
  job.cut = false;
  if (blob.codec == FASTOCI_CODEC_RAW) {
    job.input_end = job.out_end;
    return job;
  }
  // Where decoding out_end - 1 ends at the latest: in the last byte before, or
  // shared with, the first span that begins at or behind out_end.
  auto behind =
      std::lower_bound(blob.spans.begin(), blob.spans.end(), job.out_end,
                       [](const Span& s, uint64_t offset) { return s.data_offset < offset; });
  const bool is_last = behind == blob.spans.end();
  job.input_end = is_last ? blob.blob_bytes : std::min(behind->blob_offset + 1, blob.blob_bytes);
  // Of the span before it only a part may be needed.
  const Span& tail = *std::prev(behind);
  const uint64_t tail_end = is_last ? blob.data_bytes : behind->data_offset;
  if (whole_tail || job.out_end >= tail_end) return job;
  const uint64_t guess = tail.blob_offset + (job.out_end - tail.data_offset) + kTailSlackBytes +
                         (blob.codec == FASTOCI_CODEC_ZSTD ? kZstdBlockBytes : 0);
  job.cut = guess < job.input_end;
  job.input_end = std::min(job.input_end, guess);
  return job;
}

}  // namespace fastoci
