// SPDX-License-Identifier: Apache-2.0
// LayerOrder: layers are read in parallel, but a file system is built of them one
// after the other, the bottom one first. The entries of a layer whose turn has not
// come wait in that layer's queue. All queues together hold a bounded amount of
// memory: a layer that would exceed it waits for its turn, and its reading waits
// with it.
//
// Thread-safe; each queue belongs to one thread. There is no deadlock as long as
// somebody works at the lowest layer that is not finished.
#ifndef FASTOCI_IMAGE_LAYER_ORDER_H_
#define FASTOCI_IMAGE_LAYER_ORDER_H_

#include <cstdint>
#include <vector>

#include "base/mutex.h"
#include "image/fs_builder.h"

namespace fastoci {

// What one layer has scanned and not yet given to the builder.
class LayerQueue {
 public:
  void Push(LayerEntry entry);
  bool empty() const { return entries_.empty(); }

 private:
  friend class LayerOrder;
  std::vector<LayerEntry> entries_;
  uint64_t bytes_ = 0;    // of memory that the entries take, about
  uint64_t counted_ = 0;  // of these, what LayerOrder knows of
};

class LayerOrder {
 public:
  // An image of 300,000 files fits into it.
  static constexpr uint64_t kMaxQueuedBytes = 256ULL << 20;

  explicit LayerOrder(FsBuilder* builder, uint64_t max_queued_bytes = kMaxQueuedBytes)
      : max_queued_bytes_(max_queued_bytes), builder_(builder) {}

  // Takes the entries if it is this layer's turn. Otherwise they stay where they
  // are; if the queues hold too much by then, waits until they hold less or it is
  // the layer's turn. Fails with ECANCELED if another layer failed.
  Status Feed(size_t layer, LayerQueue* queue);
  // Waits for the layer's turn and ends it.
  Result<LsmtContent> Finish(size_t layer, LayerQueue* queue);
  // Some layer failed: all that wait return with ECANCELED.
  void Abort();
  // The layers that wait in Feed().
  size_t nr_waiting();

 private:
  Status AddAll(size_t layer, LayerQueue* queue) REQUIRES(mutex_);
  // Returns what is queued now.
  uint64_t Count(LayerQueue* queue) EXCLUDES(count_mutex_);

  const uint64_t max_queued_bytes_;
  Mutex mutex_;  // held while entries are added
  CondVar changed_;
  FsBuilder* const builder_ PT_GUARDED_BY(mutex_);
  size_t turn_ GUARDED_BY(mutex_) = 0;
  size_t nr_waiting_ GUARDED_BY(mutex_) = 0;
  bool begun_ GUARDED_BY(mutex_) = false;
  bool aborted_ GUARDED_BY(mutex_) = false;
  Mutex count_mutex_ ACQUIRED_AFTER(mutex_);
  uint64_t queued_bytes_ GUARDED_BY(count_mutex_) = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_LAYER_ORDER_H_
