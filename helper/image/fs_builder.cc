// SPDX-License-Identifier: Apache-2.0
#include "image/fs_builder.h"

#include <sys/stat.h>

#include <algorithm>

#include "image/base_layer.h"
#include "image/erofs_builder.h"
#include "image/ext4_builder.h"

namespace fastoci {
namespace {

constexpr char kWhiteout[] = ".wh.", kOpaque[] = ".wh..wh..opq", kAufs[] = ".wh..wh.";
constexpr char kAufsLinks[] = ".wh..wh.plnk/";

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

TarType TypeOf(const FileNode& node) {
  switch (node.file_type) {
    case EXT2_FT_DIR: return TarType::kDirectory;
    case EXT2_FT_SYMLINK: return TarType::kSymlink;
    case EXT2_FT_CHRDEV: return TarType::kCharDevice;
    case EXT2_FT_BLKDEV: return TarType::kBlockDevice;
    case EXT2_FT_FIFO: return TarType::kFifo;
    default: return TarType::kFile;
  }
}

// Path of the directory and name in it.
std::pair<std::string, std::string> Split(const std::string& path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {"", path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace

namespace {

Status CheckFsBytes(uint64_t fs_bytes) {
  if (fs_bytes < kMinFsBytes || fs_bytes > kMaxFsBytes || fs_bytes % (1ULL << 30) != 0)
    return InvalidError("the size of a file system must be 4 to 2047 GiB (--vsize)");
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<FsBuilder>> FsBuilder::Create(FsType type, const Sha256Digest& identity,
                                                     uint64_t fs_bytes) {
  FASTOCI_CHECK_OK(CheckFsBytes(fs_bytes));
  std::unique_ptr<FsBuilder> b;
  if (type == FsType::kErofs) {
    FASTOCI_TRY(b, ErofsBuilder::Create(identity, fs_bytes));
  } else {
    FASTOCI_TRY(b, Ext4Builder::Create(identity, fs_bytes));
  }
  return Prepare(std::move(b));
}

Result<std::unique_ptr<FsBuilder>> FsBuilder::CreateOn(const BaseLayer& base,
                                                       const Sha256Digest& identity) {
  Status size = CheckFsBytes(base.fs_bytes());
  if (!size.ok()) return size.error().Wrap("base layer");
  FASTOCI_TRY(auto b, Ext4Builder::CreateOn(base, identity));
  return Prepare(std::move(b));
}

// As docker and containerd: nothing is older than 1970.
int64_t FsBuilder::BoundTime(int64_t sec) {
  if (sec <= max_mtime_sec()) return std::max<int64_t>(sec, 0);
  if (!warned_of_time_ && warn_)
    warn_("times after the year 2446 become the last time that ext4 can hold (erofs can hold them: --fstype erofs)");
  warned_of_time_ = true;
  return max_mtime_sec();
}

// type: the file's type, because a hard link's entry does not tell it.
InodeAttributes FsBuilder::AttributesOf(const TarEntry& e, TarType type) {
  // Symbolic links have no mode of their own.
  const uint32_t mode = type == TarType::kSymlink ? 0777 : e.mode;
  const int64_t sec = BoundTime(e.mtime_sec);
  return {TypeBits(type) | mode, e.uid, e.gid, sec, sec == e.mtime_sec ? e.mtime_nsec : 0};
}

Status FsBuilder::SetXattrs(uint32_t ino, const TarEntry& e, TarType type, bool add) {
  FASTOCI_TRY(Xattrs xattrs, SettableXattrs(e.xattrs, type));
  return WriteXattrs(ino, xattrs, add);
}

Result<std::unique_ptr<FsBuilder>> FsBuilder::Prepare(std::unique_ptr<FsBuilder> b) {
  FASTOCI_CHECK_OK(b->WriteAttributes(b->tree_.root()->ino, {S_IFDIR | 0755, 0, 0, 0, 0}));
  FsBuilder* raw = b.get();
  b->tree_.gone = [raw](FileNode* node) {
    raw->OnGone(node);
    raw->last_parent_ = nullptr;
  };
  b->tree_.fewer_links = [raw](FileNode* node) {
    raw->changed_links_.push_back(node->ino);
    raw->last_parent_ = nullptr;  // the name may have been a link in its path
  };
  return b;
}

void FsBuilder::BeginLayer() {
  tree_.BeginLayer(++nr_layers_);
  lsmt_.emplace();
  aufs_links_.clear();
  last_parent_ = nullptr;
}

Status FsBuilder::Add(const LayerEntry& entry) {
  Status s = AddEntry(entry);
  if (s.ok()) return s;
  return s.error().Wrap("tar entry at offset " + std::to_string(entry.tar.header_offset) + " ('" +
                        entry.tar.path.substr(0, 200) + "')");
}

Status FsBuilder::AddEntry(const LayerEntry& entry) {
  const TarEntry& e = entry.tar;
  if (e.path.empty()) {
    FASTOCI_CHECK_OK(WriteAttributes(tree_.root()->ino, AttributesOf(e, e.type)));
    return SetXattrs(tree_.root()->ino, e, e.type, false);
  }
  auto [parent_path, name] = Split(e.path);
  if (e.type == TarType::kFile && e.path.starts_with(kAufsLinks)) aufs_links_.insert_or_assign(name, entry);
  // What aufs keeps for itself.
  if (parent_path.starts_with(kAufs) || parent_path.find(std::string("/") + kAufs) != std::string::npos)
    return OkStatus();
  if (name.starts_with(kWhiteout)) return OnWhiteout(parent_path, name, e);
  FASTOCI_TRY(FileNode * parent, ResolveParent(parent_path, e));
  tree_.Touch(parent);
  if (e.type == TarType::kDirectory) return PutDirectory(parent, name, e);
  if (e.type == TarType::kHardLink) return PutHardLink(parent, name, e);
  return PutFile(parent, name, entry);
}

Result<FileNode*> FsBuilder::MakeDirectory(FileNode* parent, const std::string& name,
                                           const InodeAttributes& attributes) {
  FASTOCI_TRY(uint32_t ino, NewInode(true));
  FASTOCI_CHECK_OK(WriteAttributes(ino, attributes));
  FileNode* node = tree_.NewNode(ino, EXT2_FT_DIR);
  tree_.Add(parent, name, node, NameHash(name));
  return node;
}

// Missing directories are made, with the entry's time.
Result<FileNode*> FsBuilder::ResolveParent(std::string_view path, const TarEntry& for_entry) {
  if (last_parent_ != nullptr && last_parent_path_ == path) return last_parent_;
  auto make = [&](FileNode* parent, const std::string& name, const FileNode* like) -> Result<FileNode*> {
    InodeAttributes attributes = {S_IFDIR | 0755, 0, 0, BoundTime(for_entry.mtime_sec), 0};
    if (like != nullptr) {
      FASTOCI_TRY(attributes, ReadAttributes(like->ino));
    }
    return MakeDirectory(parent, name, attributes);
  };
  FASTOCI_TRY(FileNode * node, tree_.ResolveForLayer(path, make));
  last_parent_path_ = path;
  last_parent_ = node;
  return node;
}

// Its parent is made, too, as docker and containerd do.
Status FsBuilder::OnWhiteout(const std::string& parent_path, const std::string& name, const TarEntry& e) {
  if (name != kOpaque && name.starts_with(kAufs)) return OkStatus();
  FASTOCI_TRY(FileNode * parent, ResolveParent(parent_path, e));
  if (name == kOpaque) {
    tree_.RemoveLowerChildren(parent);
    return OkStatus();
  }
  std::string hidden = name.substr(sizeof(kWhiteout) - 1);
  if (hidden.empty() || hidden == "." || hidden == "..") return InvalidError("a whiteout that names no file");
  tree_.RemoveLower(parent, hidden);
  return OkStatus();
}

Status FsBuilder::PutDirectory(FileNode* parent, const std::string& name, const TarEntry& e) {
  NameEntry* old = tree_.Find(parent, name);
  FileNode* node = nullptr;
  if (old != nullptr && old->node->dir) {
    node = old->node;
    tree_.Touch(node);
    FASTOCI_CHECK_OK(WriteAttributes(node->ino, AttributesOf(e, e.type)));
  } else {
    if (old != nullptr) tree_.Remove(parent, name);
    FASTOCI_TRY(node, MakeDirectory(parent, name, AttributesOf(e, e.type)));
  }
  return SetXattrs(node->ino, e, e.type, false);
}

// As docker and containerd: each name gets a file of its own, with the header of the
// one in aufs's directory.
Status FsBuilder::PutAufsLink(FileNode* parent, const std::string& name, const TarEntry& e) {
  auto it = aufs_links_.find(e.link.substr(sizeof(kAufsLinks) - 1));
  if (it == aufs_links_.end())
    return InvalidError("hard link to '" + e.link.substr(0, 200) + "', which does not exist");
  return PutFile(parent, name, it->second);
}

// The link's header replaces the attributes of the file, as in containerd. Extended
// attributes are added to those of the file.
Status FsBuilder::PutHardLink(FileNode* parent, const std::string& name, const TarEntry& e) {
  if (e.link.starts_with(kAufsLinks)) return PutAufsLink(parent, name, e);
  auto [target_path, target_name] = Split(e.link);
  FASTOCI_TRY(FileNode * target_dir, tree_.ResolveDirectory(target_path));
  NameEntry* target = target_dir == nullptr ? nullptr : tree_.Find(target_dir, target_name);
  if (target == nullptr)
    return InvalidError("hard link to '" + e.link.substr(0, 200) + "', which does not exist");
  FileNode* node = target->node;
  if (node->dir) return InvalidError("hard link to a directory");
  NameEntry* old = tree_.Find(parent, name);
  uint32_t ino = node->ino;
  if (old != nullptr && old->node == node) {
    old->layer = tree_.layer();
  } else {
    if (node->links >= max_links())
      return InvalidError("more than " + std::to_string(max_links()) +
                          " hard links to one file, which ext4 cannot hold; erofs can: --fstype erofs");
    if (old != nullptr) tree_.Remove(parent, name);
    if (!tree_.nodes().contains(ino)) return InvalidError("hard link to the entry that it replaces");
    node->links++;
    tree_.Add(parent, name, node, NameHash(name));
    changed_links_.push_back(ino);
  }
  FASTOCI_CHECK_OK(WriteAttributes(ino, AttributesOf(e, TypeOf(*node))));
  return e.xattrs.empty() ? OkStatus() : SetXattrs(ino, e, TypeOf(*node), true);
}

Status FsBuilder::PutFile(FileNode* parent, const std::string& name, const LayerEntry& entry) {
  const TarEntry& e = entry.tar;
  if (tree_.Find(parent, name) != nullptr) tree_.Remove(parent, name);
  FASTOCI_TRY(uint32_t ino, NewInode(false));
  FileNode* node = tree_.NewNode(ino, FileType(e.type));
  tree_.Add(parent, name, node, NameHash(name));
  FASTOCI_CHECK_OK(WriteAttributes(ino, AttributesOf(e, e.type)));
  if (e.type == TarType::kSymlink) {
    node->symlink = e.link;
    FASTOCI_CHECK_OK(WriteSymlink(node, e.link));
  } else if (e.type == TarType::kFile) {
    FASTOCI_TRY(auto extents, WriteRegular(node, e.size, entry.mapping->blocks()));
    entry.mapping->Emit(entry.zero_padding, extents, &*lsmt_);
  } else {
    FASTOCI_CHECK_OK(WriteDevice(node, e.dev_major, e.dev_minor));
  }
  return e.xattrs.empty() ? OkStatus() : SetXattrs(ino, e, e.type, false);
}

Result<LsmtContent> FsBuilder::FinishLayer() {
  FASTOCI_CHECK_OK(Flush(changed_links_));
  changed_links_.clear();
  lsmt_->Reserve(device_.nr_written() * kFsBlockBytes);
  device_.Commit([this](uint64_t block, const MemoryDevice::Block& data, bool all_zero) {
    if (all_zero) {
      lsmt_->AddZero(block * kFsBlockSectors, kFsBlockSectors);
    } else {
      lsmt_->AddData(block * kFsBlockSectors, data);
    }
  });
  auto content = lsmt_->Finish(fs_bytes_);
  lsmt_.reset();
  return content;
}

}  // namespace fastoci
