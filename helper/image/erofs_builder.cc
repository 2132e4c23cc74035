// SPDX-License-Identifier: Apache-2.0
#include "image/erofs_builder.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

namespace fastoci {
namespace {

constexpr uint32_t kMagic = 0xe0f5e1e2;
constexpr uint64_t kSuperblockAt = 1024, kSuperblockBytes = 128;
constexpr uint64_t kSlotBytes = 32;  // nids count these
constexpr uint64_t kInodeBytes = 64, kXattrHeaderBytes = 12, kDirentBytes = 12;
constexpr uint64_t kRootAt = kSuperblockAt + kSuperblockBytes;
constexpr uint16_t kExtended = 1, kFlatPlain = 0 << 1, kFlatInline = 2 << 1;
constexpr uint64_t kMaxXattrBytes = 60000;  // of one file
constexpr char kNoSpace[] = "the image does not fit into its file system; make a larger one with --vsize";

uint64_t Blocks(uint64_t bytes) { return (bytes + kFsBlockBytes - 1) / kFsBlockBytes; }

struct XattrName {
  uint8_t index;
  std::string_view rest;
};
constexpr std::pair<std::string_view, uint8_t> kXattrPrefixes[] = {{"user.", 1},
                                                                  {"system.posix_acl_access", 2},
                                                                  {"system.posix_acl_default", 3},
                                                                  {"trusted.", 4},
                                                                  {"security.", 6}};

// Null for names of unknown namespaces.
std::optional<XattrName> ParseXattrName(std::string_view name) {
  for (auto [prefix, index] : kXattrPrefixes)
    if (name.starts_with(prefix)) return XattrName{index, name.substr(prefix.size())};
  return std::nullopt;
}

// What WriteXattrs() made.
Xattrs ParseXattrs(ByteSpan stored) {
  Xattrs out;
  ByteReader r(stored);
  r.Skip(stored.empty() ? 0 : kXattrHeaderBytes);
  while (r.ok() && r.remaining() != 0) {
    const uint8_t name_bytes = r.U8(), index = r.U8();
    const uint16_t value_bytes = r.U16();
    std::string name;
    for (auto [prefix, i] : kXattrPrefixes)
      if (i == index) name = prefix;
    const ByteSpan rest = r.Take(name_bytes), value = r.Take(value_bytes);
    name.append(rest.begin(), rest.end());
    out[name].assign(value.begin(), value.end());
    r.Skip(-(uint64_t{name_bytes} + value_bytes) % 4);
  }
  return out;
}

uint8_t DirentType(const FileNode& node) {
  // EROFS_FT_* are EXT2_FT_*.
  return node.file_type;
}

struct Dirent {
  std::string_view name;
  const FileNode* node;
};

std::vector<Dirent> Dirents(const FileNode& node) {
  std::vector<Dirent> all = {{".", &node}, {"..", node.dir->parent}};
  for (const auto& [name, entry] : node.dir->names) all.push_back({name, entry.node});
  std::sort(all.begin(), all.end(), [](const Dirent& a, const Dirent& b) { return a.name < b.name; });
  return all;
}

// How many of the entries from `begin` on fit into one block.
size_t FitBlock(const std::vector<Dirent>& all, size_t begin, uint64_t* bytes) {
  size_t end = begin;
  *bytes = 0;
  while (end < all.size() && *bytes + kDirentBytes + all[end].name.size() <= kFsBlockBytes)
    *bytes += kDirentBytes + all[end++].name.size();
  return end;
}

}  // namespace

Result<std::unique_ptr<FsBuilder>> ErofsBuilder::Create(const Sha256Digest& identity,
                                                       uint64_t fs_bytes) {
  std::unique_ptr<ErofsBuilder> b(new ErofsBuilder(identity, fs_bytes));
  b->next_ino_ = b->tree_.root()->ino + 1;
  b->next_data_ = kDataZoneBlock;
  Inode& root = b->inodes_[b->tree_.root()->ino];
  root.offset = kRootAt;
  root.room = kFsBlockBytes - kRootAt;
  return std::unique_ptr<FsBuilder>(std::move(b));
}

Result<uint32_t> ErofsBuilder::NewInode(bool) {
  if (next_ino_ == UINT32_MAX) return InvalidError("the image has too many files");
  inodes_[next_ino_];
  dirty_.insert(next_ino_);
  return next_ino_++;
}

void ErofsBuilder::OnGone(FileNode* node) {
  inodes_.erase(node->ino);
  dirty_.erase(node->ino);
  moved_.erase(node->ino);
}

Status ErofsBuilder::WriteAttributes(uint32_t ino, const InodeAttributes& attributes) {
  inodes_.at(ino).attributes = attributes;
  dirty_.insert(ino);
  return OkStatus();
}

Status ErofsBuilder::WriteXattrs(uint32_t ino, const Xattrs& xattrs, bool add) {
  ByteWriter w;
  Xattrs all = xattrs;
  if (add) all.merge(ParseXattrs(inodes_.at(ino).xattrs));
  for (const auto& [name, value] : all) {
    auto parsed = ParseXattrName(name);
    if (!parsed) continue;
    if (w.size() == 0) w.Zeros(kXattrHeaderBytes);
    if (parsed->rest.size() > UINT8_MAX || value.size() > UINT16_MAX)
      return InvalidError("extended attribute " + name.substr(0, 100) + " is too large");
    w.U8(static_cast<uint8_t>(parsed->rest.size()));
    w.U8(parsed->index);
    w.U16(static_cast<uint16_t>(value.size()));
    w.Append(AsBytes(std::string(parsed->rest)));
    w.Append(AsBytes(value));
    w.Zeros(-w.size() % 4);
    if (w.size() > kMaxXattrBytes)
      return InvalidError("extended attributes larger than erofs can hold");
  }
  inodes_.at(ino).xattrs = std::move(w.bytes());
  dirty_.insert(ino);
  return OkStatus();
}

Status ErofsBuilder::WriteSymlink(FileNode* node, const std::string& target) {
  inodes_.at(node->ino).size = target.size();
  return OkStatus();
}

Status ErofsBuilder::WriteDevice(FileNode* node, uint32_t major, uint32_t minor) {
  inodes_.at(node->ino).device = (minor & 0xff) | major << 8 | (minor & ~0xffU) << 12;
  return OkStatus();
}

// Flat: holes have addresses, too; nothing is mapped there.
Result<std::vector<FileExtent>> ErofsBuilder::WriteRegular(
    FileNode* node, uint64_t size, const std::vector<std::pair<uint64_t, uint64_t>>& blocks) {
  Inode& inode = inodes_.at(node->ino);
  uint64_t nr_blocks = Blocks(size);
  if (nr_blocks > fs_bytes_ / kFsBlockBytes - next_data_) return InvalidError(kNoSpace);
  inode.size = size;
  inode.block = static_cast<uint32_t>(next_data_);
  next_data_ += nr_blocks;
  std::vector<FileExtent> extents;
  for (auto [logical, n] : blocks)
    extents.push_back({static_cast<uint32_t>(logical), static_cast<uint32_t>(inode.block + logical),
                       static_cast<uint32_t>(n)});
  return extents;
}

Result<uint64_t> ErofsBuilder::AllocateMetadata(uint64_t nr_blocks) {
  if (nr_blocks > kDataZoneBlock - next_metadata_)
    return InvalidError("the image's metadata need more than 2 GiB");
  uint64_t at = next_metadata_;
  next_metadata_ += nr_blocks;
  return at;
}

uint64_t ErofsBuilder::ContentBytes(const FileNode& node) {
  if (node.file_type == EXT2_FT_SYMLINK) return node.symlink.size();
  if (!node.dir) return 0;
  std::vector<Dirent> all = Dirents(node);
  uint64_t total = 0, bytes = 0;
  for (size_t at = 0; at < all.size();) {
    at = FitBlock(all, at, &bytes);
    total = at < all.size() ? total + kFsBlockBytes : total + bytes;
  }
  return total;
}

Result<Bytes> ErofsBuilder::ContentOf(const FileNode& node) {
  if (node.file_type == EXT2_FT_SYMLINK) return Bytes(node.symlink.begin(), node.symlink.end());
  if (!node.dir) return Bytes();
  std::vector<Dirent> all = Dirents(node);
  ByteWriter w;
  uint64_t bytes;
  for (size_t at = 0; at < all.size();) {
    w.Zeros(-w.size() % kFsBlockBytes);
    size_t end = FitBlock(all, at, &bytes);
    uint64_t name_at = (end - at) * kDirentBytes;
    for (size_t i = at; i < end; i++) {
      w.U64(inodes_.at(all[i].node->ino).offset / kSlotBytes);
      w.U16(static_cast<uint16_t>(name_at));
      w.U8(DirentType(*all[i].node));
      w.U8(0);
      name_at += all[i].name.size();
    }
    for (size_t i = at; i < end; i++) w.Append(AsBytes(std::string(all[i].name)));
    at = end;
  }
  return std::move(w.bytes());
}

// bytes: size of the inode, its extended attributes and what follows them. A record
// that fits into one block does not cross a block's end.
Status ErofsBuilder::PlaceRecord(Inode* inode, uint64_t bytes) {
  bytes = (bytes + kSlotBytes - 1) / kSlotBytes * kSlotBytes;
  if (bytes > record_end_ - record_at_) {
    FASTOCI_TRY(uint64_t block, AllocateMetadata(Blocks(bytes)));
    record_at_ = block * kFsBlockBytes;
    record_end_ = record_at_ + Blocks(bytes) * kFsBlockBytes;
  }
  inode->offset = record_at_;
  inode->room = bytes;
  record_at_ += bytes;
  return OkStatus();
}

// Whether the end of the content fits after the inode, in the same block.
bool ErofsBuilder::IsInline(const Inode& inode, uint64_t content_bytes) {
  uint64_t fixed = kInodeBytes + inode.xattrs.size(), tail = content_bytes % kFsBlockBytes;
  return tail != 0 && fixed + tail <= inode.room &&
         (inode.offset + fixed) % kFsBlockBytes + tail <= kFsBlockBytes;
}

// Finds a place for each inode that has none, or lost its place.
Status ErofsBuilder::Place(const FileNode& node) {
  Inode& inode = inodes_.at(node.ino);
  uint64_t fixed = kInodeBytes + inode.xattrs.size();
  if (node.dir || node.file_type == EXT2_FT_SYMLINK) inode.size = ContentBytes(node);
  uint64_t content = S_ISREG(inode.attributes.mode) ? 0 : inode.size;
  uint64_t tail = content % kFsBlockBytes;
  if (fixed + tail > kFsBlockBytes) tail = 0;
  if (inode.offset == 0 || fixed > inode.room) {
    if (node.ino == tree_.root()->ino)
      return InvalidError("extended attributes of the root directory larger than erofs can hold");
    if (!node.dir && inode.offset != 0) moved_.insert(node.ino);
    FASTOCI_CHECK_OK(PlaceRecord(&inode, fixed + tail));
    if (node.dir) {
      // Its names: in its parent and in its subdirectories.
      dirty_.insert(node.dir->parent->ino);
      for (const auto& [name, entry] : node.dir->names)
        if (entry.node->dir) dirty_.insert(entry.node->ino);
    }
  }
  if (content == 0) return OkStatus();
  uint64_t whole = IsInline(inode, content) ? content / kFsBlockBytes : Blocks(content);
  if (whole <= inode.nr_blocks) return OkStatus();
  FASTOCI_TRY(uint64_t block, AllocateMetadata(whole));
  inode.block = static_cast<uint32_t>(block);
  inode.nr_blocks = static_cast<uint32_t>(whole);
  return OkStatus();
}

Status ErofsBuilder::Write(const FileNode& node) {
  Inode& inode = inodes_.at(node.ino);
  FASTOCI_TRY(Bytes content, ContentOf(node));
  bool in_line = IsInline(inode, content.size());
  const InodeAttributes& a = inode.attributes;
  bool device = S_ISCHR(a.mode) || S_ISBLK(a.mode);
  ByteWriter w;
  w.U16(static_cast<uint16_t>(kExtended | (in_line ? kFlatInline : kFlatPlain)));
  w.U16(static_cast<uint16_t>(
      inode.xattrs.empty() ? 0 : (inode.xattrs.size() - kXattrHeaderBytes) / 4 + 1));
  w.U16(static_cast<uint16_t>(a.mode));
  w.U16(0);
  w.U64(inode.size);
  w.U32(device ? inode.device : inode.block);
  w.U32(node.ino);
  w.U32(a.uid);
  w.U32(a.gid);
  w.U64(static_cast<uint64_t>(a.mtime_sec));
  w.U32(a.mtime_nsec);
  w.U32(node.links);
  w.Zeros(16);
  w.Append(inode.xattrs);
  ByteSpan rest = content;
  if (in_line) {
    w.Append(rest.subspan(rest.size() / kFsBlockBytes * kFsBlockBytes));
    rest = rest.first(rest.size() / kFsBlockBytes * kFsBlockBytes);
  }
  if (w.size() > inode.room || Blocks(rest.size()) > inode.nr_blocks)
    return Error{ErrorKind::kInternal, EINVAL, "erofs: a record without room"};
  w.Zeros(inode.room - w.size());
  device_.Write(inode.offset, w.bytes());
  if (rest.empty()) return OkStatus();
  Bytes padded(rest.begin(), rest.end());
  padded.resize(uint64_t{inode.nr_blocks} * kFsBlockBytes);
  device_.Write(uint64_t{inode.block} * kFsBlockBytes, padded);
  return OkStatus();
}

void ErofsBuilder::WriteSuperblock() {
  ByteWriter w;
  w.U32(kMagic);
  w.U32(0);  // no checksum
  w.U32(0);  // compatible features
  w.U8(12);  // log2 of the block's size
  w.U8(0);
  w.U16(static_cast<uint16_t>(kRootAt / kSlotBytes));
  w.U64(inodes_.size());
  w.U64(0);  // build time; inodes have their own
  w.U32(0);
  w.U32(static_cast<uint32_t>(next_data_));  // blocks
  w.U32(0);                                  // where nids begin
  w.U32(0);                                  // shared extended attributes: none
  Bytes uuid(identity_.begin(), identity_.begin() + 16);
  uuid[6] = static_cast<uint8_t>((uuid[6] & 0x0f) | 0x50);  // a name-based UUID by its form
  uuid[8] = static_cast<uint8_t>((uuid[8] & 0x3f) | 0x80);
  w.Append(uuid);
  w.Zeros(kSuperblockBytes - w.size());
  device_.Write(kSuperblockAt, w.bytes());
}

void ErofsBuilder::MarkNamesDirty(const std::unordered_set<uint32_t>& moved) {
  for (const auto& [ino, node] : tree_.nodes()) {
    if (!node->dir) continue;
    for (const auto& [name, entry] : node->dir->names)
      if (moved.contains(entry.node->ino)) dirty_.insert(ino);
  }
}

Status ErofsBuilder::Flush(const std::vector<uint32_t>& changed_links) {
  for (uint32_t ino : changed_links)
    if (inodes_.contains(ino)) dirty_.insert(ino);
  for (const auto& [ino, node] : tree_.nodes())
    if (node->dir && node->dir->dirty) dirty_.insert(ino);
  // Moving one makes others dirty.
  std::unordered_set<uint32_t> placed;
  for (bool more = true; more;) {
    std::vector<uint32_t> todo;
    for (uint32_t ino : dirty_)
      if (placed.insert(ino).second) todo.push_back(ino);
    std::sort(todo.begin(), todo.end());
    for (uint32_t ino : todo) FASTOCI_CHECK_OK(Place(*tree_.nodes().at(ino)));
    if (!moved_.empty()) MarkNamesDirty(moved_);
    moved_.clear();
    more = !todo.empty();
  }
  for (uint32_t ino : placed) {
    FileNode* node = tree_.nodes().at(ino).get();
    FASTOCI_CHECK_OK(Write(*node));
    if (node->dir) node->dir->dirty = false;
  }
  dirty_.clear();
  WriteSuperblock();
  return OkStatus();
}

}  // namespace fastoci
