// SPDX-License-Identifier: Apache-2.0
#include "store/cache_loop.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

namespace fastoci {
namespace {

constexpr int kMaxAttempts = 64;  // races with others for a free device
constexpr uint32_t kBlockBytes = 512;

struct DirDeleter {
  void operator()(DIR* d) const { closedir(d); }
};

std::vector<std::string> LoopNames() {
  std::vector<std::string> names;
  std::unique_ptr<DIR, DirDeleter> dir(opendir("/sys/block"));
  if (!dir) return names;
  while (struct dirent* e = readdir(dir.get())) {
    if (std::strncmp(e->d_name, "loop", 4) != 0) continue;
    std::string bound = "/sys/block/" + std::string(e->d_name) + "/loop/backing_file";
    if (access(bound.c_str(), F_OK) == 0) names.push_back(e->d_name);
  }
  return names;
}

Result<CacheLoop> OpenLoop(const std::string& device) {
  CacheLoop loop;
  loop.device = device;
  // No O_EXCL: device-mapper may hold it.
  loop.fd.reset(open(device.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  if (!loop.fd.valid()) return ErrnoError("open " + device);
  return loop;
}

// Whether it is over that file; completes direct_io. The device is open, so it
// cannot be cleared afterwards.
bool IsOver(CacheLoop* loop, const struct stat& file) {
  struct loop_info64 info = {};
  if (ioctl(loop->fd.get(), LOOP_GET_STATUS64, &info) != 0) return false;
  loop->direct_io = (info.lo_flags & LO_FLAGS_DIRECT_IO) != 0;
  // lo_device has the kernel's stat encoding, which is makedev()'s for small numbers.
  return info.lo_inode == file.st_ino && info.lo_device == file.st_dev &&
         info.lo_offset == 0 && info.lo_sizelimit == 0 && !(info.lo_flags & LO_FLAGS_READ_ONLY);
}

std::optional<CacheLoop> FindLoop(const struct stat& file) {
  for (const std::string& name : LoopNames()) {
    auto loop = OpenLoop("/dev/" + name);
    if (loop.ok() && IsOver(&*loop, file)) return std::move(*loop);
  }
  return std::nullopt;
}

}  // namespace

Result<CacheLoop> OpenCacheLoop(const std::string& file) {
  UniqueFd backing(open(file.c_str(), O_RDWR | O_CLOEXEC));
  if (!backing.valid()) return ErrnoError("open " + file);
  struct stat st;
  if (fstat(backing.get(), &st) != 0) return ErrnoError("stat " + file);
  if (auto found = FindLoop(st)) return std::move(*found);

  UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.valid())
    return ErrnoError("open /dev/loop-control (is the module there? try: modprobe loop)");
  struct loop_config config = {};
  config.fd = static_cast<uint32_t>(backing.get());
  config.block_size = kBlockBytes;
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
  config.info.lo_flags |= LO_FLAGS_DIRECT_IO;
  std::copy_n(file.begin(), std::min<size_t>(file.size(), LO_NAME_SIZE - 1),
              config.info.lo_file_name);
  for (int i = 0; i < kMaxAttempts; i++) {
    int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return ErrnoError("find a free loop device");
    FASTOCI_TRY(CacheLoop loop, OpenLoop("/dev/loop" + std::to_string(number)));
    if (ioctl(loop.fd.get(), LOOP_CONFIGURE, &config) != 0) {
      if (errno == EBUSY) continue;  // somebody else took it
      return ErrnoError("set up " + loop.device + " over " + file);
    }
    if (!IsOver(&loop, st)) return InvalidError(loop.device + " is over another file");
    return loop;
  }
  return Error{ErrorKind::kIo, EBUSY, "every free loop device was taken by others"};
}

}  // namespace fastoci
