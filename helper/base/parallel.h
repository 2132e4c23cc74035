// SPDX-License-Identifier: Apache-2.0
#ifndef FASTOCI_BASE_PARALLEL_H_
#define FASTOCI_BASE_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "base/result.h"

namespace fastoci {

// Runs task(0) to task(n - 1), begun in that order, by up to nr_threads threads of
// which the caller's is one; none is begun once one has failed. How each of them
// ended; one that was never begun is OK.
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
  for (size_t i = 1; i < std::min(n, nr_threads); i++) threads.emplace_back(work);
  work();
  for (std::thread& t : threads) t.join();
  return results;
}

// Of the lowest number; OK if there is none.
inline Status FirstError(const std::vector<Status>& results) {
  auto it = std::find_if(results.begin(), results.end(), [](const Status& s) { return !s.ok(); });
  return it == results.end() ? OkStatus() : *it;
}

}  // namespace fastoci

#endif  // FASTOCI_BASE_PARALLEL_H_
