// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/disk_sync.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace fastoci {

Result<std::unique_ptr<DiskSync>> DiskSync::Open(const std::string& dir) {
  auto fd = std::make_shared<UniqueFd>(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd->valid()) return ErrnoError("open " + dir);
  return std::make_unique<DiskSync>([fd, dir] {
    return ::syncfs(fd->get()) == 0 ? OkStatus() : Status(ErrnoError("sync the file system of " + dir));
  });
}

// A round that runs already may have begun before the caller wrote, so the caller needs a later one.
Status DiskSync::Sync() {
  std::unique_lock lock(mutex_);
  const uint64_t needed = begun_ + 1;
  while (ended_ < needed) {
    if (runs_) {
      done_.wait(lock);
      continue;
    }
    const uint64_t round = ++begun_;
    runs_ = true;
    lock.unlock();
    Status status = sync_();
    lock.lock();
    runs_ = false;
    ended_ = round;
    last_ = status;
    done_.notify_all();
  }
  return last_;
}

}  // namespace fastoci
