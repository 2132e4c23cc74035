// SPDX-License-Identifier: Apache-2.0
// ScanStore keeps what was learned of each layer, under the digest of its blob, in a
// directory. A layer that is found there is neither fetched nor decompressed when
// another image that has it is converted, and the result is the same to the byte. The
// directory may be deleted at any time, and several processes may use it at once.
//
// A record is a file DIGEST.scan: magic, size of a JSON text, the text, index,
// chunk digests, skeleton, and the SHA-256 of all of it. A record with any fault
// counts as absent.
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
  std::string digest;  // of the blob; whoever reads the blob checks it
  uint64_t bytes = 0;  // checked
  std::string media_type;
  std::string diff_id;  // of the tar, from the image's config; checked, if given
};

struct LayerScan {
  uint64_t tar_bytes = 0;
  std::string diff_id;
  std::string target_media_type, beyond_turbo;  // see LayerResult
  Bytes gzip_meta, zstd_index, chunk_digests;  // as MetaLayerFiles has them
  Bytes skeleton;
};

class ScanStore {
 public:
  // Makes the directory.
  static Result<ScanStore> Open(const std::string& directory);
  // Finds nothing if the record was made of a layer with another diff_id. Fails only if
  // the directory cannot be read.
  Result<std::optional<LayerScan>> Find(const LayerSource& layer) const;
  Status Put(const LayerSource& layer, const LayerScan& scan) const;

 private:
  explicit ScanStore(std::string directory) : directory_(std::move(directory)) {}
  Result<std::string> Path(const LayerSource& layer) const;
  std::string directory_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_SCAN_STORE_H_
