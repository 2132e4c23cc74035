// SPDX-License-Identifier: Apache-2.0
#include "decoder/client.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "decoder/message.h"

namespace fastoci {
namespace {

constexpr size_t kOutputBytes = kPieceBytes * kOutputPieces;
}  // namespace

Result<pid_t> SpawnWithFds(const Program& program, const std::vector<std::string>& args,
                           std::span<const int> fds) {
  return StartProgram(program, {.args = args,
                                .env = KeptEnvironment({"JOURNAL_STREAM"}),
                                .fds = {fds.begin(), fds.end()}});
}

Result<UniqueFd> MakeSealedMemfd(const char* name, ByteSpan data) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return ErrnoError("memfd_create");
  FASTOCI_CHECK_OK(WriteFull(fd.get(), data, name));
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0)
    return ErrnoError("memfd: seal");
  return fd;
}

Result<std::unique_ptr<DecoderClient>> DecoderClient::Spawn(const Program& program, int arena) {
  UniqueFd ring(memfd_create("fastoci-output", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!ring.valid()) return ErrnoError("memfd_create");
  if (ftruncate(ring.get(), kOutputBytes) != 0 ||
      fcntl(ring.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW) != 0)
    return ErrnoError("output ring");
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return ErrnoError("socketpair");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  std::unique_ptr<DecoderClient> client(new DecoderClient);
  void* p = mmap(nullptr, kOutputBytes, PROT_READ, MAP_SHARED, ring.get(), 0);
  if (p == MAP_FAILED) return ErrnoError("output ring: mmap");
  client->output_ = {static_cast<const uint8_t*>(p), kOutputBytes};
  client->socket_ = std::move(ours);
  const int fds[] = {theirs.get(), arena, ring.get()};
  FASTOCI_TRY(client->pid_, SpawnWithFds(program, {}, fds));
  return client;
}

DecoderClient::~DecoderClient() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  if (!output_.empty()) munmap(const_cast<uint8_t*>(output_.data()), output_.size());
}

// The protocol allows so few messages at a time that the socket has room for them.
Status DecoderClient::Send(DecodeMessage message, int fd) {
  Status s = SendDecodeMessage(socket_.get(), message, fd, /*dont_wait=*/true);
  if (!s.ok() && s.error().err == EAGAIN)
    return Error{ErrorKind::kInvalid, EPROTO, "the decoder does not read what it is sent"};
  return s;
}

Status DecoderClient::OpenSpace(uint64_t space, uint32_t codec, uint64_t data_bytes,
                                uint64_t blob_bytes, int index) {
  DecodeMessage m{};
  m.op = DecodeOp::kOpenSpace;
  m.space = space;
  m.codec = codec;
  m.data_bytes = data_bytes;
  m.blob_bytes = blob_bytes;
  return Send(m, index);
}

Status DecoderClient::Decode(const Request& request) {
  if (busy_) return InvalidError("the decoder works on another job");
  DecodeMessage m{};
  m.op = DecodeOp::kDecode;
  m.job = request.job;
  m.space = request.space;
  m.span_data_offset = request.span_data_offset;
  m.blob_offset = request.blob_offset;
  m.out_begin = request.out_begin;
  m.out_end = request.out_end;
  m.urgent_begin = request.urgent_begin;
  m.urgent_end = request.urgent_end;
  FASTOCI_CHECK_OK(Send(m));
  request_ = request;
  busy_ = true;
  input_sent_ = input_done_ = pieces_ = pieces_done_ = 0;
  input_ends_.clear();
  next_offset_ = request.out_begin;
  return OkStatus();
}

Status DecoderClient::Input(uint64_t arena_offset, uint64_t length, bool eof) {
  if (input_ends_.size() >= kMaxInputs || length > UINT32_MAX)
    return InvalidError("the decoder has too many inputs");
  DecodeMessage m{};
  m.op = DecodeOp::kInput;
  m.job = request_.job;
  m.arena_offset = arena_offset;
  m.length = static_cast<uint32_t>(length);
  m.eof = eof ? 1 : 0;
  input_sent_ += length;
  input_ends_.push_back(input_sent_);
  return Send(m);
}

Status DecoderClient::Cancel() {
  DecodeMessage m{};
  m.op = DecodeOp::kCancel;
  m.job = request_.job;
  return Send(m);
}

Status DecoderClient::OutputDone() {
  // As long as half of the ring is free, the decoder does not wait, and would be woken for nothing.
  if (pieces_ - pieces_done_ < kOutputPieces / 2) return OkStatus();
  pieces_done_ = pieces_;
  DecodeMessage m{};
  m.op = DecodeOp::kOutputDone;
  m.job = request_.job;
  m.total = pieces_;
  return Send(m);
}

Status DecoderClient::Check(const DecodeMessage& m) {
  Error bad{ErrorKind::kInvalid, EPROTO, "the decoder sent an invalid message"};
  if (!busy_ || m.job != request_.job) return bad;
  switch (m.op) {
    case DecodeOp::kOutput: {
      const uint64_t end = next_offset_ + m.length;
      const uint64_t nr = (m.length + kPieceBytes - 1) / kPieceBytes;
      if (m.length == 0 || m.data_offset != next_offset_ || end > request_.out_end ||
          (m.length % kPieceBytes != 0 && end != request_.out_end) ||
          pieces_ - pieces_done_ + nr > kOutputPieces)
        return bad;
      next_offset_ = end;
      pieces_ += nr;
      return OkStatus();
    }
    case DecodeOp::kInputDone:
      if (m.total < input_done_ || m.total > input_sent_) return bad;
      input_done_ = m.total;
      while (!input_ends_.empty() && input_ends_.front() <= input_done_) input_ends_.pop_front();
      return OkStatus();
    case DecodeOp::kDone:
      if (next_offset_ != request_.out_end) return bad;
      busy_ = false;
      return OkStatus();
    case DecodeOp::kFailed:
      if (m.err <= 0 || m.err > 4095) return bad;
      busy_ = false;
      return OkStatus();
    default:
      return bad;
  }
}

Result<DecodeMessage> DecoderClient::Receive(int timeout_ms) {
  FASTOCI_TRY(DecodeMessage m, ReceiveDecodeMessage(socket_.get(), timeout_ms));
  FASTOCI_CHECK_OK(Check(m));
  return m;
}

void DecoderClient::Copy(uint64_t data_offset, std::span<uint8_t> out) const {
  uint64_t at = (data_offset - request_.out_begin) % kOutputBytes;
  while (!out.empty()) {
    const size_t n = std::min<uint64_t>(out.size(), kOutputBytes - at);
    std::copy_n(output_.begin() + static_cast<ptrdiff_t>(at), n, out.begin());
    out = out.subspan(n);
    at = 0;
  }
}

}  // namespace fastoci
