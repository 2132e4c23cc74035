// SPDX-License-Identifier: Apache-2.0
#include "broker/hashing_port.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace fastoci {
namespace {

constexpr size_t kStepBytes = 65536;

Result<std::span<uint8_t>> MapRing(int fd, int protection) {
  void* p = ::mmap(nullptr, kFetchRingBytes, protection, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) return ErrnoError("ring: mmap");
  return std::span<uint8_t>(static_cast<uint8_t*>(p), kFetchRingBytes);
}

void Unmap(std::span<uint8_t> ring) {
  if (!ring.empty()) ::munmap(ring.data(), ring.size());
}

}  // namespace

Result<std::unique_ptr<HashingPort>> HashingPort::Open(std::unique_ptr<FetchPort> inner) {
  std::unique_ptr<HashingPort> port(new HashingPort);
  port->inner_ = std::move(inner);
  port->ring_fd_.reset(::memfd_create("fastoci-hashed", MFD_CLOEXEC));
  if (!port->ring_fd_.valid() || ::ftruncate(port->ring_fd_.get(), kFetchRingBytes) != 0)
    return ErrnoError("memfd_create");
  FASTOCI_TRY(port->theirs_, MapRing(port->inner_->ring_fd(), PROT_READ));
  FASTOCI_TRY(port->ours_, MapRing(port->ring_fd_.get(), PROT_READ | PROT_WRITE));
  port->private_.resize(kStepBytes);
  return port;
}

HashingPort::~HashingPort() {
  Unmap(theirs_);
  Unmap(ours_);
}

Status HashingPort::Fetch(const FetchMessage& request) {
  hash_ = Sha256();
  passed_ = 0;
  job_ = request.job;
  return inner_->Fetch(request);
}

Result<FetchMessage> HashingPort::Receive(int timeout_ms) {
  FASTOCI_TRY(FetchMessage m, inner_->Receive(timeout_ms));
  if (m.job != job_ || (m.op != FetchOp::kData && m.op != FetchOp::kDone)) return m;
  if (m.total < passed_ || m.total - passed_ > kFetchRingBytes)
    return Error{ErrorKind::kUnavailable, EPIPE, "impossible totals"};
  while (passed_ < m.total) {
    const size_t at = passed_ % kFetchRingBytes;
    const size_t n = std::min<uint64_t>({kStepBytes, m.total - passed_, kFetchRingBytes - at});
    std::copy_n(theirs_.begin() + static_cast<ptrdiff_t>(at), n, private_.begin());
    hash_.Update(ByteSpan(private_).first(n));
    std::copy_n(private_.begin(), n, ours_.begin() + static_cast<ptrdiff_t>(at));
    passed_ += n;
  }
  return m;
}

}  // namespace fastoci
