// SPDX-License-Identifier: Apache-2.0
// WindowDeflater compresses the windows of a gzip index, if wanted on a thread of its own.
// That is about a tenth of the work of a conversion, and nothing waits for it before the
// index is written.
#ifndef FASTOCI_CODEC_WINDOW_DEFLATER_H_
#define FASTOCI_CODEC_WINDOW_DEFLATER_H_

#include <deque>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "codec/gzip_index.h"

namespace fastoci {

// As a zlib stream.
Result<Bytes> DeflateBytes(ByteSpan in, int level);

class WindowDeflater {
 public:
  // threaded: false where no thread can be made. The result is the same.
  WindowDeflater(int level, bool threaded);
  // Drops what is not done.
  ~WindowDeflater();
  WindowDeflater(const WindowDeflater&) = delete;
  WindowDeflater& operator=(const WindowDeflater&) = delete;

  // Returns the window's number, counted from 0. Waits while kMaxWaiting are to be
  // done. One thread at a time calls this and Finish().
  size_t Add(const GzipWindow& window);
  // Waits until all are done, and returns them by their numbers.
  Result<std::vector<Bytes>> Finish();

 private:
  static constexpr size_t kMaxWaiting = 64;  // 2 MiB
  void Run();
  void Store(Result<Bytes> stored) REQUIRES(mutex_);

  const int level_;
  size_t nr_added_ = 0;
  Mutex mutex_;
  CondVar changed_;
  std::deque<GzipWindow> waiting_ GUARDED_BY(mutex_);
  std::vector<Bytes> done_ GUARDED_BY(mutex_);
  Status status_ GUARDED_BY(mutex_) = OkStatus();
  bool closed_ GUARDED_BY(mutex_) = false, dropped_ GUARDED_BY(mutex_) = false;
  std::thread thread_;  // the last member: it starts with all others made
};

}  // namespace fastoci

#endif  // FASTOCI_CODEC_WINDOW_DEFLATER_H_
