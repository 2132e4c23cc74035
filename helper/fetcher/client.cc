// SPDX-License-Identifier: Apache-2.0
#include "fetcher/client.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "base/packet.h"
#include "fetcher/reply.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

constexpr int kCallTimeoutMs = 30000;
// Room for all requests that may be under way at a time.
constexpr int kWorkSendBytes = 1 << 20;
constexpr size_t kMaxHosts = 65536;
// What of our environment the fetcher gets: the log, and how to reach the net.
const std::vector<std::string> kEnvironment = {
    "JOURNAL_STREAM", "http_proxy",  "https_proxy",   "HTTPS_PROXY", "all_proxy",
    "ALL_PROXY",      "no_proxy",    "NO_PROXY",      "SSL_CERT_FILE", "SSL_CERT_DIR",
    // Where credentials are, for the keeper.
    "PATH", "HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME",
};

Error ProtocolError() {
  return {ErrorKind::kInvalid, EPROTO, "the fetcher sent an invalid message"};
}

template <typename Message>
Status SendTo(int socket, const Message& m, std::span<const int> fds = {}, bool dont_wait = false) {
  Status s = SendPacket(socket, ObjectBytes(m), fds, dont_wait);
  if (!s.ok()) return s.error().Wrap("fetcher");
  return s;
}

template <typename Message>
bool IsFailure(const Message& m) {
  return m.err > 0 && m.err <= 4095 && m.kind <= static_cast<uint32_t>(ErrorKind::kInternal);
}

// The two sockets and the arena, as the descriptors that protocol.h says.
Result<pid_t> Start(const FetcherOptions& options, int control, int work, int arena) {
  static_assert(kFetcherControlFd == 3 && kFetcherWorkFd == 4 && kFetcherArenaFd == 5);
  std::vector<std::string> env = KeptEnvironment(kEnvironment);
  // Libcurl knows it in lower case alone, for the sake of CGI programs.
  if (const char* v = std::getenv("HTTP_PROXY"); v != nullptr && !std::getenv("http_proxy"))
    env.push_back(std::string("http_proxy=") + v);
  return StartProgram(options.program, {.args = options.args,
                                        .env = std::move(env),
                                        .fds = {control, work, arena}});
}

Status Pair(UniqueFd* ours, UniqueFd* theirs) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return ErrnoError("socketpair");
  ours->reset(pair[0]);
  theirs->reset(pair[1]);
  return OkStatus();
}

HostState HostOf(const WorkReply& m) {
  HostState h;
  h.host = m.host;
  h.name = FieldText(m.name);
  h.gate = m.gate;
  h.window = m.window;
  h.in_flight = m.in_flight;
  h.gated_until_ms = m.gated_until_ms;
  h.since_ms = m.since_ms;
  h.http_status = m.http_status;
  h.cause = FieldText(m.text);
  h.openings = m.openings;
  h.requests = m.host_requests;
  h.bytes = m.host_bytes;
  std::copy_n(m.outcomes, kFetchOutcomes, h.outcomes.begin());
  return h;
}

}  // namespace

Result<std::unique_ptr<FetcherClient>> FetcherClient::Spawn(const FetcherOptions& options,
                                                            int arena_fd) {
  std::unique_ptr<FetcherClient> client(new FetcherClient);
  UniqueFd control, work;
  FASTOCI_CHECK_OK(Pair(&client->control_, &control));
  FASTOCI_CHECK_OK(Pair(&client->work_, &work));
  // The system's limit may make the buffer smaller. It still holds some 500 requests.
  (void)setsockopt(client->work_.get(), SOL_SOCKET, SO_SNDBUF, &kWorkSendBytes,
                   sizeof(kWorkSendBytes));
  FASTOCI_TRY(client->pid_, Start(options, control.get(), work.get(), arena_fd));
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

Result<uint32_t> FetcherClient::Call(ControlMessage message, int fd,
                                     std::vector<LocationEntry>* entries) {
  MutexLock lock(control_mutex_);
  auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(kCallTimeoutMs);
  message.call = next_call_++;
  const int fds[] = {fd};
  FASTOCI_CHECK_OK(
      SendTo(control_.get(), message, {fds, fd >= 0 ? 1U : 0U}, /*dont_wait=*/true));
  while (true) {
    ControlMessage m{};
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0)  // whatever else it says
      return Error{ErrorKind::kUnavailable, ETIMEDOUT, "fetcher: no answer"};
    Status s = ReceivePacket(control_.get(), WritableObjectBytes(&m),
                             static_cast<int>(left.count()));
    if (!s.ok()) return s.error().Wrap("fetcher");
    if (m.call != message.call) continue;  // to a call that timed out
    if (m.op == ControlOp::kDone) return m.count;
    if (m.op == ControlOp::kFailed && IsFailure(m))
      return Error{static_cast<ErrorKind>(m.kind), m.err, FieldText(m.text)};
    if (m.op != ControlOp::kLocations || entries == nullptr || m.count > kEntriesPerMessage ||
        entries->size() >= size_t{FASTOCI_MAX_BLOBS} * kMaxBlobLocations)
      return ProtocolError();
    entries->insert(entries->end(), m.entries, m.entries + m.count);
  }
}

Result<std::vector<std::vector<FetchLocation>>> FetcherClient::OpenImage(
    uint32_t image, const std::string& image_id, ByteSpan json) {
  UniqueFd fd(memfd_create("fastoci-image", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return ErrnoError("memfd_create");
  FASTOCI_CHECK_OK(WriteFull(fd.get(), json, "image memfd"));
  if (fcntl(fd.get(), F_ADD_SEALS,
            F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0)
    return ErrnoError("image memfd: seal");
  ControlMessage m{};
  m.op = ControlOp::kOpenImage;
  m.image = image;
  SetText(m.image_id, image_id);
  std::vector<LocationEntry> entries;
  FASTOCI_TRY(uint32_t nr_blobs, Call(m, fd.get(), &entries));
  if (nr_blobs > FASTOCI_MAX_BLOBS) return ProtocolError();
  std::vector<std::vector<FetchLocation>> blobs(nr_blobs);
  for (const LocationEntry& e : entries) {
    if (e.blob >= nr_blobs || blobs[e.blob].size() >= kMaxBlobLocations) return ProtocolError();
    blobs[e.blob].push_back({e.location, e.host});
  }
  return blobs;
}

Status FetcherClient::CloseImage(uint32_t image) {
  ControlMessage m{};
  m.op = ControlOp::kCloseImage;
  m.image = image;
  FASTOCI_CHECK_OK(Call(m, -1, nullptr));
  return OkStatus();
}

Status FetcherClient::Fetch(const FetchRequest& request) {
  if (request.length == 0 || request.length > kMaxFetchBytes)
    return InvalidError("a fetch cannot have " + std::to_string(request.length) + " bytes");
  WorkRequest m{};
  m.op = WorkOp::kFetch;
  m.id = request.id;
  m.location = request.location;
  m.miss_class = request.miss_class;
  m.flags = request.fresh ? kFetchFresh : 0;
  m.offset = request.offset;
  m.length = request.length;
  m.arena_offset = request.arena_offset;
  MutexLock lock(work_mutex_);
  if (running_.size() >= kMaxFetches) return InvalidError("too many fetches at a time");
  if (running_.count(request.id) != 0)
    return InvalidError("fetch " + std::to_string(request.id) + " runs already");
  FASTOCI_CHECK_OK(SendTo(work_.get(), m, {}, /*dont_wait=*/true));
  running_[request.id] = {request.length, 0};
  return OkStatus();
}

Status FetcherClient::Cancel(uint32_t id) {
  WorkRequest m{};
  m.op = WorkOp::kCancel;
  m.id = id;
  return SendTo(work_.get(), m, {}, /*dont_wait=*/true);
}

Status FetcherClient::OpenGate(uint32_t host) {
  WorkRequest m{};
  m.op = WorkOp::kOpenGate;
  m.host = host;
  return SendTo(work_.get(), m, {}, /*dont_wait=*/true);
}

Status FetcherClient::Check(const WorkReply& m) {
  MutexLock lock(work_mutex_);
  if (m.op == WorkOp::kHost) {
    hosts_.insert(m.host);
    return m.gate <= HostGate::kProbing && hosts_.size() <= kMaxHosts ? OkStatus()
                                                                      : Status(ProtocolError());
  }
  if (m.op == WorkOp::kHostGone)
    return hosts_.erase(m.host) == 1 ? OkStatus() : Status(ProtocolError());
  auto it = running_.find(m.id);
  if (it == running_.end()) return ProtocolError();
  Running& r = it->second;
  if (m.total < r.total || m.total > r.length) return ProtocolError();
  switch (m.op) {
    case WorkOp::kData:
      if (m.total == r.total) return ProtocolError();
      r.total = m.total;
      return OkStatus();
    case WorkOp::kDone:
      if (m.total != r.length) return ProtocolError();
      break;
    case WorkOp::kFailed:
      if (!IsFailure(m) || m.outcome == FetchOutcome::kDone || m.outcome > FetchOutcome::kRefused)
        return ProtocolError();
      break;
    default:
      return ProtocolError();
  }
  running_.erase(it);
  return OkStatus();
}

Result<FetchEvent> FetcherClient::Receive() {
  WorkReply m{};
  Status s = ReceivePacket(work_.get(), WritableObjectBytes(&m), 0);
  if (!s.ok()) return s.error().Wrap("fetcher");
  FASTOCI_CHECK_OK(Check(m));
  FetchEvent e;
  if (m.op == WorkOp::kHost) {
    e.kind = FetchEvent::kHost;
    e.host = HostOf(m);
    return e;
  }
  if (m.op == WorkOp::kHostGone) {
    e.kind = FetchEvent::kHostGone;
    e.host.host = m.host;
    return e;
  }
  e.id = m.id;
  e.total = m.total;
  if (m.op == WorkOp::kData) return e;
  e.kind = m.op == WorkOp::kDone ? FetchEvent::kDone : FetchEvent::kFailed;
  e.tally = {m.requests, m.retries, m.tokens};
  if (e.kind == FetchEvent::kDone) return e;
  e.outcome = m.outcome;
  e.error = {static_cast<ErrorKind>(m.kind), m.err, FieldText(m.text)};
  e.http_status = m.http_status;
  e.retry_at_ms = m.retry_at_ms;
  return e;
}

}  // namespace fastoci
