// SPDX-License-Identifier: Apache-2.0
#include "attach/fs_check.h"

#include <linux/fs.h>
#include <sys/ioctl.h>

#include <cstdio>
#include <iterator>

#include "attach/bounded.h"

namespace fastoci {
namespace {

constexpr uint16_t kExt4Magic = 0xef53;
constexpr uint32_t kErofsMagic = 0xe0f5e1e2;

// ext_attr, resize_inode, dir_index, sparse_super2
constexpr uint32_t kExt4Compat = 0x8 | 0x10 | 0x20 | 0x200;
// filetype, extents, 64bit, flex_bg
constexpr uint32_t kExt4Incompat = 0x2 | 0x40 | 0x80 | 0x200;
// sparse_super, large_file, huge_file, gdt_csum, dir_nlink, extra_isize, metadata_csum
constexpr uint32_t kExt4RoCompat = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x400;
// user_xattr, acl, block_validity
constexpr uint32_t kExt4DefaultMountOpts = 0x4 | 0x8 | 0x200;

// superblock checksum, modification times
constexpr uint32_t kErofsCompat = 0x1 | 0x2;
constexpr uint32_t kErofsIncompat = 0;

constexpr size_t kExt4MountOptsOffset = 0x200, kExt4MountOptsBytes = 64;

std::string Hex(uint32_t v) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%x", v);
  return text;
}

uint32_t At32(ByteSpan sb, size_t offset) { return ByteReader(sb.subspan(offset, 4)).U32(); }
uint16_t At16(ByteSpan sb, size_t offset) { return ByteReader(sb.subspan(offset, 2)).U16(); }

Error Refuse(const std::string& why) {
  return {ErrorKind::kUnsupported, EPERM,
          "refused to mount: " + why +
              "; convert the image again, with a convertor that you trust"};
}

Status CheckMask(const char* name, uint32_t value, uint32_t allowed) {
  if ((value & ~allowed) == 0) return OkStatus();
  return Refuse(std::string(name) + " features " + Hex(value & ~allowed) + " are not allowed");
}

Status CheckExt4(ByteSpan sb, uint64_t device_bytes) {
  uint32_t log_block = At32(sb, 0x18);
  if (log_block > 2) return Refuse("the ext4 file system has blocks larger than 4 KiB");
  uint64_t block_bytes = 1024ULL << log_block;
  FASTOCI_CHECK_OK(CheckMask("ext4 compat", At32(sb, 0x5c), kExt4Compat));
  FASTOCI_CHECK_OK(CheckMask("ext4 incompat", At32(sb, 0x60), kExt4Incompat));
  FASTOCI_CHECK_OK(CheckMask("ext4 ro_compat", At32(sb, 0x64), kExt4RoCompat));
  FASTOCI_CHECK_OK(CheckMask("ext4 default mount", At32(sb, 0x100), kExt4DefaultMountOpts));
  bool wide = (At32(sb, 0x60) & 0x80) != 0;
  uint64_t blocks = At32(sb, 0x4) | (wide ? static_cast<uint64_t>(At32(sb, 0x150)) << 32 : 0);
  if (blocks == 0 || blocks > device_bytes / block_bytes) {
    return Refuse("the ext4 file system is larger than its device");
  }
  if (At32(sb, 0x4c) > 1) return Refuse("unknown ext4 revision");
  uint16_t inode_bytes = At16(sb, 0x58);
  if (inode_bytes < 128 || inode_bytes > block_bytes || (inode_bytes & (inode_bytes - 1)) != 0) {
    return Refuse("bad ext4 inode size");
  }
  if (At32(sb, 0xe0) != 0 || At32(sb, 0xe4) != 0) return Refuse("the ext4 file system has a journal");
  if (At32(sb, 0xe8) != 0) return Refuse("the ext4 file system has orphaned inodes");
  for (uint8_t c : sb.subspan(kExt4MountOptsOffset, kExt4MountOptsBytes)) {
    if (c != 0) return Refuse("the ext4 superblock holds mount options");
  }
  return OkStatus();
}

Status CheckErofs(ByteSpan sb, uint64_t device_bytes) {
  FASTOCI_CHECK_OK(CheckMask("erofs compat", At32(sb, 8), kErofsCompat));
  FASTOCI_CHECK_OK(CheckMask("erofs incompat", At32(sb, 80), kErofsIncompat));
  uint8_t block_bits = sb[12];
  if (block_bits < 9 || block_bits > 12) return Refuse("bad erofs block size");
  uint64_t blocks = At32(sb, 36);
  if (blocks == 0 || blocks > device_bytes >> block_bits) {
    return Refuse("the erofs file system is larger than its device");
  }
  return OkStatus();
}

}  // namespace

const char* FsTypeName(FsType type) { return type == FsType::kExt4 ? "ext4" : "erofs"; }

Result<FsType> CheckSuperblock(ByteSpan sb, uint64_t device_bytes) {
  if (sb.size() != kSuperblockBytes) return InvalidError("short superblock");
  if (At16(sb, 0x38) == kExt4Magic) {
    FASTOCI_CHECK_OK(CheckExt4(sb, device_bytes));
    return FsType::kExt4;
  }
  if (At32(sb, 0) == kErofsMagic) {
    FASTOCI_CHECK_OK(CheckErofs(sb, device_bytes));
    return FsType::kErofs;
  }
  return Error{ErrorKind::kUnsupported, EINVAL,
               "the device holds neither ext4 nor erofs: nothing to mount"};
}

Result<FsType> CheckDeviceSuperblock(int fd, const std::string& device, int64_t timeout_ms) {
  uint64_t device_bytes = 0;
  if (::ioctl(fd, BLKGETSIZE64, &device_bytes) != 0) return ErrnoError("size of " + device);
  FASTOCI_TRY(Bytes sb, ReadBounded("the superblock of " + device, fd, kSuperblockOffset,
                                    kSuperblockBytes, timeout_ms));
  return CheckSuperblock(sb, device_bytes);
}

}  // namespace fastoci
