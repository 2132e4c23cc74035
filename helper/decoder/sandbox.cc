// SPDX-License-Identifier: Apache-2.0
#include "decoder/sandbox.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

#include "base/privileges.h"

namespace fastoci {
namespace {

// With a sanitizer's shadow memory neither the limit nor the list can hold.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitizer = true;
#else
constexpr bool kSanitizer = false;
#endif

Status CloseOthers(int max_fd) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return ErrnoError("sandbox: /dev/null");
  for (int fd : {0, 1})
    if (dup2(null, fd) < 0) return ErrnoError("sandbox: dup2");
  if (syscall(SYS_close_range, static_cast<unsigned>(max_fd) + 1, ~0U, 0) != 0)
    return ErrnoError("sandbox: close_range");
  return OkStatus();
}

// What allocation, messages, an abort with a message, and an exit need.
constexpr int kAllowed[] = {
    SCMP_SYS(read),         SCMP_SYS(write),        SCMP_SYS(writev),
    SCMP_SYS(lseek),        SCMP_SYS(fstat),        SCMP_SYS(close),
    SCMP_SYS(recvmsg),      SCMP_SYS(sendmsg),      SCMP_SYS(poll),
    SCMP_SYS(ppoll),        SCMP_SYS(munmap),       SCMP_SYS(mremap),
    SCMP_SYS(brk),          SCMP_SYS(madvise),      SCMP_SYS(futex),
    SCMP_SYS(exit),         SCMP_SYS(exit_group),   SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday), SCMP_SYS(getrandom),    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask), SCMP_SYS(sigaltstack),
    SCMP_SYS(getpid),       SCMP_SYS(gettid),       SCMP_SYS(sched_yield),
    SCMP_SYS(restart_syscall),
};
constexpr int kFileIo[] = {SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(ftruncate)};

bool AddRules(scmp_filter_ctx ctx, bool file_io) {
  bool ok = true;
  for (int call : kAllowed) ok = ok && seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 0) == 0;
  if (file_io)
    for (int call : kFileIo) ok = ok && seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 0) == 0;
  // Memory, but none that can be executed.
  for (int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)})
    ok = ok && seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 1,
                                SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)) == 0;
  // abort() signals itself; with a pid namespace or without, only this process.
  ok = ok && seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 2,
                              SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(getpid()), 0),
                              SCMP_A2(SCMP_CMP_EQ, SIGABRT, 0)) == 0;
  // Asked for by stdio and by glibc's fstat(); they can do without an answer.
  ok = ok && seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(newfstatat), 0) == 0;
  ok = ok && seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOTTY), SCMP_SYS(ioctl), 0) == 0;
  return ok;
}

Status LoadFilter(bool file_io) {
  scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
  if (ctx == nullptr) return Error{ErrorKind::kInternal, ENOMEM, "sandbox: seccomp_init"};
  int rc = AddRules(ctx, file_io) ? seccomp_load(ctx) : -EINVAL;
  seccomp_release(ctx);
  if (rc != 0) return ErrnoError("sandbox: seccomp filter", -rc);
  return OkStatus();
}

}  // namespace

Status EnterSandbox(const SandboxOptions& options) {
  FASTOCI_CHECK_OK(CloseOthers(options.max_fd));
  FASTOCI_CHECK_OK(DropPrivileges());
  FASTOCI_CHECK_OK(LimitResource(RLIMIT_NOFILE, 64));
  if (options.cpu_seconds > 0) FASTOCI_CHECK_OK(LimitResource(RLIMIT_CPU, options.cpu_seconds));
  if (kSanitizer) return OkStatus();
  FASTOCI_CHECK_OK(LimitResource(RLIMIT_AS, options.address_space_bytes));
  return LoadFilter(options.file_io);
}

}  // namespace fastoci
