// SPDX-License-Identifier: Apache-2.0
#ifndef FASTOCI_TESTING_LATCH_H_
#define FASTOCI_TESTING_LATCH_H_

#include <cstddef>

#include "base/mutex.h"

namespace fastoci {

// A latch that is closed until Open(). Threads that come before that wait.
class Latch {
 public:
  void Wait() {
    MutexLock lock(mutex_);
    nr_waiting_++;
    changed_.NotifyAll();
    changed_.Wait(mutex_, [this]() REQUIRES(mutex_) { return open_; });
  }
  void Open() {
    MutexLock lock(mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  // Returns when so many have come.
  void AwaitWaiting(size_t n = 1) {
    MutexLock lock(mutex_);
    changed_.Wait(mutex_, [&]() REQUIRES(mutex_) { return nr_waiting_ >= n; });
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ GUARDED_BY(mutex_) = false;
  size_t nr_waiting_ GUARDED_BY(mutex_) = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_TESTING_LATCH_H_
