// SPDX-License-Identifier: Apache-2.0
#include "image/ext4_builder.h"

#include <algorithm>

#include "image/base_layer.h"

namespace fastoci {
namespace {

constexpr size_t kMaxFastSymlink = 59;
constexpr uint64_t kMaxFsFileBytes = (1ULL << 32) * kFsBlockBytes - kFsBlockBytes;

// Cuts off what comes after the first nr_blocks, and returns it.
std::vector<BlockRun> CutExtents(std::vector<FileExtent>* extents, uint32_t nr_blocks) {
  std::vector<BlockRun> cut;
  while (!extents->empty() && extents->back().logical + extents->back().nr_blocks > nr_blocks) {
    FileExtent& last = extents->back();
    const uint32_t keep = last.logical >= nr_blocks ? 0 : nr_blocks - last.logical;
    cut.push_back({last.block + keep, last.nr_blocks - keep});
    last.nr_blocks = keep;
    if (keep == 0) extents->pop_back();
  }
  return cut;
}

}  // namespace

Result<std::unique_ptr<FsBuilder>> Ext4Builder::CreateOn(const BaseLayer& base,
                                                         const Sha256Digest& identity) {
  std::unique_ptr<Ext4Builder> b(new Ext4Builder(base.fs_bytes()));
  FASTOCI_CHECK_OK(base.Load(&b->device_));
  FASTOCI_TRY(b->fs_, Ext4Fs::Open(&b->device_, identity, base.fs_bytes()));
  FASTOCI_TRY(auto names, b->fs_->ReadDirectory(EXT2_ROOT_INO));
  FileNode* root = b->tree_.root();
  FASTOCI_TRY(root->extents, b->fs_->ReadExtents(root->ino));
  // Layer 0: below the first one, which may hide or replace it.
  for (const auto& [name, ino] : names) {
    if (name != "lost+found")
      return InvalidError("base layer: its file system is not empty: it has '" + name + "'");
    FileNode* node = b->tree_.NewNode(ino, EXT2_FT_DIR);
    FASTOCI_TRY(node->extents, b->fs_->ReadExtents(ino));
    node->dir->dirty = false;
    b->tree_.Add(root, name, node, b->NameHash(name));
  }
  return std::unique_ptr<FsBuilder>(std::move(b));
}

Result<std::unique_ptr<FsBuilder>> Ext4Builder::Create(const Sha256Digest& identity,
                                                       uint64_t fs_bytes) {
  std::unique_ptr<Ext4Builder> b(new Ext4Builder(fs_bytes));
  FASTOCI_TRY(b->fs_, Ext4Fs::Create(&b->device_, identity, fs_bytes));
  return std::unique_ptr<FsBuilder>(std::move(b));
}

void Ext4Builder::OnGone(FileNode* node) {
  for (const FileExtent& e : node->extents) fs_->FreeLater({e.block, e.nr_blocks});
  for (uint32_t block : node->tree_blocks) fs_->FreeLater({block, 1});
  fs_->FreeLater(node->ino, node->dir != nullptr);
}

Status Ext4Builder::WriteDevice(FileNode* node, uint32_t major, uint32_t minor) {
  InodeContent content;
  content.dev_major = major;
  content.dev_minor = minor;
  return fs_->WriteContent(node->ino, content, &node->tree_blocks);
}

Status Ext4Builder::WriteSymlink(FileNode* node, const std::string& target) {
  InodeContent content;
  content.size = target.size();
  if (target.size() <= kMaxFastSymlink) {
    content.fast_symlink = target;
  } else {
    FASTOCI_TRY(auto runs, fs_->AllocateMetadata(1));
    node->extents = content.extents = {{0, runs.front().block, 1}};
    MemoryDevice::Block block{};
    std::copy(target.begin(), target.end(), block.begin());
    device_.WriteBlock(runs.front().block, block);
  }
  return fs_->WriteContent(node->ino, content, &node->tree_blocks);
}

Result<std::vector<FileExtent>> Ext4Builder::Extents(
    const std::vector<std::pair<uint64_t, uint64_t>>& blocks) {
  uint64_t total = 0;
  for (auto [logical, n] : blocks) total += n;
  std::vector<FileExtent> extents;
  if (total == 0) return extents;
  FASTOCI_TRY(auto runs, fs_->AllocateData(total));
  auto run = runs.begin();
  for (auto [logical, n] : blocks) {
    while (n > 0) {
      uint32_t part = static_cast<uint32_t>(std::min<uint64_t>(n, run->nr_blocks));
      extents.push_back({static_cast<uint32_t>(logical), run->block, part});
      logical += part;
      n -= part;
      run->block += part;
      run->nr_blocks -= part;
      if (run->nr_blocks == 0) ++run;
    }
  }
  return extents;
}

Result<std::vector<FileExtent>> Ext4Builder::WriteRegular(
    FileNode* node, uint64_t size, const std::vector<std::pair<uint64_t, uint64_t>>& blocks) {
  if (size > kMaxFsFileBytes) return InvalidError("file larger than ext4 can hold");
  FASTOCI_TRY(node->extents, Extents(blocks));
  InodeContent content;
  content.size = size;
  content.extents = node->extents;
  FASTOCI_CHECK_OK(fs_->WriteContent(node->ino, content, &node->tree_blocks));
  return node->extents;
}

Status Ext4Builder::WriteDirectory(FileNode* node) {
  DirectoryNode* dir = node->dir.get();
  std::vector<DirEntry> entries;
  entries.reserve(dir->names.size());
  for (const auto& [name, entry] : dir->names)
    entries.push_back({name, entry.node->ino, entry.hash, entry.node->file_type});
  FASTOCI_TRY(auto blocks, dir->layout.Build(node->ino, dir->parent->ino, std::move(entries)));
  // Only a base layer's directory has more than it needs.
  for (BlockRun run : CutExtents(&node->extents, static_cast<uint32_t>(dir->layout.nr_blocks())))
    fs_->FreeLater(run);
  uint32_t have = 0;
  for (const FileExtent& e : node->extents) have += e.nr_blocks;
  if (dir->layout.nr_blocks() > have) {
    FASTOCI_TRY(auto runs, fs_->AllocateMetadata(dir->layout.nr_blocks() - have));
    for (BlockRun run : runs) {
      FileExtent* last = node->extents.empty() ? nullptr : &node->extents.back();
      if (last != nullptr && last->block + last->nr_blocks == run.block) {
        last->nr_blocks += run.nr_blocks;
      } else {
        node->extents.push_back({have, run.block, run.nr_blocks});
      }
      have += run.nr_blocks;
    }
  }
  for (const auto& [logical, data] : blocks) {
    auto e = std::partition_point(
        node->extents.begin(), node->extents.end(),
        [&](const FileExtent& x) { return x.logical + x.nr_blocks <= logical; });
    device_.WriteBlock(e->block + (logical - e->logical), data);
  }
  InodeContent content;
  content.size = dir->layout.nr_blocks() * kFsBlockBytes;
  content.links = node->links > kMaxLinks ? 1 : node->links;
  content.indexed = dir->layout.indexed();
  content.extents = node->extents;
  FASTOCI_CHECK_OK(fs_->WriteContent(node->ino, content, &node->tree_blocks));
  dir->dirty = false;
  return OkStatus();
}

Status Ext4Builder::Flush(const std::vector<uint32_t>& changed_links) {
  std::vector<uint32_t> dirty;
  for (const auto& [ino, node] : tree_.nodes())
    if (node->dir && node->dir->dirty) dirty.push_back(ino);
  std::sort(dirty.begin(), dirty.end());
  for (uint32_t ino : dirty) FASTOCI_CHECK_OK(WriteDirectory(tree_.nodes().at(ino).get()));
  for (uint32_t ino : changed_links) {
    auto it = tree_.nodes().find(ino);
    if (it != tree_.nodes().end() && !it->second->dir)
      FASTOCI_CHECK_OK(fs_->WriteLinks(ino, it->second->links));
  }
  return fs_->Flush();
}

}  // namespace fastoci
