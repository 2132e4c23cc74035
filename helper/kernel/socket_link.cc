// SPDX-License-Identifier: Apache-2.0
#include "kernel/socket_link.h"

#include <sys/un.h>

#include <algorithm>

#include "base/thread.h"

namespace fastoci {

Result<std::unique_ptr<SocketLink>> SocketLink::Open(const std::string& path,
                                                     KernelEvents* events) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return InvalidError(path + ": too long a path");
  std::copy(path.begin(), path.end(), address.sun_path);
  std::unique_ptr<SocketLink> link(new SocketLink);
  link->events_ = events;
  link->socket_.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!link->socket_.valid() ||
      ::connect(link->socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
    return ErrnoError("kernel socket " + path);
  FASTOCI_TRY(link->receiver_, StartThread([l = link.get()] { l->Receive(); }));
  return link;
}

SocketLink::~SocketLink() {
  events_ = nullptr;
  if (socket_.valid()) ::shutdown(socket_.get(), SHUT_RDWR);
  if (receiver_.joinable()) receiver_.join();
}

void SocketLink::Receive() {
  for (;;) {
    auto packet = ReceiveLink(socket_.get());
    if (!packet.ok()) break;
    if (packet->header.op != LinkOp::kReply) {
      Tell(*packet);
      continue;
    }
    MutexLock lock(mutex_);
    auto it = answers_.find(packet->header.number);
    if (it == answers_.end()) continue;
    Answer& answer = it->second;
    answer.err = packet->header.err;
    answer.items.insert(answer.items.end(), packet->items.begin(), packet->items.end());
    answer.complete = packet->header.limit == 0;
    if (answer.complete) answered_.NotifyAll();
  }
  {
    MutexLock lock(mutex_);
    gone_ = true;
    answered_.NotifyAll();
  }
  if (KernelEvents* events = events_) events->OnBroken();
}

void SocketLink::Tell(const LinkPacket& packet) {
  KernelEvents* events = events_;
  if (events == nullptr) return;
  const uint32_t cache = packet.header.cache;
  switch (packet.header.op) {
    case LinkOp::kMiss: return events->OnMiss(cache, packet.Items<ChunkEntry>());
    case LinkOp::kEvicted: return events->OnEvicted(cache, packet.Items<ChunkEntry>());
    case LinkOp::kReplaced: return events->OnReplaced();
    case LinkOp::kImage:
      for (const ImageInfo& image : packet.Items<ImageInfo>())
        events->OnImage(image, packet.header.limit != 0);
      return;
    default: return;
  }
}

template <typename T>
Result<SocketLink::Answer> SocketLink::Call(LinkHeader header, std::span<const T> items) {
  MutexLock lock(mutex_);
  header.number = next_number_++;
  answers_[header.number];
  lock.Unlock();
  Status sent = SendLink(socket_.get(), header, items);
  lock.Lock();
  answered_.Wait(mutex_, [&]() REQUIRES(mutex_) {
    return !sent.ok() || gone_ || answers_[header.number].complete;
  });
  Answer answer = std::move(answers_[header.number]);
  answers_.erase(header.number);
  if (!sent.ok()) return sent.error();
  if (!answer.complete) return Error{ErrorKind::kUnavailable, EPIPE, "the kernel socket is closed"};
  if (answer.err != 0)
    return ErrnoError("kernel socket, request " + std::to_string(static_cast<int>(header.op)),
                      answer.err);
  return answer;
}

template <typename T>
Result<std::vector<T>> SocketLink::Get(LinkHeader header) {
  FASTOCI_TRY(Answer answer, Call(header, std::span<const uint32_t>{}));
  return LinkPacket{.header = header, .items = std::move(answer.items)}.Items<T>();
}

template <typename T>
Status SocketLink::Send(LinkHeader header, std::span<const T> items) {
  while (!items.empty()) {
    const size_t n = std::min(items.size(), MaxLinkItems<T>());
    FASTOCI_CHECK_OK(Call(header, items.first(n)));
    items = items.subspan(n);
  }
  return OkStatus();
}

Status SocketLink::Register(bool takeover) {
  FASTOCI_CHECK_OK(Call({.op = LinkOp::kRegister, .limit = takeover}, std::span<const uint32_t>{}));
  return OkStatus();
}

Result<std::vector<uint32_t>> SocketLink::Alloc(uint32_t cache, uint32_t count) {
  return Get<uint32_t>({.op = LinkOp::kAlloc, .cache = cache, .limit = count});
}

Status SocketLink::Return(uint32_t cache, std::span<const uint32_t> slots) {
  return Send({.op = LinkOp::kReturn, .cache = cache}, slots);
}

Status SocketLink::ReturnAll(uint32_t cache) {
  FASTOCI_CHECK_OK(Call({.op = LinkOp::kReturnAll, .cache = cache}, std::span<const uint32_t>{}));
  return OkStatus();
}

void SocketLink::Ack(uint32_t cache, uint32_t count) {
  (void)SendLink(socket_.get(), {.op = LinkOp::kAck, .cache = cache, .limit = count},
                 std::span<const uint32_t>{}).ok();
}

Status SocketLink::Fill(uint32_t cache, std::span<const ChunkEntry> chunks) {
  return Send({.op = LinkOp::kFill, .cache = cache}, chunks);
}

Status SocketLink::Fail(uint32_t cache, std::span<const ChunkEntry> chunks) {
  return Send({.op = LinkOp::kFail, .cache = cache}, chunks);
}

Status SocketLink::Evict(uint32_t cache, std::span<const ChunkEntry> chunks) {
  return Send({.op = LinkOp::kEvict, .cache = cache}, chunks);
}

Status SocketLink::Restore(uint32_t cache, const Sha256Digest& space_id, uint64_t data_bytes,
                           std::span<const ChunkEntry> chunks) {
  return Send({.op = LinkOp::kRestore, .cache = cache, .data_bytes = data_bytes, .id = space_id},
              chunks);
}

Status SocketLink::GetSlots(uint32_t cache, bool clear_accessed,
                            const std::function<void(const SlotInfo&)>& each) {
  FASTOCI_TRY(auto slots, Get<SlotInfo>({.op = LinkOp::kGetSlots, .cache = cache,
                                         .limit = clear_accessed}));
  for (const SlotInfo& slot : slots) each(slot);
  return OkStatus();
}

Result<std::vector<CacheInfo>> SocketLink::GetCaches() {
  return Get<CacheInfo>({.op = LinkOp::kGetCaches});
}

Result<std::vector<ImageInfo>> SocketLink::GetImages() {
  return Get<ImageInfo>({.op = LinkOp::kGetImages});
}

Result<std::vector<SpaceInfo>> SocketLink::GetSpaces() {
  return Get<SpaceInfo>({.op = LinkOp::kGetSpaces});
}

Status SocketLink::GetPending() {
  FASTOCI_CHECK_OK(Call({.op = LinkOp::kGetPending}, std::span<const uint32_t>{}));
  return OkStatus();
}

}  // namespace fastoci
