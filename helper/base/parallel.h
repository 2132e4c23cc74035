// SPDX-License-Identifier: Apache-2.0
#ifndef FASTOCI_BASE_PARALLEL_H_
#define FASTOCI_BASE_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/thread.h"

namespace fastoci {

// Runs task(0) to task(n - 1) on up to nr_threads threads; the caller's thread is one of
// them; there are fewer if no more are to be had. The tasks begin in that order. No task begins
// after one has failed. Returns how
// each task ended; OK for a task that was never begun.
template <typename Task>
std::vector<Status> RunParallel(size_t n, size_t nr_threads, const Task& task) {
  std::vector<Status> results(n, OkStatus());
  std::atomic<size_t> next = 0;
  std::atomic<bool> failed = false;
  auto work = [&] {
    for (size_t i; !failed && (i = next++) < n;) {
      results[i] = task(i);
      if (!results[i].ok()) failed = true;
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(n, nr_threads); i++) {
    auto thread = StartThread(work);
    if (!thread.ok()) break;
    threads.push_back(std::move(*thread));
  }
  work();
  for (std::thread& t : threads) t.join();
  return results;
}

// The error of the task with the lowest number; OK if no task failed.
inline Status FirstError(const std::vector<Status>& results) {
  auto it = std::find_if(results.begin(), results.end(), [](const Status& s) { return !s.ok(); });
  return it == results.end() ? OkStatus() : *it;
}

}  // namespace fastoci

#endif  // FASTOCI_BASE_PARALLEL_H_
