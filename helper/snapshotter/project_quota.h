// SPDX-License-Identifier: Apache-2.0
// Project quotas of the file system that snapshots are on. Each active snapshot is a project
// of its own. So the kernel counts what it occupies, and can limit it. This works on ext4 and
// XFS that are mounted with prjquota. Elsewhere available() is false, and callers go on
// without. Thread-safe.
#ifndef FASTOCI_SNAPSHOTTER_PROJECT_QUOTA_H_
#define FASTOCI_SNAPSHOTTER_PROJECT_QUOTA_H_

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "snapshotter/store.h"

namespace fastoci {

class ProjectQuota {
 public:
  // root: a directory of the file system.
  static ProjectQuota Open(const std::string& root);
  bool available() const { return !device_.empty(); }

  // All files that are made in dir from now on belong to the snapshot's project. They may
  // occupy limit_bytes (0: no limit).
  Status Assign(int64_t id, const std::string& dir, uint64_t limit_bytes) const;
  std::optional<DiskUsage> Usage(int64_t id) const;
  // Removes the limit. Assign() sets that of a later snapshot with the same number.
  void Forget(int64_t id) const;

 private:
  std::string device_;
};

// Bytes of "10g", "512M", "1000000" or "2GiB"; each unit is 1024 of the one before.
Result<uint64_t> ParseQuota(const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_PROJECT_QUOTA_H_
