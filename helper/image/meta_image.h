// SPDX-License-Identifier: Apache-2.0
// What the broker reads of an assembled meta image (fastoci_meta.h): the blob
// table and, from the helper area, span tables, gzip indexes and chunk
// digests. Fixed binary layouts only; the indexes and the JSON part are
// carried, never parsed. Everything is bounded before it is allocated.
#ifndef FASTOCI_IMAGE_META_IMAGE_H_
#define FASTOCI_IMAGE_META_IMAGE_H_

#include <cstdint>
#include <vector>

#include "base/byte_reader.h"
#include "base/digest.h"
#include "base/result.h"
#include "fastoci_meta.h"

namespace fastoci {

inline constexpr uint64_t kMaxJsonBytes = 4 << 20;
inline constexpr uint64_t kMaxHelperBytes = 1ULL << 30;
// RAW has no span table: its data space is cut into spans of this size.
inline constexpr uint64_t kRawSpanBytes = 1 << 20;

struct Span {
  uint64_t data_offset = 0;
  uint64_t blob_offset = 0;
};

struct BlobInfo {
  Sha256Digest data_space_id{};
  Sha256Digest blob_digest{};
  uint64_t data_bytes = 0;
  uint64_t blob_bytes = 0;
  uint32_t codec = 0;
  std::vector<Span> spans;  // not empty, until SpanIndex::Make() of miss/ has moved them
  Bytes index;
  std::vector<Sha256Digest> digests;  // one per 64 KiB of data space, or none
  bool whole = false;  // the digests were made when the blob was checked as a whole
  // True if nothing that the manifest names vouches for the data: the blob has no digests,
  // or those of a native layer, which come from a referrer (docs/meta-format.md).
  bool unproven() const { return !whole && (digests.empty() || codec == FASTOCI_CODEC_ZFILE); }
};

struct MetaImage {
  Sha256Digest image_id{};
  std::vector<BlobInfo> blobs;
  Bytes json;
};

// See fastoci_meta.h. last_part: sha256 of the list of chunk digests, or of the meta
// layer where there are none.
Sha256Digest DataSpaceId(const Sha256Digest& blob_digest, uint64_t data_bytes, uint32_t codec,
                         const Sha256Digest& last_part);

// fd: open for reading, device_bytes: its size. kMismatch: a data space's id does not
// fit its digests.
Result<MetaImage> ReadMetaImage(int fd, uint64_t device_bytes);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_META_IMAGE_H_
