// SPDX-License-Identifier: Apache-2.0
#include "kernel/loop.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/log.h"

namespace fastoci {
namespace {

constexpr int kMaxAttempts = 64;  // races with others for a free device
constexpr uint32_t kBlockBytes = 512;

bool CanRead(int fd) {
  uint8_t block[kBlockBytes];
  return ::pread(fd, block, sizeof(block), 0) == static_cast<ssize_t>(sizeof(block));
}

// Turns direct I/O off where it does not work.
Status TryDirect(const UniqueFd& backing, const UniqueFd& loop) {
  int block_bytes = 0;
  // A block device says what it takes. A read of it may hang: its helper may be gone.
  if (::ioctl(backing.get(), BLKSSZGET, &block_bytes) == 0) {
    if (block_bytes > static_cast<int>(kBlockBytes)) (void)::ioctl(loop.get(), LOOP_SET_DIRECT_IO, 0UL);
    return OkStatus();
  }
  if (CanRead(loop.get())) return OkStatus();
  (void)::ioctl(loop.get(), LOOP_SET_DIRECT_IO, 0UL);
  return CanRead(loop.get()) ? OkStatus() : Status(ErrnoError("read"));
}

Result<bool> IsDirect(int fd, const std::string& device) {
  loop_info64 info = {};
  if (::ioctl(fd, LOOP_GET_STATUS64, &info) != 0)
    return ErrnoError("read the state of " + device);
  return (info.lo_flags & LO_FLAGS_DIRECT_IO) != 0;
}

struct Bound {
  std::string device;
  UniqueFd fd;
  bool direct_io = false;
};

// Binds the file to a free device; mode: of open(2), flags: LO_FLAGS_*.
Result<Bound> Bind(const UniqueFd& backing, const std::string& file, int mode, uint32_t flags) {
  UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.valid())
    return ErrnoError("open /dev/loop-control (is the module there? try: modprobe loop)");
  loop_config config = {};
  config.fd = static_cast<uint32_t>(backing.get());
  config.block_size = kBlockBytes;
  config.info.lo_flags = flags | LO_FLAGS_DIRECT_IO;
  std::copy_n(file.begin(), std::min<size_t>(file.size(), LO_NAME_SIZE - 1),
              config.info.lo_file_name);
  for (int attempt = 0; attempt < kMaxAttempts; attempt++) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return ErrnoError("find a free loop device");
    Bound b;
    b.device = "/dev/loop" + std::to_string(number);
    b.fd.reset(::open(b.device.c_str(), mode | O_CLOEXEC));
    if (!b.fd.valid()) return ErrnoError("open " + b.device);
    if (::ioctl(b.fd.get(), LOOP_CONFIGURE, &config) != 0) {
      if (errno == EBUSY) continue;  // somebody else took it
      return ErrnoError("set up " + b.device + " over " + file);
    }
    if (Status tried = TryDirect(backing, b.fd); !tried.ok()) {
      (void)::ioctl(b.fd.get(), LOOP_CLR_FD);
      return tried.error().Wrap(file + " through " + b.device);
    }
    FASTOCI_TRY(b.direct_io, IsDirect(b.fd.get(), b.device));
    return b;
  }
  return Error{ErrorKind::kIo, EBUSY, "every free loop device was taken by others"};
}

// The loop device that has this file, if any.
std::optional<std::string> FindBound(const struct stat& file) {
  DIR* dir = ::opendir("/sys/block");
  if (!dir) return std::nullopt;
  std::optional<std::string> found;
  while (dirent* e = ::readdir(dir)) {
    if (std::strncmp(e->d_name, "loop", 4) != 0) continue;
    const std::string sys = std::string("/sys/block/") + e->d_name + "/loop";
    if (::access(sys.c_str(), F_OK) != 0) continue;  // not bound
    const std::string path = std::string("/dev/") + e->d_name;
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    loop_info64 info = {};
    if (!fd.valid() || ::ioctl(fd.get(), LOOP_GET_STATUS64, &info) != 0) continue;
    if (info.lo_inode == file.st_ino && info.lo_device == file.st_dev && info.lo_offset == 0) {
      found = path;
      break;
    }
  }
  ::closedir(dir);
  return found;
}

LoopDevice Told(const std::string& path, bool direct_io) {
  if (!direct_io)
    Log(LogLevel::kWarning,
        "%s: the loop device runs buffered: no 512-byte direct I/O on this file system",
        path.c_str());
  return {path, direct_io};
}

}  // namespace

Result<AutoclearLoop> AutoclearLoop::Open(const std::string& file) { return Open(file, O_RDONLY, LO_FLAGS_READ_ONLY); }

Result<AutoclearLoop> AutoclearLoop::OpenWritable(const std::string& file) { return Open(file, O_RDWR, 0); }

Result<AutoclearLoop> AutoclearLoop::Open(const std::string& file, int mode, uint32_t flags) {
  UniqueFd backing(::open(file.c_str(), mode | O_CLOEXEC));
  if (!backing.valid()) return ErrnoError("open " + file);
  FASTOCI_TRY(Bound bound, Bind(backing, file, mode, flags | LO_FLAGS_AUTOCLEAR));
  AutoclearLoop loop;
  loop.device_ = std::move(bound.device);
  loop.fd_ = std::move(bound.fd);
  loop.direct_io_ = bound.direct_io;
  return loop;
}

Result<LoopDevice> AttachLoop(const std::string& file, uint64_t size_bytes) {
  UniqueFd back(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!back.valid()) return ErrnoError(file);
  struct stat st;
  if (::fstat(back.get(), &st) != 0) return ErrnoError(file);
  if (!S_ISREG(st.st_mode)) return InvalidError(file + ": not a file");
  if (st.st_size == 0) {
    if (size_bytes == 0 || ::ftruncate(back.get(), static_cast<off_t>(size_bytes)) != 0)
      return ErrnoError(file + ": resize", size_bytes == 0 ? EINVAL : errno);
    if (::fsync(back.get()) != 0) return ErrnoError(file + ": fsync");
  } else if (auto bound = FindBound(st)) {
    UniqueFd fd(::open(bound->c_str(), O_RDWR | O_CLOEXEC));
    if (!fd.valid()) return ErrnoError(*bound);
    FASTOCI_TRY(bool direct_io, IsDirect(fd.get(), *bound));
    return Told(*bound, direct_io);
  }
  FASTOCI_TRY(Bound bound, Bind(back, file, O_RDWR, 0));
  return Told(bound.device, bound.direct_io);
}

Status DetachLoop(const std::string& device) {
  UniqueFd fd(::open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return ErrnoError(device);
  if (::ioctl(fd.get(), LOOP_CLR_FD) != 0) return ErrnoError(device + ": LOOP_CLR_FD");
  return OkStatus();
}

std::string LoopBackingFile(uint32_t minor) {
  auto text = ReadFile("/sys/block/loop" + std::to_string(minor) + "/loop/backing_file", 8192);
  if (!text.ok()) return "";
  std::string path = *text;
  while (!path.empty() && path.back() == '\n') path.pop_back();
  return path;
}

}  // namespace fastoci
