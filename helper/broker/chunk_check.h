// SPDX-License-Identifier: Apache-2.0
// Digests of chunks. Pure.
#ifndef FASTOCI_BROKER_CHUNK_CHECK_H_
#define FASTOCI_BROKER_CHUNK_CHECK_H_

#include <optional>
#include <vector>

#include "broker/meta_image.h"

namespace fastoci {

inline constexpr size_t kDigestBytes = 1 << 16;  // of data under one digest

// Bytes of the data space in a chunk: all of it but in the last one.
size_t DataBytesOfChunk(const BlobInfo& blob, uint32_t chunk_no, uint64_t chunk_bytes);
// As SlotRow::digest has it, from the digests of each 64 KiB.
Sha256Digest ChunkDigest(const std::vector<Sha256Digest>& pieces);
// The digest of a whole slot's content, if it is right: as the blob's digests
// say where it has some, and zeros behind the data space's end.
std::optional<Sha256Digest> CheckChunk(const BlobInfo& blob, uint32_t chunk_no, ByteSpan slot);

}  // namespace fastoci

#endif  // FASTOCI_BROKER_CHUNK_CHECK_H_
