// SPDX-License-Identifier: Apache-2.0
// Sending and receiving protocol.h's messages over SOCK_SEQPACKET, for both ends.
#ifndef FASTOCI_DECODER_MESSAGE_H_
#define FASTOCI_DECODER_MESSAGE_H_

#include "base/result.h"
#include "base/unique_fd.h"
#include "decoder/protocol.h"

namespace fastoci {

// fd: sent along if not -1; the caller keeps it. While the socket is full, blocks, or with
// dont_wait fails with EAGAIN in Error::err.
Status SendDecodeMessage(int socket, const DecodeMessage& message, int fd = -1,
                         bool dont_wait = false);

// Waits up to timeout_ms (-1: for ever). kUnavailable: timeout (ETIMEDOUT) or
// the other end is gone (EPIPE); kInvalid: not one of our messages. *fd gets a
// descriptor that came along, if any; without `fd` it is closed. The text is
// NUL-terminated in any case.
Result<DecodeMessage> ReceiveDecodeMessage(int socket, int timeout_ms, UniqueFd* fd = nullptr);

}  // namespace fastoci

#endif  // FASTOCI_DECODER_MESSAGE_H_
