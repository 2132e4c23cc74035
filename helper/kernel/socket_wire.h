// SPDX-License-Identifier: Apache-2.0
// The packets (SOCK_SEQPACKET) between SocketLink and the program that stands in for the
// kernel. A packet is one header and `count` items of the operation's type. Both sides are
// of one build and trust each other, so this is for benchmarks and tests only.
#ifndef FASTOCI_KERNEL_SOCKET_WIRE_H_
#define FASTOCI_KERNEL_SOCKET_WIRE_H_

#include <sys/socket.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "base/result.h"
#include "kernel/kernel_link.h"

namespace fastoci {

enum class LinkOp : uint32_t {
  // requests; each but Ack is answered by Reply packets of the same number
  kRegister = 1,
  kAlloc,      // limit: count -> u32 slots
  kReturn,     // u32 slots
  kReturnAll,
  kAck,        // limit: count
  kFill,       // ChunkEntry
  kFail,       // ChunkEntry
  kEvict,      // ChunkEntry
  kRestore,    // id, data_bytes, ChunkEntry
  kGetSlots,   // limit: whether to clear what was accessed -> SlotInfo
  kGetCaches,  // -> CacheInfo
  kGetImages,  // -> ImageInfo
  kGetSpaces,  // -> SpaceInfo
  kGetPending,
  // answers and events
  kReply = 100,  // limit 1: more of it follows
  kMiss,         // ChunkEntry
  kEvicted,      // ChunkEntry
  kImage,        // ImageInfo; limit: whether it was added
  kReplaced,
};

struct LinkHeader {
  LinkOp op{};
  uint32_t number = 0;
  uint32_t cache = 0;
  uint32_t count = 0;
  uint32_t limit = 0;
  int32_t err = 0;  // of a Reply
  uint64_t data_bytes = 0;
  Sha256Digest id{};
};

inline constexpr size_t kMaxLinkPacketBytes = 64 << 10;

template <typename T>
constexpr size_t MaxLinkItems() {
  return (kMaxLinkPacketBytes - sizeof(LinkHeader)) / sizeof(T);
}

// At most MaxLinkItems() of them; waits for room in the socket.
template <typename T>
Status SendLink(int socket, LinkHeader header, std::span<const T> items) {
  static_assert(std::is_trivially_copyable_v<T>);
  header.count = static_cast<uint32_t>(items.size());
  iovec parts[2] = {{&header, sizeof(header)},
                    {const_cast<T*>(items.data()), items.size() * sizeof(T)}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  ssize_t n;
  do {
    n = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  return n < 0 ? Status(ErrnoError("kernel socket")) : OkStatus();
}

struct LinkPacket {
  LinkHeader header;
  std::vector<uint8_t> items;

  template <typename T>
  std::vector<T> Items() const {
    std::vector<T> out(items.size() / sizeof(T));
    if (!out.empty()) std::memcpy(out.data(), items.data(), out.size() * sizeof(T));
    return out;
  }
};

// kUnavailable: the other end is gone.
inline Result<LinkPacket> ReceiveLink(int socket) {
  LinkPacket packet;
  packet.items.resize(kMaxLinkPacketBytes);
  iovec parts[2] = {{&packet.header, sizeof(packet.header)},
                    {packet.items.data(), packet.items.size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  ssize_t n;
  do {
    n = ::recvmsg(socket, &message, 0);
  } while (n < 0 && errno == EINTR);
  if (n < static_cast<ssize_t>(sizeof(packet.header)))
    return Error{ErrorKind::kUnavailable, EPIPE, "kernel socket: the other end is gone"};
  packet.items.resize(static_cast<size_t>(n) - sizeof(packet.header));
  return packet;
}

}  // namespace fastoci

#endif  // FASTOCI_KERNEL_SOCKET_WIRE_H_
