// SPDX-License-Identifier: Apache-2.0
// The decoder's sandbox. After EnterSandbox() the process can use its own memory and the
// descriptors that it has, and nothing else: no files, no network, no processes, no
// executable memory, no privilege. Any other system call kills it.
#ifndef FASTOCI_DECODER_SANDBOX_H_
#define FASTOCI_DECODER_SANDBOX_H_

#include <cstdint>

#include "base/result.h"

namespace fastoci {

struct SandboxOptions {
  int max_fd = 2;  // descriptors above this one are closed; 0 and 1 become /dev/null
  uint64_t address_space_bytes = 1ULL << 30;
  uint64_t cpu_seconds = 0;  // SIGKILL after that; 0: no limit
  // Besides mapping, allow pread, pwrite and ftruncate on open descriptors.
  bool file_io = false;
};

// Single-threaded processes only. After an error the process must end.
Status EnterSandbox(const SandboxOptions& options);

}  // namespace fastoci

#endif  // FASTOCI_DECODER_SANDBOX_H_
