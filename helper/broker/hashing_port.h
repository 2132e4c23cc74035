// SPDX-License-Identifier: Apache-2.0
// HashingPort: a port of the fetcher that tells the SHA-256 of what it passes
// on. Bytes are copied out of the fetcher's ring, hashed, and put into a ring of
// the broker's own: what the decoder gets is what was hashed, whatever the
// fetcher writes afterwards.
#ifndef FASTOCI_BROKER_HASHING_PORT_H_
#define FASTOCI_BROKER_HASHING_PORT_H_

#include <memory>
#include <span>

#include "base/digest.h"
#include "base/unique_fd.h"
#include "broker/fetch_port.h"

namespace fastoci {

class HashingPort : public FetchPort {
 public:
  static Result<std::unique_ptr<HashingPort>> Open(std::unique_ptr<FetchPort> inner);
  ~HashingPort() override;
  HashingPort(const HashingPort&) = delete;
  HashingPort& operator=(const HashingPort&) = delete;

  int socket_fd() const override { return inner_->socket_fd(); }
  int ring_fd() const override { return ring_fd_.get(); }
  Status Fetch(const FetchMessage& request) override;
  Status Consumed(uint32_t job, uint64_t total) override { return inner_->Consumed(job, total); }
  Status Cancel(uint32_t job) override { return inner_->Cancel(job); }
  Result<FetchMessage> Receive(int timeout_ms) override;

  // Of all that was received since the last Fetch(); once for each.
  Sha256Digest Finish() { return hash_.Finish(); }

 private:
  HashingPort() = default;
  std::unique_ptr<FetchPort> inner_;
  UniqueFd ring_fd_;
  std::span<uint8_t> theirs_, ours_;  // mapped rings of kFetchRingBytes
  Bytes private_;
  Sha256 hash_;
  uint32_t job_ = 0;
  uint64_t passed_ = 0;  // bytes of the job
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_HASHING_PORT_H_
