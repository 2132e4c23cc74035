// SPDX-License-Identifier: Apache-2.0
// LayerOrder: layers are read in parallel, but a file system is built of them
// one after the other, bottom first. What the others have scanned so far waits
// in their hands until it is their turn.
//
// Thread-safe. No deadlock as long as the lowest layer that is not finished is
// being worked at.
#ifndef FASTOCI_IMAGE_LAYER_ORDER_H_
#define FASTOCI_IMAGE_LAYER_ORDER_H_

#include <condition_variable>
#include <mutex>
#include <vector>

#include "image/fs_builder.h"

namespace fastoci {

class LayerOrder {
 public:
  explicit LayerOrder(FsBuilder* builder) : builder_(builder) {}

  // Takes the entries if it is this layer's turn, and leaves them otherwise.
  Status Feed(size_t layer, std::vector<LayerEntry>* entries);
  // Waits for the layer's turn and ends it.
  Result<LsmtContent> Finish(size_t layer, std::vector<LayerEntry>* entries);
  // Some layer failed: all that wait return with ECANCELED.
  void Abort();

 private:
  Status AddAll(size_t layer, std::vector<LayerEntry>* entries);

  FsBuilder* builder_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_, as is the builder.
  size_t turn_ = 0;
  bool begun_ = false, aborted_ = false;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_LAYER_ORDER_H_
