// SPDX-License-Identifier: Apache-2.0
#include "image/ext4_builder.h"

#include <sys/stat.h>

#include <algorithm>

namespace fastoci {
namespace {

constexpr char kWhiteout[] = ".wh.", kOpaque[] = ".wh..wh..opq", kAufs[] = ".wh..wh.";
constexpr size_t kMaxFastSymlink = 59;
constexpr uint64_t kMaxFsFileBytes = (1ULL << 32) * kFsBlockBytes - kFsBlockBytes;

uint8_t FileType(TarType type) {
  switch (type) {
    case TarType::kDirectory: return EXT2_FT_DIR;
    case TarType::kSymlink: return EXT2_FT_SYMLINK;
    case TarType::kCharDevice: return EXT2_FT_CHRDEV;
    case TarType::kBlockDevice: return EXT2_FT_BLKDEV;
    case TarType::kFifo: return EXT2_FT_FIFO;
    default: return EXT2_FT_REG_FILE;
  }
}

uint32_t TypeBits(TarType type) {
  switch (type) {
    case TarType::kDirectory: return S_IFDIR;
    case TarType::kSymlink: return S_IFLNK;
    case TarType::kCharDevice: return S_IFCHR;
    case TarType::kBlockDevice: return S_IFBLK;
    case TarType::kFifo: return S_IFIFO;
    default: return S_IFREG;
  }
}

InodeAttributes AttributesOf(const TarEntry& e) {
  // Links have no mode of their own.
  uint32_t mode = e.type == TarType::kSymlink ? 0777 : e.mode;
  return {TypeBits(e.type) | mode, e.uid, e.gid, e.mtime_sec, e.mtime_nsec};
}

}  // namespace

Result<std::unique_ptr<Ext4Builder>> Ext4Builder::Create(const Sha256Digest& identity) {
  std::unique_ptr<Ext4Builder> b(new Ext4Builder());
  FASTOCI_TRY(b->fs_, Ext4Fs::Create(&b->device_, identity));
  FASTOCI_CHECK_OK(b->fs_->WriteAttributes(EXT2_ROOT_INO, {S_IFDIR | 0755, 0, 0, 0, 0}));
  Ext4Builder* raw = b.get();
  b->tree_.gone = [raw](FileNode* node) { raw->OnGone(node); };
  b->tree_.fewer_links = [raw](FileNode* node) { raw->fewer_links_.push_back(node->ino); };
  return b;
}

void Ext4Builder::BeginLayer() {
  tree_.BeginLayer(++nr_layers_);
  lsmt_.emplace();
  last_parent_ = nullptr;
}

void Ext4Builder::OnGone(FileNode* node) {
  for (const FileExtent& e : node->extents) fs_->FreeLater({e.block, e.nr_blocks});
  for (uint32_t block : node->tree_blocks) fs_->FreeLater({block, 1});
  fs_->FreeLater(node->ino, node->dir != nullptr);
  last_parent_ = nullptr;
}

Result<FileNode*> Ext4Builder::MakeDirectory(FileNode* parent, const std::string& name,
                                             const InodeAttributes& attributes) {
  FASTOCI_TRY(uint32_t ino, fs_->NewInode(true));
  FASTOCI_CHECK_OK(fs_->WriteAttributes(ino, attributes));
  FileNode* node = tree_.NewNode(ino, EXT2_FT_DIR);
  tree_.Add(parent, name, node, DirHash(name, fs_->hash_seed()));
  return node;
}

// for_entry: missing directories are made, with its time.
Result<FileNode*> Ext4Builder::ResolveParent(std::string_view path, const TarEntry* for_entry) {
  if (for_entry != nullptr && last_parent_ != nullptr && last_parent_path_ == path)
    return last_parent_;
  FileTree::MakeDirFn make;
  if (for_entry != nullptr)
    make = [&](FileNode* parent, const std::string& name) {
      return MakeDirectory(parent, name, {S_IFDIR | 0755, 0, 0, for_entry->mtime_sec, 0});
    };
  FASTOCI_TRY(FileNode * node, tree_.ResolveDirectory(path, make));
  if (for_entry != nullptr) {
    tree_.Touch(node);
    last_parent_path_ = path;
    last_parent_ = node;
  }
  return node;
}

Status Ext4Builder::OnEntry(const TarEntry& e) {
  mapping_.reset();
  if (e.path.empty()) {
    FASTOCI_CHECK_OK(fs_->WriteAttributes(EXT2_ROOT_INO, AttributesOf(e)));
    return fs_->WriteXattrs(EXT2_ROOT_INO, e.xattrs);
  }
  size_t slash = e.path.rfind('/');
  std::string parent_path = slash == std::string::npos ? "" : e.path.substr(0, slash);
  std::string name = slash == std::string::npos ? e.path : e.path.substr(slash + 1);
  // What aufs keeps for itself.
  if (parent_path.starts_with(kAufs) || parent_path.find(std::string("/") + kAufs) != std::string::npos)
    return OkStatus();
  if (name.starts_with(kWhiteout)) return OnWhiteout(parent_path, name);
  FASTOCI_TRY(FileNode * parent, ResolveParent(parent_path, &e));
  if (e.type == TarType::kDirectory) return PutDirectory(parent, name, e);
  if (e.type == TarType::kHardLink) return PutHardLink(parent, name, e);
  return PutFile(parent, name, e);
}

Status Ext4Builder::OnWhiteout(const std::string& parent_path, const std::string& name) {
  if (name != kOpaque && name.starts_with(kAufs)) return OkStatus();
  FASTOCI_TRY(FileNode * parent, ResolveParent(parent_path, nullptr));
  if (parent == nullptr) return OkStatus();
  if (name == kOpaque) {
    tree_.RemoveLowerChildren(parent);
    return OkStatus();
  }
  std::string hidden = name.substr(sizeof(kWhiteout) - 1);
  if (hidden.empty() || hidden == "." || hidden == "..") return InvalidError("whiteout of nothing");
  tree_.RemoveLower(parent, hidden);
  return OkStatus();
}

Status Ext4Builder::PutDirectory(FileNode* parent, const std::string& name, const TarEntry& e) {
  NameEntry* old = tree_.Find(parent, name);
  FileNode* node = nullptr;
  if (old != nullptr && old->node->dir) {
    node = old->node;
    tree_.Touch(node);
    FASTOCI_CHECK_OK(fs_->WriteAttributes(node->ino, AttributesOf(e)));
  } else {
    if (old != nullptr) tree_.Remove(parent, name);
    FASTOCI_TRY(node, MakeDirectory(parent, name, AttributesOf(e)));
  }
  return fs_->WriteXattrs(node->ino, e.xattrs);
}

Status Ext4Builder::PutHardLink(FileNode* parent, const std::string& name, const TarEntry& e) {
  size_t slash = e.link.rfind('/');
  std::string target_name = slash == std::string::npos ? e.link : e.link.substr(slash + 1);
  FASTOCI_TRY(FileNode * target_dir, tree_.ResolveDirectory(
                                         slash == std::string::npos ? "" : e.link.substr(0, slash),
                                         nullptr));
  NameEntry* target = target_dir == nullptr ? nullptr : tree_.Find(target_dir, target_name);
  if (target == nullptr)
    return InvalidError("hard link to '" + e.link.substr(0, 200) + "', which is not there");
  FileNode* node = target->node;
  if (node->dir) return InvalidError("hard link to a directory");
  if (node->links >= kMaxLinks) return InvalidError("more than 65000 hard links to one file");
  NameEntry* old = tree_.Find(parent, name);
  if (old != nullptr && old->node == node) {
    old->layer = tree_.layer();
    return OkStatus();
  }
  uint32_t ino = node->ino;
  if (old != nullptr) tree_.Remove(parent, name);
  if (!tree_.nodes().contains(ino)) return InvalidError("hard link to what it replaces");
  node->links++;
  tree_.Add(parent, name, node, DirHash(name, fs_->hash_seed()));
  fewer_links_.push_back(ino);
  return OkStatus();
}

Status Ext4Builder::PutFile(FileNode* parent, const std::string& name, const TarEntry& e) {
  if (tree_.Find(parent, name) != nullptr) tree_.Remove(parent, name);
  FASTOCI_TRY(uint32_t ino, fs_->NewInode(false));
  FileNode* node = tree_.NewNode(ino, FileType(e.type));
  tree_.Add(parent, name, node, DirHash(name, fs_->hash_seed()));
  FASTOCI_CHECK_OK(fs_->WriteAttributes(ino, AttributesOf(e)));
  if (e.type == TarType::kSymlink) {
    FASTOCI_CHECK_OK(WriteSymlink(node, e));
  } else if (e.type == TarType::kFile) {
    FASTOCI_CHECK_OK(WriteRegular(node, e));
  } else {
    InodeContent content;
    content.dev_major = e.dev_major;
    content.dev_minor = e.dev_minor;
    FASTOCI_CHECK_OK(fs_->WriteContent(ino, content, &node->tree_blocks));
  }
  return e.xattrs.empty() ? OkStatus() : fs_->WriteXattrs(ino, e.xattrs);
}

Status Ext4Builder::WriteSymlink(FileNode* node, const TarEntry& e) {
  node->symlink = e.link;
  InodeContent content;
  content.size = e.link.size();
  if (e.link.size() <= kMaxFastSymlink) {
    content.fast_symlink = e.link;
  } else {
    FASTOCI_TRY(auto runs, fs_->AllocateMetadata(1));
    node->extents = content.extents = {{0, runs.front().block, 1}};
    MemoryDevice::Block block{};
    std::copy(e.link.begin(), e.link.end(), block.begin());
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

Status Ext4Builder::WriteRegular(FileNode* node, const TarEntry& e) {
  if (e.size > kMaxFsFileBytes) return InvalidError("file larger than ext4 can hold");
  mapping_.emplace(e);
  FASTOCI_TRY(extents_, Extents(mapping_->blocks()));
  node->extents = extents_;
  InodeContent content;
  content.size = e.size;
  content.extents = extents_;
  return fs_->WriteContent(node->ino, content, &node->tree_blocks);
}

Status Ext4Builder::OnData(uint64_t offset, ByteSpan data) {
  return mapping_ ? mapping_->OnData(offset, data) : OkStatus();
}

Status Ext4Builder::OnEntryEnd(bool zero_padding) {
  if (mapping_) mapping_->Emit(zero_padding, extents_, &*lsmt_);
  mapping_.reset();
  return OkStatus();
}

Status Ext4Builder::WriteDirectory(FileNode* node) {
  DirectoryNode* dir = node->dir.get();
  std::vector<DirEntry> entries;
  entries.reserve(dir->names.size());
  for (const auto& [name, entry] : dir->names)
    entries.push_back({name, entry.node->ino, entry.hash, entry.node->file_type});
  FASTOCI_TRY(auto blocks, dir->layout.Build(node->ino, dir->parent->ino, std::move(entries)));
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

Result<Bytes> Ext4Builder::FinishLayer() {
  std::vector<uint32_t> dirty;
  for (const auto& [ino, node] : tree_.nodes())
    if (node->dir && node->dir->dirty) dirty.push_back(ino);
  std::sort(dirty.begin(), dirty.end());
  for (uint32_t ino : dirty) FASTOCI_CHECK_OK(WriteDirectory(tree_.nodes().at(ino).get()));
  for (uint32_t ino : fewer_links_) {
    auto it = tree_.nodes().find(ino);
    if (it != tree_.nodes().end() && !it->second->dir)
      FASTOCI_CHECK_OK(fs_->WriteLinks(ino, it->second->links));
  }
  fewer_links_.clear();
  FASTOCI_CHECK_OK(fs_->Flush());
  lsmt_->Reserve(device_.nr_written() * kFsBlockBytes);
  device_.Commit([this](uint64_t block, const MemoryDevice::Block& data, bool all_zero) {
    if (all_zero) {
      lsmt_->AddZero(block * kFsBlockSectors, kFsBlockSectors);
    } else {
      lsmt_->AddData(block * kFsBlockSectors, data);
    }
  });
  auto file = lsmt_->Finish(kFsBytes);
  lsmt_.reset();
  return file;
}

}  // namespace fastoci
