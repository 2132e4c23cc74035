// SPDX-License-Identifier: Apache-2.0
// Loop devices with 512-byte blocks and direct I/O where it works, over an
// assembled meta image or the cache file. The driver falls back to buffered I/O
// silently, so the flag is read back; and where it does not fall back although
// the file system has no direct I/O (overlayfs takes O_DIRECT for what lies
// under it; tmpfs has none before 6.6), every read would fail: so one is tried.
#ifndef FASTOCI_KERNEL_LOOP_H_
#define FASTOCI_KERNEL_LOOP_H_

#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

// Read-only. The kernel frees it at its last close: the device-mapper table that
// holds it is all that keeps it, so that nothing leaks whenever and however we
// die.
class AutoclearLoop {
 public:
  static Result<AutoclearLoop> Open(const std::string& file);
  const std::string& device() const { return device_; }  // "/dev/loop3"
  bool direct_io() const { return direct_io_; }

 private:
  AutoclearLoop() = default;
  std::string device_;
  UniqueFd fd_;
  bool direct_io_ = false;
};

// The cache's, which outlives this process.
struct LoopDevice {
  std::string path;
  bool direct_io = false;  // if not, a warning was logged
};
// Makes the file (sparse, size_bytes) if it does not exist; an existing one
// keeps its size. Finds the loop device that the file is bound to already,
// which live images may hold, or binds a free one.
Result<LoopDevice> AttachLoop(const std::string& file, uint64_t size_bytes);
// Unbinds when its last user is gone.
Status DetachLoop(const std::string& device);

// The file behind /dev/loop<minor>, "" if that is not bound.
std::string LoopBackingFile(uint32_t minor);

}  // namespace fastoci

#endif  // FASTOCI_KERNEL_LOOP_H_
