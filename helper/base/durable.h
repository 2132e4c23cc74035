// SPDX-License-Identifier: Apache-2.0
// Files that appear complete, and stay after a power cut, or do not appear.
#ifndef FASTOCI_BASE_DURABLE_H_
#define FASTOCI_BASE_DURABLE_H_

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

// Makes a file beside path, to read and write. Its name, *made, is new and cannot be foreseen, so
// nobody else writes to it, and no link leads elsewhere.
Result<UniqueFd> CreateBeside(const std::string& path, int mode, std::string* made);
// Syncs the file, renames it to path and syncs the directory. Removes it if that fails.
Status Publish(const UniqueFd& file, const std::string& made, const std::string& path);

}  // namespace fastoci

#endif  // FASTOCI_BASE_DURABLE_H_
