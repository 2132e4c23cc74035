// SPDX-License-Identifier: Apache-2.0
#include "store/cache_device.h"

#include <fastoci_meta.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstring>

#include "base/digest.h"
#include "base/log.h"
#include "store/cache_loop.h"

namespace fastoci {
namespace {

constexpr size_t kCrcOffset = offsetof(fastoci_cache_sb, crc);
constexpr uint32_t kLogicalBlockBytes = 512;

Error Bad(const std::string& what) { return InvalidError("cache superblock: " + what); }

// The cache file, made sparse with its full size if it is not there.
Result<std::string> PrepareFile(const CacheDeviceOptions& options) {
  std::string path = options.dir + "/cache.img";
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoError("open " + path);
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoError("stat " + path);
  if (!S_ISREG(st.st_mode)) return InvalidError(path + " is not a file");
  if (st.st_size == 0 && ftruncate(fd.get(), static_cast<off_t>(options.file_bytes)) != 0)
    return ErrnoError("make " + path);
  return path;
}

}  // namespace

Bytes MakeCacheSuperblock(const CacheGeometry& g) {
  ByteWriter w;
  w.Append(AsBytes(FASTOCI_CACHE_MAGIC));
  w.U32(FASTOCI_CACHE_VERSION);
  w.U32(FASTOCI_CACHE_SB_BYTES);
  w.Zeros(16);  // compat, ro_compat, incompat, crc
  w.Append(g.uuid);
  w.U32(g.chunk_shift);
  w.U32(g.nr_slots);
  w.U64(g.slots_offset);
  w.Zeros(FASTOCI_CACHE_SB_BYTES - w.size());
  Bytes sb = std::move(w.bytes());
  uint32_t crc = Crc32c(sb);
  for (size_t i = 0; i < 4; i++) sb[kCrcOffset + i] = static_cast<uint8_t>(crc >> (8 * i));
  return sb;
}

Result<CacheGeometry> ParseCacheSuperblock(ByteSpan bytes, uint64_t device_bytes) {
  ByteReader r(bytes);
  ByteSpan magic = r.Take(8);
  if (magic.size() != 8 || std::memcmp(magic.data(), FASTOCI_CACHE_MAGIC, 8) != 0)
    return Bad("no magic");
  if (r.U32() != FASTOCI_CACHE_VERSION) return Bad("unknown version");
  if (r.U32() != FASTOCI_CACHE_SB_BYTES) return Bad("size");
  r.Skip(8);
  if (r.U32() != 0) return Bad("unknown incompatible features");
  uint32_t crc = r.U32();
  CacheGeometry g;
  ByteSpan uuid = r.Take(g.uuid.size());
  std::copy(uuid.begin(), uuid.end(), g.uuid.begin());
  g.chunk_shift = r.U32();
  g.nr_slots = r.U32();
  g.slots_offset = r.U64();
  if (!r.ok() || bytes.size() != FASTOCI_CACHE_SB_BYTES) return Bad("too short");
  Bytes zeroed(bytes.begin(), bytes.end());
  std::fill_n(zeroed.begin() + kCrcOffset, 4, 0);
  if (Crc32c(zeroed) != crc) return Bad("checksum");
  if (g.chunk_shift < FASTOCI_MIN_CHUNK_SHIFT || g.chunk_shift > FASTOCI_MAX_CHUNK_SHIFT)
    return Bad("chunk size");
  if (g.nr_slots == 0 || g.nr_slots > FASTOCI_MAX_SLOTS) return Bad("number of slots");
  if (g.slots_offset == 0 || g.slots_offset % g.chunk_bytes() != 0 ||
      g.slots_offset > device_bytes ||
      (static_cast<uint64_t>(g.nr_slots) << g.chunk_shift) > device_bytes - g.slots_offset)
    return Bad("slots are behind the end of the device");
  return g;
}

Result<CacheGeometry> NewCacheGeometry(uint64_t device_bytes, uint32_t chunk_bytes) {
  CacheGeometry g;
  while ((1ULL << g.chunk_shift) < chunk_bytes) g.chunk_shift++;
  if (g.chunk_bytes() != chunk_bytes || g.chunk_shift < FASTOCI_MIN_CHUNK_SHIFT ||
      g.chunk_shift > FASTOCI_MAX_CHUNK_SHIFT)
    return InvalidError("chunk size must be a power of two from 64 to 4096 KiB");
  g.slots_offset = g.chunk_bytes();
  if (device_bytes < 2 * g.chunk_bytes()) return InvalidError("the cache is too small");
  g.nr_slots = static_cast<uint32_t>(
      std::min<uint64_t>((device_bytes >> g.chunk_shift) - 1, FASTOCI_MAX_SLOTS));
  if (getrandom(g.uuid.data(), g.uuid.size(), 0) != static_cast<ssize_t>(g.uuid.size()))
    return ErrnoError("getrandom");
  g.uuid[6] = static_cast<uint8_t>((g.uuid[6] & 0x0f) | 0x40);  // RFC 4122, version 4
  g.uuid[8] = static_cast<uint8_t>((g.uuid[8] & 0x3f) | 0x80);
  return g;
}

Status CacheDevice::LoadOrFormat(uint64_t device_bytes, uint32_t chunk_bytes) {
  AlignedBuffer block(FASTOCI_CACHE_SB_BYTES);
  FASTOCI_CHECK_OK(PreadFull(fd_.get(), block.span(), 0, path_));
  ByteSpan bytes = block.span();
  if (std::any_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b != 0; })) {
    auto parsed = ParseCacheSuperblock(bytes, device_bytes);
    if (!parsed.ok())
      return parsed.error().Wrap(path_ + " is neither blank nor a cache; to use it all the same, "
                                         "clear its first 4096 bytes");
    geometry_ = *parsed;
    return OkStatus();
  }
  FASTOCI_TRY(geometry_, NewCacheGeometry(device_bytes, chunk_bytes));
  Bytes sb = MakeCacheSuperblock(geometry_);
  std::copy(sb.begin(), sb.end(), block.span().begin());
  FASTOCI_CHECK_OK(PwriteFull(fd_.get(), block.span(), 0, path_));
  return Flush();
}

Result<std::unique_ptr<CacheDevice>> CacheDevice::Open(const CacheDeviceOptions& options) {
  std::unique_ptr<CacheDevice> d(new CacheDevice);
  d->path_ = options.device;
  if (options.device.empty()) {
    FASTOCI_TRY(std::string file, PrepareFile(options));
    FASTOCI_TRY(CacheLoop loop, OpenCacheLoop(file));
    d->path_ = loop.device;
    d->fd_ = std::move(loop.fd);
    d->direct_io_ = loop.direct_io;
    if (!loop.direct_io)
      Log(LogLevel::kWarning,
          "%s: its file system cannot do direct I/O in blocks of 512 bytes, so cached data is "
          "kept in memory twice; use --cache-device or another --cache-dir",
          file.c_str());
  } else {
    d->fd_.reset(open(d->path_.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
    if (!d->fd_.valid()) return ErrnoError("open " + d->path_);
  }
  struct stat st;
  if (fstat(d->fd_.get(), &st) != 0) return ErrnoError("stat " + d->path_);
  if (!S_ISBLK(st.st_mode)) return InvalidError(d->path_ + " is not a block device");
  d->dev_ = major(st.st_rdev) << 20 | minor(st.st_rdev);
  int block_bytes = 0;
  uint64_t device_bytes = 0;
  if (ioctl(d->fd_.get(), BLKSSZGET, &block_bytes) != 0 ||
      ioctl(d->fd_.get(), BLKGETSIZE64, &device_bytes) != 0)
    return ErrnoError(d->path_);
  if (block_bytes != static_cast<int>(kLogicalBlockBytes))
    return Error{ErrorKind::kUnsupported, EINVAL,
                 d->path_ + " has logical blocks of " + std::to_string(block_bytes) +
                     " bytes, a cache needs 512"};
  FASTOCI_CHECK_OK(d->LoadOrFormat(device_bytes, options.chunk_bytes));
  return d;
}

Result<std::unique_ptr<CacheDevice>> CacheDevice::OpenFd(UniqueFd fd, uint64_t bytes,
                                                         uint32_t chunk_bytes) {
  std::unique_ptr<CacheDevice> d(new CacheDevice);
  d->path_ = "cache";
  d->fd_ = std::move(fd);
  FASTOCI_CHECK_OK(d->LoadOrFormat(bytes, chunk_bytes));
  return d;
}

Status CacheDevice::Write(uint32_t slot, std::span<const uint8_t> data) const {
  if (slot >= geometry_.nr_slots || data.size() > geometry_.chunk_bytes())
    return InvalidError("slot is out of range");
  return PwriteFull(fd_.get(), data,
                    geometry_.slots_offset + (static_cast<uint64_t>(slot) << geometry_.chunk_shift),
                    path_);
}

Status CacheDevice::Read(uint32_t slot, std::span<uint8_t> data) const {
  if (slot >= geometry_.nr_slots || data.size() > geometry_.chunk_bytes())
    return InvalidError("slot is out of range");
  return PreadFull(fd_.get(), data,
                   geometry_.slots_offset + (static_cast<uint64_t>(slot) << geometry_.chunk_shift),
                   path_);
}

Status CacheDevice::Flush() const {
  if (fdatasync(fd_.get()) != 0) return ErrnoError("fdatasync " + path_);
  return OkStatus();
}

}  // namespace fastoci
