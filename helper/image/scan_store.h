// SPDX-License-Identifier: Apache-2.0
// ScanStore: what was once learned of each layer, by the digest of its blob, in a
// directory that needs no server. A layer that is found there is neither fetched
// nor decompressed when another image that has it is converted; the result is the
// same to the byte. It may be deleted at any time, and used by several at once.
//
// A record is a file DIGEST.scan: magic, size of a JSON text, the text, index,
// chunk digests, skeleton, and the SHA-256 of all of it. Whatever is not right
// about one makes it count as absent.
#ifndef FASTOCI_IMAGE_SCAN_STORE_H_
#define FASTOCI_IMAGE_SCAN_STORE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "base/byte_reader.h"
#include "base/result.h"

namespace fastoci {

// A layer as the original image names it.
struct LayerSource {
  std::string digest;  // of the blob; checked
  uint64_t bytes = 0;  // checked
  std::string media_type;
  std::string diff_id;  // of the tar, from the image's config; checked, if given
};

struct LayerScan {
  uint64_t tar_bytes = 0;
  std::string diff_id;
  std::string beyond_turbo;  // see LayerResult
  Bytes gzip_meta, zstd_index, chunk_digests;  // as MetaLayerFiles has them
  Bytes skeleton;
};

class ScanStore {
 public:
  // Makes the directory.
  static Result<ScanStore> Open(const std::string& directory);
  // Nothing, too, if the layer's diff_id is not the one that was found then. An
  // error: the directory cannot be read.
  Result<std::optional<LayerScan>> Find(const LayerSource& layer) const;
  Status Put(const LayerSource& layer, const LayerScan& scan) const;

 private:
  explicit ScanStore(std::string directory) : directory_(std::move(directory)) {}
  Result<std::string> Path(const LayerSource& layer) const;
  std::string directory_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_SCAN_STORE_H_
