// SPDX-License-Identifier: Apache-2.0
// What is in the layers of an image, as JSON text, for people and scripts. Reads
// the same hostile bytes as assembly and runs in the same sandbox.
#ifndef FASTOCI_IMAGE_INSPECT_H_
#define FASTOCI_IMAGE_INSPECT_H_

#include "base/result.h"
#include "image/assemble.h"

namespace fastoci {

// An array with an object per layer, bottom first. A layer that assembly would
// refuse has an "error". With content, what the layers' metadata says is compared
// with the whole blobs (content_check.h), and a difference is an "error", too.
Status InspectLayers(const AssembleInput& input, const AssembleOptions& options, bool content,
                     int out_fd);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_INSPECT_H_
