// SPDX-License-Identifier: Apache-2.0
// Which bytes of a blob a run of jobs needs and which of the data space it
// gives. Pure. A chunk belongs to the span that holds its first byte. The run
// of adjacent spans emits all chunks that start in them: it decodes past its
// last span's end, one stream across entries, up to the next chunk boundary.
#ifndef FASTOCI_BROKER_SPAN_PLAN_H_
#define FASTOCI_BROKER_SPAN_PLAN_H_

#include <cstdint>

#include "broker/meta_image.h"

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
};

uint32_t SpanOfOffset(const BlobInfo& blob, uint64_t data_offset);
inline uint32_t SpanOfChunk(const BlobInfo& blob, uint32_t chunk_no, uint32_t chunk_shift) {
  return SpanOfOffset(blob, static_cast<uint64_t>(chunk_no) << chunk_shift);
}
// The input's end is a guess from above for the tail; with whole_tail it is
// where no decoder can want more: ask again so if the guess was too small.
JobRange PlanRun(const BlobInfo& blob, uint32_t span, uint32_t nr_spans, uint32_t chunk_shift,
                 bool whole_tail);

}  // namespace fastoci

#endif  // FASTOCI_BROKER_SPAN_PLAN_H_
