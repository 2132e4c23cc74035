// SPDX-License-Identifier: Apache-2.0
#include "image/ext4_fs.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

namespace fastoci {
namespace {

constexpr uint32_t kInodeBytes = 256, kExtraInodeBytes = 32;
constexpr uint32_t kFirstFreeInode = 11;
constexpr uint64_t kBlocksPerGroup = 32768;
// 64 GiB have 4 Mi inodes. Larger file systems have as many.
constexpr uint64_t kInodesPerGib = 65536, kMaxInodes = 4 << 20;
// libext2fs takes 0 for "ask the clock".
constexpr time_t kEpoch = 1;
constexpr uint32_t kMaxExtentBlocks = 32768;
constexpr uint16_t kExtentMagic = 0xf30a;
constexpr size_t kExtentHeaderBytes = 12, kExtentBytes = 12;
constexpr size_t kRootExtents = 4;
constexpr size_t kExtentsPerBlock = (kFsBlockBytes - kExtentHeaderBytes) / kExtentBytes;
constexpr int kMaxExtentDepth = 5;
constexpr size_t kFastSymlinkBytes = 60;
// Features that a base layer's file system may have: those that mke2fs sets, without a journal.
constexpr const char* kFeatureFields[] = {"s_feature_compat", "s_feature_incompat",
                                          "s_feature_ro_compat"};
constexpr uint32_t kBaseCompat = EXT2_FEATURE_COMPAT_EXT_ATTR | EXT2_FEATURE_COMPAT_RESIZE_INODE |
                                 EXT2_FEATURE_COMPAT_DIR_INDEX | EXT4_FEATURE_COMPAT_SPARSE_SUPER2;
constexpr uint32_t kBaseIncompat = EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_EXTENTS |
                                   EXT4_FEATURE_INCOMPAT_64BIT | EXT4_FEATURE_INCOMPAT_FLEX_BG |
                                   EXT4_FEATURE_INCOMPAT_CSUM_SEED;
constexpr uint32_t kBaseRoCompat =
    EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
    EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_GDT_CSUM |
    EXT4_FEATURE_RO_COMPAT_DIR_NLINK | EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE |
    EXT4_FEATURE_RO_COMPAT_METADATA_CSUM;
constexpr char kNoSpace[] = "the image does not fit into its file system; make a larger one with --vsize";

Error ExtError(const char* what, errcode_t code) {
  return {ErrorKind::kInternal, EIO, std::string("ext4: ") + what + ": " + error_message(code)};
}

Bytes ExtentHeader(size_t nr, size_t max, int depth) {
  ByteWriter w;
  w.U16(kExtentMagic);
  w.U16(static_cast<uint16_t>(nr));
  w.U16(static_cast<uint16_t>(max));
  w.U16(static_cast<uint16_t>(depth));
  w.U32(0);
  return std::move(w.bytes());
}

void SetTime(int64_t sec, uint32_t nsec, uint32_t* low, uint32_t* extra) {
  // 34 bits: the low 32 are signed, the two above count epochs.
  sec = std::clamp<int64_t>(sec, INT32_MIN, kMaxExt4Time);
  *low = static_cast<uint32_t>(sec);
  uint64_t epoch = static_cast<uint64_t>(sec - static_cast<int32_t>(*low)) >> 32;
  *extra = static_cast<uint32_t>(epoch & 3) | nsec << 2;
}

uint32_t OldDevice(uint32_t major, uint32_t minor) { return major << 8 | minor; }
uint32_t NewDevice(uint32_t major, uint32_t minor) {
  return (minor & 0xff) | major << 8 | (minor & ~0xffU) << 12;
}

struct XattrHandle {
  ext2_xattr_handle* h = nullptr;
  ~XattrHandle() {
    if (h != nullptr) ext2fs_xattrs_close(&h);
  }
};

int CollectName(char* name, char*, size_t, void* data) {
  static_cast<std::vector<std::string>*>(data)->push_back(name);
  return 0;
}

}  // namespace

Ext4Fs::Ext4Fs(MemoryDevice* device, uint64_t fs_bytes)
    : device_(device),
      nr_blocks_(fs_bytes / kFsBlockBytes),
      nr_inodes_(static_cast<uint32_t>(std::min((fs_bytes >> 30) * kInodesPerGib, kMaxInodes))) {}

Ext4Fs::~Ext4Fs() {
  if (fs_ != nullptr) ext2fs_free(fs_);
}

Result<std::unique_ptr<Ext4Fs>> Ext4Fs::Create(MemoryDevice* device, const Sha256Digest& identity,
                                               uint64_t fs_bytes) {
  std::unique_ptr<Ext4Fs> fs(new Ext4Fs(device, fs_bytes));
  FASTOCI_CHECK_OK(fs->Initialize(identity));
  return fs;
}

Status Ext4Fs::Initialize(const Sha256Digest& identity) {
  struct ext2_super_block param {};
  ext2fs_blocks_count_set(&param, nr_blocks_);
  param.s_rev_level = EXT2_DYNAMIC_REV;
  param.s_log_block_size = 2;
  param.s_log_cluster_size = 2;
  param.s_inode_size = kInodeBytes;
  param.s_inodes_count = nr_inodes_;
  param.s_min_extra_isize = param.s_want_extra_isize = kExtraInodeBytes;
  // One flex group of all groups.
  while (kBlocksPerGroup << param.s_log_groups_per_flex < nr_blocks_) param.s_log_groups_per_flex++;
  param.s_errors = EXT2_ERRORS_CONTINUE;
  param.s_creator_os = EXT2_OS_LINUX;
  ext2fs_set_feature_xattr(&param);
  ext2fs_set_feature_dir_index(&param);
  ext2fs_set_feature_sparse_super2(&param);
  ext2fs_set_feature_filetype(&param);
  ext2fs_set_feature_extents(&param);
  ext2fs_set_feature_flex_bg(&param);
  ext2fs_set_feature_sparse_super(&param);
  ext2fs_set_feature_large_file(&param);
  ext2fs_set_feature_gdt_csum(&param);
  ext2fs_set_feature_dir_nlink(&param);
  ext2fs_set_feature_extra_isize(&param);
  errcode_t rc = ext2fs_initialize(device_->Name().c_str(), EXT2_FLAG_64BITS, &param,
                                   MemoryDevice::Manager(), &fs_);
  if (rc != 0) return ExtError("initialize", rc);
  Adopt(identity);
  ext2_super_block* sb = fs_->super;
  std::copy_n(identity.begin(), sizeof(sb->s_uuid), sb->s_uuid);
  // A name-based UUID by its form.
  sb->s_uuid[6] = (sb->s_uuid[6] & 0x0f) | 0x50;
  sb->s_uuid[8] = (sb->s_uuid[8] & 0x3f) | 0x80;
  std::memcpy(sb->s_hash_seed, identity.data() + sizeof(sb->s_uuid), sizeof(sb->s_hash_seed));
  sb->s_max_mnt_count = -1;
  sb->s_checkinterval = 0;
  sb->s_mkfs_time = sb->s_lastcheck = sb->s_wtime = kEpoch;
  sb->s_default_mount_opts = EXT2_DEFM_XATTR_USER | EXT2_DEFM_ACL;
  rc = ext2fs_allocate_tables(fs_);
  if (rc != 0) return ExtError("allocate_tables", rc);
  for (dgrp_t g = 0; g < fs_->group_desc_count; g++) {
    ext2fs_bg_flags_set(fs_, g, EXT2_BG_INODE_ZEROED);
    ext2fs_group_desc_csum_set(fs_, g);
  }
  for (uint32_t ino = 1; ino < kFirstFreeInode; ino++)
    ext2fs_inode_alloc_stats2(fs_, ino, +1, ino == EXT2_ROOT_INO);
  return OkStatus();
}

// What holds for each file system that we change.
void Ext4Fs::Adopt(const Sha256Digest& identity) {
  nr_inodes_ = fs_->super->s_inodes_count;  // initialize() rounds it
  fs_->now = kEpoch;
  fs_->flags |= EXT2_FLAG_MASTER_SB_ONLY;
  fs_->priv_data = this;
  fs_->get_alloc_block = AllocateHook;
  fs_->super->s_def_hash_version = EXT2_HASH_HALF_MD4;
  fs_->super->s_flags = EXT2_FLAGS_UNSIGNED_HASH;
  std::memcpy(&identity_word_, identity.data(), sizeof(identity_word_));
  next_inode_ = kFirstFreeInode;
  next_metadata_ = fs_->super->s_first_data_block;
}

Result<std::unique_ptr<Ext4Fs>> Ext4Fs::Open(MemoryDevice* device, const Sha256Digest& identity,
                                             uint64_t fs_bytes) {
  std::unique_ptr<Ext4Fs> fs(new Ext4Fs(device, fs_bytes));
  Status loaded = fs->Load(identity);
  if (!loaded.ok()) return loaded.error().Wrap("base layer");
  return fs;
}

Status Ext4Fs::Load(const Sha256Digest& identity) {
  errcode_t rc = ext2fs_open(device_->Name().c_str(), EXT2_FLAG_RW | EXT2_FLAG_64BITS, 0, 0,
                             MemoryDevice::Manager(), &fs_);
  if (rc != 0) return ExtError("open", rc);
  ext2_super_block* sb = fs_->super;
  if (fs_->blocksize != kFsBlockBytes || EXT2_INODE_SIZE(sb) != kInodeBytes)
    return InvalidError("its file system has blocks of " + std::to_string(fs_->blocksize) +
                        " and inodes of " + std::to_string(EXT2_INODE_SIZE(sb)) +
                        " bytes, not of 4096 and 256");
  const uint32_t beyond[] = {sb->s_feature_compat & ~kBaseCompat, sb->s_feature_incompat & ~kBaseIncompat,
                             sb->s_feature_ro_compat & ~kBaseRoCompat};
  for (int i = 0; i < 3; i++)
    if (beyond[i] != 0)
      return InvalidError(std::string("its file system has features that are not supported (") +
                          kFeatureFields[i] + " has " + std::to_string(beyond[i]) +
                          "); mke2fs -t ext4 -O ^has_journal makes one without them");
  if (!ext2fs_has_feature_extents(sb) || !ext2fs_has_feature_filetype(sb))
    return InvalidError("its file system lacks the features extent and filetype");
  if ((sb->s_state & EXT2_VALID_FS) == 0 || (sb->s_state & EXT2_ERROR_FS) != 0 || sb->s_last_orphan != 0)
    return InvalidError("its file system is not clean");
  const uint64_t blocks = ext2fs_blocks_count(sb);
  if (blocks > nr_blocks_ || blocks <= kDataZoneBlock)
    return InvalidError("its file system has " + std::to_string(blocks) + " blocks, its device " +
                        std::to_string(nr_blocks_));
  nr_blocks_ = blocks;
  rc = ext2fs_read_bitmaps(fs_);
  if (rc != 0) return ExtError("read bitmaps", rc);
  // What we write.
  ext2fs_set_feature_xattr(sb);
  ext2fs_set_feature_dir_index(sb);
  ext2fs_set_feature_large_file(sb);
  ext2fs_set_feature_dir_nlink(sb);
  if (ext2fs_has_feature_metadata_csum(sb)) {
    ext2fs_clear_feature_metadata_csum(sb);
    ext2fs_clear_feature_csum_seed(sb);
    ext2fs_set_feature_gdt_csum(sb);
    sb->s_checksum_type = 0;
    sb->s_checksum = 0;
  }
  Adopt(identity);
  return OkStatus();
}

Result<std::vector<std::pair<std::string, uint32_t>>> Ext4Fs::ReadDirectory(uint32_t ino) {
  std::vector<std::pair<std::string, uint32_t>> names;
  auto collect = [](ext2_dir_entry* e, int, int, char*, void* data) {
    std::string name(e->name, static_cast<size_t>(ext2fs_dirent_name_len(e)));
    if (name != "." && name != "..")
      static_cast<decltype(names)*>(data)->emplace_back(name, e->inode);
    return 0;
  };
  errcode_t rc = ext2fs_dir_iterate(fs_, ino, 0, nullptr, collect, &names);
  if (rc != 0) return ExtError("read directory", rc);
  return names;
}

Result<std::vector<FileExtent>> Ext4Fs::ReadExtents(uint32_t ino) {
  struct Found {
    std::vector<FileExtent> extents;
    bool beyond = false;  // what we cannot write down
  } found;
  auto collect = [](ext2_filsys, blk64_t* block, e2_blkcnt_t logical, blk64_t, int, void* data) {
    auto* f = static_cast<Found*>(data);
    if (logical < 0 || *block > UINT32_MAX) {
      f->beyond = true;
      return BLOCK_ABORT;
    }
    FileExtent* last = f->extents.empty() ? nullptr : &f->extents.back();
    if (last != nullptr && last->block + last->nr_blocks == *block &&
        last->logical + last->nr_blocks == static_cast<uint64_t>(logical)) {
      last->nr_blocks++;
    } else {
      f->extents.push_back({static_cast<uint32_t>(logical), static_cast<uint32_t>(*block), 1});
    }
    return 0;
  };
  errcode_t rc = ext2fs_block_iterate3(fs_, ino, BLOCK_FLAG_READ_ONLY, nullptr, collect, &found);
  if (rc != 0) return ExtError("read extents", rc);
  if (found.beyond) return InvalidError("inode " + std::to_string(ino) + " has blocks of blocks");
  return found.extents;
}

const uint32_t* Ext4Fs::hash_seed() const { return fs_->super->s_hash_seed; }

Result<uint32_t> Ext4Fs::NewInode(bool directory) {
  ext2_ino_t ino = 0;
  errcode_t rc =
      next_inode_ <= nr_inodes_
          ? ext2fs_find_first_zero_inode_bitmap2(fs_->inode_map, next_inode_, nr_inodes_, &ino)
          : ENOENT;
  if (rc == ENOENT)
    rc = ext2fs_find_first_zero_inode_bitmap2(fs_->inode_map, kFirstFreeInode, nr_inodes_, &ino);
  if (rc != 0) return InvalidError("the image needs more than " + std::to_string(nr_inodes_) + " files");
  ext2fs_inode_alloc_stats2(fs_, ino, +1, directory);
  next_inode_ = ino + 1;
  return ino;
}

Result<std::vector<BlockRun>> Ext4Fs::AllocateData(uint64_t n) { return Allocate(n, &next_data_); }
Result<std::vector<BlockRun>> Ext4Fs::AllocateMetadata(uint64_t n) {
  return Allocate(n, &next_metadata_);
}

Result<std::vector<BlockRun>> Ext4Fs::Allocate(uint64_t nr_blocks, uint32_t* goal) {
  std::vector<BlockRun> runs;
  if (nr_blocks > ext2fs_free_blocks_count(fs_->super)) return InvalidError(kNoSpace);
  bool wrapped = false;
  while (nr_blocks > 0) {
    blk64_t begin = 0, end = nr_blocks_;
    errcode_t rc = *goal < nr_blocks_ ? ext2fs_find_first_zero_block_bitmap2(
                                           fs_->block_map, *goal, nr_blocks_ - 1, &begin)
                                     : ENOENT;
    if (rc == ENOENT && !wrapped) {
      wrapped = true;
      *goal = fs_->super->s_first_data_block;
      continue;
    }
    if (rc != 0) return InvalidError(kNoSpace);
    rc = ext2fs_find_first_set_block_bitmap2(fs_->block_map, begin, nr_blocks_ - 1, &end);
    if (rc != 0) end = nr_blocks_;
    uint32_t n = static_cast<uint32_t>(std::min<uint64_t>(nr_blocks, end - begin));
    ext2fs_block_alloc_stats_range(fs_, begin, n, +1);
    runs.push_back({static_cast<uint32_t>(begin), n});
    *goal = static_cast<uint32_t>(begin) + n;
    nr_blocks -= n;
  }
  return runs;
}

// For the blocks that libext2fs itself needs (extended attributes); it marks
// them as used.
errcode_t Ext4Fs::AllocateHook(ext2_filsys fs, blk64_t, blk64_t* out) {
  auto* self = static_cast<Ext4Fs*>(fs->priv_data);
  auto runs = self->AllocateMetadata(1);
  if (!runs.ok()) return EXT2_ET_BLOCK_ALLOC_FAIL;
  *out = runs->front().block;
  ext2fs_block_alloc_stats2(fs, *out, -1);
  return 0;
}

Status Ext4Fs::WriteAttributes(uint32_t ino, const InodeAttributes& a) {
  ext2_inode_large inode{};
  auto* small = reinterpret_cast<ext2_inode*>(&inode);
  errcode_t rc = ext2fs_read_inode_full(fs_, ino, small, sizeof(inode));
  if (rc != 0) return ExtError("read inode", rc);
  inode.i_mode = static_cast<uint16_t>(a.mode);
  inode.i_uid = static_cast<uint16_t>(a.uid);
  inode.osd2.linux2.l_i_uid_high = static_cast<uint16_t>(a.uid >> 16);
  inode.i_gid = static_cast<uint16_t>(a.gid);
  inode.osd2.linux2.l_i_gid_high = static_cast<uint16_t>(a.gid >> 16);
  inode.i_extra_isize = kExtraInodeBytes;
  inode.i_generation = identity_word_ ^ ino * 2654435761U;
  uint32_t low, extra;
  SetTime(a.mtime_sec, a.mtime_nsec, &low, &extra);
  inode.i_atime = inode.i_ctime = inode.i_mtime = inode.i_crtime = low;
  inode.i_atime_extra = inode.i_ctime_extra = inode.i_mtime_extra = inode.i_crtime_extra = extra;
  rc = ext2fs_write_inode_full(fs_, ino, small, sizeof(inode));
  return rc == 0 ? OkStatus() : Status(ExtError("write inode", rc));
}

Result<InodeAttributes> Ext4Fs::ReadAttributes(uint32_t ino) {
  ext2_inode_large inode{};
  errcode_t rc = ext2fs_read_inode_full(fs_, ino, reinterpret_cast<ext2_inode*>(&inode), sizeof(inode));
  if (rc != 0) return ExtError("read inode", rc);
  return InodeAttributes{
      inode.i_mode, inode.i_uid | static_cast<uint32_t>(inode.osd2.linux2.l_i_uid_high) << 16,
      inode.i_gid | static_cast<uint32_t>(inode.osd2.linux2.l_i_gid_high) << 16,
      static_cast<int32_t>(inode.i_mtime) + (static_cast<int64_t>(inode.i_mtime_extra & 3) << 32), inode.i_mtime_extra >> 2};
}

Status Ext4Fs::WriteContent(uint32_t ino, const InodeContent& c,
                            std::vector<uint32_t>* tree_blocks) {
  ext2_inode_large inode{};
  auto* small = reinterpret_cast<ext2_inode*>(&inode);
  errcode_t rc = ext2fs_read_inode_full(fs_, ino, small, sizeof(inode));
  if (rc != 0) return ExtError("read inode", rc);
  inode.i_links_count = static_cast<uint16_t>(c.links);
  inode.i_size = static_cast<uint32_t>(c.size);
  inode.i_size_high = static_cast<uint32_t>(c.size >> 32);
  inode.i_flags = c.indexed ? EXT2_INDEX_FL : 0;
  std::memset(inode.i_block, 0, sizeof(inode.i_block));
  uint64_t nr_blocks = inode.i_file_acl != 0 ? 1 : 0;
  uint32_t type = inode.i_mode & S_IFMT;
  if (type == S_IFCHR || type == S_IFBLK) {
    bool old = c.dev_major < 256 && c.dev_minor < 256;
    inode.i_block[old ? 0 : 1] = old ? OldDevice(c.dev_major, c.dev_minor)
                                     : NewDevice(c.dev_major, c.dev_minor);
  } else if (type == S_IFLNK && c.extents.empty()) {
    std::memcpy(inode.i_block, c.fast_symlink.data(),
                std::min(c.fast_symlink.size(), kFastSymlinkBytes - 1));
  } else if (type == S_IFREG || type == S_IFDIR || type == S_IFLNK) {
    inode.i_flags |= EXT4_EXTENTS_FL;
    FASTOCI_CHECK_OK(WriteExtents(c.extents, tree_blocks, reinterpret_cast<uint8_t*>(inode.i_block)));
    for (const FileExtent& e : c.extents) nr_blocks += e.nr_blocks;
    nr_blocks += tree_blocks->size();
  }
  inode.i_blocks = static_cast<uint32_t>(nr_blocks * kFsBlockSectors);
  rc = ext2fs_write_inode_full(fs_, ino, small, sizeof(inode));
  return rc == 0 ? OkStatus() : Status(ExtError("write inode", rc));
}

Status Ext4Fs::WriteLinks(uint32_t ino, uint32_t links) {
  ext2_inode inode{};
  errcode_t rc = ext2fs_read_inode(fs_, ino, &inode);
  if (rc != 0) return ExtError("read inode", rc);
  inode.i_links_count = static_cast<uint16_t>(links);
  rc = ext2fs_write_inode(fs_, ino, &inode);
  return rc == 0 ? OkStatus() : Status(ExtError("write inode", rc));
}

Result<uint32_t> Ext4Fs::TreeBlock(std::vector<uint32_t>* tree_blocks, size_t* used) {
  if (*used == tree_blocks->size()) {
    FASTOCI_TRY(auto runs, AllocateMetadata(1));
    tree_blocks->push_back(runs.front().block);
  }
  return (*tree_blocks)[(*used)++];
}

// Bottom up: leaves of extents, then levels of index entries, until the rest
// fits into the inode.
Status Ext4Fs::WriteExtents(const std::vector<FileExtent>& extents,
                            std::vector<uint32_t>* tree_blocks, uint8_t* root) {
  std::vector<std::pair<uint32_t, Bytes>> level;  // logical block, entry
  for (const FileExtent& e : extents) {
    for (uint32_t at = 0; at < e.nr_blocks; at += kMaxExtentBlocks) {
      ByteWriter w;
      w.U32(e.logical + at);
      w.U16(static_cast<uint16_t>(std::min(kMaxExtentBlocks, e.nr_blocks - at)));
      w.U16(0);
      w.U32(e.block + at);
      level.emplace_back(e.logical + at, std::move(w.bytes()));
    }
  }
  size_t used = 0;
  int depth = 0;
  for (; level.size() > kRootExtents; depth++) {
    if (depth == kMaxExtentDepth) return InvalidError("too many extents in one file");
    std::vector<std::pair<uint32_t, Bytes>> above;
    for (size_t i = 0; i < level.size(); i += kExtentsPerBlock) {
      size_t n = std::min(kExtentsPerBlock, level.size() - i);
      Bytes block = ExtentHeader(n, kExtentsPerBlock, depth);
      for (size_t k = i; k < i + n; k++)
        block.insert(block.end(), level[k].second.begin(), level[k].second.end());
      block.resize(kFsBlockBytes);
      FASTOCI_TRY(uint32_t at, TreeBlock(tree_blocks, &used));
      device_->Write(uint64_t{at} * kFsBlockBytes, block);
      ByteWriter w;
      w.U32(level[i].first);
      w.U32(at);
      w.U32(0);
      above.emplace_back(level[i].first, std::move(w.bytes()));
    }
    level = std::move(above);
  }
  for (; tree_blocks->size() > used; tree_blocks->pop_back()) FreeLater({tree_blocks->back(), 1});
  Bytes bytes = ExtentHeader(level.size(), kRootExtents, depth);
  for (const auto& [logical, entry] : level) bytes.insert(bytes.end(), entry.begin(), entry.end());
  std::memcpy(root, bytes.data(), bytes.size());
  return OkStatus();
}

Status Ext4Fs::WriteXattrs(uint32_t ino, const std::map<std::string, std::string>& xattrs, bool add) {
  XattrHandle handle;
  errcode_t rc = ext2fs_xattrs_open(fs_, ino, &handle.h);
  if (rc == 0) rc = ext2fs_xattrs_read(handle.h);
  if (rc != 0) return ExtError("read extended attributes", rc);
  std::vector<std::string> names;
  if (!add) ext2fs_xattrs_iterate(handle.h, CollectName, &names);
  for (const std::string& name : names) {
    rc = ext2fs_xattr_remove(handle.h, name.c_str());
    if (rc != 0) return ExtError("remove extended attribute", rc);
  }
  for (const auto& [name, value] : xattrs) {
    rc = ext2fs_xattr_set(handle.h, name.c_str(), value.data(), value.size());
    if (rc == EXT2_ET_EA_NO_SPACE)
      return InvalidError("extended attributes larger than ext4 can hold");
    if (rc != 0) return InvalidError("extended attribute " + name + ": " + error_message(rc));
  }
  return OkStatus();
}

void Ext4Fs::FreeLater(uint32_t ino, bool directory) { free_inodes_.emplace_back(ino, directory); }

Status Ext4Fs::FreeInode(uint32_t ino, bool directory) {
  ext2_inode_large inode{};
  auto* small = reinterpret_cast<ext2_inode*>(&inode);
  errcode_t rc = ext2fs_read_inode_full(fs_, ino, small, sizeof(inode));
  if (rc != 0) return ExtError("read inode", rc);
  if (inode.i_file_acl != 0) free_runs_.push_back({inode.i_file_acl, 1});
  ext2_inode_large zero{};
  rc = ext2fs_write_inode_full(fs_, ino, reinterpret_cast<ext2_inode*>(&zero), sizeof(zero));
  if (rc != 0) return ExtError("write inode", rc);
  ext2fs_inode_alloc_stats2(fs_, ino, -1, directory);
  return OkStatus();
}

Status Ext4Fs::Flush() {
  for (auto [ino, directory] : free_inodes_) FASTOCI_CHECK_OK(FreeInode(ino, directory));
  free_inodes_.clear();
  for (BlockRun run : free_runs_)
    ext2fs_block_alloc_stats_range(fs_, run.block, run.nr_blocks, -1);
  free_runs_.clear();
  ext2fs_mark_super_dirty(fs_);
  ext2fs_mark_bb_dirty(fs_);
  ext2fs_mark_ib_dirty(fs_);
  errcode_t rc = ext2fs_set_gdt_csum(fs_);
  if (rc == 0) rc = ext2fs_flush2(fs_, EXT2_FLAG_FLUSH_NO_SYNC);
  return rc == 0 ? OkStatus() : Status(ExtError("flush", rc));
}

}  // namespace fastoci
