// SPDX-License-Identifier: Apache-2.0
// DataStage: a stage of a pipeline with a thread of its own. What is pushed is
// copied into one of a few blocks and handled there in order; Push() waits when
// all of them are full, so memory is bounded.
#ifndef FASTOCI_IMAGE_DATA_STAGE_H_
#define FASTOCI_IMAGE_DATA_STAGE_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"

namespace fastoci {

class DataStage {
 public:
  using Handler = std::function<Status(ByteSpan)>;
  // handler runs on the stage's thread; its first error ends the work and is
  // what Push() and Finish() return from then on.
  explicit DataStage(Handler handler);
  // Waits for the thread; what was pushed and not handled is dropped.
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
  std::mutex mutex_;
  std::condition_variable changed_;
  // All below are guarded by mutex_.
  std::vector<Bytes> free_;
  std::deque<Bytes> full_;
  bool closed_ = false, dropped_ = false;
  size_t nr_blocks_ = 0;
  Status status_ = OkStatus();
  std::thread thread_;  // the last member: it starts with all others made
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_DATA_STAGE_H_
