// SPDX-License-Identifier: Apache-2.0
// The broker's end of the fetcher. FetchService is what the cold path and its
// tests use; FetcherClient starts the process and speaks protocol.h.
//
// The client does not trust the fetcher: it checks each reply against the state of its
// Fetch. After an error other than a timeout, destroy the client and spawn a new one.
#ifndef FASTOCI_FETCHER_CLIENT_H_
#define FASTOCI_FETCHER_CLIENT_H_

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/mutex.h"
#include "base/process.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "fetcher/protocol.h"

namespace fastoci {

struct FetchLocation {
  uint32_t location = 0;
  uint32_t host = 0;
};

struct FetchRequest {
  uint32_t id = 0;
  uint32_t location = 0;
  uint64_t offset = 0;        // of the blob
  uint64_t length = 0;        // 1..kMaxFetchBytes
  uint64_t arena_offset = 0;  // the whole range fits
  uint8_t miss_class = 0;     // enum fastoci_miss_class
  bool fresh = false;         // on a new connection, past caches
};

// What a Fetch cost.
struct FetchTally {
  uint32_t requests = 0;  // HTTP requests, those for tokens included
  uint32_t retries = 0;   // of these, repeated ones
  uint32_t tokens = 0;    // received
};

// A host as the fetcher sees it. Times: CLOCK_MONOTONIC, ms.
struct HostState {
  uint32_t host = 0;
  std::string name;  // scheme://authority, or "files"
  HostGate gate = HostGate::kOpen;
  uint32_t window = 0;  // Fetches that it takes at a time; 0 while gated
  uint32_t in_flight = 0;
  int64_t gated_until_ms = 0;  // 0: not gated
  int64_t since_ms = 0;        // of the first failure since it was open; 0: none
  uint32_t http_status = 0;    // of the last failure, 0: no answer
  std::string cause;           // of the last failure, printable
  // Counts up whenever a gate of the host or of one of its repositories opens
  // before its time (new credentials, OpenGate): retry_at_ms of its locations no
  // longer holds.
  uint32_t openings = 0;
  uint64_t requests = 0;  // HTTP requests so far
  uint64_t bytes = 0;     // body bytes so far
  std::array<uint64_t, kFetchOutcomes> outcomes{};  // Fetches so far
};

struct FetchEvent {
  enum Kind { kData, kDone, kFailed, kHost, kHostGone };
  Kind kind = kData;
  uint32_t id = 0;     // kData, kDone, kFailed
  uint64_t total = 0;  // kData, kDone, kFailed: bytes in the arena so far
  FetchOutcome outcome = FetchOutcome::kDone;  // kDone, kFailed
  // kFailed: err is a positive errno for the kernel; the message is printable
  // and names blob, range and location.
  Error error;
  uint32_t http_status = 0;  // kFailed: 0 if there was no answer
  // kFailed (kTransient, kGated): this location is refused until then
  // (CLOCK_MONOTONIC, ms) unless its host's openings count up. 0: no gate is
  // closed. kGated and 0: there was no room in the window.
  int64_t retry_at_ms = 0;
  FetchTally tally;  // kDone, kFailed
  HostState host;    // kHost; kHostGone: its number
};

class FetchService {
 public:
  virtual ~FetchService() = default;

  // json: the JSON part of an assembled meta image. image_id: its id, 64 hex digits, or "" if
  // it has none. Replaces an image of the same number. Returns the locations of each blob, in
  // the JSON's order. Waits for at most 30 s. Fails with the fetcher's words if the JSON does
  // not parse.
  virtual Result<std::vector<std::vector<FetchLocation>>> OpenImage(
      uint32_t image, const std::string& image_id, ByteSpan json) = 0;
  // Fetches that run go on. Waits for at most 30 s.
  virtual Status CloseImage(uint32_t image) = 0;

  // These do not wait. Events answer a Fetch, even one that makes no sense. kInvalid: a
  // Fetch with the same id runs, or kMaxFetches run.
  virtual Status Fetch(const FetchRequest& request) = 0;
  virtual Status Cancel(uint32_t id) = 0;
  // Opens the gates of a host; of all hosts for kAllHosts.
  virtual Status OpenGate(uint32_t host) = 0;

  // Readable: Receive() has something.
  virtual int event_fd() const = 0;
  // Does not wait. kUnavailable: there is no event (ETIMEDOUT), or the fetcher is gone
  // (EPIPE). kInvalid (EPROTO): the fetcher broke the protocol.
  virtual Result<FetchEvent> Receive() = 0;
};

struct FetcherOptions {
  Program program = "fastoci-fetcherd";
  // --credentials FILE, --plain-http, --ca-file FILE, --retry-scale PERCENT
  std::vector<std::string> args;
};

// Thread-safe: one thread may call OpenImage() and CloseImage() while another one
// fetches and receives.
class FetcherClient : public FetchService {
 public:
  // arena: a memfd sealed against a change of its size (F_SEAL_SHRINK, F_SEAL_GROW)
  // that can still be mapped for writing; the caller keeps it. The fetcher dies
  // with the thread that called this.
  static Result<std::unique_ptr<FetcherClient>> Spawn(const FetcherOptions& options, int arena_fd);
  ~FetcherClient() override;  // kills and reaps
  FetcherClient(const FetcherClient&) = delete;
  FetcherClient& operator=(const FetcherClient&) = delete;

  Result<std::vector<std::vector<FetchLocation>>> OpenImage(uint32_t image,
                                                            const std::string& image_id,
                                                            ByteSpan json) override;
  Status CloseImage(uint32_t image) override;
  Status Fetch(const FetchRequest& request) override;
  Status Cancel(uint32_t id) override;
  Status OpenGate(uint32_t host) override;
  int event_fd() const override { return work_.get(); }
  Result<FetchEvent> Receive() override;

  pid_t pid() const { return pid_; }
  // Readable when the process has ended.
  int pidfd() const { return pidfd_.get(); }

 private:
  struct Running {
    uint64_t length = 0;
    uint64_t total = 0;  // that Data told
  };
  FetcherClient() = default;
  // The count of the Done that answers it.
  Result<uint32_t> Call(ControlMessage message, int fd, std::vector<LocationEntry>* entries)
      EXCLUDES(control_mutex_);
  Status Check(const WorkReply& m) EXCLUDES(work_mutex_);

  Mutex control_mutex_;
  UniqueFd control_ GUARDED_BY(control_mutex_);
  uint32_t next_call_ GUARDED_BY(control_mutex_) = 1;
  UniqueFd work_;
  Mutex work_mutex_;
  std::map<uint32_t, Running> running_ GUARDED_BY(work_mutex_);
  std::set<uint32_t> hosts_ GUARDED_BY(work_mutex_);  // those that were told of
  UniqueFd pidfd_;
  pid_t pid_ = -1;
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_CLIENT_H_
