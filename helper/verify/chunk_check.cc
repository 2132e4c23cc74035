// SPDX-License-Identifier: Apache-2.0
#include "verify/chunk_check.h"

#include <algorithm>

#include "fastoci_meta.h"

namespace fastoci {

static_assert(kDigestBytes == 1 << FASTOCI_DIGEST_SHIFT);

size_t DataBytesOfChunk(const BlobInfo& blob, uint32_t chunk_no, uint64_t chunk_bytes) {
  const uint64_t at = chunk_no * chunk_bytes;
  return at >= blob.data_bytes ? 0
                               : static_cast<size_t>(std::min(chunk_bytes, blob.data_bytes - at));
}

Sha256Digest ChunkDigest(const std::vector<Sha256Digest>& pieces) {
  if (pieces.size() == 1) return pieces[0];
  Sha256 all;
  for (const Sha256Digest& d : pieces) all.Update(d);
  return all.Finish();
}

std::optional<Sha256Digest> CheckChunk(const BlobInfo& blob, uint32_t chunk_no, ByteSpan slot) {
  const size_t bytes = DataBytesOfChunk(blob, chunk_no, slot.size());
  const uint64_t first = chunk_no * slot.size() / kDigestBytes;
  std::vector<Sha256Digest> pieces;
  for (size_t at = 0; at < bytes; at += kDigestBytes) {
    pieces.push_back(Sha256::Of(slot.subspan(at, std::min(kDigestBytes, bytes - at))));
    if (!blob.digests.empty() && blob.digests[first + at / kDigestBytes] != pieces.back())
      return std::nullopt;
  }
  if (pieces.empty() || std::any_of(slot.begin() + static_cast<ptrdiff_t>(bytes), slot.end(),
                                    [](uint8_t b) { return b != 0; }))
    return std::nullopt;
  return ChunkDigest(pieces);
}

}  // namespace fastoci
