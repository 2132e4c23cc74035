// SPDX-License-Identifier: Apache-2.0
// DataStage: a stage of a pipeline with a thread of its own. Push() copies the data into
// one of a few blocks, and the thread handles the blocks in order. Push() waits while all
// blocks are full, so memory is bounded.
#ifndef FASTOCI_IMAGE_DATA_STAGE_H_
#define FASTOCI_IMAGE_DATA_STAGE_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "base/byte_reader.h"
#include "base/mutex.h"
#include "base/result.h"

namespace fastoci {

class DataStage {
 public:
  using Handler = std::function<Status(ByteSpan)>;
  // handler runs on the stage's thread; its first error ends the work and is
  // what Push() and Finish() return from then on.
  explicit DataStage(Handler handler);
  // Waits for the thread. Drops data that was pushed and is not handled yet.
  ~DataStage();
  DataStage(const DataStage&) = delete;
  DataStage& operator=(const DataStage&) = delete;

  // One thread at a time.
  Status Push(ByteSpan data);
  // Waits until all was handled.
  Status Finish();

 private:
  static constexpr size_t kBlockBytes = 256 << 10, kNrBlocks = 8;
  void Run();

  Handler handler_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<Bytes> free_ GUARDED_BY(mutex_);
  std::deque<Bytes> full_ GUARDED_BY(mutex_);
  bool closed_ GUARDED_BY(mutex_) = false;
  bool dropped_ GUARDED_BY(mutex_) = false;
  size_t nr_blocks_ GUARDED_BY(mutex_) = 0;
  Status status_ GUARDED_BY(mutex_) = OkStatus();
  std::thread thread_;  // the last member: it starts with all others made
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_DATA_STAGE_H_
