// SPDX-License-Identifier: Apache-2.0
// An assembled meta image that is a file, not a device.
#ifndef FASTOCI_IMAGE_META_IMAGE_FILE_H_
#define FASTOCI_IMAGE_META_IMAGE_FILE_H_

#include <string>

#include "image/meta_image.h"

namespace fastoci {

// As ReadMetaImage(). Errors name the file.
Result<MetaImage> ReadMetaImageFile(const std::string& path);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_META_IMAGE_FILE_H_
