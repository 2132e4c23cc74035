// SPDX-License-Identifier: Apache-2.0
#include "image/data_stage.h"

#include <algorithm>

namespace fastoci {

DataStage::DataStage(Handler handler) : handler_(std::move(handler)), thread_([this] { Run(); }) {}

DataStage::~DataStage() {
  {
    std::lock_guard lock(mutex_);
    closed_ = dropped_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Status DataStage::Push(ByteSpan data) {
  while (!data.empty()) {
    Bytes block;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] {
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
      std::lock_guard lock(mutex_);
      full_.push_back(std::move(block));
    }
    changed_.notify_all();
  }
  return OkStatus();
}

Status DataStage::Finish() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  std::lock_guard lock(mutex_);
  return status_;
}

void DataStage::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return !full_.empty() || closed_; });
    if (full_.empty() || dropped_) return;
    Bytes block = std::move(full_.front());
    full_.pop_front();
    lock.unlock();
    Status s = handler_(block);
    lock.lock();
    if (!s.ok()) {
      status_ = s;
      changed_.notify_all();
      return;
    }
    free_.push_back(std::move(block));
    changed_.notify_all();
  }
}

}  // namespace fastoci
