// SPDX-License-Identifier: Apache-2.0
// The broker's end of the fetcher: starts the process and speaks protocol.h.
// Control calls (AddLane, OpenImage, CloseImage) are answered by the fetcher
// and serialised by a lock; a lane belongs to one thread.
//
// Nothing that the fetcher says is taken on trust: replies are checked against
// the job's state. After an error other than a timeout, destroy the client with
// all its lanes and spawn a new one.
#ifndef FASTOCI_FETCHER_CLIENT_H_
#define FASTOCI_FETCHER_CLIENT_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "fetcher/protocol.h"

namespace fastoci {

struct FetcherOptions {
  std::string program = "fastoci-fetcherd";  // a path
  std::vector<std::string> args;             // --credentials FILE, --plain-http, --ca-file FILE
};

// One lane: its socket, and the ring that the fetcher writes (kFetchRingBytes,
// sealed against resizing and against writing by anyone who maps it later).
// Poll socket_fd() for POLLIN, then Receive().
class FetchLane {
 public:
  int socket_fd() const { return socket_.get(); }
  int ring_fd() const { return ring_.get(); }  // a decoder maps it read-only
  bool busy() const { return busy_; }
  // Only if not busy(). source: see protocol.h.
  Status Fetch(uint32_t job, uint32_t image, uint32_t blob, uint64_t offset, uint64_t length,
               uint32_t deadline_ms, uint32_t miss_class, uint32_t source = 0);
  Status Consumed(uint32_t job, uint64_t total);
  Status Cancel(uint32_t job);
  // Waits up to timeout_ms (-1: for ever). kUnavailable: timeout (ETIMEDOUT)
  // or the fetcher is gone (EPIPE); kInvalid: it broke the protocol. The text
  // is NUL-terminated and printable in any case.
  Result<FetchMessage> Receive(int timeout_ms);

 private:
  friend class FetcherClient;
  Status Check(const FetchMessage& m);

  UniqueFd socket_;
  UniqueFd ring_;
  bool busy_ = false;
  uint32_t job_ = 0;
  uint64_t length_ = 0;
  uint64_t total_ = 0;
  uint64_t consumed_ = 0;
};

class FetcherClient {
 public:
  // The fetcher dies with the thread that called this.
  static Result<std::unique_ptr<FetcherClient>> Spawn(const FetcherOptions& options);
  ~FetcherClient();  // kills and reaps
  FetcherClient(const FetcherClient&) = delete;
  FetcherClient& operator=(const FetcherClient&) = delete;

  Result<FetchLane> AddLane();
  // json: the JSON part of an assembled meta image; copied to a sealed memfd.
  // Fails with the fetcher's words if it does not parse.
  Status OpenImage(uint32_t image, ByteSpan json);
  Status CloseImage(uint32_t image);

  pid_t pid() const { return pid_; }
  // Readable when the process has ended.
  int pidfd() const { return pidfd_.get(); }

 private:
  FetcherClient() = default;
  Status Call(FetchMessage message, const std::vector<int>& fds);

  std::mutex mutex_;
  UniqueFd control_;
  UniqueFd pidfd_;
  pid_t pid_ = -1;
  uint32_t next_job_ = 1;
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_CLIENT_H_
