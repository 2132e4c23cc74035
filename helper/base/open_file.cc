// SPDX-License-Identifier: Apache-2.0
#include "base/open_file.h"

#include <fcntl.h>

namespace fastoci {

Result<UniqueFd> OpenToRead(const std::string& path, int more) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | more));
  if (fd.valid()) return fd;
  Error error = ErrnoError("open " + path);
  if (error.err == ENOENT) error.kind = ErrorKind::kNotFound;
  return error;
}

}  // namespace fastoci
