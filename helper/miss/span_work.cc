// SPDX-License-Identifier: Apache-2.0
#include "miss/span_work.h"

#include <sys/eventfd.h>
#include <unistd.h>

namespace fastoci {

SpanWork::~SpanWork() = default;

void SpanWork::WakeLocked() {
  const uint64_t one = 1;
  if (wake_.valid()) (void)!::write(wake_.get(), &one, sizeof(one));
}

void SpanWork::AddInput(Part part, bool last) {
  MutexLock lock(mutex_);
  parts_.push_back(std::move(part));
  if (last) {
    all_input_ = true;
    end_.times.input_complete = std::chrono::steady_clock::now();
  }
  WakeLocked();
}

void SpanWork::FailInput(FetchOutcome outcome, Error error, int64_t retry_at_ms) {
  MutexLock lock(mutex_);
  all_input_ = true;
  if (end_.fault == Fault::kNone) {
    end_.fault = Fault::kFetch;
    end_.error = std::move(error);
    end_.outcome = outcome;
    end_.retry_at_ms = retry_at_ms;
  }
  WakeLocked();
}

SpanWork::Input SpanWork::TakeInput() {
  started_ = true;
  MutexLock lock(mutex_);
  uint64_t count;
  if (wake_.valid()) (void)!::read(wake_.get(), &count, sizeof(count));
  Input in;
  in.failed = end_.fault == Fault::kFetch;
  if (!parts_.empty()) {
    in.part = std::move(parts_.front());
    parts_.pop_front();
  }
  in.last = all_input_ && parts_.empty();
  return in;
}

bool SpanWork::HasAllInput() {
  MutexLock lock(mutex_);
  return all_input_;
}

int SpanWork::wake_fd() {
  MutexLock lock(mutex_);
  if (!wake_.valid()) {
    wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!parts_.empty() || all_input_) WakeLocked();
  }
  return wake_.get();
}

void SpanWork::Hold() {
  MutexLock lock(mutex_);
  holders_++;
}

void SpanWork::Fail(Fault fault, Error error) {
  MutexLock lock(mutex_);
  if (end_.fault != Fault::kNone) return;
  end_.fault = fault;
  end_.error = std::move(error);
}

bool SpanWork::failed() {
  MutexLock lock(mutex_);
  return end_.fault != Fault::kNone;
}

void SpanWork::AddTimes(const WorkTimes& times) {
  MutexLock lock(mutex_);
  end_.times.decode += times.decode;
  end_.times.verify += times.verify;
  end_.times.write += times.write;
}

void SpanWork::BeginWrite() {
  MutexLock lock(mutex_);
  holders_++;
  if (nr_writes_++ == 0) write_begin_ = std::chrono::steady_clock::now();
}

void SpanWork::EndWrite() {
  {
    MutexLock lock(mutex_);
    if (--nr_writes_ == 0) end_.times.write += std::chrono::steady_clock::now() - write_begin_;
  }
  Drop();
}

void SpanWork::Drop() {
  End end;
  {
    MutexLock lock(mutex_);
    if (--holders_ > 0) return;
    parts_.clear();
    end = end_;
  }
  on_end_(job_, end);
}

}  // namespace fastoci
