// SPDX-License-Identifier: Apache-2.0
#ifndef FASTOCI_BASE_THREAD_H_
#define FASTOCI_BASE_THREAD_H_

#include <system_error>
#include <thread>
#include <utility>

#include "base/result.h"

namespace fastoci {

// A thread that runs `run`. The caller joins or detaches it. kUnavailable (EAGAIN in Error::err):
// the system, or the cgroup, has no room for one more; std::thread would throw.
template <typename F>
Result<std::thread> StartThread(F&& run) {
  try {
    return std::thread(std::forward<F>(run));
  } catch (const std::system_error& e) {
    Error error = ErrnoError("no thread can be started", e.code().value());
    error.kind = ErrorKind::kUnavailable;
    return error;
  }
}

}  // namespace fastoci

#endif  // FASTOCI_BASE_THREAD_H_
