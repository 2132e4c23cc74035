// SPDX-License-Identifier: Apache-2.0
#include "cache/cache_device.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "base/digest.h"
#include "base/kernel_dev.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

constexpr size_t kCrcAt = 28;

uint32_t SuperblockCrc(ByteSpan bytes) {
  Bytes copy(bytes.begin(), bytes.end());
  std::fill_n(copy.begin() + kCrcAt, 4, 0);
  return Crc32c(copy);
}

struct Opened {
  UniqueFd fd;
  uint64_t size_bytes = 0;
  uint32_t dev = 0;
};

Result<Opened> OpenDirect(const std::string& path) {
  Opened o;
  o.fd.reset(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  if (!o.fd.valid()) return ErrnoError(path);
  struct stat st;
  if (::fstat(o.fd.get(), &st) != 0) return ErrnoError(path);
  if (S_ISBLK(st.st_mode)) {
    int sector_bytes = 0;
    if (::ioctl(o.fd.get(), BLKGETSIZE64, &o.size_bytes) != 0 ||
        ::ioctl(o.fd.get(), BLKSSZGET, &sector_bytes) != 0)
      return ErrnoError(path + ": size");
    if (sector_bytes != 512)
      return Error{
          ErrorKind::kUnsupported, EINVAL,
          path + ": logical blocks of " + std::to_string(sector_bytes) + " bytes, not 512"};
    o.dev = KernelDev(st.st_rdev);
  } else if (S_ISREG(st.st_mode)) {
    o.size_bytes = static_cast<uint64_t>(st.st_size);
  } else {
    return InvalidError(path + ": neither a block device nor a file");
  }
  if (o.size_bytes < FASTOCI_CACHE_SB_BYTES) return InvalidError(path + ": too small for a cache");
  return o;
}

}  // namespace

AlignedBuffer::AlignedBuffer(size_t bytes)
    : bytes_((bytes + kAlign - 1) / kAlign * kAlign),
      data_(static_cast<uint8_t*>(std::aligned_alloc(kAlign, std::max(bytes_, kAlign)))) {
  if (data_) std::memset(data_.get(), 0, bytes_);
}

Bytes EncodeCacheSuperblock(const CacheGeometry& g) {
  ByteWriter w;
  w.Append({reinterpret_cast<const uint8_t*>(FASTOCI_CACHE_MAGIC), 8});
  w.U32(FASTOCI_CACHE_VERSION);
  w.U32(FASTOCI_CACHE_SB_BYTES);
  w.Zeros(16);  // feature masks, crc
  w.Append(g.uuid);
  w.U32(g.chunk_shift);
  w.U32(g.nr_slots);
  w.U64(g.slots_offset);
  w.Zeros(FASTOCI_CACHE_SB_BYTES - w.size());
  const uint32_t crc = SuperblockCrc(w.bytes());
  for (int i = 0; i < 4; i++) w.bytes()[kCrcAt + i] = static_cast<uint8_t>(crc >> (8 * i));
  return std::move(w.bytes());
}

Result<CacheGeometry> ParseCacheSuperblock(ByteSpan bytes, uint64_t device_bytes) {
  ByteReader r(bytes);
  ByteSpan magic = r.Take(8);
  if (!r.ok() || std::memcmp(magic.data(), FASTOCI_CACHE_MAGIC, 8) != 0)
    return InvalidError("cache: no superblock (bad magic)");
  const uint32_t version = r.U32(), sb_bytes = r.U32();
  const uint32_t compat = r.U32(), ro_compat = r.U32(), incompat = r.U32(), crc = r.U32();
  (void)compat;
  CacheGeometry g;
  ByteSpan uuid = r.Take(16);
  g.chunk_shift = r.U32();
  g.nr_slots = r.U32();
  g.slots_offset = r.U64();
  if (!r.ok() || bytes.size() < FASTOCI_CACHE_SB_BYTES)
    return InvalidError("cache: superblock is cut short");
  if (version != FASTOCI_CACHE_VERSION)
    return InvalidError("cache: unknown version " + std::to_string(version));
  if (sb_bytes != FASTOCI_CACHE_SB_BYTES) return InvalidError("cache: bad superblock size");
  if (incompat != 0) return InvalidError("cache: unknown incompatible features");
  if (ro_compat != 0) return InvalidError("cache: features that forbid writing");
  if (SuperblockCrc(bytes.first(FASTOCI_CACHE_SB_BYTES)) != crc)
    return InvalidError("cache: bad superblock checksum");
  std::copy(uuid.begin(), uuid.end(), g.uuid.begin());
  if (g.chunk_shift < FASTOCI_MIN_CHUNK_SHIFT || g.chunk_shift > FASTOCI_MAX_CHUNK_SHIFT)
    return InvalidError("cache: bad chunk size");
  if (g.nr_slots == 0 || g.nr_slots > FASTOCI_MAX_SLOTS)
    return InvalidError("cache: bad number of slots");
  const uint64_t chunk = 1ULL << g.chunk_shift;
  if (g.slots_offset == 0 || g.slots_offset % chunk != 0 || g.slots_offset > device_bytes ||
      (device_bytes - g.slots_offset) / chunk < g.nr_slots)
    return InvalidError("cache: slots lie outside of the device");
  return g;
}

Result<bool> CacheDevice::IsBlank(const std::string& path) {
  FASTOCI_TRY(Opened o, OpenDirect(path));
  AlignedBuffer sb(FASTOCI_CACHE_SB_BYTES);
  if (!sb.ok()) return ErrnoError("memory", ENOMEM);
  FASTOCI_CHECK_OK(PreadFull(o.fd.get(), sb.span(), 0, path));
  return std::all_of(sb.data(), sb.data() + sb.size(), [](uint8_t b) { return b == 0; });
}

Status CacheDevice::Format(const std::string& path, uint32_t chunk_shift) {
  if (chunk_shift < FASTOCI_MIN_CHUNK_SHIFT || chunk_shift > FASTOCI_MAX_CHUNK_SHIFT)
    return InvalidError("cache: chunk size must be 64 KiB to 4 MiB");
  FASTOCI_TRY(bool blank, IsBlank(path));
  if (!blank) return InvalidError(path + ": it holds no cache, but its first 4096 bytes are not zeros; to use it, zero them first with dd");
  FASTOCI_TRY(Opened o, OpenDirect(path));
  CacheGeometry g;
  g.chunk_shift = chunk_shift;
  g.slots_offset = 1ULL << chunk_shift;
  if (o.size_bytes >> chunk_shift < 2) return InvalidError(path + ": too small for a cache");
  g.nr_slots = static_cast<uint32_t>(
      std::min<uint64_t>((o.size_bytes >> chunk_shift) - 1, FASTOCI_MAX_SLOTS));
  if (::getrandom(g.uuid.data(), g.uuid.size(), 0) != static_cast<ssize_t>(g.uuid.size()))
    return ErrnoError("getrandom");
  g.uuid[6] = static_cast<uint8_t>((g.uuid[6] & 0x0f) | 0x40);  // a random UUID, RFC 4122
  g.uuid[8] = static_cast<uint8_t>((g.uuid[8] & 0x3f) | 0x80);
  AlignedBuffer sb(FASTOCI_CACHE_SB_BYTES);
  if (!sb.ok()) return ErrnoError("memory", ENOMEM);
  Bytes encoded = EncodeCacheSuperblock(g);
  std::copy(encoded.begin(), encoded.end(), sb.data());
  FASTOCI_CHECK_OK(PwriteFull(o.fd.get(), sb.span(), 0, path));
  if (::fsync(o.fd.get()) != 0) return ErrnoError(path + ": fsync");
  return OkStatus();
}

Result<std::unique_ptr<CacheDevice>> CacheDevice::Open(const std::string& path) {
  FASTOCI_TRY(Opened o, OpenDirect(path));
  AlignedBuffer sb(FASTOCI_CACHE_SB_BYTES);
  if (!sb.ok()) return ErrnoError("memory", ENOMEM);
  FASTOCI_CHECK_OK(PreadFull(o.fd.get(), sb.span(), 0, path));
  auto geometry = ParseCacheSuperblock(sb.span(), o.size_bytes);
  if (!geometry.ok()) return geometry.error().Wrap(path);
  std::unique_ptr<CacheDevice> d(new CacheDevice);
  d->fd_ = std::move(o.fd);
  d->path_ = path;
  d->geometry_ = *geometry;
  d->size_bytes_ = o.size_bytes;
  d->dev_ = o.dev;
  return d;
}

Status CacheDevice::Check(uint32_t slot, size_t bytes) const {
  if (slot >= geometry_.nr_slots || bytes > chunk_bytes() || bytes % 512 != 0)
    return Error{ErrorKind::kInternal, EINVAL,
                 path_ + ": transfer outside of slot " + std::to_string(slot)};
  return OkStatus();
}

uint64_t CacheDevice::OffsetOf(uint32_t slot) const {
  return geometry_.slots_offset + (static_cast<uint64_t>(slot) << geometry_.chunk_shift);
}

// Adjacent slots, all but the last one whole.
Status CacheDevice::WriteRun(std::span<SlotWrite> run) {
  std::vector<iovec> parts;
  parts.reserve(run.size());
  for (const SlotWrite& w : run)
    parts.push_back({const_cast<uint8_t*>(w.data.data()), w.data.size()});
  size_t first = 0;
  uint64_t offset = OffsetOf(run.front().slot);
  while (first < parts.size()) {
    ssize_t n = ::pwritev(fd_.get(), &parts[first], static_cast<int>(parts.size() - first),
                          static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    const int err = n < 0 ? errno : EIO;
    if (n <= 0) return ErrnoError(path_ + ": write at " + std::to_string(offset), err);
    offset += static_cast<uint64_t>(n);
    for (; first < parts.size() && static_cast<size_t>(n) >= parts[first].iov_len; first++)
      n -= static_cast<ssize_t>(parts[first].iov_len);
    if (n > 0) {
      parts[first].iov_base = static_cast<uint8_t*>(parts[first].iov_base) + n;
      parts[first].iov_len -= static_cast<size_t>(n);
    }
  }
  return OkStatus();
}

void CacheDevice::WriteSlots(std::span<SlotWrite> writes) {
  for (size_t begin = 0, end; begin < writes.size(); begin = end) {
    end = begin + 1;
    SlotWrite& first = writes[begin];
    first.result = Check(first.slot, first.data.size());
    if (!first.result.ok()) continue;
    while (end < writes.size() && end - begin < IOV_MAX &&
           writes[end].slot == writes[end - 1].slot + 1 &&
           writes[end - 1].data.size() == chunk_bytes() &&
           Check(writes[end].slot, writes[end].data.size()).ok())
      end++;
    const auto run = writes.subspan(begin, end - begin);
    const Status all = WriteRun(run);
    for (SlotWrite& w : run) w.result = all.ok() || run.size() == 1 ? all : WriteRun({&w, 1});
  }
}

Status CacheDevice::WriteSlot(uint32_t slot, std::span<const uint8_t> data) {
  SlotWrite write{.slot = slot, .data = data};
  WriteSlots({&write, 1});
  return write.result;
}

Status CacheDevice::ReadSlot(uint32_t slot, std::span<uint8_t> data) {
  FASTOCI_CHECK_OK(Check(slot, data.size()));
  return PreadFull(fd_.get(), data, OffsetOf(slot), path_);
}

Status CacheDevice::RewriteSuperblock() {
  AlignedBuffer sb(FASTOCI_CACHE_SB_BYTES);
  if (!sb.ok()) return ErrnoError("memory", ENOMEM);
  FASTOCI_CHECK_OK(PreadFull(fd_.get(), sb.span(), 0, path_));
  return PwriteFull(fd_.get(), sb.span(), 0, path_);
}

Status CacheDevice::DiscardSlots() {
  if (dev_ == 0) return OkStatus();
  uint64_t range[2] = {geometry_.slots_offset,
                       static_cast<uint64_t>(geometry_.nr_slots) << geometry_.chunk_shift};
  if (::ioctl(fd_.get(), BLKDISCARD, range) != 0 && errno != EOPNOTSUPP)
    return ErrnoError(path_ + ": discard");
  return OkStatus();
}

Status CacheDevice::Flush() {
  if (::fdatasync(fd_.get()) != 0) return ErrnoError(path_ + ": fdatasync");
  return OkStatus();
}

}  // namespace fastoci
