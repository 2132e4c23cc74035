// SPDX-License-Identifier: Apache-2.0
// Op "chunks" of the control socket: which chunks of an attached image's data space have a slot of
// the cache.
#ifndef FASTOCI_ATTACH_SEED_CHUNKS_H_
#define FASTOCI_ATTACH_SEED_CHUNKS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/result.h"

namespace fastoci {

struct ChunkRun {
  uint32_t chunk_no = 0, slot = 0, count = 0;  // adjacent chunks in adjacent slots
};
struct CachedChunks {
  std::string device;  // of the cache
  std::vector<ChunkRun> runs;
};
// An image that was attached just now is waited for.
Result<CachedChunks> AskCachedChunks(const std::string& control_socket, const std::string& image_id,
                                     const Sha256Digest& space_id);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_SEED_CHUNKS_H_
