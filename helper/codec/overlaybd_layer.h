// SPDX-License-Identifier: Apache-2.0
// A native overlaybd layer as the registry holds it: an LSMT file. Mostly the LSMT file is
// in a ZFile, and that is in a tar with one member. Opening one reads a few ranges (tar
// header, ZFile header and jump table, LSMT header, trailer and index); its data
// stays where it is.
//
// Its data space is the uncompressed LSMT file if there is a ZFile, else the
// blob itself, wrapper and all: then data space and blob are the same bytes.
#ifndef FASTOCI_CODEC_OVERLAYBD_LAYER_H_
#define FASTOCI_CODEC_OVERLAYBD_LAYER_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "base/result.h"
#include "codec/lsmt.h"
#include "codec/read_at.h"
#include "codec/zfile.h"

namespace fastoci {

class OverlaybdLayer {
 public:
  // blob must outlive the layer.
  static Result<std::unique_ptr<OverlaybdLayer>> Open(const ReadAtFile* blob);
  OverlaybdLayer(const OverlaybdLayer&) = delete;
  OverlaybdLayer& operator=(const OverlaybdLayer&) = delete;

  uint64_t virtual_bytes() const { return lsmt_.virtual_bytes(); }
  // Those of kind kTar map sectors of the data space; the others are zeros.
  LsmtSegments DataSpaceSegments() const;
  uint64_t data_bytes() const { return zfile_ ? zfile_->size() : blob_->size(); }
  const ReadAtFile& data_space() const { return zfile_ ? static_cast<const ReadAtFile&>(*zfile_) : *blob_; }
  // What a decoder needs; null if data space and blob are the same.
  const ZFileIndex* zfile_index() const { return zfile_ ? &zfile_->index() : nullptr; }
  uint64_t payload_offset() const { return payload_offset_; }  // in the blob, whole sectors

 private:
  explicit OverlaybdLayer(const ReadAtFile* blob) : blob_(blob) {}
  const ReadAtFile* blob_;
  uint64_t payload_offset_ = 0;
  std::optional<SubFile> payload_;  // the blob without its tar wrapper
  std::optional<ZFileReader> zfile_;
  LsmtReader lsmt_;
};

}  // namespace fastoci

#endif  // FASTOCI_CODEC_OVERLAYBD_LAYER_H_
