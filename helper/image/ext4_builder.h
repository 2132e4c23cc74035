// SPDX-License-Identifier: Apache-2.0
// Ext4Builder: turns the layers of an image, bottom first, each as a stream of
// tar entries, into one ext4.fs.meta per layer (LSMT, see codec/lsmt.h): blocks
// of metadata that the layer changes, and mappings of file contents to sectors
// of the layer's tar stream. Stacked, they are one ext4 file system. Memory is
// bounded by the image's metadata. See ext4_fs.h for the layout.
//
// Every block of a file is mapped by the layer that brings the file, zeros
// included, so nothing of a lower layer shows through.
#ifndef FASTOCI_IMAGE_EXT4_BUILDER_H_
#define FASTOCI_IMAGE_EXT4_BUILDER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/result.h"
#include "codec/lsmt.h"
#include "codec/tar_reader.h"
#include "image/ext4_fs.h"
#include "image/file_mapping.h"
#include "image/file_tree.h"

namespace fastoci {

// Goes into every meta layer: what a rebuild must use to get the same bytes.
inline constexpr int kConvertorFormatVersion = 1;

class Ext4Builder : public TarSink {
 public:
  // identity: a digest of what is converted, e.g. of the bottom layer.
  static Result<std::unique_ptr<Ext4Builder>> Create(const Sha256Digest& identity);

  void BeginLayer();
  Status OnEntry(const TarEntry& entry) override;
  Status OnData(uint64_t offset, ByteSpan data) override;
  Status OnEntryEnd(bool zero_padding) override;
  // The layer's ext4.fs.meta.
  Result<Bytes> FinishLayer();

 private:
  Ext4Builder() = default;
  Status OnWhiteout(const std::string& parent, const std::string& name);
  Status PutDirectory(FileNode* parent, const std::string& name, const TarEntry& entry);
  Status PutHardLink(FileNode* parent, const std::string& name, const TarEntry& entry);
  Status PutFile(FileNode* parent, const std::string& name, const TarEntry& entry);
  Status WriteSymlink(FileNode* node, const TarEntry& entry);
  Status WriteRegular(FileNode* node, const TarEntry& entry);
  Result<FileNode*> MakeDirectory(FileNode* parent, const std::string& name,
                                  const InodeAttributes& attributes);
  Result<FileNode*> ResolveParent(std::string_view path, const TarEntry* for_entry);
  Status WriteDirectory(FileNode* node);
  Result<std::vector<FileExtent>> Extents(const std::vector<std::pair<uint64_t, uint64_t>>& blocks);
  void OnGone(FileNode* node);

  MemoryDevice device_;
  std::unique_ptr<Ext4Fs> fs_;
  FileTree tree_;
  uint32_t nr_layers_ = 0;
  std::optional<LsmtBuilder> lsmt_;
  // The file whose data is coming.
  std::optional<FileMapping> mapping_;
  std::vector<FileExtent> extents_;
  // The last parent that was resolved; entries come directory by directory.
  std::string last_parent_path_;
  FileNode* last_parent_ = nullptr;
  std::vector<uint32_t> fewer_links_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_EXT4_BUILDER_H_
