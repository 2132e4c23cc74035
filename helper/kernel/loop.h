// SPDX-License-Identifier: Apache-2.0
// Loop devices over an assembled meta image, the cache file or an image's device. They have 512-byte blocks,
// and direct I/O if that works. Two things are checked for that. The driver may fall back
// to buffered I/O and not say so; so the flag is read back. On some file systems it does
// not fall back although they have no direct I/O (overlayfs takes O_DIRECT whatever lies
// under it; tmpfs has none before 6.6). Then every read would fail; so one read of the file
// is tried. No block device is read: that could hang.
#ifndef FASTOCI_KERNEL_LOOP_H_
#define FASTOCI_KERNEL_LOOP_H_

#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

// A loop device that the kernel frees at its last close. In the end only the
// device-mapper table holds it, so nothing leaks, whenever and however this process dies.
class AutoclearLoop {
 public:
  static Result<AutoclearLoop> Open(const std::string& file);  // read-only
  static Result<AutoclearLoop> OpenWritable(const std::string& file);
  const std::string& device() const { return device_; }  // "/dev/loop3"
  bool direct_io() const { return direct_io_; }

 private:
  AutoclearLoop() = default;
  static Result<AutoclearLoop> Open(const std::string& file, int mode, uint32_t flags);
  std::string device_;
  UniqueFd fd_;
  bool direct_io_ = false;
};

// The loop device of the cache file. It outlives this process.
struct LoopDevice {
  std::string path;
  bool direct_io = false;  // if not, a warning was logged
};
// Makes the file (sparse, size_bytes) if it does not exist. An existing file keeps its
// size. Returns the loop device to which the file is bound already, because live images
// may hold that one; otherwise binds a free one.
Result<LoopDevice> AttachLoop(const std::string& file, uint64_t size_bytes);
// Unbinds the device when its last user is gone.
Status DetachLoop(const std::string& device);

// The file behind /dev/loop<minor>, "" if that is not bound.
std::string LoopBackingFile(uint32_t minor);

}  // namespace fastoci

#endif  // FASTOCI_KERNEL_LOOP_H_
