// SPDX-License-Identifier: Apache-2.0
// ChunkBuilder: decoded pieces -> verified chunks -> the cache's writer, for one try of a job.
//
// A piece is first copied into memory that no other process can write, and then hashed. So the
// bytes that are compared with the digest are the bytes that are written. A chunk that a reader
// waits for goes to the writer at once. Other chunks go in groups.
#ifndef FASTOCI_MISS_CHUNK_BUILDER_H_
#define FASTOCI_MISS_CHUNK_BUILDER_H_

#include <functional>
#include <memory>
#include <vector>

#include "miss/span_work.h"
#include "verify/chunk_check.h"

namespace fastoci {

class ChunkBuilder {
 public:
  // Copies decoded bytes, at most kDigestBytes of them.
  using Copy = std::function<void(uint64_t data_offset, std::span<uint8_t> out)>;
  // stop: ends waiting for memory.
  ChunkBuilder(std::shared_ptr<SpanWork> work, Dispatcher* dispatcher, Counters* counters,
               std::function<bool()> stop);

  // Takes the next bytes of the job's output: whole pieces of kDigestBytes, except at the end of
  // the data space. On an error the work has failed.
  Status Take(uint64_t data_offset, uint64_t length, const Copy& copy);
  // All came: the rest goes to the writer.
  void Flush();
  uint64_t next() const { return next_; }  // data offset that Take() wants
  WorkTimes times() const { return times_; }

 private:
  Status BeginChunk(uint32_t chunk_no);
  Status TakePiece(uint64_t data_offset, size_t bytes, const Copy& copy);
  void EndChunk(uint32_t chunk_no, size_t bytes);

  const std::shared_ptr<SpanWork> work_;
  Dispatcher* const dispatcher_;
  Counters* const counters_;
  const std::function<bool()> stop_;
  const SpaceView& view_;
  uint64_t next_;
  ChunkBuffer chunk_;  // empty: it is in the cache
  std::vector<Sha256Digest> pieces_;
  std::vector<VerifiedChunk> ready_;
  WorkTimes times_;
};

// The writer's callback: resolves chunks that are served and ends their works.
void OnChunksWritten(Dispatcher* dispatcher, std::vector<VerifiedChunk> chunks);

}  // namespace fastoci

#endif  // FASTOCI_MISS_CHUNK_BUILDER_H_
