// SPDX-License-Identifier: Apache-2.0
// Which bytes of a blob a run of jobs needs and which of the data space it
// gives. Pure. A chunk belongs to the span that holds its first byte. The run
// of adjacent spans emits all chunks that start in them: it decodes past its
// last span's end, one stream across entries, up to the next chunk boundary.
#ifndef FASTOCI_MISS_SPAN_PLAN_H_
#define FASTOCI_MISS_SPAN_PLAN_H_

#include <cstdint>

#include "image/meta_image.h"

namespace fastoci {

// Compressed data may be a little larger than what it holds: a stored deflate
// block costs 5 bytes per 64 KiB, an empty one as much for nothing.
inline constexpr uint64_t kTailSlackBytes = 4096;

struct JobRange {
  uint64_t span_data_offset = 0;
  uint64_t input_begin = 0;  // of the blob
  uint64_t input_end = 0;
  uint64_t out_begin = 0;  // of the data space
  uint64_t out_end = 0;    // == out_begin: no chunk starts in the span
  bool cut = false;        // the input may end too early for the tail
};

uint32_t SpanOfOffset(const BlobInfo& blob, uint64_t data_offset);
inline uint32_t SpanOfChunk(const BlobInfo& blob, uint32_t chunk_no, uint32_t chunk_shift) {
  return SpanOfOffset(blob, static_cast<uint64_t>(chunk_no) << chunk_shift);
}
// What of the data space such a run gives; empty if no chunk starts in its spans.
JobRange OutputOfRun(const BlobInfo& blob, uint32_t span, uint32_t nr_spans, uint32_t chunk_shift);
// Adds to the output where its decoding begins and which input it needs, by the spans of `blob`,
// which may differ from those of the run. The end of the input is a guess that is mostly large
// enough. If it was too small, ask again with whole_tail: then no decoder can need more.
JobRange PlanInput(const BlobInfo& blob, JobRange output, bool whole_tail);
inline JobRange PlanRun(const BlobInfo& blob, uint32_t span, uint32_t nr_spans,
                        uint32_t chunk_shift, bool whole_tail) {
  return PlanInput(blob, OutputOfRun(blob, span, nr_spans, chunk_shift), whole_tail);
}

}  // namespace fastoci

#endif  // FASTOCI_MISS_SPAN_PLAN_H_
