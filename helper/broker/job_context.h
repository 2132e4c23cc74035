// SPDX-License-Identifier: Apache-2.0
// What decoded pieces become chunks of: a run of a lane, or the check of a whole blob.
#ifndef FASTOCI_BROKER_JOB_CONTEXT_H_
#define FASTOCI_BROKER_JOB_CONTEXT_H_

#include <memory>
#include <string>
#include <vector>

#include "broker/miss_service.h"

namespace fastoci {

struct MissService::JobContext {
  JobQueue::Run run;
  uint32_t begin = 0, end = 0;  // spans of the run that still want something
  std::shared_ptr<Cache> cache;
  std::shared_ptr<const MetaImage> meta;
  uint32_t image = 0;
  uint32_t blob_no = 0;
  const BlobInfo* blob = nullptr;
  std::string refused;  // why nothing of the space is served, or empty
  std::unique_ptr<AlignedBuffer> chunk;
  std::vector<Sha256Digest> pieces;  // of the chunk in hand
  uint64_t next_offset = 0;          // where the next piece must begin
  bool read = false;                 // somebody waits for the run
  Clock::time_point picked;
  std::chrono::nanoseconds verify{0}, write{0};  // of the try in hand

  uint32_t space() const { return run.first.space; }
  uint64_t chunk_bytes() const { return cache->chunk_bytes(); }
  ByteSpan slot() const { return {chunk->data(), chunk_bytes()}; }
  JobKey KeyOf(uint32_t chunk_no) const {
    return {run.first.cache, run.first.space,
            SpanOfChunk(*blob, chunk_no, cache->info().chunk_shift)};
  }
  std::string Name() const {
    return DigestString(blob->blob_digest) + ", span " + std::to_string(run.first.span) +
           (run.nr_spans > 1 ? " and " + std::to_string(run.nr_spans - 1) + " more" : "");
  }
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_JOB_CONTEXT_H_
