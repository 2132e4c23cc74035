// SPDX-License-Identifier: Apache-2.0
#include "decoder/message.h"

#include <vector>

#include "base/packet.h"

namespace fastoci {
namespace {

Error Named(const Error& error) { return {error.kind, error.err, "decoder socket: " + error.message}; }

}  // namespace

Status SendDecodeMessage(int socket, const DecodeMessage& message, int fd, bool dont_wait) {
  Status sent = SendPacket(socket, ObjectBytes(message), {&fd, fd >= 0 ? 1U : 0U}, dont_wait);
  return sent.ok() ? sent : Status(Named(sent.error()));
}

Result<DecodeMessage> ReceiveDecodeMessage(int socket, int timeout_ms, UniqueFd* fd) {
  DecodeMessage message{};
  std::vector<UniqueFd> fds;
  Status received = ReceivePacket(socket, WritableObjectBytes(&message), timeout_ms, &fds);
  if (!received.ok()) return Named(received.error());
  message.text[sizeof(message.text) - 1] = 0;
  if (fd != nullptr) *fd = fds.empty() ? UniqueFd() : std::move(fds.front());
  return message;
}

}  // namespace fastoci
