// SPDX-License-Identifier: Apache-2.0
// Files to read, where one that is not there is no fault of the machine.
#ifndef FASTOCI_BASE_OPEN_FILE_H_
#define FASTOCI_BASE_OPEN_FILE_H_

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

// more: further flags of open(). kNotFound: there is no such file.
Result<UniqueFd> OpenToRead(const std::string& path, int more = 0);

}  // namespace fastoci

#endif  // FASTOCI_BASE_OPEN_FILE_H_
