// SPDX-License-Identifier: Apache-2.0
#include "image/data_stage.h"

#include <algorithm>

namespace fastoci {

DataStage::DataStage(Handler handler) : handler_(std::move(handler)), thread_([this] { Run(); }) {}

DataStage::~DataStage() {
  {
    MutexLock lock(mutex_);
    closed_ = dropped_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

Status DataStage::Push(ByteSpan data) {
  while (!data.empty()) {
    Bytes block;
    {
      MutexLock lock(mutex_);
      changed_.Wait(mutex_, [this]() REQUIRES(mutex_) {
        return !status_.ok() || !free_.empty() || nr_blocks_ < kNrBlocks;
      });
      if (!status_.ok()) return status_;
      if (free_.empty()) {
        nr_blocks_++;
      } else {
        block = std::move(free_.back());
        free_.pop_back();
      }
    }
    ByteSpan part = data.first(std::min(data.size(), kBlockBytes));
    data = data.subspan(part.size());
    block.assign(part.begin(), part.end());
    {
      MutexLock lock(mutex_);
      full_.push_back(std::move(block));
    }
    changed_.NotifyAll();
  }
  return OkStatus();
}

Status DataStage::Finish() {
  {
    MutexLock lock(mutex_);
    closed_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
  MutexLock lock(mutex_);
  return status_;
}

void DataStage::Run() {
  MutexLock lock(mutex_);
  for (;;) {
    changed_.Wait(mutex_, [this]() REQUIRES(mutex_) { return !full_.empty() || closed_; });
    if (full_.empty() || dropped_) return;
    Bytes block = std::move(full_.front());
    full_.pop_front();
    lock.Unlock();
    Status s = handler_(block);
    lock.Lock();
    if (!s.ok()) {
      status_ = s;
      changed_.NotifyAll();
      return;
    }
    free_.push_back(std::move(block));
    changed_.NotifyAll();
  }
}

}  // namespace fastoci
