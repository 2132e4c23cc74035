// SPDX-License-Identifier: Apache-2.0
// What must hold before the kernel is asked to mount an image's file system.
//
// Whoever built the meta image chose every byte of the superblock, and ext4 trusts the
// superblock: it can name journals, rarely used features and mount options. So there are
// two checks. (1) The superblock is compared with a list of what our images need;
// everything else is refused. (2) e2fsck -fn (erofs: fsck.erofs) runs over the device
// once, in a sandbox: its own mount, network, pid and IPC namespaces, user nobody, no
// capabilities, a seccomp list without any way to open something for writing, limits on
// memory and time. It sees one device node, which is made for it.
#ifndef FASTOCI_ATTACH_FS_CHECK_H_
#define FASTOCI_ATTACH_FS_CHECK_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "image/fs_type.h"

namespace fastoci {

inline constexpr uint64_t kSuperblockOffset = 1024;
inline constexpr uint64_t kSuperblockBytes = 1024;

const char* FsTypeName(FsType type);

// superblock: kSuperblockBytes at kSuperblockOffset of a device of device_bytes.
Result<FsType> CheckSuperblock(ByteSpan superblock, uint64_t device_bytes);

// The same from an open device, which a child reads: a hostile layout may make even the
// superblock a miss. After timeout_ms returns kUnavailable with ETIMEDOUT.
Result<FsType> CheckDeviceSuperblock(int fd, const std::string& device, int64_t timeout_ms);

// Runs e2fsck -fn or fsck.erofs over the block device in the sandbox. kMismatch
// if it finds the file system damaged, kUnsupported if the program is missing.
Status RunFsck(FsType type, uint32_t major, uint32_t minor, int64_t timeout_ms);

// Runs a program in that sandbox. argv[0] is a full path; in the sandbox the device is
// /run/image. Returns the exit code; output gets what the program printed. After
// timeout_ms kills the program and returns kUnavailable with ETIMEDOUT.
struct SandboxedCheck {
  std::string what;  // for error texts
  std::vector<std::string> argv;
  dev_t device = 0;
  int64_t timeout_ms = 0;
  uint64_t cpu_seconds = 0;
};
Result<int> RunInFsckSandbox(const SandboxedCheck& check, std::string* output);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_FS_CHECK_H_
