// SPDX-License-Identifier: Apache-2.0
// BaseLayer: an empty ext4 file system that was made beforehand, as an overlaybd
// layer in a local file. An image may be built on it (convertor --mkfs=false). The file
// becomes the image's lowest layer, unchanged, so all such images share its blob.
#ifndef FASTOCI_IMAGE_BASE_LAYER_H_
#define FASTOCI_IMAGE_BASE_LAYER_H_

#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "codec/overlaybd_layer.h"
#include "image/memory_device.h"
#include "image/oci_image.h"

namespace fastoci {

// Where the overlaybd project's packages put theirs.
inline constexpr char kDefaultBaseLayer[] = "/opt/overlaybd/baselayers/ext4_64";

class BaseLayer {
 public:
  static Result<std::unique_ptr<BaseLayer>> Open(const std::string& path);
  uint64_t fs_bytes() const { return layer_->virtual_bytes(); }
  // Makes its blocks the device's content. Commit() does not report these blocks.
  Status Load(MemoryDevice* device) const;
  // The blob that the registry holds: the file as it is, or (overlaybd images) the file in
  // a tar, unless it is in one already.
  struct Blob {
    Descriptor descriptor;  // without a media type
    Bytes front;            // before the file's bytes
    uint64_t back = 0;      // zeros behind them
  };
  Result<Blob> MakeBlob(bool in_tar) const;
  Status ReadBlob(const Blob& blob, uint64_t offset, std::span<uint8_t> out) const;
  // Per 64 KiB of its data space; none if it is not in a ZFile.
  Result<Bytes> ChunkDigests() const;

 private:
  BaseLayer(UniqueFd fd, uint64_t bytes) : fd_(std::move(fd)), file_(fd_.get(), bytes) {}
  UniqueFd fd_;
  FdFile file_;
  std::unique_ptr<OverlaybdLayer> layer_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_BASE_LAYER_H_
