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

// Runs fn in a child and returns fn's value, 0..255. fn must not touch locks or threads of
// the parent. After timeout_ms kills the child and returns kUnavailable with ETIMEDOUT. If
// the child does not die, it is left behind.
Result<int> RunBounded(const std::string& what, int64_t timeout_ms,
                       const std::function<int()>& fn);

// Runs a program in the same way. Its stdout and stderr go to output, at most max_output
// bytes of printable ASCII. enter() runs in the child before the exec. It returns 0, or
// the exit code with which the child ends. 126: enter() failed; 127: there is no program.
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
