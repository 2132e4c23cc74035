// SPDX-License-Identifier: Apache-2.0
#include "testing/test_image.h"

#include <ext2fs/ext2_fs.h>
#include <ext2fs/ext2fs.h>
#include <fastoci_meta.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "image/base_layer.h"
#include "image/layer_converter.h"
#include "testing/test_tar.h"

namespace fastoci {
namespace {

constexpr char kGzipType[] = "application/vnd.oci.image.layer.v1.tar+gzip";
constexpr char kTarType[] = "application/vnd.oci.image.layer.v1.tar";

struct OpenFs {
  ext2_filsys fs = nullptr;
  explicit OpenFs(const std::string& path) {
    ext2fs_open(path.c_str(), EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &fs);
  }
  ~OpenFs() {
    if (fs != nullptr) ext2fs_close(fs);
  }
};

std::string ReadData(ext2_filsys fs, ext2_ino_t ino, const ext2_inode_large& inode) {
  auto* small = reinterpret_cast<ext2_inode*>(const_cast<ext2_inode_large*>(&inode));
  if (LINUX_S_ISLNK(inode.i_mode) && ext2fs_is_fast_symlink(small))
    return std::string(reinterpret_cast<const char*>(inode.i_block), inode.i_size);
  ext2_file_t file = nullptr;
  std::string data(inode.i_size, '\0');
  unsigned got = 0;
  if (ext2fs_file_open2(fs, ino, small, 0, &file) != 0) return "";
  ext2fs_file_read(file, data.data(), inode.i_size, &got);
  ext2fs_file_close(file);
  data.resize(got);
  return data;
}

int AddXattr(char* name, char* value, size_t bytes, void* data) {
  (*static_cast<std::map<std::string, std::string>*>(data))[name] = std::string(value, bytes);
  return 0;
}

int AddName(ext2_dir_entry* entry, int, int, char*, void* data) {
  std::string name(entry->name, static_cast<size_t>(ext2fs_dirent_name_len(entry)));
  if (name != "." && name != "..") static_cast<std::vector<std::string>*>(data)->push_back(name);
  return 0;
}

}  // namespace

TestImage::~TestImage() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

Result<TestImage> TestImage::Make(const std::vector<Layer>& layers, FsType fs_type,
                                  const std::string& base) {
  LayerOutput output;
  output.fs_type = fs_type;
  AssembleInput input;
  std::vector<Bytes> meta_layers;
  std::vector<std::string> data_spaces;
  std::vector<UniqueFd> fds;
  std::unique_ptr<FsBuilder> builder;
  if (!base.empty()) {
    fds.emplace_back(memfd_create("base", MFD_CLOEXEC));
    FASTOCI_CHECK_OK(WriteFull(fds.back().get(), AsBytes(base), "memfd"));
    input.layers.push_back({.fd = fds.back().get(),
                            .target_digest = Sha256::Of(AsBytes(base)),
                            .target_bytes = base.size(),
                            .codec = FASTOCI_CODEC_ZFILE});
    data_spaces.push_back(base);
  }
  std::optional<LayerOrder> order;
  for (const Layer& layer : layers) {
    std::string blob = layer.gzip ? TestGzip(layer.tar) : layer.tar;
    Sha256Digest digest = Sha256::Of(AsBytes(blob));
    if (!builder) {
      if (base.empty()) {
        FASTOCI_TRY(builder, FsBuilder::Create(fs_type, digest));
      } else {
        FASTOCI_TRY(auto layer, BaseLayer::Open("/proc/self/fd/" + std::to_string(fds[0].get())));
        FASTOCI_TRY(builder, FsBuilder::CreateOn(*layer, digest));
        output.fs_bytes = builder->fs_bytes();
      }
      order.emplace(builder.get());
    }
    FASTOCI_TRY(auto converter,
                LayerConverter::Create({DigestString(digest), blob.size(),
                                        layer.gzip ? kGzipType : kTarType,
                                        DigestString(Sha256::Of(AsBytes(layer.tar)))},
                                       output, meta_layers.size(), &*order));
    constexpr size_t kStep = 10007;
    for (size_t at = 0; at < blob.size(); at += kStep)
      FASTOCI_CHECK_OK(converter->Update(AsBytes(blob).subspan(at, std::min(kStep, blob.size() - at))));
    FASTOCI_TRY(LayerResult result, converter->Finish());
    const PackedMetaLayer& packed = *result.meta;
    fds.emplace_back(memfd_create("meta", MFD_CLOEXEC));
    FASTOCI_CHECK_OK(WriteFull(fds.back().get(), packed.data, "memfd"));
    meta_layers.push_back(packed.data);
    data_spaces.push_back(layer.tar);
    input.layers.push_back({fds.back().get(), packed.digest, digest, blob.size(),
                            layer.gzip ? FASTOCI_CODEC_GZIP : FASTOCI_CODEC_RAW, nullptr, -1});
  }
  input.json_head = "{}";
  FASTOCI_TRY(TestImage image, Assembled(input, data_spaces));
  image.fs_type_ = fs_type;
  image.meta_layers_ = std::move(meta_layers);
  return image;
}

Result<TestImage> TestImage::Assembled(const AssembleInput& input,
                                       const std::vector<std::string>& data_spaces) {
  TestImage image;
  UniqueFd out(memfd_create("assembled", MFD_CLOEXEC));
  FASTOCI_CHECK_OK(Assemble(input, {}, out.get()));
  image.assembled_.resize(static_cast<size_t>(lseek(out.get(), 0, SEEK_END)));
  FASTOCI_CHECK_OK(PreadFull(out.get(), image.assembled_, 0, "assembled"));
  FASTOCI_CHECK_OK(image.Flatten(data_spaces));
  return image;
}

Status TestImage::Flatten(const std::vector<std::string>& data_spaces) {
  const char* dir = std::getenv("TMPDIR");
  std::string pattern = std::string(dir != nullptr ? dir : "/tmp") + "/fastoci-image.XXXXXX";
  UniqueFd out(mkstemp(pattern.data()));
  if (!out.valid()) return ErrnoError("mkstemp");
  path_ = pattern;
  fastoci_meta_sb sb;
  std::memcpy(&sb, assembled_.data(), sizeof(sb));
  if (ftruncate(out.get(), static_cast<off_t>(sb.device_sectors * 512)) != 0)
    return ErrnoError("ftruncate");
  ByteSpan all = assembled_;
  ByteReader keys(all.subspan(sb.keys.offset, sb.keys.bytes));
  ByteReader payloads(all.subspan(sb.payloads.offset, sb.payloads.bytes));
  uint64_t key = keys.U32();
  for (uint32_t i = 0; i < sb.nr_extents; i++) {
    uint64_t next = i + 1 < sb.nr_extents ? keys.U32() : sb.device_sectors;
    uint64_t payload = payloads.U64(), n = (next - key) * 512;
    uint64_t type = payload >> FASTOCI_EXTENT_TYPE_SHIFT;
    uint64_t at = (payload & FASTOCI_EXTENT_SECTOR_MASK) * 512;
    ByteSpan source = all;
    if (type == FASTOCI_EXTENT_BLOB)
      source = AsBytes(data_spaces[payload >> FASTOCI_EXTENT_BLOB_SHIFT & FASTOCI_EXTENT_BLOB_MASK]);
    if (type != FASTOCI_EXTENT_ZERO) {
      if (at >= source.size()) return InvalidError("an extent leaves its source");
      FASTOCI_CHECK_OK(PwriteFull(out.get(), source.subspan(at, std::min(n, source.size() - at)),
                                  key * 512, "flat image"));
    }
    key = next;
  }
  return OkStatus();
}

std::string TestImage::Fsck() const {
  std::string command = (fs_type_ == FsType::kErofs ? "fsck.erofs " : "e2fsck -fn ") + path_ + " 2>&1";
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");
  char buffer[1024];
  while (size_t n = std::fread(buffer, 1, sizeof(buffer), pipe)) text.append(buffer, n);
  return pclose(pipe) == 0 ? "" : text;
}

std::optional<TestFile> TestImage::Find(const std::string& path) const {
  OpenFs open(path_);
  TestFile f;
  if (open.fs == nullptr || ext2fs_namei(open.fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path.c_str(), &f.ino) != 0)
    return std::nullopt;
  ext2_inode_large inode{};
  if (ext2fs_read_inode_full(open.fs, f.ino, reinterpret_cast<ext2_inode*>(&inode), sizeof(inode)) != 0)
    return std::nullopt;
  f.mode = inode.i_mode;
  f.uid = inode_uid(inode);
  f.gid = inode_gid(inode);
  f.links = inode.i_links_count;
  f.size = EXT2_I_SIZE(&inode);
  f.flags = inode.i_flags;
  f.mtime_sec = static_cast<int32_t>(inode.i_mtime) + (static_cast<int64_t>(inode.i_mtime_extra & 3) << 32);
  f.mtime_nsec = inode.i_mtime_extra >> 2;
  f.rdev = inode.i_block[0] != 0 ? inode.i_block[0] : inode.i_block[1];
  if (LINUX_S_ISREG(f.mode) || LINUX_S_ISLNK(f.mode)) f.data = ReadData(open.fs, f.ino, inode);
  ext2_xattr_handle* handle = nullptr;
  if (ext2fs_xattrs_open(open.fs, f.ino, &handle) == 0) {
    if (ext2fs_xattrs_read(handle) == 0) ext2fs_xattrs_iterate(handle, AddXattr, &f.xattrs);
    ext2fs_xattrs_close(&handle);
  }
  return f;
}

std::vector<std::string> TestImage::List(const std::string& path) const {
  OpenFs open(path_);
  std::vector<std::string> names;
  ext2_ino_t ino = 0;
  if (open.fs == nullptr || ext2fs_namei(open.fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path.c_str(), &ino) != 0)
    return names;
  ext2fs_dir_iterate(open.fs, ino, 0, nullptr, AddName, &names);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace fastoci
