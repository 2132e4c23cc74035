// SPDX-License-Identifier: Apache-2.0
#include "decoder/client.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "decoder/message.h"

namespace fastoci {
namespace {

constexpr size_t kOutputBytes = kPieceBytes * kOutputPieces;
constexpr size_t kMaxChildFds = 16;
constexpr int kFirstChildFd = 3;

// In the child, between fork and exec of a process with threads: system calls
// on prepared memory only. Returns on failure, with errno.
void ExecChild(const char* program, char* const* argv, char* const* envp,
               std::span<const int> fds, int* error_fd) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  constexpr int kSafe = kFirstChildFd + static_cast<int>(kMaxChildFds) + 1;
  int high[kMaxChildFds];
  int error_copy = fcntl(*error_fd, F_DUPFD_CLOEXEC, kSafe);
  if (error_copy < 0) return;
  *error_fd = error_copy;
  for (size_t i = 0; i < fds.size(); i++)
    if ((high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, kSafe)) < 0) return;
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0) return;
  int end = kFirstChildFd;
  for (size_t i = 0; i < fds.size(); i++)
    if (dup2(high[i], end++) < 0) return;
  if (syscall(SYS_close_range, end, ~0U, CLOSE_RANGE_CLOEXEC) != 0) return;
  execve(program, argv, envp);
}

}  // namespace

Result<pid_t> SpawnWithFds(const std::string& program, const std::vector<std::string>& args,
                           std::span<const int> fds) {
  if (fds.size() > kMaxChildFds) return InvalidError("too many descriptors");
  std::vector<char*> argv;
  for (const std::string& a : args) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  std::string journal;
  if (const char* v = std::getenv("JOURNAL_STREAM")) journal = std::string("JOURNAL_STREAM=") + v;
  char* envp[] = {journal.empty() ? nullptr : journal.data(), nullptr};

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("pipe2");
  UniqueFd reader(ends[0]), writer(ends[1]);
  pid_t pid = fork();
  if (pid < 0) return ErrnoError("fork");
  if (pid == 0) {
    int error_fd = writer.get();
    ExecChild(program.c_str(), argv.data(), envp, fds, &error_fd);
    int err = errno;
    (void)!write(error_fd, &err, sizeof(err));
    _exit(127);
  }
  writer.reset();
  int err = 0;
  ssize_t n;
  do {
    n = read(reader.get(), &err, sizeof(err));
  } while (n < 0 && errno == EINTR);
  if (n == 0) return pid;
  waitpid(pid, nullptr, 0);
  return ErrnoError("cannot run " + program, err);
}

Result<UniqueFd> MakeSealedMemfd(const char* name, ByteSpan data) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return ErrnoError("memfd_create");
  FASTOCI_CHECK_OK(WriteFull(fd.get(), data, name));
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0)
    return ErrnoError("memfd: seal");
  return fd;
}

Result<std::unique_ptr<DecoderClient>> DecoderClient::Spawn(const std::string& program,
                                                            int input_ring) {
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
  const int fds[] = {theirs.get(), input_ring, ring.get()};
  FASTOCI_TRY(client->pid_, SpawnWithFds(program, {program}, fds));
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

Status DecoderClient::Send(DecodeMessage message, int fd) {
  return SendDecodeMessage(socket_.get(), message, fd);
}

Status DecoderClient::OpenSpace(uint64_t space, uint32_t codec, uint64_t data_bytes,
                                uint64_t blob_bytes, ByteSpan index) {
  FASTOCI_TRY(UniqueFd fd, MakeSealedMemfd("fastoci-index", index));
  DecodeMessage m{};
  m.op = DecodeOp::kOpenSpace;
  m.space = space;
  m.codec = codec;
  m.data_bytes = data_bytes;
  m.blob_bytes = blob_bytes;
  return Send(m, fd.get());
}

Status DecoderClient::Decode(const Request& request) {
  if (busy_) return InvalidError("decoder is busy");
  DecodeMessage m{};
  m.op = DecodeOp::kDecode;
  m.job = request.job;
  m.space = request.space;
  m.span_data_offset = request.span_data_offset;
  m.blob_offset = request.blob_offset;
  m.out_begin = request.out_begin;
  m.out_end = request.out_end;
  FASTOCI_CHECK_OK(Send(m));
  request_ = request;
  busy_ = true;
  input_sent_ = input_done_ = pieces_ = pieces_done_ = 0;
  next_offset_ = request.out_begin;
  return OkStatus();
}

Status DecoderClient::Input(uint64_t total, bool eof) {
  DecodeMessage m{};
  m.op = DecodeOp::kInput;
  m.job = request_.job;
  m.total = total;
  m.eof = eof ? 1 : 0;
  input_sent_ = total;
  return Send(m);
}

Status DecoderClient::Cancel() {
  DecodeMessage m{};
  m.op = DecodeOp::kCancel;
  m.job = request_.job;
  return Send(m);
}

Status DecoderClient::OutputDone() {
  if (pieces_done_ == pieces_) return OkStatus();
  pieces_done_ = pieces_;
  DecodeMessage m{};
  m.op = DecodeOp::kOutputDone;
  m.job = request_.job;
  m.total = pieces_;
  return Send(m);
}

Status DecoderClient::Check(const DecodeMessage& m) {
  Error bad{ErrorKind::kInvalid, EPROTO, "decoder breaks the protocol"};
  if (!busy_ || m.job != request_.job) return bad;
  switch (m.op) {
    case DecodeOp::kOutput:
      if (next_offset_ >= request_.out_end || m.data_offset != next_offset_ ||
          m.length != std::min(kPieceBytes, request_.out_end - next_offset_) ||
          pieces_ - pieces_done_ >= kOutputPieces)
        return bad;
      next_offset_ += m.length;
      pieces_++;
      return OkStatus();
    case DecodeOp::kInputDone:
      if (m.total < input_done_ || m.total > input_sent_) return bad;
      input_done_ = m.total;
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

void DecoderClient::CopyPiece(const DecodeMessage& output, std::span<uint8_t> out) const {
  uint64_t place = (output.data_offset - request_.out_begin) / kPieceBytes % kOutputPieces;
  size_t n = std::min<size_t>({output.length, out.size(), kPieceBytes});
  std::copy_n(output_.begin() + static_cast<ptrdiff_t>(place * kPieceBytes), n, out.begin());
}

}  // namespace fastoci
