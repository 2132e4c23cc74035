// SPDX-License-Identifier: Apache-2.0
#include "codec/window_deflater.h"

#include <zlib.h>

namespace fastoci {

Result<Bytes> DeflateBytes(ByteSpan in, int level) {
  uLongf n = compressBound(in.size());
  Bytes out(n);
  if (compress2(out.data(), &n, in.data(), in.size(), level) != Z_OK)
    return Error{ErrorKind::kInternal, ENOMEM, "zlib cannot compress"};
  out.resize(n);
  return out;
}

WindowDeflater::WindowDeflater(int level, bool threaded) : level_(level) {
  if (threaded) thread_ = std::thread([this] { Run(); });
}

WindowDeflater::~WindowDeflater() {
  {
    MutexLock lock(mutex_);
    closed_ = dropped_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

void WindowDeflater::Store(Result<Bytes> stored) {
  if (!stored.ok() && status_.ok()) status_ = stored.error();
  done_.push_back(stored.ok() ? std::move(*stored) : Bytes());
}

size_t WindowDeflater::Add(const GzipWindow& window) {
  MutexLock lock(mutex_);
  if (!thread_.joinable()) {
    Store(DeflateBytes(window, level_));
    return nr_added_++;
  }
  changed_.Wait(mutex_, [this]() REQUIRES(mutex_) { return waiting_.size() < kMaxWaiting; });
  waiting_.push_back(window);
  lock.Unlock();
  changed_.NotifyAll();
  return nr_added_++;
}

Result<std::vector<Bytes>> WindowDeflater::Finish() {
  {
    MutexLock lock(mutex_);
    closed_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
  MutexLock lock(mutex_);
  FASTOCI_CHECK_OK(status_);
  return std::move(done_);
}

void WindowDeflater::Run() {
  MutexLock lock(mutex_);
  for (;;) {
    changed_.Wait(mutex_, [this]() REQUIRES(mutex_) { return !waiting_.empty() || closed_; });
    if (waiting_.empty() || dropped_) return;
    const GzipWindow window = waiting_.front();
    waiting_.pop_front();
    lock.Unlock();
    changed_.NotifyAll();
    Result<Bytes> stored = DeflateBytes(window, level_);
    lock.Lock();
    Store(std::move(stored));
  }
}

}  // namespace fastoci
