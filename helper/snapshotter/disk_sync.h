// SPDX-License-Identifier: Apache-2.0
// Puts on the disk what containerd has unpacked, before the database says that it is there.
// A syncfs() writes all that the file system has, so callers that wait share one.
#ifndef FASTOCI_SNAPSHOTTER_DISK_SYNC_H_
#define FASTOCI_SNAPSHOTTER_DISK_SYNC_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "base/result.h"

namespace fastoci {

class DiskSync {
 public:
  // Of the file system that has the directory.
  static Result<std::unique_ptr<DiskSync>> Open(const std::string& dir);
  explicit DiskSync(std::function<Status()> sync) : sync_(std::move(sync)) {}
  // Returns when all that was written before the call is on the disk. Any thread.
  Status Sync();

 private:
  const std::function<Status()> sync_;
  std::mutex mutex_;
  std::condition_variable done_;
  uint64_t begun_ = 0, ended_ = 0;  // rounds
  bool runs_ = false;
  Status last_ = OkStatus();  // how round ended_ ended
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_DISK_SYNC_H_
