// SPDX-License-Identifier: Apache-2.0
// Ext4Fs: an ext4 file system on a MemoryDevice. libext2fs makes and changes the
// superblock, groups, bitmaps, inodes and extended attributes. This class writes the
// extent trees, because files are laid out as a whole. ext4_dir writes the directories.
//
// Layout: by default 64 GiB, of 4 KiB blocks. All group metadata lies at the front (one flex
// group, no backups); behind it a zone for other metadata (directories, extent
// trees, long symlinks), then file contents from kDataZoneBlock on. Blocks are given out
// in ascending order, and none is given out again before the device is used up. So a file
// is one extent, and a layer changes little of the layers below. With gdt_csum, the
// bitmaps and inode tables of unused groups are not written.
//
// Nothing depends on the clock, on random numbers or on addresses.
#ifndef FASTOCI_IMAGE_EXT4_FS_H_
#define FASTOCI_IMAGE_EXT4_FS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/result.h"
#include "image/memory_device.h"

namespace fastoci {

inline constexpr uint32_t kDataZoneBlock = 16 * 32768;
inline constexpr uint32_t kMaxLinks = 65000;
// In the year 2446: 34 bits, of which the low 32 are signed.
inline constexpr int64_t kMaxExt4Time = INT32_MAX + (3LL << 32);

struct BlockRun {
  uint32_t block = 0, nr_blocks = 0;
};

// logical block, physical block, length
struct FileExtent {
  uint32_t logical = 0, block = 0, nr_blocks = 0;
};

struct InodeAttributes {
  uint32_t mode = 0;  // with the file type
  uint32_t uid = 0, gid = 0;
  int64_t mtime_sec = 0;
  uint32_t mtime_nsec = 0;
};

// What an inode holds besides its attributes.
struct InodeContent {
  uint64_t size = 0;
  uint32_t links = 1;
  bool indexed = false;             // directory with an hash tree
  std::vector<FileExtent> extents;  // sorted; files, directories, long symlinks
  std::string fast_symlink;         // below 60 bytes
  uint32_t dev_major = 0, dev_minor = 0;
};

class Ext4Fs {
 public:
  // identity decides UUID, hash seed and inode generations. The device must
  // outlive the file system.
  static Result<std::unique_ptr<Ext4Fs>> Create(MemoryDevice* device, const Sha256Digest& identity,
                                                uint64_t fs_bytes);
  // Opens the file system that is on the device, an empty one as mke2fs makes it. It
  // may have no feature that we do not write. Checksums of metadata are switched off,
  // and those of group descriptors on. fs_bytes: of the device.
  static Result<std::unique_ptr<Ext4Fs>> Open(MemoryDevice* device, const Sha256Digest& identity,
                                              uint64_t fs_bytes);
  ~Ext4Fs();
  Ext4Fs(const Ext4Fs&) = delete;
  Ext4Fs& operator=(const Ext4Fs&) = delete;

  MemoryDevice* device() { return device_; }
  const uint32_t* hash_seed() const;

  // Names and inodes, without "." and "..".
  Result<std::vector<std::pair<std::string, uint32_t>>> ReadDirectory(uint32_t ino);
  // Of a file that needs no block for its extent tree.
  Result<std::vector<FileExtent>> ReadExtents(uint32_t ino);

  Result<uint32_t> NewInode(bool directory);
  // nr_blocks > 0; as few runs as there is room for.
  Result<std::vector<BlockRun>> AllocateData(uint64_t nr_blocks);
  Result<std::vector<BlockRun>> AllocateMetadata(uint64_t nr_blocks);

  // A new inode, or one that is written anew; its extended attributes stay.
  Status WriteAttributes(uint32_t ino, const InodeAttributes& attributes);
  Result<InodeAttributes> ReadAttributes(uint32_t ino);
  // tree_blocks: of the inode's extent tree; reused, and extended if need be.
  Status WriteContent(uint32_t ino, const InodeContent& content,
                      std::vector<uint32_t>* tree_blocks);
  Status WriteLinks(uint32_t ino, uint32_t links);
  // Replaces all extended attributes of the inode, or with add only those of the same names.
  // xattrs: their names are of namespaces that ext4 knows.
  Status WriteXattrs(uint32_t ino, const std::map<std::string, std::string>& xattrs, bool add);

  // Frees the inode, or the blocks, at the next Flush(). Until then they are not given out
  // again, because what one layer maps must not overlap.
  void FreeLater(uint32_t ino, bool directory);
  void FreeLater(BlockRun run) { free_runs_.push_back(run); }

  // Writes out what libext2fs keeps.
  Status Flush();

 private:
  Ext4Fs(MemoryDevice* device, uint64_t fs_bytes);
  Status Initialize(const Sha256Digest& identity);
  Status Load(const Sha256Digest& identity);
  void Adopt(const Sha256Digest& identity);
  Result<std::vector<BlockRun>> Allocate(uint64_t nr_blocks, uint32_t* goal);
  Status FreeInode(uint32_t ino, bool directory);
  Status WriteExtents(const std::vector<FileExtent>& extents, std::vector<uint32_t>* tree_blocks,
                      uint8_t* root);
  Result<uint32_t> TreeBlock(std::vector<uint32_t>* tree_blocks, size_t* used);
  static errcode_t AllocateHook(ext2_filsys fs, blk64_t goal, blk64_t* out);

  MemoryDevice* device_;
  uint64_t nr_blocks_;
  uint32_t nr_inodes_;
  ext2_filsys fs_ = nullptr;
  uint32_t identity_word_ = 0;
  uint32_t next_inode_ = 0, next_metadata_ = 0, next_data_ = kDataZoneBlock;
  std::vector<std::pair<uint32_t, bool>> free_inodes_;
  std::vector<BlockRun> free_runs_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_EXT4_FS_H_
