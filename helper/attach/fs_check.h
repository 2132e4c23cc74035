// SPDX-License-Identifier: Apache-2.0
// What must hold before the kernel is asked to mount an image's file system.
//
// Whoever built the meta image chose every byte of the superblock, and ext4
// trusts it with a lot: journals, features of which some are rarely exercised,
// mount options of its own. So (1) the superblock is compared with a list of
// what our images need and everything else is refused, and (2) e2fsck -fn runs
// over the device once, in a sandbox: its own mount, network, pid and IPC
// namespaces, user nobody, no capabilities, a seccomp list without any way to
// open something for writing, limits on memory and time. It sees one device
// node, made for it.
#ifndef FASTOCI_ATTACH_FS_CHECK_H_
#define FASTOCI_ATTACH_FS_CHECK_H_

#include <cstdint>
#include <string>

#include "base/byte_reader.h"
#include "base/result.h"
#include "image/fs_type.h"

namespace fastoci {

inline constexpr uint64_t kSuperblockOffset = 1024;
inline constexpr uint64_t kSuperblockBytes = 1024;

const char* FsTypeName(FsType type);

// superblock: kSuperblockBytes at kSuperblockOffset of a device of device_bytes.
Result<FsType> CheckSuperblock(ByteSpan superblock, uint64_t device_bytes);

// The same from an open device.
Result<FsType> CheckDeviceSuperblock(int fd, const std::string& device);

// Runs e2fsck -fn or fsck.erofs over the block device in the sandbox. kMismatch
// if it finds the file system damaged, kUnsupported if the program is missing.
Status RunFsck(FsType type, uint32_t major, uint32_t minor, int64_t timeout_ms);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_FS_CHECK_H_
