// SPDX-License-Identifier: Apache-2.0
// ConvertImage: an OCI image becomes a FastOCI image in the same store. Layers
// are read one after the other, each once and as a stream; a meta layer is
// stored as soon as it is made. The manifest comes last, so that an interrupted
// conversion leaves nothing that looks complete.
#ifndef FASTOCI_IMAGE_CONVERT_H_
#define FASTOCI_IMAGE_CONVERT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "image/image_store.h"
#include "image/oci_image.h"

namespace fastoci {

struct ConvertOptions {
  std::string source;        // tag or digest
  std::string target_tag;    // "": only under its digest
  std::string arch;          // of an index, the one to convert; "": this machine's
  bool oci = false;
  bool referrer = false;     // implies oci
  bool store = true;         // false: convert, keep nothing
  // Called with each meta layer, the config and the manifest, by file name.
  std::function<Status(const std::string& name, ByteSpan data)> dump;
};

class ConvertObserver {
 public:
  virtual ~ConvertObserver() = default;
  virtual void OnImage(const OriginalImage& image) = 0;
  virtual void OnLayer(size_t number, uint64_t blob_bytes_done) = 0;
  virtual void OnLayerDone(size_t number, const ConvertedLayer& layer, uint64_t nr_entries) = 0;
};

struct ConvertedImage {
  std::string manifest_digest;
  std::vector<ConvertedLayer> layers;
};

Result<ConvertedImage> ConvertImage(ImageStore* store, const ConvertOptions& options,
                                    ConvertObserver* observer);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_CONVERT_H_
