// SPDX-License-Identifier: Apache-2.0
#ifndef FASTOCI_BASE_UNNAMED_FILE_H_
#define FASTOCI_BASE_UNNAMED_FILE_H_

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

// Makes a file in the directory for reading and writing. It has no name. The kernel
// frees it when its last descriptor is closed.
Result<UniqueFd> OpenUnnamed(const std::string& directory);

}  // namespace fastoci

#endif  // FASTOCI_BASE_UNNAMED_FILE_H_
