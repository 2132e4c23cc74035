// SPDX-License-Identifier: Apache-2.0
// The cache file's loop device: found if one is bound to the file already (a
// device-mapper table keeps it after a helper's death), made otherwise. It
// clears itself after its last user.
#ifndef FASTOCI_STORE_CACHE_LOOP_H_
#define FASTOCI_STORE_CACHE_LOOP_H_

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

struct CacheLoop {
  std::string device;
  UniqueFd fd;  // O_RDWR | O_DIRECT
  bool direct_io = false;
};

// One helper at a time may call this for a file.
Result<CacheLoop> OpenCacheLoop(const std::string& file);

}  // namespace fastoci

#endif  // FASTOCI_STORE_CACHE_LOOP_H_
