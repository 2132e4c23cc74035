// SPDX-License-Identifier: Apache-2.0
// ConvertImage: an OCI image becomes a FastOCI (turboOCI) image, a native
// overlaybd image, or both, in the same store. Each layer is read once, as a
// stream, several at a time; what is made of it is stored at once. Manifests come
// last and tags behind them, so that an interrupted conversion leaves nothing
// that looks complete.
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

namespace fastoci {

struct ConvertOptions {
  std::string source;  // tag or digest
  // Formats to make, and under which tag ("": only under its digest).
  std::optional<std::string> turbo_tag, overlaybd_tag;
  std::string arch;  // of an index, the one to convert; "": all
  FsType fs_type = FsType::kExt4;
  uint64_t fs_bytes = kDefaultFsBytes;
  // A file with an empty ext4 file system to build on (BaseLayer), which becomes the
  // lowest layer and decides over fs_bytes; "": one is made.
  std::string base_layer;
  bool oci = false;
  bool referrer = false;  // implies oci
  bool store = true;      // false: convert, keep nothing
  unsigned concurrency = 4;
  // What is learned of each layer is kept there and used again (ScanStore); "": it
  // is not. A native overlaybd layer needs its blob in any case.
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
  // In the place of OnLayer(): it was scanned before, and is not read again.
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
