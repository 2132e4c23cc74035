// SPDX-License-Identifier: Apache-2.0
#include "image/range_channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/packet.h"

namespace fastoci {
namespace {

constexpr uint64_t kUnitBytes = 256 << 10;  // of what is kept
constexpr size_t kKeptUnits = 32;
constexpr size_t kRequestBytes = 16, kReplyBytes = 12;
constexpr uint32_t kMaxErrno = 4095;
constexpr uint32_t kMaxTextBytes = 4096;

Error Gone() { return {ErrorKind::kUnavailable, EPIPE, "range channel: the other end is gone"}; }

Status Send(int socket, ByteSpan data) {
  while (!data.empty()) {
    iovec part{const_cast<uint8_t*>(data.data()), data.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    ssize_t n = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) return Gone();
    if (n < 0) return ErrnoError("range channel");
    data = data.subspan(static_cast<size_t>(n));
  }
  return OkStatus();
}

// *ended: the other end was closed before the first byte.
Status Receive(int socket, std::span<uint8_t> out, bool* ended = nullptr) {
  for (bool first = true; !out.empty();) {
    ssize_t n = ::read(socket, out.data(), out.size());
    if (n < 0 && errno == EINTR) continue;
    if (n == 0 && first && ended != nullptr) {
      *ended = true;
      return OkStatus();
    }
    if (n == 0 || (n < 0 && errno == ECONNRESET)) return Gone();
    if (n < 0) return ErrnoError("range channel");
    first = false;
    out = out.subspan(static_cast<size_t>(n));
  }
  return OkStatus();
}

Status Reply(int socket, const Status& status, const Bytes& data) {
  ByteWriter w;
  std::string text = status.ok() ? "" : status.error().message.substr(0, kMaxTextBytes);
  uint32_t err = status.ok() ? 0 : status.error().err > 0 ? status.error().err : EIO;
  w.U32(status.ok() ? 0 : static_cast<uint32_t>(status.error().kind));
  w.U32(err);
  w.U32(static_cast<uint32_t>(status.ok() ? data.size() : text.size()));
  FASTOCI_CHECK_OK(Send(socket, w.bytes()));
  return Send(socket, status.ok() ? ByteSpan(data) : AsBytes(text));
}

}  // namespace

Status RangeFile::Ask(uint64_t offset, std::span<uint8_t> out) const {
  ByteWriter w;
  w.U32(layer_);
  w.U32(static_cast<uint32_t>(out.size()));
  w.U64(offset);
  FASTOCI_CHECK_OK(Send(socket_, w.bytes()));
  uint8_t reply[kReplyBytes];
  FASTOCI_CHECK_OK(Receive(socket_, reply));
  ByteReader r(reply);
  uint32_t kind = r.U32(), err = r.U32(), length = r.U32();
  if (err == 0 && length == out.size()) return Receive(socket_, out);
  if (err == 0 || err > kMaxErrno || length > kMaxTextBytes ||
      kind > static_cast<uint32_t>(ErrorKind::kInternal))
    return InvalidError("range channel: bad reply");
  std::string text(length, '\0');
  FASTOCI_CHECK_OK(Receive(socket_, {reinterpret_cast<uint8_t*>(text.data()), text.size()}));
  return Error{static_cast<ErrorKind>(kind), static_cast<int>(err), text};
}

Status RangeFile::ReadAt(uint64_t offset, std::span<uint8_t> out) const {
  FASTOCI_CHECK_OK(CheckRange(offset, out.size()));
  while (!out.empty()) {
    uint64_t at = offset % kUnitBytes, begin = offset - at;
    if (out.size() > kUnitBytes) {  // once, and in large pieces
      size_t n = std::min<uint64_t>(out.size(), kMaxRangeBytes);
      FASTOCI_CHECK_OK(Ask(offset, out.first(n)));
      out = out.subspan(n);
      offset += n;
      continue;
    }
    auto unit = std::find_if(kept_.begin(), kept_.end(),
                             [begin](const auto& u) { return u.first == begin; });
    if (unit == kept_.end()) {
      Bytes data(std::min(kUnitBytes, size_ - begin));
      FASTOCI_CHECK_OK(Ask(begin, data));
      if (kept_.size() == kKeptUnits) kept_.pop_back();
      kept_.emplace_front(begin, std::move(data));
    } else {
      kept_.splice(kept_.begin(), kept_, unit);
    }
    const Bytes& data = kept_.front().second;
    size_t n = std::min<uint64_t>(out.size(), data.size() - at);
    std::copy_n(data.begin() + static_cast<ptrdiff_t>(at), n, out.begin());
    out = out.subspan(n);
    offset += n;
  }
  return OkStatus();
}

Status ServeRanges(int socket, std::span<const ReadAtFile* const> files, uint64_t max_bytes,
                   int stall_ms) {
  std::vector<uint64_t> given(files.size());
  Bytes data;
  for (;;) {
    uint8_t request[kRequestBytes];
    bool ended = false;
    FASTOCI_TRY(const bool asks, WaitFor(socket, POLLIN, stall_ms));
    if (!asks) return Error{ErrorKind::kUnavailable, ETIMEDOUT, "range channel: the sandbox stalls"};
    FASTOCI_CHECK_OK(Receive(socket, request, &ended));
    if (ended) return OkStatus();
    ByteReader r(request);
    uint32_t layer = r.U32(), bytes = r.U32();
    uint64_t offset = r.U64();
    if (layer >= files.size() || files[layer] == nullptr || bytes > kMaxRangeBytes)
      return Error{ErrorKind::kInvalid, EPROTO, "range channel: the sandbox asks for nonsense"};
    given[layer] += bytes;
    Status status = OkStatus();
    if (given[layer] > max_bytes) {
      status = InvalidError("more than " + std::to_string(max_bytes) +
                            " bytes of the layer are needed to assemble it");
    } else {
      data.resize(bytes);
      status = files[layer]->ReadAt(offset, data);
    }
    FASTOCI_CHECK_OK(Reply(socket, status, data));
  }
}

}  // namespace fastoci
