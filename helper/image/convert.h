// SPDX-License-Identifier: Apache-2.0
// ConvertImage: makes a FastOCI (turboOCI) image, a native overlaybd image, or both, of
// an OCI image, in the same store. Each layer is read once, as a stream; several layers
// are read at a time. What is made of a layer is stored at once. Manifests are stored
// after all layers, and tags after the manifests, so an interrupted conversion leaves
// nothing that looks complete.
#ifndef FASTOCI_IMAGE_CONVERT_H_
#define FASTOCI_IMAGE_CONVERT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "image/fs_builder.h"
#include "image/image_store.h"
#include "image/oci_image.h"
#include "image/platform.h"

namespace fastoci {

struct ConvertOptions {
  std::string source;  // tag or digest
  // Formats to make, and under which tag ("": only under its digest).
  std::optional<std::string> turbo_tag, overlaybd_tag;
  Platform platform;               // of an index, the one to convert; any: all
  bool platform_demanded = false;  // an image that is no index must be for it, too
  FsType fs_type = FsType::kExt4;
  uint64_t fs_bytes = kDefaultFsBytes;
  // A file with an empty ext4 file system (BaseLayer). The image is built on it; it
  // becomes the lowest layer and decides over fs_bytes. "": a file system is made.
  std::string base_layer;
  bool oci = false;
  bool referrer = false;  // implies oci
  bool store = true;      // false: convert, keep nothing
  unsigned concurrency = 4;
  // A directory that keeps what is learned of each layer, to be used again (ScanStore).
  // "": nothing is kept. A native overlaybd layer needs its blob in any case.
  std::string scan_dir;
  std::string scratch_dir = "/var/tmp";  // overlaybd layers, until they are stored
  // Called with each meta layer, the config and the manifest, by file name; from
  // one thread at a time.
  std::function<Status(const std::string& name, ByteSpan data)> dump;
};

// Calls come from one thread at a time.
class ConvertObserver {
 public:
  virtual ~ConvertObserver() = default;
  virtual void OnImage(const OriginalImage& image) = 0;
  virtual void OnLayer(size_t number, uint64_t blob_bytes_done) = 0;
  // Called instead of OnLayer() for a layer that was scanned before: it is not read.
  virtual void OnKnownLayer(size_t number) = 0;
  virtual void OnLayerDone(size_t number, ImageFormat format, const ConvertedLayer& layer,
                           uint64_t nr_entries) = 0;
  virtual void OnWarning(const std::string& text) = 0;
};

struct ConvertedImage {
  ImageFormat format = ImageFormat::kTurboOci;
  Descriptor manifest;  // or index
  std::vector<ConvertedLayer> layers;  // of all platforms
};

// In the order turboOCI, overlaybd.
Result<std::vector<ConvertedImage>> ConvertImage(ImageStore* store, const ConvertOptions& options,
                                                 ConvertObserver* observer);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_CONVERT_H_
