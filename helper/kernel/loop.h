// SPDX-License-Identifier: Apache-2.0
// AutoclearLoop: a read-only loop device with 512-byte blocks and direct I/O
// over an assembled meta image. The kernel frees it at its last close: the
// device-mapper table that holds it is all that keeps it, so that nothing leaks
// whenever and however we die. (The cache's loop device, which outlives its
// users, is store/'s.)
#ifndef FASTOCI_KERNEL_LOOP_H_
#define FASTOCI_KERNEL_LOOP_H_

#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

class AutoclearLoop {
 public:
  static Result<AutoclearLoop> Open(const std::string& file);
  const std::string& device() const { return device_; }  // "/dev/loop3"
  // Read back: the driver falls back to buffered I/O silently.
  bool direct_io() const { return direct_io_; }

 private:
  AutoclearLoop() = default;
  std::string device_;
  UniqueFd fd_;
  bool direct_io_ = false;
};

// The file behind /dev/loop<minor>, "" if that is not bound.
std::string LoopBackingFile(uint32_t minor);

}  // namespace fastoci

#endif  // FASTOCI_KERNEL_LOOP_H_
