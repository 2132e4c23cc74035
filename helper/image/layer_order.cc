// SPDX-License-Identifier: Apache-2.0
#include "image/layer_order.h"

namespace fastoci {

Status LayerOrder::AddAll(size_t layer, std::vector<LayerEntry>* entries) {
  if (aborted_) return Error{ErrorKind::kUnavailable, ECANCELED, "another layer failed"};
  if (turn_ != layer) return OkStatus();
  if (!begun_) builder_->BeginLayer();
  begun_ = true;
  for (const LayerEntry& entry : *entries) {
    Status s = builder_->Add(entry);
    if (s.ok()) continue;
    aborted_ = true;
    changed_.notify_all();
    return s;
  }
  entries->clear();
  return OkStatus();
}

Status LayerOrder::Feed(size_t layer, std::vector<LayerEntry>* entries) {
  std::unique_lock lock(mutex_, std::try_to_lock);
  return lock.owns_lock() ? AddAll(layer, entries) : OkStatus();
}

Result<LsmtContent> LayerOrder::Finish(size_t layer, std::vector<LayerEntry>* entries) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return aborted_ || turn_ == layer; });
  FASTOCI_CHECK_OK(AddAll(layer, entries));
  auto content = builder_->FinishLayer();
  aborted_ = aborted_ || !content.ok();
  turn_++;
  begun_ = false;
  changed_.notify_all();
  return content;
}

void LayerOrder::Abort() {
  {
    std::lock_guard lock(mutex_);
    aborted_ = true;
  }
  changed_.notify_all();
}

}  // namespace fastoci
