// SPDX-License-Identifier: Apache-2.0
// ErofsBuilder: layers as one erofs file system: 4 KiB blocks, extended inodes,
// flat data, inline extended attributes, no compression. It mounts from Linux
// 5.4 on.
//
// Layout: as with ext4, metadata grows from the front and file contents from
// kDataZoneBlock on, and no place is used twice. The root's inode follows the
// superblock in block 0. A record holds an inode, its extended attributes and, if there
// is room in the block, the end of its content (a symlink's target, a directory's last
// block). A layer appends new records and changes old ones in place. If the content of a
// directory no longer fits into its record, it gets blocks of its own. If the extended
// attributes of an inode no longer fit, its record moves, and the names that lead to it
// are written anew.
#ifndef FASTOCI_IMAGE_EROFS_BUILDER_H_
#define FASTOCI_IMAGE_EROFS_BUILDER_H_

#include <unordered_map>
#include <unordered_set>

#include "image/fs_builder.h"

namespace fastoci {

class ErofsBuilder : public FsBuilder {
 public:
  static Result<std::unique_ptr<FsBuilder>> Create(const Sha256Digest& identity,
                                                   uint64_t fs_bytes);

 protected:
  Result<uint32_t> NewInode(bool directory) override;
  Status WriteAttributes(uint32_t ino, const InodeAttributes& attributes) override;
  Result<InodeAttributes> ReadAttributes(uint32_t ino) override { return inodes_.at(ino).attributes; }
  Status WriteXattrs(uint32_t ino, const Xattrs& xattrs, bool add) override;
  Status WriteSymlink(FileNode* node, const std::string& target) override;
  Status WriteDevice(FileNode* node, uint32_t major, uint32_t minor) override;
  Result<std::vector<FileExtent>> WriteRegular(
      FileNode* node, uint64_t size,
      const std::vector<std::pair<uint64_t, uint64_t>>& blocks) override;
  void OnGone(FileNode* node) override;
  uint32_t NameHash(std::string_view) override { return 0; }
  uint32_t max_links() const override { return UINT32_MAX; }
  int64_t max_mtime_sec() const override { return INT64_MAX; }
  Status Flush(const std::vector<uint32_t>& changed_links) override;

 private:
  struct Inode {
    InodeAttributes attributes;
    Bytes xattrs;             // as they lie behind the inode; empty: none
    uint64_t size = 0;        // of a directory: of its content as it was written last
    uint32_t device = 0;      // of device nodes
    uint64_t offset = 0;      // of the record on the device; 0: has no place yet
    uint64_t room = 0;        // of the record
    uint32_t block = 0;       // of the content, as far as it is not in the record
    uint32_t nr_blocks = 0;   // reserved there
    bool dirty = true;
  };

  ErofsBuilder(const Sha256Digest& identity, uint64_t fs_bytes)
      : FsBuilder(fs_bytes), identity_(identity) {}
  Result<uint64_t> AllocateMetadata(uint64_t nr_blocks);
  Status PlaceRecord(Inode* inode, uint64_t bytes);
  // The content of a directory or symlink; other nodes have none here.
  Result<Bytes> ContentOf(const FileNode& node);
  uint64_t ContentBytes(const FileNode& node);
  static bool IsInline(const Inode& inode, uint64_t content_bytes);
  Status Place(const FileNode& node);
  void MarkNamesDirty(const std::unordered_set<uint32_t>& moved);
  Status Write(const FileNode& node);
  void WriteSuperblock();

  Sha256Digest identity_;
  std::unordered_map<uint32_t, Inode> inodes_;
  std::unordered_set<uint32_t> dirty_;
  // Files, not directories, whose record has moved since their names were written.
  std::unordered_set<uint32_t> moved_;
  uint32_t next_ino_ = 0;
  uint64_t next_metadata_ = 1, next_data_ = 0;  // blocks
  uint64_t record_at_ = 0, record_end_ = 0;     // room for records in a block
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_EROFS_BUILDER_H_
