// SPDX-License-Identifier: Apache-2.0
#include "image/ext4_dir.h"

#include <algorithm>
#include <cstring>

namespace fastoci {
namespace {

constexpr size_t kEntryHeaderBytes = 8;
constexpr size_t kDotBytes = 12;
// Where the hash tree's root has its entries, and an index node.
constexpr size_t kRootInfoAt = 24, kRootAt = 32, kNodeAt = 8;
constexpr size_t kRootLimit = (kFsBlockBytes - kRootAt) / 8, kNodeLimit = (kFsBlockBytes - kNodeAt) / 8;
// New leaves keep room for the entries that later layers add.
constexpr size_t kLeafFillBytes = kFsBlockBytes * 3 / 4;

size_t EntryBytes(std::string_view name) { return (kEntryHeaderBytes + name.size() + 3) / 4 * 4; }

void Put16(MemoryDevice::Block* b, size_t at, size_t v) {
  (*b)[at] = static_cast<uint8_t>(v);
  (*b)[at + 1] = static_cast<uint8_t>(v >> 8);
}
void Put32(MemoryDevice::Block* b, size_t at, uint32_t v) {
  Put16(b, at, v & 0xffff);
  Put16(b, at + 2, v >> 16);
}

void PutEntry(MemoryDevice::Block* b, size_t at, size_t length, uint32_t ino, std::string_view name,
              uint8_t type) {
  Put32(b, at, ino);
  Put16(b, at + 4, length);
  (*b)[at + 6] = static_cast<uint8_t>(name.size());
  (*b)[at + 7] = type;
  std::memcpy(b->data() + at + kEntryHeaderBytes, name.data(), name.size());
}

// Entries from `at` on; the last one takes the rest of the block.
void PutList(MemoryDevice::Block* b, size_t at, const DirEntry* begin, const DirEntry* end) {
  if (begin == end) {
    PutEntry(b, at, kFsBlockBytes - at, 0, "", 0);
    return;
  }
  for (const DirEntry* e = begin; e != end; e++) {
    size_t length = e + 1 == end ? kFsBlockBytes - at : EntryBytes(e->name);
    PutEntry(b, at, length, e->ino, e->name, e->file_type);
    at += length;
  }
}

// Limit and count, then (hash, block) pairs; the first one has no hash.
void PutIndex(MemoryDevice::Block* b, size_t at, size_t limit,
              const std::vector<std::pair<uint32_t, uint32_t>>& entries) {
  for (size_t i = 0; i < entries.size(); i++) {
    Put32(b, at + 8 * i, entries[i].first);
    Put32(b, at + 8 * i + 4, entries[i].second);
  }
  Put16(b, at, limit);
  Put16(b, at + 2, entries.size());
}

size_t ListBytes(const std::vector<DirEntry>& entries, size_t begin, size_t end) {
  size_t n = 0;
  for (size_t i = begin; i < end; i++) n += EntryBytes(entries[i].name);
  return n;
}

}  // namespace

uint32_t DirHash(std::string_view name, const uint32_t* seed) {
  ext2_dirhash_t hash = 0, minor = 0;
  ext2fs_dirhash2(EXT2_HASH_HALF_MD4_UNSIGNED, name.data(), static_cast<int>(name.size()), nullptr,
                  0, seed, &hash, &minor);
  return hash;
}

// Gives each leaf the entries of its range and splits those that overflow.
Result<std::vector<DirLayout::Part>> DirLayout::Distribute(const std::vector<DirEntry>& entries) {
  std::vector<Part> parts;
  size_t at = 0;
  for (size_t i = 0; i < leaves_.size(); i++) {
    Part part{leaves_[i], at, entries.size()};
    if (i + 1 < leaves_.size()) {
      // A continued leaf begins in the middle of its hash: the leaf before takes
      // as many entries of that hash as it has room for.
      const Leaf& next = leaves_[i + 1];
      size_t end = at, bytes = 0;
      while (end < entries.size() && entries[end].hash < next.hash)
        bytes += EntryBytes(entries[end++].name);
      while (next.continued && end < entries.size() && entries[end].hash == next.hash &&
             bytes + EntryBytes(entries[end].name) <= kFsBlockBytes)
        bytes += EntryBytes(entries[end++].name);
      part.end = end;
    }
    at = part.end;
    if (ListBytes(entries, part.begin, part.end) <= kFsBlockBytes) {
      parts.push_back(part);
      continue;
    }
    size_t begin = part.begin, bytes = 0;
    for (size_t k = part.begin; k < part.end; k++) {
      size_t n = EntryBytes(entries[k].name);
      bool same_hash = k > begin && entries[k].hash == entries[k - 1].hash;
      if (bytes + n > kFsBlockBytes || (bytes + n > kLeafFillBytes && !same_hash)) {
        parts.push_back({part.leaf, begin, k});
        part.leaf = {entries[k].hash, same_hash, nr_blocks_++};
        begin = k;
        bytes = 0;
      }
      bytes += n;
    }
    parts.push_back({part.leaf, begin, part.end});
  }
  leaves_.clear();
  for (const Part& part : parts) leaves_.push_back(part.leaf);
  return parts;
}

Result<DirLayout::Blocks> DirLayout::Build(uint32_t self, uint32_t parent,
                                           std::vector<DirEntry> entries) {
  Blocks blocks;
  if (nr_blocks_ == 0) nr_blocks_ = 1;
  MemoryDevice::Block root{};
  PutEntry(&root, 0, kDotBytes, self, ".", EXT2_FT_DIR);
  if (!indexed() && 2 * kDotBytes + ListBytes(entries, 0, entries.size()) <= kFsBlockBytes) {
    size_t length = entries.empty() ? kFsBlockBytes - kDotBytes : kDotBytes;
    PutEntry(&root, kDotBytes, length, parent, "..", EXT2_FT_DIR);
    if (!entries.empty())
      PutList(&root, 2 * kDotBytes, entries.data(), entries.data() + entries.size());
    blocks.emplace_back(0, root);
    return blocks;
  }
  std::sort(entries.begin(), entries.end(), [](const DirEntry& a, const DirEntry& b) {
    return a.hash != b.hash ? a.hash < b.hash : a.name < b.name;
  });
  if (!indexed()) leaves_.push_back({0, false, nr_blocks_++});
  FASTOCI_TRY(std::vector<Part> parts, Distribute(entries));
  std::vector<std::pair<uint32_t, uint32_t>> index;
  for (const Part& part : parts) {
    MemoryDevice::Block leaf{};
    PutList(&leaf, 0, entries.data() + part.begin, entries.data() + part.end);
    blocks.emplace_back(part.leaf.logical, leaf);
    index.emplace_back(part.leaf.hash | (part.leaf.continued ? 1 : 0), part.leaf.logical);
  }
  bool two_levels = index.size() > kRootLimit || !nodes_.empty();
  if (two_levels) {
    std::vector<std::pair<uint32_t, uint32_t>> above;
    for (size_t i = 0, k = 0; i < index.size(); i += kNodeLimit, k++) {
      if (k == nodes_.size()) nodes_.push_back(nr_blocks_++);
      std::vector<std::pair<uint32_t, uint32_t>> part(
          index.begin() + static_cast<ptrdiff_t>(i),
          index.begin() + static_cast<ptrdiff_t>(std::min(i + kNodeLimit, index.size())));
      above.emplace_back(part[0].first, nodes_[k]);
      part[0].first = 0;
      MemoryDevice::Block node{};
      PutEntry(&node, 0, kFsBlockBytes, 0, "", 0);
      PutIndex(&node, kNodeAt, kNodeLimit, part);
      blocks.emplace_back(nodes_[k], node);
    }
    index = std::move(above);
  }
  if (index.size() > kRootLimit) return InvalidError("too many entries in one directory");
  PutEntry(&root, kDotBytes, kFsBlockBytes - kDotBytes, parent, "..", EXT2_FT_DIR);
  root[kRootInfoAt + 4] = EXT2_HASH_HALF_MD4;
  root[kRootInfoAt + 5] = 8;  // length of this structure
  root[kRootInfoAt + 6] = two_levels ? 1 : 0;
  index[0].first = 0;
  PutIndex(&root, kRootAt, kRootLimit, index);
  blocks.emplace_back(0, root);
  return blocks;
}

}  // namespace fastoci
