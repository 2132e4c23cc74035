// SPDX-License-Identifier: Apache-2.0
// Mounting and unmounting, bounded in time, and who has a device mounted.
#ifndef FASTOCI_ATTACH_MOUNTS_H_
#define FASTOCI_ATTACH_MOUNTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "attach/fs_check.h"
#include "base/result.h"

namespace fastoci {

struct MountEntry {
  uint32_t major = 0, minor = 0;
  std::string dir;
  std::string fs_type;
  std::string source;
};

// The text of /proc/<pid>/mountinfo; lines that do not parse are left out.
std::vector<MountEntry> ParseMountInfo(const std::string& text);
Result<std::vector<MountEntry>> CurrentMounts();
// The directories of this mount namespace where that device is mounted.
Result<std::vector<std::string>> MountsOf(uint32_t major, uint32_t minor);
// Asks only the kernel, and reads no device. False also if path does not exist.
bool IsMountPoint(const std::string& path);

// ext4: ro,noload,errors=continue; erofs: ro. context: SELinux's, or "".
Status MountReadOnly(FsType type, const std::string& device, const std::string& dir,
                     const std::string& context, int64_t timeout_ms);
// EBUSY in err while it is in use.
Status Unmount(const std::string& dir, int64_t timeout_ms);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_MOUNTS_H_
