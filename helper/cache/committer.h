// SPDX-License-Identifier: Apache-2.0
// Committer: the one thread that waits for a cache's disk to make things durable.
//
// It commits now and then. It also runs the few writes whose outcome somebody wants. So no other
// thread waits for a flush, and the caller of Run() waits no longer than its timeout.
#ifndef FASTOCI_CACHE_COMMITTER_H_
#define FASTOCI_CACHE_COMMITTER_H_

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "base/mutex.h"
#include "base/result.h"

namespace fastoci {

class Committer {
 public:
  // commit: called on the thread, without a lock, every interval and after Kick(). kUnavailable:
  // there is no thread to be had.
  static Result<std::unique_ptr<Committer>> Start(std::function<void()> commit,
                                                  std::chrono::milliseconds interval);
  ~Committer();  // Stop()
  Committer(const Committer&) = delete;
  Committer& operator=(const Committer&) = delete;

  // Kick() and Run() may be called by any thread. Kick() does not wait for the disk.
  void Kick();
  // Runs write on the thread and returns its outcome. In Error::err: ETIMEDOUT, it did not end
  // within the timeout, and goes on; EBUSY, too many such writes wait already, and this one will
  // not run; ECANCELED, Stop() was called before.
  Status Run(std::function<Status()> write, std::chrono::milliseconds timeout);
  // Runs the writes that wait, commits once more, and ends the thread. Waits as long as it takes.
  void Stop();

 private:
  static constexpr size_t kMaxWrites = 64;
  Committer(std::function<void()> commit, std::chrono::milliseconds interval);
  struct Write {
    std::function<Status()> write;
    Status result = OkStatus();
    bool done = false;
  };
  void Work();
  void RunWrites() REQUIRES(mutex_);

  const std::function<void()> commit_;
  const std::chrono::milliseconds interval_;
  Mutex mutex_;
  CondVar work_;   // a write, Kick() or Stop()
  CondVar ended_;  // a write ended
  std::deque<std::shared_ptr<Write>> writes_ GUARDED_BY(mutex_);
  bool kicked_ GUARDED_BY(mutex_) = false;
  bool stop_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_COMMITTER_H_
