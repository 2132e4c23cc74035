// SPDX-License-Identifier: Apache-2.0
#include "control/seed_feed.h"

#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/packet.h"
#include "control/client.h"

namespace fastoci {
namespace {

constexpr int64_t kBeginMs = 10000;
// A cache that is full evicts, and a disk that others use is slow.
constexpr int kReplyMs = 10 * 60 * 1000;

}  // namespace

Result<SeedFeed> SeedFeed::Open(const std::string& control_socket, const std::string& image_id) {
  SeedFeed feed;
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return ErrnoError("socketpair");
  feed.socket_.reset(ends[0]);
  const UniqueFd theirs(ends[1]);
  feed.memory_.reset(::memfd_create("fastoci-seed", MFD_CLOEXEC));
  if (!feed.memory_.valid() || ::ftruncate(feed.memory_.get(), kSeedMemoryBytes) != 0)
    return ErrnoError("memory for a seed");
  void* map = ::mmap(nullptr, kSeedMemoryBytes, PROT_READ | PROT_WRITE, MAP_SHARED, feed.memory_.get(), 0);
  if (map == MAP_FAILED) return ErrnoError("memory for a seed");
  feed.map_ = static_cast<uint8_t*>(map);
  const int fds[] = {theirs.get(), feed.memory_.get()};
  FASTOCI_CHECK_OK(CallHelper(control_socket, {{"op", "seed"}, {"image_id", image_id}}, kBeginMs, fds));
  return feed;
}

SeedFeed::SeedFeed(SeedFeed&& other) noexcept
    : socket_(std::move(other.socket_)),
      memory_(std::move(other.memory_)),
      map_(std::exchange(other.map_, nullptr)),
      next_(other.next_),
      waiting_(other.waiting_) {}

SeedFeed::~SeedFeed() {
  if (map_ != nullptr) ::munmap(map_, kSeedMemoryBytes);
}

Status SeedFeed::Reply() {
  SeedReply reply;
  Status received = ReceivePacket(socket_.get(), WritableObjectBytes(&reply), kReplyMs);
  if (!received.ok())
    return Error{ErrorKind::kUnavailable, received.error().err,
                 "the helper has ended, or does not answer: " + received.error().message};
  waiting_--;
  if (reply.kind == 0) return OkStatus();
  const auto kind = static_cast<ErrorKind>(std::min<uint32_t>(reply.kind - 1, static_cast<uint32_t>(ErrorKind::kInternal)));
  return Error{kind, reply.err, "the helper says: " + FieldText(reply.text)};
}

Result<std::span<uint8_t>> SeedFeed::Buffer() {
  if (waiting_ == kSeedBatches) FASTOCI_CHECK_OK(Reply());
  return std::span<uint8_t>(map_ + next_ * kSeedBatchBytes, kSeedBatchBytes);
}

Status SeedFeed::Fill(const Sha256Digest& space_id, uint64_t data_offset, uint64_t bytes) {
  SeedRequest request = {};
  request.op = SeedOp::kFill;
  std::copy(space_id.begin(), space_id.end(), request.space_id);
  request.data_offset = data_offset;
  request.bytes = bytes;
  request.memory_offset = next_ * kSeedBatchBytes;
  FASTOCI_CHECK_OK(SendPacket(socket_.get(), ObjectBytes(request)));
  waiting_++;
  next_ = (next_ + 1) % kSeedBatches;
  return OkStatus();
}

Status SeedFeed::End() {
  while (waiting_ > 0) FASTOCI_CHECK_OK(Reply());
  SeedRequest request = {};
  request.op = SeedOp::kEnd;
  FASTOCI_CHECK_OK(SendPacket(socket_.get(), ObjectBytes(request)));
  waiting_++;
  return Reply();
}

}  // namespace fastoci
