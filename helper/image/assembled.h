// SPDX-License-Identifier: Apache-2.0
// Reads what the helper needs of an assembled meta image (fastoci_meta.h): the
// blob table, span tables, indexes and chunk digests of its helper area, and the
// JSON part as it is. The file is hostile: every bound and checksum is checked
// before anything is used; indexes and JSON are passed on unparsed.
#ifndef FASTOCI_IMAGE_ASSEMBLED_H_
#define FASTOCI_IMAGE_ASSEMBLED_H_

#include <fastoci_meta.h>

#include <cstdint>
#include <vector>

#include "base/byte_reader.h"
#include "base/digest.h"
#include "base/result.h"
#include "codec/read_at.h"

namespace fastoci {

// What is read whole into memory.
inline constexpr uint64_t kMaxHelperAreaBytes = 1ULL << 30;
inline constexpr uint64_t kMaxJsonPartBytes = 4ULL << 20;

struct BlobSpan {
  uint64_t data_offset = 0;
  uint64_t blob_offset = 0;
};

struct AssembledBlob {
  Sha256Digest data_space_id{};
  Sha256Digest blob_digest{};
  uint64_t data_bytes = 0;
  uint64_t blob_bytes = 0;
  uint32_t codec = 0;           // enum fastoci_codec
  std::vector<BlobSpan> spans;  // as fastoci_meta_span says; empty for RAW
  Bytes index;                  // gzip.meta or what the codec needs
  Bytes digests;                // empty, or 32 bytes per 64 KiB of data space
};

struct AssembledImage {
  Sha256Digest image_id{};
  uint64_t device_sectors = 0;
  std::vector<AssembledBlob> blobs;
  Bytes json;
};

// kInvalid, or kMismatch where a checksum or a data space's id is wrong.
Result<AssembledImage> ReadAssembledImage(const ReadAtFile& file);

// The id of a data space whose digests are known, see fastoci_meta.h.
Sha256Digest DataSpaceId(const Sha256Digest& blob_digest, uint64_t data_bytes, uint32_t codec,
                         ByteSpan chunk_digests);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_ASSEMBLED_H_
