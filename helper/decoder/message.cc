// SPDX-License-Identifier: Apache-2.0
#include "decoder/message.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <chrono>
#include <cstring>

namespace fastoci {
namespace {

Error Gone() { return {ErrorKind::kUnavailable, EPIPE, "decoder socket: the other end is gone"}; }

// Waits for input. A signal does not extend the wait.
Status WaitReadable(int socket, int timeout_ms) {
  using Clock = std::chrono::steady_clock;
  auto end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  for (;;) {
    int wait = timeout_ms;
    if (timeout_ms > 0) {
      auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
      wait = left.count() > 0 ? static_cast<int>(left.count()) : 0;
    }
    pollfd p{socket, POLLIN, 0};
    int n = poll(&p, 1, wait);
    if (n > 0) return OkStatus();
    if (n == 0) return Error{ErrorKind::kUnavailable, ETIMEDOUT, "decoder socket: timeout"};
    if (errno != EINTR) return ErrnoError("decoder socket: poll");
  }
}

}  // namespace

Status SendDecodeMessage(int socket, const DecodeMessage& message, int fd) {
  iovec iov{const_cast<DecodeMessage*>(&message), sizeof(message)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr h{};
  h.msg_iov = &iov;
  h.msg_iovlen = 1;
  if (fd >= 0) {
    h.msg_control = control;
    h.msg_controllen = sizeof(control);
    cmsghdr* c = CMSG_FIRSTHDR(&h);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(c), &fd, sizeof(int));
  }
  ssize_t n;
  do {
    n = sendmsg(socket, &h, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n == static_cast<ssize_t>(sizeof(message))) return OkStatus();
  if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) return Gone();
  return ErrnoError("decoder socket: send");
}

Result<DecodeMessage> ReceiveDecodeMessage(int socket, int timeout_ms, UniqueFd* fd) {
  FASTOCI_CHECK_OK(WaitReadable(socket, timeout_ms));
  DecodeMessage message{};
  iovec iov{&message, sizeof(message)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr h{};
  h.msg_iov = &iov;
  h.msg_iovlen = 1;
  h.msg_control = control;
  h.msg_controllen = sizeof(control);
  ssize_t n;
  do {
    n = recvmsg(socket, &h, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n == 0 || (n < 0 && errno == ECONNRESET)) return Gone();
  if (n < 0) return ErrnoError("decoder socket: receive");
  UniqueFd received;
  for (cmsghdr* c = CMSG_FIRSTHDR(&h); c != nullptr; c = CMSG_NXTHDR(&h, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
        c->cmsg_len != CMSG_LEN(sizeof(int)))
      continue;
    int value;
    std::memcpy(&value, CMSG_DATA(c), sizeof(int));
    received.reset(value);
  }
  if (n != static_cast<ssize_t>(sizeof(message)) || (h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
    return Error{ErrorKind::kInvalid, EPROTO, "decoder socket: malformed message"};
  message.text[sizeof(message.text) - 1] = 0;
  if (fd != nullptr) *fd = std::move(received);
  return message;
}

}  // namespace fastoci
