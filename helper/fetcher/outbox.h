// SPDX-License-Identifier: Apache-2.0
// Messages on their way to a socket that may be full. No message is lost, and no call waits.
#ifndef FASTOCI_FETCHER_OUTBOX_H_
#define FASTOCI_FETCHER_OUTBOX_H_

#include <deque>

#include "base/byte_reader.h"
#include "base/packet.h"

namespace fastoci {

class Outbox {
 public:
  explicit Outbox(int socket) : socket_(socket) {}

  template <typename Message>
  void Push(const Message& m) {
    ByteSpan bytes = ObjectBytes(m);
    queue_.emplace_back(bytes.begin(), bytes.end());
    Flush();
  }
  // Call it when the socket takes more: sends what it can.
  void Flush() {
    while (!queue_.empty() && !gone_) {
      Status s = SendPacket(socket_, queue_.front(), {}, /*dont_wait=*/true);
      if (!s.ok() && s.error().err == EAGAIN) return;
      gone_ = !s.ok();
      queue_.pop_front();
    }
  }
  // Something waits for room: poll for it, and leave out what can be left out.
  bool full() const { return !queue_.empty(); }
  // The other end has closed the socket.
  bool gone() const { return gone_; }

 private:
  const int socket_;
  bool gone_ = false;
  std::deque<Bytes> queue_;
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_OUTBOX_H_
