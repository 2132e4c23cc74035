// SPDX-License-Identifier: Apache-2.0
// Work that may hang in the kernel (mount, umount, a file-system check over a
// device whose helper is gone) is done in a child process, so that only the
// child hangs.
#ifndef FASTOCI_ATTACH_BOUNDED_H_
#define FASTOCI_ATTACH_BOUNDED_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/mutex.h"
#include "base/result.h"

namespace fastoci {

// Runs fn in a child and returns fn's value, 0..255. The child has /dev/null for standard
// input, output and error, and of the caller's other descriptors those in keep (3 or more).
// So a child that hangs holds no connection, lock or device of the caller. fn must not touch
// locks or threads of the parent. After timeout_ms kills the child and returns kUnavailable
// with ETIMEDOUT. If the child does not die, it is left behind, and reaped by a later call.
Result<int> RunBounded(const std::string& what, int64_t timeout_ms, const std::vector<int>& keep,
                       const std::function<int()>& fn);

// Reads bytes (at most kMaxBoundedRead) at offset of fd, in such a child. what: in errors.
inline constexpr size_t kMaxBoundedRead = 4096;
Result<Bytes> ReadBounded(const std::string& what, int fd, uint64_t offset, size_t bytes,
                          int64_t timeout_ms);

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
  bool last_output = false;  // the output's last bytes are kept, and not its first ones
};
Result<int> RunBoundedProgram(const BoundedProgram& program, std::string* output);

// Killed children that do not die, because the kernel holds them. Thread-safe.
class LeftBehind {
 public:
  void Add(pid_t pid);
  // Reaps those that have died since. Returns how many are left.
  size_t Reap();

 private:
  Mutex mutex_;
  std::vector<pid_t> pids_ GUARDED_BY(mutex_);
};

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_BOUNDED_H_
