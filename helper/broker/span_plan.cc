// SPDX-License-Identifier: Apache-2.0
#include "broker/span_plan.h"

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

JobRange PlanRun(const BlobInfo& blob, uint32_t span, uint32_t nr_spans, uint32_t chunk_shift,
                 bool whole_tail) {
  const uint64_t chunk = 1ULL << chunk_shift;
  auto round_up = [&](uint64_t v) {
    return std::min((v + chunk - 1) & ~(chunk - 1), blob.data_bytes);
  };
  const uint32_t next = span + nr_spans;  // the first one behind the run
  const bool last = next >= blob.spans.size();
  const uint64_t span_end = last ? blob.data_bytes : blob.spans[next].data_offset;
  JobRange job;
  job.span_data_offset = blob.spans[span].data_offset;
  job.input_begin = blob.spans[span].blob_offset;
  job.out_begin = round_up(job.span_data_offset);
  job.out_end = std::max(round_up(span_end), job.out_begin);
  if (blob.codec == FASTOCI_CODEC_RAW) {
    job.input_end = job.out_end;
    return job;
  }
  // Where decoding out_end - 1 ends at the latest: in the last byte before, or
  // shared with, the first span that begins at or behind out_end.
  auto behind =
      std::lower_bound(blob.spans.begin() + span, blob.spans.end(), job.out_end,
                       [](const Span& s, uint64_t offset) { return s.data_offset < offset; });
  uint64_t end = behind == blob.spans.end() ? blob.blob_bytes
                                            : std::min(behind->blob_offset + 1, blob.blob_bytes);
  if (!whole_tail && !last && job.out_end > span_end)
    end = std::min(end, blob.spans[next].blob_offset + (job.out_end - span_end) + kTailSlackBytes +
                            (blob.codec == FASTOCI_CODEC_ZSTD ? kZstdBlockBytes : 0));
  job.input_end = end;
  return job;
}

}  // namespace fastoci
