// SPDX-License-Identifier: Apache-2.0
// Ext4Builder: layers as one ext4 file system. See ext4_fs.h for the layout.
#ifndef FASTOCI_IMAGE_EXT4_BUILDER_H_
#define FASTOCI_IMAGE_EXT4_BUILDER_H_

#include "image/ext4_fs.h"
#include "image/fs_builder.h"

namespace fastoci {

class Ext4Builder : public FsBuilder {
 public:
  static Result<std::unique_ptr<FsBuilder>> Create(const Sha256Digest& identity,
                                                   uint64_t fs_bytes);
  static Result<std::unique_ptr<FsBuilder>> CreateOn(const BaseLayer& base,
                                                     const Sha256Digest& identity);

 protected:
  Result<uint32_t> NewInode(bool directory) override { return fs_->NewInode(directory); }
  Status WriteAttributes(uint32_t ino, const InodeAttributes& attributes) override {
    return fs_->WriteAttributes(ino, attributes);
  }
  Result<InodeAttributes> ReadAttributes(uint32_t ino) override { return fs_->ReadAttributes(ino); }
  Status WriteXattrs(uint32_t ino, const Xattrs& xattrs, bool add) override {
    return fs_->WriteXattrs(ino, xattrs, add);
  }
  Status WriteSymlink(FileNode* node, const std::string& target) override;
  Status WriteDevice(FileNode* node, uint32_t major, uint32_t minor) override;
  Result<std::vector<FileExtent>> WriteRegular(
      FileNode* node, uint64_t size,
      const std::vector<std::pair<uint64_t, uint64_t>>& blocks) override;
  void OnGone(FileNode* node) override;
  uint32_t NameHash(std::string_view name) override { return DirHash(name, fs_->hash_seed()); }
  uint32_t max_links() const override { return kMaxLinks; }
  int64_t max_mtime_sec() const override { return kMaxExt4Time; }
  Status Flush(const std::vector<uint32_t>& changed_links) override;

 private:
  explicit Ext4Builder(uint64_t fs_bytes) : FsBuilder(fs_bytes) {}
  Status WriteDirectory(FileNode* node);
  Result<std::vector<FileExtent>> Extents(const std::vector<std::pair<uint64_t, uint64_t>>& blocks);

  std::unique_ptr<Ext4Fs> fs_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_EXT4_BUILDER_H_
