// SPDX-License-Identifier: Apache-2.0
// The default cache: a sparse file behind a loop device with 512-byte blocks
// and direct I/O. The loop driver falls back to buffered I/O silently, so the
// flag is read back; buffered works, with a warning.
#ifndef FASTOCI_STORE_LOOP_DEVICE_H_
#define FASTOCI_STORE_LOOP_DEVICE_H_

#include <cstdint>
#include <string>

#include "base/result.h"

namespace fastoci {

struct LoopDevice {
  std::string path;
  bool direct_io = false;
};

// Makes the file (sparse, size_bytes) if it does not exist; an existing one
// keeps its size. Finds the loop device that the file is bound to already,
// which live images may hold, or binds a free one. It outlives this process.
Result<LoopDevice> AttachLoop(const std::string& file, uint64_t size_bytes);
// Unbinds when its last user is gone.
Status DetachLoop(const std::string& device);

}  // namespace fastoci

#endif  // FASTOCI_STORE_LOOP_DEVICE_H_
