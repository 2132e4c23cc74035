// SPDX-License-Identifier: Apache-2.0
#include "store/loop_device.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/log.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

constexpr int kBindTries = 32;  // others take free loop devices too

Result<LoopDevice> ReadBack(int fd, const std::string& path) {
  loop_info64 info = {};
  if (::ioctl(fd, LOOP_GET_STATUS64, &info) != 0) return ErrnoError(path + ": loop status");
  LoopDevice d{path, (info.lo_flags & LO_FLAGS_DIRECT_IO) != 0};
  if (!d.direct_io)
    Log(LogLevel::kWarning,
        "%s: the loop device runs buffered: no 512-byte direct I/O on this file system",
        path.c_str());
  return d;
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

}  // namespace

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
    return ReadBack(fd.get(), *bound);
  }
  UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.valid()) return ErrnoError("/dev/loop-control");
  for (int i = 0; i < kBindTries; i++) {
    int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return ErrnoError("no free loop device");
    const std::string path = "/dev/loop" + std::to_string(number);
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd.valid()) return ErrnoError(path);
    loop_config config = {};
    config.fd = static_cast<uint32_t>(back.get());
    config.block_size = 512;
    config.info.lo_flags = LO_FLAGS_DIRECT_IO;
    std::copy_n(file.begin(), std::min<size_t>(file.size(), LO_NAME_SIZE - 1),
                config.info.lo_file_name);
    if (::ioctl(fd.get(), LOOP_CONFIGURE, &config) == 0) return ReadBack(fd.get(), path);
    if (errno != EBUSY) return ErrnoError(path + ": LOOP_CONFIGURE");
  }
  return Error{ErrorKind::kIo, EBUSY, "no loop device stayed free long enough"};
}

Status DetachLoop(const std::string& device) {
  UniqueFd fd(::open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return ErrnoError(device);
  if (::ioctl(fd.get(), LOOP_CLR_FD) != 0) return ErrnoError(device + ": LOOP_CLR_FD");
  return OkStatus();
}

}  // namespace fastoci
