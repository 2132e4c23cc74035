// SPDX-License-Identifier: Apache-2.0
// fastoci check --rebuild: converts the original once more, keeps nothing, and
// compares the result with a FastOCI image, layer by layer, to the byte. It shows
// that the image says nothing but what its original says, whoever made it.
#ifndef FASTOCI_TOOLS_FASTOCI_REBUILD_COMMAND_H_
#define FASTOCI_TOOLS_FASTOCI_REBUILD_COMMAND_H_

#include <string>

#include "attach/progress.h"
#include "attach/pull.h"

namespace fastoci {

// image: HOST/REPOSITORY:TAG (or @DIGEST); original: the same, or oci:DIR:TAG.
// Of images for several platforms, this machine's. Returns the exit code.
int RunRebuild(const std::string& image, const std::string& original, const RegistryAccess& access,
               Progress* progress, bool json);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_FASTOCI_REBUILD_COMMAND_H_
