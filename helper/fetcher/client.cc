// SPDX-License-Identifier: Apache-2.0
#include "fetcher/client.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>

#include "base/packet.h"

namespace fastoci {
namespace {

constexpr int kCallTimeoutMs = 30000;
// What of our environment the fetcher gets: the log, and how to reach the net.
constexpr const char* kEnvironment[] = {
    "JOURNAL_STREAM", "http_proxy",  "https_proxy",   "HTTPS_PROXY", "all_proxy",
    "ALL_PROXY",      "no_proxy",    "NO_PROXY",      "SSL_CERT_FILE", "SSL_CERT_DIR",
};

Error ProtocolError() {
  return {ErrorKind::kInvalid, EPROTO, "the fetcher breaks the protocol"};
}

Result<FetchMessage> ReceiveReply(int socket, int timeout_ms) {
  FetchMessage m{};
  Status s = ReceivePacket(socket, WritableObjectBytes(&m), timeout_ms);
  if (!s.ok()) return s.error().Wrap("fetcher");
  m.text[kMessageTextBytes - 1] = '\0';
  for (char* p = m.text; *p != '\0'; p++)
    if (*p < 0x20 || *p >= 0x7f) *p = '?';
  return m;
}

Status SendTo(int socket, const FetchMessage& m, std::span<const int> fds = {}) {
  Status s = SendPacket(socket, ObjectBytes(m), fds);
  if (!s.ok()) return s.error().Wrap("fetcher");
  return s;
}

bool IsFailure(const FetchMessage& m) {
  return m.op == FetchOp::kFailed && m.err > 0 && m.err <= 4095 &&
         m.kind <= static_cast<uint32_t>(ErrorKind::kInternal);
}

// posix_spawn() with the control socket as fd 3 and nothing else but stderr.
Result<pid_t> Start(const FetcherOptions& options, int control) {
  std::vector<char*> argv{const_cast<char*>(options.program.c_str())};
  for (const std::string& a : options.args) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  std::vector<std::string> environment;
  for (const char* name : kEnvironment)
    if (const char* v = std::getenv(name)) environment.push_back(std::string(name) + "=" + v);
  std::vector<char*> envp;
  for (std::string& e : environment) envp.push_back(e.data());
  envp.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  if (posix_spawn_file_actions_init(&actions) != 0) return ErrnoError("posix_spawn", ENOMEM);
  if (posix_spawnattr_init(&attributes) != 0) {
    posix_spawn_file_actions_destroy(&actions);
    return ErrnoError("posix_spawn", ENOMEM);
  }
  sigset_t none;
  sigemptyset(&none);
  pid_t pid = -1;
  int err = posix_spawnattr_setsigmask(&attributes, &none);
  if (err == 0) err = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  if (err == 0) err = posix_spawn_file_actions_adddup2(&actions, control, kFetcherControlFd);
  for (int fd : {0, 1})
    if (err == 0) err = posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
  if (err == 0) err = posix_spawn_file_actions_addclosefrom_np(&actions, kFetcherControlFd + 1);
  if (err == 0)
    err = posix_spawn(&pid, options.program.c_str(), &actions, &attributes, argv.data(),
                      envp.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (err != 0) return ErrnoError("cannot run " + options.program, err);
  return pid;
}

}  // namespace

Status FetchLane::Fetch(uint32_t job, uint32_t image, uint32_t blob, uint64_t offset,
                        uint64_t length, uint32_t deadline_ms, uint32_t miss_class,
                        uint32_t source) {
  if (busy_) return InvalidError("fetch lane is busy");
  FetchMessage m{};
  m.op = FetchOp::kFetch;
  m.job = job;
  m.image = image;
  m.blob = blob;
  m.offset = offset;
  m.length = length;
  m.deadline_ms = deadline_ms;
  m.miss_class = miss_class;
  m.source = source;
  FASTOCI_CHECK_OK(SendTo(socket_.get(), m));
  busy_ = true;
  job_ = job;
  length_ = length;
  total_ = consumed_ = 0;
  return OkStatus();
}

Status FetchLane::Consumed(uint32_t job, uint64_t total) {
  if (busy_ && job == job_) consumed_ = std::max(consumed_, std::min(total, total_));
  FetchMessage m{};
  m.op = FetchOp::kConsumed;
  m.job = job;
  m.total = total;
  return SendTo(socket_.get(), m);
}

Status FetchLane::Cancel(uint32_t job) {
  FetchMessage m{};
  m.op = FetchOp::kCancel;
  m.job = job;
  return SendTo(socket_.get(), m);
}

Status FetchLane::Check(const FetchMessage& m) {
  if (!busy_ || m.job != job_) return ProtocolError();
  switch (m.op) {
    case FetchOp::kData:
      if (m.total <= total_ || m.total > length_ || m.total - consumed_ > kFetchRingBytes)
        return ProtocolError();
      total_ = m.total;
      return OkStatus();
    case FetchOp::kDone:
      if (m.total != length_ || total_ != length_) return ProtocolError();
      busy_ = false;
      return OkStatus();
    case FetchOp::kFailed:
      if (!IsFailure(m)) return ProtocolError();
      busy_ = false;
      return OkStatus();
    default:
      return ProtocolError();
  }
}

Result<FetchMessage> FetchLane::Receive(int timeout_ms) {
  FASTOCI_TRY(FetchMessage m, ReceiveReply(socket_.get(), timeout_ms));
  FASTOCI_CHECK_OK(Check(m));
  return m;
}

Result<std::unique_ptr<FetcherClient>> FetcherClient::Spawn(const FetcherOptions& options) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return ErrnoError("socketpair");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  std::unique_ptr<FetcherClient> client(new FetcherClient);
  client->control_ = std::move(ours);
  FASTOCI_TRY(client->pid_, Start(options, theirs.get()));
  client->pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, client->pid_, 0)));
  if (!client->pidfd_.valid()) return ErrnoError("pidfd_open");
  return client;
}

FetcherClient::~FetcherClient() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Status FetcherClient::Call(FetchMessage message, const std::vector<int>& fds) {
  std::lock_guard<std::mutex> lock(mutex_);
  message.job = next_job_++;
  FASTOCI_CHECK_OK(SendTo(control_.get(), message, fds));
  while (true) {
    FASTOCI_TRY(FetchMessage m, ReceiveReply(control_.get(), kCallTimeoutMs));
    if (m.job != message.job) continue;  // to a call that timed out
    if (m.op == FetchOp::kDone) return OkStatus();
    if (!IsFailure(m)) return ProtocolError();
    return Error{static_cast<ErrorKind>(m.kind), m.err, m.text};
  }
}

Result<FetchLane> FetcherClient::AddLane() {
  FetchLane lane;
  lane.ring_.reset(memfd_create("fastoci-fetch", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!lane.ring_.valid()) return ErrnoError("memfd_create");
  if (ftruncate(lane.ring_.get(), kFetchRingBytes) != 0 ||
      fcntl(lane.ring_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
    return ErrnoError("fetch ring");
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return ErrnoError("socketpair");
  lane.socket_.reset(pair[0]);
  UniqueFd theirs(pair[1]);
  FetchMessage m{};
  m.op = FetchOp::kAddLane;
  FASTOCI_CHECK_OK(Call(m, {theirs.get(), lane.ring_.get()}));
  // The fetcher has its mapping; nobody else gets a writable one.
  if (fcntl(lane.ring_.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0)
    return ErrnoError("fetch ring: seal");
  return lane;
}

Status FetcherClient::OpenImage(uint32_t image, ByteSpan json) {
  UniqueFd fd(memfd_create("fastoci-image", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return ErrnoError("memfd_create");
  FASTOCI_CHECK_OK(WriteFull(fd.get(), json, "image memfd"));
  if (fcntl(fd.get(), F_ADD_SEALS,
            F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0)
    return ErrnoError("image memfd: seal");
  FetchMessage m{};
  m.op = FetchOp::kOpenImage;
  m.image = image;
  return Call(m, {fd.get()});
}

Status FetcherClient::CloseImage(uint32_t image) {
  FetchMessage m{};
  m.op = FetchOp::kCloseImage;
  m.image = image;
  return Call(m, {});
}

}  // namespace fastoci
