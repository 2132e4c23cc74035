// SPDX-License-Identifier: Apache-2.0
#include "base/packet.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <chrono>
#include <cstring>

namespace fastoci {
namespace {

Error Gone() { return {ErrorKind::kUnavailable, EPIPE, "the other end is gone"}; }

std::vector<UniqueFd> TakeFds(msghdr* h) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* c = CMSG_FIRSTHDR(h); c != nullptr; c = CMSG_NXTHDR(h, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

// As recvmsg(), whose errno is left.
ssize_t Receive(int socket, std::span<uint8_t> bytes, int flags, std::vector<UniqueFd>* fds, int* told) {
  iovec iov{bytes.data(), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxPacketFds * sizeof(int))] = {};
  msghdr h{};
  h.msg_iov = &iov;
  h.msg_iovlen = 1;
  h.msg_control = control;
  h.msg_controllen = sizeof(control);
  ssize_t n;
  do {
    n = recvmsg(socket, &h, flags);
  } while (n < 0 && errno == EINTR);
  if (n <= 0) return n;
  for (UniqueFd& fd : TakeFds(&h)) fds->push_back(std::move(fd));
  *told = h.msg_flags;
  return n;
}

}  // namespace

Status SendPacket(int socket, ByteSpan bytes, std::span<const int> fds, bool dont_wait) {
  if (fds.size() > kMaxPacketFds) return InvalidError("too many descriptors");
  iovec iov{const_cast<uint8_t*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxPacketFds * sizeof(int))] = {};
  msghdr h{};
  h.msg_iov = &iov;
  h.msg_iovlen = 1;
  if (!fds.empty()) {
    h.msg_control = control;
    h.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&h);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  ssize_t n;
  do {
    n = sendmsg(socket, &h, MSG_NOSIGNAL | (dont_wait ? MSG_DONTWAIT : 0));
  } while (n < 0 && errno == EINTR);
  if (n == static_cast<ssize_t>(bytes.size())) return OkStatus();
  if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) return Gone();
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
    return Error{ErrorKind::kUnavailable, EAGAIN, "the socket is full"};
  return ErrnoError("send");
}

std::string FieldText(std::span<const char> field) {
  std::string text(field.data(), ::strnlen(field.data(), field.size() - 1));
  for (char& c : text)
    if (c < 0x20 || c >= 0x7f) c = '?';
  return text;
}

Result<bool> WaitFor(int fd, short events, int timeout_ms) {
  using Clock = std::chrono::steady_clock;
  auto end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  for (int wait = timeout_ms;;) {
    pollfd p{fd, events, 0};
    int n = poll(&p, 1, wait);
    if (n >= 0) return n > 0;
    if (errno != EINTR) return ErrnoError("poll");
    if (timeout_ms <= 0) continue;
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    wait = left > 0 ? static_cast<int>(left) : 0;
  }
}

Status ReceivePacket(int socket, std::span<uint8_t> bytes, int timeout_ms,
                     std::vector<UniqueFd>* fds) {
  FASTOCI_TRY(bool ready, WaitFor(socket, POLLIN, timeout_ms));
  if (!ready) return Error{ErrorKind::kUnavailable, ETIMEDOUT, "timeout"};
  std::vector<UniqueFd> received;
  int flags = 0;
  const ssize_t n = Receive(socket, bytes, MSG_CMSG_CLOEXEC, &received, &flags);
  if (n == 0 || (n < 0 && errno == ECONNRESET)) return Gone();
  if (n < 0) return ErrnoError("receive");
  if (n != static_cast<ssize_t>(bytes.size()) || (flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
    return Error{ErrorKind::kInvalid, EPROTO, "malformed message"};
  if (fds != nullptr) *fds = std::move(received);
  return OkStatus();
}

Result<size_t> ReceiveSome(int socket, std::span<uint8_t> bytes, std::vector<UniqueFd>* fds) {
  int flags = 0;
  const ssize_t n = Receive(socket, bytes, MSG_DONTWAIT | MSG_CMSG_CLOEXEC, fds, &flags);
  if (n < 0 && errno == ECONNRESET) return size_t{0};
  if (n < 0) return ErrnoError("receive");
  return static_cast<size_t>(n);
}

}  // namespace fastoci
