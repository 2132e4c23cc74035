// SPDX-License-Identifier: Apache-2.0
// Digests of chunks. Pure.
#ifndef FASTOCI_VERIFY_CHUNK_CHECK_H_
#define FASTOCI_VERIFY_CHUNK_CHECK_H_

#include <optional>
#include <vector>

#include "image/meta_image.h"

namespace fastoci {

inline constexpr size_t kDigestBytes = 1 << 16;  // of data under one digest

// How many bytes of the data space are in a chunk: chunk_bytes, or less in the last one.
size_t DataBytesOfChunk(const BlobInfo& blob, uint32_t chunk_no, uint64_t chunk_bytes);
// The digest for SlotRow::digest, from the digests of each 64 KiB.
Sha256Digest ChunkDigest(const std::vector<Sha256Digest>& pieces);
// Checks the content of a whole slot and returns its digest; nothing if it is wrong. It is
// right if it agrees with the blob's digests, where the blob has some, and if the bytes
// after the end of the data space are zeros.
std::optional<Sha256Digest> CheckChunk(const BlobInfo& blob, uint32_t chunk_no, ByteSpan slot);

}  // namespace fastoci

#endif  // FASTOCI_VERIFY_CHUNK_CHECK_H_
