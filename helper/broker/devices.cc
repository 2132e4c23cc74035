// SPDX-License-Identifier: Apache-2.0
#include "broker/devices.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <bit>

#include "base/kernel_dev.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "fastoci_meta.h"
#include "kernel/loop.h"

namespace fastoci {
namespace {

// Makes a cache anew, unless a table or another program has the device.
Status Remake(const std::string& path, uint32_t chunk_shift) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_EXCL | O_CLOEXEC));
  if (!fd.valid()) return ErrnoError(path);
  const Bytes zeros(FASTOCI_CACHE_SB_BYTES);
  if (::pwrite(fd.get(), zeros.data(), zeros.size(), 0) != static_cast<ssize_t>(zeros.size()) ||
      ::fsync(fd.get()) != 0)
    return ErrnoError(path);
  return CacheDevice::Format(path, chunk_shift);
}

}  // namespace

Result<DeviceNodes> DeviceNodes::Open(const std::string& dir) {
  FASTOCI_CHECK_OK(MakeDirs(dir, 0700));
  DeviceNodes nodes;
  nodes.dir_ = dir;
  return nodes;
}

Result<std::string> DeviceNodes::Path(uint32_t dev) const {
  const dev_t want = UserDev(dev);
  const std::string path = dir_ + "/" + DevName(dev);
  struct stat st;
  if (::stat(path.c_str(), &st) == 0) {
    if (S_ISBLK(st.st_mode) && st.st_rdev == want) return path;
    if (::unlink(path.c_str()) != 0) return ErrnoError(path);
  }
  if (::mknod(path.c_str(), S_IFBLK | 0600, want) != 0 && errno != EEXIST)
    return ErrnoError(path + ": mknod");
  return path;
}

Result<std::unique_ptr<CacheDevice>> DeviceNodes::OpenCache(uint32_t dev) const {
  FASTOCI_TRY(std::string path, Path(dev));
  return CacheDevice::Open(path);
}

Result<MetaImage> DeviceNodes::ReadMeta(uint32_t dev) const {
  FASTOCI_TRY(std::string path, Path(dev));
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoError(path);
  uint64_t bytes = 0;
  if (::ioctl(fd.get(), BLKGETSIZE64, &bytes) != 0) return ErrnoError(path + ": size");
  auto meta = ReadMetaImage(fd.get(), bytes);
  if (!meta.ok()) return meta.error().Wrap(path);
  return meta;
}

Result<std::string> PrepareCache(const CacheOptions& o) {
  std::string path = o.device;
  if (path.empty()) {
    FASTOCI_CHECK_OK(MakeDirs(o.dir, 0700));
    FASTOCI_TRY(LoopDevice loop, AttachLoop(o.dir + "/cache.img", o.size_bytes));
    path = loop.path;
  }
  if (!std::has_single_bit(o.chunk_bytes))
    return InvalidError("the chunk size is not a power of two");
  const auto chunk_shift = static_cast<uint32_t>(std::countr_zero(o.chunk_bytes));
  FASTOCI_TRY(bool blank, CacheDevice::IsBlank(path));
  if (blank) {
    FASTOCI_CHECK_OK(CacheDevice::Format(path, chunk_shift));
    Log(LogLevel::kInfo, "%s: made a new cache", path.c_str());
  }
  auto device = CacheDevice::Open(path);  // checks its superblock
  if (device.ok()) return (*device)->path();
  Error e = device.error();
  if (e.kind != ErrorKind::kInvalid) return e;
  if (!o.device.empty()) {
    e.message +=
        ": give another device, or clear this one's first 4096 bytes to lose what it holds";
    return e;
  }
  // A file of our own holds nothing that cannot be fetched again.
  if (Status s = Remake(path, chunk_shift); !s.ok()) {
    e.message += ": cannot make it anew: " + s.error().message +
                 ": detach all images, then start the helper again";
    return e;
  }
  Log(LogLevel::kWarning, "%s: made a new cache: what %s/cache.img held is fetched again",
      e.message.c_str(), o.dir.c_str());
  return path;
}

}  // namespace fastoci
