// SPDX-License-Identifier: Apache-2.0
#include "base/unnamed_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

namespace fastoci {

Result<UniqueFd> OpenUnnamed(const std::string& directory) {
  UniqueFd fd(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!fd.valid() && errno == EOPNOTSUPP) {  // overlayfs before 6.3
    std::string path = directory + "/.fastoci.XXXXXX";
    fd.reset(::mkostemp(path.data(), O_CLOEXEC));
    if (fd.valid()) ::unlink(path.c_str());
  }
  if (!fd.valid()) return ErrnoError("a file in " + directory);
  return fd;
}

}  // namespace fastoci
