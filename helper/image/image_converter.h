// SPDX-License-Identifier: Apache-2.0
// The conversion of one image of one platform; ConvertImage() calls it for each of
// an index.
#ifndef FASTOCI_IMAGE_IMAGE_CONVERTER_H_
#define FASTOCI_IMAGE_IMAGE_CONVERTER_H_

#include <vector>

#include "image/convert.h"

namespace fastoci {

// In the order turboOCI, overlaybd, as far as the options ask for them. Layers,
// configs and manifests are stored; tags are the caller's.
Result<std::vector<ConvertedImage>> ConvertOneImage(ImageStore* store, const ConvertOptions& options,
                                                    ConvertObserver* observer,
                                                    const Manifest& manifest);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_IMAGE_CONVERTER_H_
