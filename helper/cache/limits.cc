// SPDX-License-Identifier: Apache-2.0
#include "cache/limits.h"

#include <sys/statvfs.h>

namespace fastoci {

bool CacheLimits::MayGrow() const {
  if (dir.empty() || (min_free_bytes == 0 && max_disk_percent >= 100)) return true;
  struct statvfs fs;
  if (::statvfs(dir.c_str(), &fs) != 0) return false;
  const uint64_t total = static_cast<uint64_t>(fs.f_blocks) * fs.f_frsize;
  const uint64_t free = static_cast<uint64_t>(fs.f_bavail) * fs.f_frsize;
  return free >= min_free_bytes && (total - free) / 100 <= total / 10000 * max_disk_percent;
}

}  // namespace fastoci
