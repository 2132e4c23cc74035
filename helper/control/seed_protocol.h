// SPDX-License-Identifier: Apache-2.0
// How `fastoci seed import` gives the helper data that it has on this node: fixed structs over
// SOCK_SEQPACKET, one after the other. Op "seed" of the control socket brings two descriptors: the
// helper's end of that socket, and memory of kSeedMemoryBytes that the client writes the data to.
//
//   Fill  bytes of a data space, which lie in the memory until the reply
//   End   what was filled is made durable
//
// Each request has one reply. The client may send a Fill while another one has no reply yet. Closing
// the socket ends it all.
//
// The helper reads memory and no file, so it never waits for the disk or the network of a seed. It
// copies the data, compares it with the digests of the meta image, and writes it to the cache as it
// does with data from a registry. The client need not be trusted with the data.
#ifndef FASTOCI_CONTROL_SEED_PROTOCOL_H_
#define FASTOCI_CONTROL_SEED_PROTOCOL_H_

#include <cstdint>

namespace fastoci {

inline constexpr uint64_t kSeedBatchBytes = 4 << 20;  // of one Fill at most; the largest chunk
inline constexpr uint64_t kSeedBatches = 2;           // in memory at the same time
inline constexpr uint64_t kSeedMemoryBytes = kSeedBatches * kSeedBatchBytes;

enum class SeedOp : uint32_t { kFill = 1, kEnd };

struct SeedRequest {
  SeedOp op;
  uint32_t reserved;
  uint8_t space_id[32];    // Fill
  uint64_t data_offset;    // Fill: of the data space, a multiple of the cache's chunk size
  uint64_t bytes;          // Fill: whole chunks, or up to the end of the data space
  uint64_t memory_offset;  // Fill
};
static_assert(sizeof(SeedRequest) == 64);

struct SeedReply {
  uint32_t kind;  // 0: it is done; else 1 + ErrorKind
  int32_t err;    // as Error has it
  char text[248];
};
static_assert(sizeof(SeedReply) == 256);

}  // namespace fastoci

#endif  // FASTOCI_CONTROL_SEED_PROTOCOL_H_
