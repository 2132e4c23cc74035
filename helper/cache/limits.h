// SPDX-License-Identifier: Apache-2.0
// How far the cache file may grow.
#ifndef FASTOCI_CACHE_LIMITS_H_
#define FASTOCI_CACHE_LIMITS_H_

#include <cstdint>
#include <string>

namespace fastoci {

// At a limit the cache stops growing. It then evicts chunks, and writes only slots that
// have their space on the disk already.
struct CacheLimits {
  std::string dir;                  // of the cache file; empty: a device, no limits
  uint64_t min_free_bytes = 0;      // at least that many stay free on the file system
  uint32_t max_disk_percent = 100;  // at most that part of the file system is in use

  // True if the cache may grow. An error of the file system counts as no.
  bool MayGrow() const;
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_LIMITS_H_
