// SPDX-License-Identifier: Apache-2.0
#include "kernel/loop.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace fastoci {
namespace {

constexpr int kMaxAttempts = 64;  // races with others for a free device
constexpr uint32_t kBlockBytes = 512;

bool CanRead(int fd) {
  uint8_t block[kBlockBytes];
  return ::pread(fd, block, sizeof(block), 0) == static_cast<ssize_t>(sizeof(block));
}

}  // namespace

Result<AutoclearLoop> AutoclearLoop::Open(const std::string& file) {
  UniqueFd backing(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!backing.valid()) return ErrnoError("open " + file);
  UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.valid()) {
    return ErrnoError("open /dev/loop-control (is the module there? try: modprobe loop)");
  }
  struct loop_config config = {};
  config.fd = static_cast<uint32_t>(backing.get());
  config.block_size = kBlockBytes;
  config.info.lo_flags = LO_FLAGS_READ_ONLY;
  config.info.lo_flags |= LO_FLAGS_AUTOCLEAR;
  config.info.lo_flags |= LO_FLAGS_DIRECT_IO;
  std::copy_n(file.begin(), std::min<size_t>(file.size(), LO_NAME_SIZE - 1),
              config.info.lo_file_name);
  for (int attempt = 0; attempt < kMaxAttempts; attempt++) {
    int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return ErrnoError("find a free loop device");
    AutoclearLoop loop;
    loop.device_ = "/dev/loop" + std::to_string(number);
    loop.fd_.reset(::open(loop.device_.c_str(), O_RDONLY | O_CLOEXEC));
    if (!loop.fd_.valid()) return ErrnoError("open " + loop.device_);
    if (::ioctl(loop.fd_.get(), LOOP_CONFIGURE, &config) != 0) {
      if (errno == EBUSY) continue;  // somebody else took it
      return ErrnoError("set up " + loop.device_ + " over " + file);
    }
    // overlayfs takes O_DIRECT whether or not the file system under it does
    // (tmpfs does not before 6.6), and then every read fails.
    if (!CanRead(loop.fd_.get())) {
      (void)::ioctl(loop.fd_.get(), LOOP_SET_DIRECT_IO, 0UL);
      if (!CanRead(loop.fd_.get())) return ErrnoError("read " + file + " through " + loop.device_);
    }
    struct loop_info64 info = {};
    if (::ioctl(loop.fd_.get(), LOOP_GET_STATUS64, &info) != 0) {
      return ErrnoError("read the state of " + loop.device_);
    }
    loop.direct_io_ = (info.lo_flags & LO_FLAGS_DIRECT_IO) != 0;
    return loop;
  }
  return Error{ErrorKind::kIo, EBUSY, "every free loop device was taken by others"};
}

std::string LoopBackingFile(uint32_t minor) {
  auto text = ReadFile("/sys/block/loop" + std::to_string(minor) + "/loop/backing_file", 8192);
  if (!text.ok()) return "";
  std::string path = *text;
  while (!path.empty() && path.back() == '\n') path.pop_back();
  return path;
}

}  // namespace fastoci
