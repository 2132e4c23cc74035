// SPDX-License-Identifier: Apache-2.0
// How far the cache file may grow.
#ifndef FASTOCI_BROKER_LIMITS_H_
#define FASTOCI_BROKER_LIMITS_H_

#include <cstdint>
#include <string>

namespace fastoci {

// At a limit the cache stops growing: it evicts, and writes only slots that
// have their place on the disk already.
struct CacheLimits {
  std::string dir;                  // with the cache file; empty: a device, no limits
  uint64_t min_free_bytes = 0;      // that the file system keeps
  uint32_t max_disk_percent = 100;  // of the file system that may be in use

  // True if the cache may grow. An error of the file system counts as no.
  bool MayGrow() const;
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_LIMITS_H_
