// SPDX-License-Identifier: Apache-2.0
// Work that may hang in the kernel (mount, umount, a file-system check over a
// device whose helper is gone) is done in a child process, so that only the
// child hangs.
#ifndef FASTOCI_ATTACH_BOUNDED_H_
#define FASTOCI_ATTACH_BOUNDED_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace fastoci {

// Runs fn in a child and returns its value, 0..255 (it must not touch locks or
// threads of the parent). After timeout_ms the child is killed, and left behind
// if it does not die: kUnavailable with ETIMEDOUT.
Result<int> RunBounded(const std::string& what, int64_t timeout_ms,
                       const std::function<int()>& fn);

// The same for a program; its stdout and stderr, at most max_output bytes of
// printable ASCII, go to output. enter() runs in the child before the exec; it
// returns 0 or the exit code to end with. 126: enter failed, 127: no program.
struct BoundedProgram {
  std::string what;
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::function<int()> enter;
  int64_t timeout_ms = 60000;
  size_t max_output = 4096;
};
Result<int> RunBoundedProgram(const BoundedProgram& program, std::string* output);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_BOUNDED_H_
