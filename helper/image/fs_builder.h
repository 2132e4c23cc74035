// SPDX-License-Identifier: Apache-2.0
// FsBuilder turns the layers of an image into file-system metadata. It gets the layers
// bottom first, and the tar entries of each in order. For each layer it makes the content
// of an LSMT file (codec/lsmt.h): the blocks of metadata that the layer changes, and
// mappings of file contents to sectors of the layer's tar stream. Stacked, these files are
// one file system. Memory grows with the image's metadata, not with its data.
//
// This class knows what OCI layers mean (whiteouts, opaque directories, hard links,
// missing parents) and applies it to a FileTree. Ext4Builder and ErofsBuilder know how
// a file system is written down.
//
// The layer that brings a file maps every block of it, blocks of zeros included. So
// nothing of a lower layer shows through.
#ifndef FASTOCI_IMAGE_FS_BUILDER_H_
#define FASTOCI_IMAGE_FS_BUILDER_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/result.h"
#include "codec/lsmt.h"
#include "codec/tar_reader.h"
#include "image/file_mapping.h"
#include "image/file_tree.h"
#include "image/fs_type.h"
#include "image/xattrs.h"

namespace fastoci {

inline constexpr uint64_t kDefaultFsBytes = 64ULL << 30;
// The smallest size, and the largest one that 32-bit sector numbers allow.
inline constexpr uint64_t kMinFsBytes = 4ULL << 30, kMaxFsBytes = 2047ULL << 30;

// One entry of a layer, after all of its data was seen.
struct LayerEntry {
  TarEntry tar;
  std::optional<FileMapping> mapping;  // of regular files
  bool zero_padding = true;            // see TarSink::OnEntryEnd()
};

class BaseLayer;

class FsBuilder {
 public:
  // identity: a digest of what is converted, e.g. of the bottom layer. fs_bytes:
  // of the device, whole GiB.
  static Result<std::unique_ptr<FsBuilder>> Create(FsType type, const Sha256Digest& identity,
                                                   uint64_t fs_bytes = kDefaultFsBytes);
  // Builds on the (ext4) file system of a base layer.
  static Result<std::unique_ptr<FsBuilder>> CreateOn(const BaseLayer& base,
                                                     const Sha256Digest& identity);
  uint64_t fs_bytes() const { return fs_bytes_; }
  virtual ~FsBuilder() = default;
  FsBuilder(const FsBuilder&) = delete;
  FsBuilder& operator=(const FsBuilder&) = delete;

  void BeginLayer();
  // An error names the entry's path and its offset in the tar. After an error the builder
  // must not be used any more.
  Status Add(const LayerEntry& entry);
  // warn: called from Add() when something is not made as the layer says. It is called once
  // for each kind of change.
  void set_warn(std::function<void(const std::string&)> warn) { warn_ = std::move(warn); }
  // Ends the layer and returns what it changes. The segments map zeros, sectors of
  // content.data or sectors of the tar stream.
  Result<LsmtContent> FinishLayer();

 protected:
  explicit FsBuilder(uint64_t fs_bytes) : fs_bytes_(fs_bytes) {}

  // What a file system does. Nodes are known by their ino.
  virtual Result<uint32_t> NewInode(bool directory) = 0;
  // A new inode, or one that is written anew; its extended attributes stay.
  virtual Status WriteAttributes(uint32_t ino, const InodeAttributes& attributes) = 0;
  virtual Result<InodeAttributes> ReadAttributes(uint32_t ino) = 0;
  // Replaces all that the inode has, or (add) those of the same names. xattrs: of
  // SettableXattrs().
  virtual Status WriteXattrs(uint32_t ino, const Xattrs& xattrs, bool add) = 0;
  virtual Status WriteSymlink(FileNode* node, const std::string& target) = 0;
  virtual Status WriteDevice(FileNode* node, uint32_t major, uint32_t minor) = 0;
  // blocks: (logical block, count) of those that hold data. Returns where they
  // are put.
  virtual Result<std::vector<FileExtent>> WriteRegular(
      FileNode* node, uint64_t size, const std::vector<std::pair<uint64_t, uint64_t>>& blocks) = 0;
  // The node's last name went.
  virtual void OnGone(FileNode* node) = 0;
  virtual uint32_t NameHash(std::string_view name) = 0;
  virtual uint32_t max_links() const = 0;
  virtual int64_t max_mtime_sec() const = 0;
  // Brings the device up to date: changed_links: files that have got or lost
  // names (and may be gone). Directories know themselves whether they are dirty.
  virtual Status Flush(const std::vector<uint32_t>& changed_links) = 0;

  uint64_t fs_bytes_;
  MemoryDevice device_;
  FileTree tree_;

 private:
  static Result<std::unique_ptr<FsBuilder>> Prepare(std::unique_ptr<FsBuilder> b);
  Status AddEntry(const LayerEntry& entry);
  Status OnWhiteout(const std::string& parent, const std::string& name, const TarEntry& entry);
  Status PutDirectory(FileNode* parent, const std::string& name, const TarEntry& entry);
  Status PutHardLink(FileNode* parent, const std::string& name, const TarEntry& entry);
  Status PutAufsLink(FileNode* parent, const std::string& name, const TarEntry& entry);
  Status PutFile(FileNode* parent, const std::string& name, const LayerEntry& entry);
  Status SetXattrs(uint32_t ino, const TarEntry& entry, TarType type, bool add);
  InodeAttributes AttributesOf(const TarEntry& entry, TarType type);
  int64_t BoundTime(int64_t sec);
  Result<FileNode*> MakeDirectory(FileNode* parent, const std::string& name,
                                  const InodeAttributes& attributes);
  Result<FileNode*> ResolveParent(std::string_view path, const TarEntry& for_entry);

  uint32_t nr_layers_ = 0;
  std::optional<LsmtBuilder> lsmt_;
  std::function<void(const std::string&)> warn_;
  bool warned_of_time_ = false;
  // The layer's files in .wh..wh.plnk, by name. aufs kept the content of hard links there.
  // The files are not in the tree, but hard links to them are.
  std::map<std::string, LayerEntry> aufs_links_;
  // The last parent that was resolved; entries come directory by directory.
  std::string last_parent_path_;
  FileNode* last_parent_ = nullptr;
  std::vector<uint32_t> changed_links_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_FS_BUILDER_H_
