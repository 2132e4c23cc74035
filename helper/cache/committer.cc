// SPDX-License-Identifier: Apache-2.0
#include "cache/committer.h"

#include <utility>

#include "base/thread.h"

namespace fastoci {

Committer::Committer(std::function<void()> commit, std::chrono::milliseconds interval)
    : commit_(std::move(commit)), interval_(interval) {}

Result<std::unique_ptr<Committer>> Committer::Start(std::function<void()> commit,
                                                    std::chrono::milliseconds interval) {
  std::unique_ptr<Committer> committer(new Committer(std::move(commit), interval));
  FASTOCI_TRY(committer->thread_, StartThread([c = committer.get()] { c->Work(); }));
  return committer;
}

Committer::~Committer() { Stop(); }

void Committer::Kick() {
  MutexLock lock(mutex_);
  kicked_ = true;
  work_.NotifyOne();
}

Status Committer::Run(std::function<Status()> write, std::chrono::milliseconds timeout) {
  auto job = std::make_shared<Write>();
  job->write = std::move(write);
  MutexLock lock(mutex_);
  if (stop_) return Error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
  if (writes_.size() >= kMaxWrites)
    return Error{ErrorKind::kUnavailable, EBUSY,
                 std::to_string(kMaxWrites) + " writes wait for the disk already"};
  writes_.push_back(job);
  work_.NotifyOne();
  if (!ended_.WaitFor(mutex_, timeout, [&] { return job->done; }))
    return Error{ErrorKind::kUnavailable, ETIMEDOUT,
                 "the disk did not answer within " + std::to_string(timeout.count()) + " ms"};
  return job->result;
}

void Committer::RunWrites() {
  while (!writes_.empty()) {
    auto job = std::move(writes_.front());
    writes_.pop_front();
    mutex_.Unlock();
    Status result = job->write();
    mutex_.Lock();
    job->result = std::move(result);
    job->done = true;
    ended_.NotifyAll();
  }
}

void Committer::Work() {
  MutexLock lock(mutex_);
  for (bool last = false; !last;) {
    work_.WaitFor(mutex_, interval_, [this]() REQUIRES(mutex_) {
      return stop_ || kicked_ || !writes_.empty();
    });
    last = stop_;
    kicked_ = false;
    RunWrites();
    lock.Unlock();
    commit_();
    lock.Lock();
  }
}

void Committer::Stop() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    work_.NotifyOne();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace fastoci
