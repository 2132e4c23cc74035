// SPDX-License-Identifier: Apache-2.0
#include "fetcher/credentials_keeper.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <seccomp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/packet.h"
#include "fetcher/sandbox.h"

namespace fastoci {
namespace {

constexpr int kTimeoutMs = 5000;
constexpr off_t kMaxCredentialsBytes = 1 << 20;

// The reply to a request of the same id; with a descriptor if err is 0.
struct KeeperMessage {
  uint32_t id;
  int32_t err;
};

Status LoadKeeperFilter() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return OkStatus();
#endif
  scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
  if (ctx == nullptr) return ErrnoError("seccomp_init", ENOMEM);
  bool ok = true;
  for (int call : {SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(poll), SCMP_SYS(close),
                   SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(exit_group), SCMP_SYS(futex),
                   SCMP_SYS(restart_syscall), SCMP_SYS(rt_sigreturn), SCMP_SYS(clock_gettime)})
    ok = ok && seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 0) == 0;
  constexpr scmp_datum_t kForbidden = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC;
  ok = ok && seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, kForbidden, 0)) == 0;
  ok = ok && seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, 4 /* PROT_EXEC */, 0)) == 0;
  int rc = ok ? seccomp_load(ctx) : -EINVAL;
  seccomp_release(ctx);
  if (rc != 0) return ErrnoError("seccomp", -rc);
  return OkStatus();
}

[[noreturn]] void Keep(const std::string& path, int socket) {
  constexpr int kSocket = 0;
  if (dup2(socket, kSocket) < 0 || syscall(SYS_close_range, kSocket + 1, ~0U, 0) != 0 ||
      !DropPrivileges(CAP_DAC_READ_SEARCH).ok() || !LoadKeeperFilter().ok())
    _exit(1);
  while (true) {
    KeeperMessage m{};
    if (!ReceivePacket(kSocket, WritableObjectBytes(&m), -1).ok()) _exit(0);
    // Non-blocking: whatever lies there, the keeper does not wait for it.
    UniqueFd fd(openat(AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    m.err = fd.valid() ? 0 : errno;
    const int fds[] = {fd.get()};
    std::span<const int> sent(fds, fd.valid() ? 1 : 0);
    if (!SendPacket(kSocket, ObjectBytes(m), sent).ok()) _exit(0);
  }
}

}  // namespace

Result<std::unique_ptr<CredentialsKeeper>> CredentialsKeeper::Start(const std::string& path) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return ErrnoError("socketpair");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  std::unique_ptr<CredentialsKeeper> keeper(new CredentialsKeeper);
  keeper->path_ = path;
  keeper->pid_ = fork();
  if (keeper->pid_ < 0) return ErrnoError("fork");
  if (keeper->pid_ == 0) Keep(path, theirs.get());
  keeper->socket_ = std::move(ours);
  return keeper;
}

CredentialsKeeper::~CredentialsKeeper() {
  socket_.reset();
  if (pid_ <= 0) return;
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Result<UniqueFd> CredentialsKeeper::OpenFile() {
  std::lock_guard<std::mutex> lock(mutex_);
  KeeperMessage request{next_id_++, 0};
  FASTOCI_CHECK_OK(SendPacket(socket_.get(), ObjectBytes(request)));
  while (true) {
    KeeperMessage reply{};
    std::vector<UniqueFd> fds;
    FASTOCI_CHECK_OK(ReceivePacket(socket_.get(), WritableObjectBytes(&reply), kTimeoutMs, &fds));
    if (reply.id != request.id) continue;  // to a request that timed out
    if (reply.err != 0) return ErrnoError("open", reply.err);
    if (fds.size() != 1) return InvalidError("no descriptor");
    return std::move(fds[0]);
  }
}

Result<Credentials> CredentialsKeeper::Load() {
  auto fd = OpenFile();
  if (!fd.ok()) return fd.error().Wrap(path_);
  struct stat st {};
  if (fstat(fd->get(), &st) != 0) return ErrnoError(path_);
  if (!S_ISREG(st.st_mode) || st.st_size > kMaxCredentialsBytes)
    return InvalidError(path_ + ": not a small regular file");
  std::string text(static_cast<size_t>(st.st_size), '\0');
  std::span<uint8_t> bytes(reinterpret_cast<uint8_t*>(text.data()), text.size());
  FASTOCI_CHECK_OK(PreadFull(fd->get(), bytes, 0, path_));
  auto credentials = Credentials::Parse(text);
  if (!text.empty()) explicit_bzero(text.data(), text.size());
  if (!credentials.ok()) return credentials.error().Wrap(path_);
  return credentials;
}

}  // namespace fastoci
