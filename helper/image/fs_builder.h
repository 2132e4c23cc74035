// SPDX-License-Identifier: Apache-2.0
// FsBuilder: turns the layers of an image, bottom first, each as its tar entries
// in order, into file-system metadata: per layer an LSMT file (codec/lsmt.h)
// with the blocks of metadata that the layer changes and mappings of file
// contents to sectors of the layer's tar stream. Stacked, they are one file
// system. Memory is bounded by the image's metadata.
//
// Here is what OCI layers mean (whiteouts, opaque directories, hard links,
// missing parents), on a FileTree; how it is written down is the file system's:
// Ext4Builder and ErofsBuilder.
//
// Every block of a file is mapped by the layer that brings the file, zeros
// included, so nothing of a lower layer shows through.
#ifndef FASTOCI_IMAGE_FS_BUILDER_H_
#define FASTOCI_IMAGE_FS_BUILDER_H_

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

namespace fastoci {

inline constexpr uint64_t kDefaultFsBytes = 64ULL << 30;
// The least, and the most that a device with 32-bit sector numbers holds.
inline constexpr uint64_t kMinFsBytes = 4ULL << 30, kMaxFsBytes = 2047ULL << 30;

// One entry of a layer with all that there is to say about its data.
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
  // On the (ext4) file system of a base layer, of which the layers are as those of
  // a file system of our own.
  static Result<std::unique_ptr<FsBuilder>> CreateOn(const BaseLayer& base,
                                                     const Sha256Digest& identity);
  uint64_t fs_bytes() const { return fs_bytes_; }
  virtual ~FsBuilder() = default;
  FsBuilder(const FsBuilder&) = delete;
  FsBuilder& operator=(const FsBuilder&) = delete;

  void BeginLayer();
  // An error names the entry's offset in the tar and its path; it uses up the
  // builder.
  Status Add(const LayerEntry& entry);
  // What the layer changes, with segments of zeros, of content.data and of the
  // tar stream.
  Result<LsmtContent> FinishLayer();

 protected:
  explicit FsBuilder(uint64_t fs_bytes) : fs_bytes_(fs_bytes) {}

  // What a file system does. Nodes are known by their ino.
  virtual Result<uint32_t> NewInode(bool directory) = 0;
  // A new inode, or one that is written anew; its extended attributes stay.
  virtual Status WriteAttributes(uint32_t ino, const InodeAttributes& attributes) = 0;
  virtual Status WriteXattrs(uint32_t ino, const std::map<std::string, std::string>& xattrs) = 0;
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
  // Brings the device up to date: changed_links: files that have got or lost
  // names (and may be gone). Directories know themselves whether they are dirty.
  virtual Status Flush(const std::vector<uint32_t>& changed_links) = 0;

  uint64_t fs_bytes_;
  MemoryDevice device_;
  FileTree tree_;

 private:
  static Result<std::unique_ptr<FsBuilder>> Prepare(std::unique_ptr<FsBuilder> b);
  Status AddEntry(const LayerEntry& entry);
  Status OnWhiteout(const std::string& parent, const std::string& name);
  Status PutDirectory(FileNode* parent, const std::string& name, const TarEntry& entry);
  Status PutHardLink(FileNode* parent, const std::string& name, const TarEntry& entry);
  Status PutFile(FileNode* parent, const std::string& name, const LayerEntry& entry);
  Result<FileNode*> MakeDirectory(FileNode* parent, const std::string& name,
                                  const InodeAttributes& attributes);
  Result<FileNode*> ResolveParent(std::string_view path, const TarEntry* for_entry);

  uint32_t nr_layers_ = 0;
  std::optional<LsmtBuilder> lsmt_;
  // The last parent that was resolved; entries come directory by directory.
  std::string last_parent_path_;
  FileNode* last_parent_ = nullptr;
  std::vector<uint32_t> changed_links_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_FS_BUILDER_H_
