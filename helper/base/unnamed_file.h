// SPDX-License-Identifier: Apache-2.0
#ifndef FASTOCI_BASE_UNNAMED_FILE_H_
#define FASTOCI_BASE_UNNAMED_FILE_H_

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

// A file in the directory, for reading and writing, that has no name and goes
// with its last descriptor.
Result<UniqueFd> OpenUnnamed(const std::string& directory);

}  // namespace fastoci

#endif  // FASTOCI_BASE_UNNAMED_FILE_H_
