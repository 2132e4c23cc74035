// SPDX-License-Identifier: Apache-2.0
// FileReader reads ranges of local files into memory, on a thread of its own, because a
// read of a file may take any time (a network file system).
//
// All calls and callbacks are made on one thread, that of the caller's loop: poll fd(),
// and call Process() when it is readable.
#ifndef FASTOCI_FETCHER_FILE_READER_H_
#define FASTOCI_FETCHER_FILE_READER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

class FileReader {
 public:
  // kNotFound, kDenied, kMismatch (not file_bytes long), kInvalid (no regular file),
  // kIo, or ECANCELED.
  using Done = std::function<void(Status)>;

  static Result<std::unique_ptr<FileReader>> Open();
  ~FileReader();  // waits for the read that runs; no callbacks
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  // Fills out, which must live until done is called.
  uint64_t Read(std::string path, uint64_t file_bytes, uint64_t offset, std::span<uint8_t> out,
                Done done);
  // done is called soon. After that nothing is written to out.
  void Cancel(uint64_t id);
  int fd() const { return event_.get(); }
  void Process();

 private:
  struct Job {
    uint64_t id = 0;
    std::string path;
    uint64_t file_bytes = 0;
    uint64_t offset = 0;
    std::span<uint8_t> out;
  };
  FileReader() = default;
  void Run();
  Status Serve(const Job& job);
  bool Canceled(uint64_t id);

  UniqueFd event_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Done> done_;  // of the loop's thread
  Mutex mutex_;
  CondVar wake_;
  bool stop_ GUARDED_BY(mutex_) = false;
  std::deque<Job> jobs_ GUARDED_BY(mutex_);
  std::map<uint64_t, bool> canceled_ GUARDED_BY(mutex_);  // of the jobs that wait or run
  std::deque<std::pair<uint64_t, Status>> results_ GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_FILE_READER_H_
