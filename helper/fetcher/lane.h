// SPDX-License-Identifier: Apache-2.0
// FetchLane's other end: one thread that serves the Fetches of one lane socket.
//
// The broker's Consumed and Cancel arrive while a transfer runs. They are read
// where the thread waits anyway: in the HTTP client (as its Watch), for room in
// the ring, and for room in the socket. So neither end can block the other: the
// fetcher never waits to send without reading.
#ifndef FASTOCI_FETCHER_LANE_H_
#define FASTOCI_FETCHER_LANE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/byte_reader.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "fetcher/image.h"
#include "fetcher/protocol.h"
#include "registry/client.h"

namespace fastoci {

// Cuts text to what a message holds, and sets op, err and kind.
FetchMessage FailedMessage(uint32_t job, const Error& error);
// The errno that the kernel is told for an Error, 1..4095.
int KernelErrno(const Error& error);

class Lane {
 public:
  using FindImage = std::function<std::shared_ptr<const FetchImage>(uint32_t)>;

  // ring must have kFetchRingBytes. registry and what find uses must outlive it.
  static Result<std::unique_ptr<Lane>> Open(UniqueFd socket, const UniqueFd& ring,
                                            RegistryClient* registry, FindImage find);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  void Run();   // until the socket closes
  void Stop();  // from another thread: makes Run() return soon
  bool ended() const { return ended_; }

 private:
  Lane() = default;
  void Serve(const FetchMessage& request);
  Status Transfer(const FetchMessage& request);
  Status ReadSource(const BlobLocation& source, const FetchBlob& blob, uint64_t offset,
                    uint64_t length, SteadyTime deadline, bool fresh);
  Status ReadFileSource(const std::string& path, const FetchBlob& blob, uint64_t offset,
                        uint64_t length);
  Status Write(ByteSpan bytes);
  Status WaitForRoom();
  bool Drain();  // takes the broker's messages; true: give the job up
  Status Reply(const FetchMessage& m);

  UniqueFd socket_;
  std::span<uint8_t> ring_;
  RegistryClient* registry_ = nullptr;
  FindImage find_;
  std::atomic<bool> ended_ = false;
  Watch watch_;
  bool gone_ = false;  // the broker closed the socket or broke the protocol

  // Of the job that runs.
  uint32_t job_ = 0;
  bool canceled_ = false;
  uint64_t total_ = 0;
  uint64_t consumed_ = 0;
  uint32_t source_ = 0;
  HttpTally tally_;
  SteadyTime deadline_;
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_LANE_H_
