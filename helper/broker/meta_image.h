// SPDX-License-Identifier: Apache-2.0
// What the broker reads of an assembled meta image (fastoci_meta.h): the blob
// table and, from the helper area, span tables, gzip indexes and chunk
// digests. Fixed binary layouts only; the indexes and the JSON part are
// carried, never parsed. Everything is bounded before it is allocated.
#ifndef FASTOCI_BROKER_META_IMAGE_H_
#define FASTOCI_BROKER_META_IMAGE_H_

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
  std::vector<Span> spans;  // never empty
  Bytes index;
  std::vector<Sha256Digest> digests;  // one per 64 KiB of data space, or none
  bool whole = false;  // they come from the blob, checked as a whole, not from its meta layer
  // Nothing that the manifest names says what its data is: it has no digests, or a
  // native layer's, which a referrer brought (docs/meta-format.md).
  bool unproven() const { return !whole && (digests.empty() || codec == FASTOCI_CODEC_ZFILE); }
};

struct MetaImage {
  Sha256Digest image_id{};
  std::vector<BlobInfo> blobs;
  Bytes json;
};

// fd: open for reading, device_bytes: its size.
Result<MetaImage> ReadMetaImage(int fd, uint64_t device_bytes);

}  // namespace fastoci

#endif  // FASTOCI_BROKER_META_IMAGE_H_
