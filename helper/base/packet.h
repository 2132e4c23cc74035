// SPDX-License-Identifier: Apache-2.0
// Whole messages of one size, with descriptors, over SOCK_SEQPACKET.
#ifndef FASTOCI_BASE_PACKET_H_
#define FASTOCI_BASE_PACKET_H_

#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

inline constexpr size_t kMaxPacketFds = 8;

template <typename T>
ByteSpan ObjectBytes(const T& object) {
  static_assert(std::has_unique_object_representations_v<T>, "padding would be sent");
  return {reinterpret_cast<const uint8_t*>(&object), sizeof(T)};
}
template <typename T>
std::span<uint8_t> WritableObjectBytes(T* object) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<uint8_t*>(object), sizeof(T)};
}

// The caller still owns fds. kUnavailable: the other end is gone (EPIPE), or the
// socket is full (EAGAIN; only with dont_wait).
Status SendPacket(int socket, ByteSpan bytes, std::span<const int> fds = {},
                  bool dont_wait = false);

// Receives one message of exactly bytes.size() bytes. Waits up to timeout_ms (-1: for
// ever). kUnavailable: the time is over (ETIMEDOUT), or the other end is gone (EPIPE).
// kInvalid (EPROTO): the message has another size. Descriptors that come with it go to
// fds, or are closed if fds is null.
Status ReceivePacket(int socket, std::span<uint8_t> bytes, int timeout_ms,
                     std::vector<UniqueFd>* fds = nullptr);

// Receives what there is, of a stream or of one message, as recv() does with MSG_DONTWAIT.
// Descriptors that come with it are added to fds, at most kMaxPacketFds at a time. Returns the
// number of bytes: 0 at the end, or where the other end is gone. kIo, with EAGAIN in Error::err:
// there is nothing now.
Result<size_t> ReceiveSome(int socket, std::span<uint8_t> bytes, std::vector<UniqueFd>* fds);

// The text in a field of a message, whose sender may be hostile: up to its NUL, at most all but the
// field's last byte. What is not printable ASCII becomes '?', so that it can be logged.
std::string FieldText(std::span<const char> field);

// Waits by poll() for one descriptor, up to timeout_ms (-1: for ever). Signals do not
// shorten the wait. True: it is ready, or hung up. False: the time is over.
Result<bool> WaitFor(int fd, short events, int timeout_ms);

}  // namespace fastoci

#endif  // FASTOCI_BASE_PACKET_H_
