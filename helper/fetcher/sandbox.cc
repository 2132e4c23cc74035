// SPDX-License-Identifier: Apache-2.0
#include "fetcher/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/privileges.h"

namespace fastoci {
namespace {

// A sanitizer's runtime forks and traces at exit.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitizer = true;
#else
constexpr bool kSanitizer = false;
#endif

// No code of the fetcher or its libraries calls these, so a call is an attack.
constexpr int kKilled[] = {
    SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork), SCMP_SYS(vfork), SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(pidfd_open),
    SCMP_SYS(pidfd_getfd), SCMP_SYS(pidfd_send_signal), SCMP_SYS(mount), SCMP_SYS(umount2),
    SCMP_SYS(pivot_root), SCMP_SYS(chroot), SCMP_SYS(fsopen), SCMP_SYS(open_tree),
    SCMP_SYS(setns), SCMP_SYS(unshare), SCMP_SYS(init_module), SCMP_SYS(finit_module),
    SCMP_SYS(kexec_load), SCMP_SYS(kexec_file_load), SCMP_SYS(bpf), SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd), SCMP_SYS(io_uring_setup), SCMP_SYS(keyctl),
};

// What programs that know credentials do not need. Unlike the fetcher's, the keeper's
// filter does not list what is allowed, because these are other people's programs.
constexpr int kRefused[] = {
    SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev),
    SCMP_SYS(pidfd_getfd), SCMP_SYS(mount), SCMP_SYS(umount2), SCMP_SYS(pivot_root),
    SCMP_SYS(chroot), SCMP_SYS(fsopen), SCMP_SYS(open_tree), SCMP_SYS(move_mount),
    SCMP_SYS(open_by_handle_at), SCMP_SYS(setns), SCMP_SYS(unshare), SCMP_SYS(init_module),
    SCMP_SYS(finit_module), SCMP_SYS(delete_module), SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load), SCMP_SYS(bpf), SCMP_SYS(perf_event_open), SCMP_SYS(userfaultfd),
    SCMP_SYS(io_uring_setup), SCMP_SYS(keyctl), SCMP_SYS(add_key), SCMP_SYS(request_key),
};

// With any arguments: they reach this process, its descriptors, and files that
// everybody may look at.
constexpr int kAllowed[] = {
    // memory and threads
    SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(brk), SCMP_SYS(madvise), SCMP_SYS(futex),
    SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(set_tid_address), SCMP_SYS(exit),
    SCMP_SYS(exit_group), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(getcpu),
    SCMP_SYS(membarrier), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(restart_syscall),
    // descriptors
    SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(pread64), SCMP_SYS(write), SCMP_SYS(writev),
    SCMP_SYS(lseek), SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(poll), SCMP_SYS(ppoll),
    SCMP_SYS(select), SCMP_SYS(pselect6), SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(eventfd2), SCMP_SYS(pipe2),
    // sockets, which AddSocketRules() lets be made
    SCMP_SYS(connect), SCMP_SYS(bind), SCMP_SYS(getsockname), SCMP_SYS(getpeername),
    SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(shutdown), SCMP_SYS(sendto),
    SCMP_SYS(sendmsg), SCMP_SYS(sendmmsg), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg),
    SCMP_SYS(recvmmsg),
    // files: what is there
    SCMP_SYS(fstat), SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(newfstatat), SCMP_SYS(statx),
    SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(readlink),
    SCMP_SYS(readlinkat), SCMP_SYS(getcwd),
    // time and identity
    SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres), SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(getrandom),
    SCMP_SYS(getpid), SCMP_SYS(getppid), SCMP_SYS(gettid), SCMP_SYS(getuid), SCMP_SYS(geteuid),
    SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(uname), SCMP_SYS(sysinfo),
    SCMP_SYS(getrusage), SCMP_SYS(times), SCMP_SYS(getrlimit),
};

// Arguments are compared as the kernel reads them. It takes the lower half of
// the register for an int, while seccomp's plain comparisons look at all 64 bits.
scmp_arg_cmp IntIs(unsigned argument, unsigned value) {
  return SCMP_CMP(argument, SCMP_CMP_MASKED_EQ, 0xffffffffU, value);
}
// None of the bits is set.
scmp_arg_cmp Without(unsigned argument, unsigned bits) {
  return SCMP_CMP(argument, SCMP_CMP_MASKED_EQ, bits, 0);
}

class Filter {
 public:
  // otherwise: what happens to a call that no rule names. For each call that older kernels
  // do not have, libraries have another way, so ENOSYS is a mild refusal.
  explicit Filter(uint32_t otherwise = SCMP_ACT_ERRNO(ENOSYS)) : ctx_(seccomp_init(otherwise)) {
    ok_ = ctx_ != nullptr;
  }
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = delete;
  ~Filter() {
    if (ctx_ != nullptr) seccomp_release(ctx_);
  }
  template <typename... Compare>
  void Add(uint32_t action, int call, Compare... compare) {
    ok_ = ok_ && seccomp_rule_add(ctx_, action, call, sizeof...(compare), compare...) == 0;
  }
  template <typename... Compare>
  void Allow(int call, Compare... compare) {
    Add(SCMP_ACT_ALLOW, call, compare...);
  }
  Status Load() {
    int rc = ok_ ? seccomp_load(ctx_) : -EINVAL;
    if (rc != 0) return ErrnoError("sandbox: seccomp filter", -rc);
    return OkStatus();
  }

 private:
  scmp_filter_ctx ctx_;
  bool ok_;
};

void AddSocketRules(Filter* f) {
  constexpr unsigned kTypeBits = 0xf;  // the rest of the type are flags
  for (int family : {AF_INET, AF_INET6})
    for (unsigned type : {SOCK_STREAM, SOCK_DGRAM})
      f->Allow(SCMP_SYS(socket), IntIs(0, static_cast<unsigned>(family)),
               SCMP_A1(SCMP_CMP_MASKED_EQ, kTypeBits, type));
  // getaddrinfo() asks for the local addresses.
  f->Allow(SCMP_SYS(socket), IntIs(0, AF_NETLINK), IntIs(2, NETLINK_ROUTE));
  // libcurl wakes itself through a pair. A pair of datagram sockets could send to
  // any Unix socket that has a path; the ends of a stream stay connected.
  f->Allow(SCMP_SYS(socketpair), IntIs(0, AF_UNIX),
           SCMP_A1(SCMP_CMP_MASKED_EQ, kTypeBits, SOCK_STREAM));
}

void AddFileRules(Filter* f) {
  constexpr unsigned kWriting = O_ACCMODE | O_CREAT | O_TRUNC;
  f->Allow(SCMP_SYS(open), Without(1, kWriting));
  f->Allow(SCMP_SYS(openat), Without(2, kWriting));
  // Not F_SETOWN, which has the kernel send signals for us.
  for (int command : {F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GET_SEALS})
    f->Allow(SCMP_SYS(fcntl), IntIs(1, static_cast<unsigned>(command)));
  for (unsigned command : {FIONBIO, FIONREAD}) f->Allow(SCMP_SYS(ioctl), IntIs(1, command));
  // Memory, but none that can be executed.
  for (int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)}) f->Allow(call, Without(2, PROT_EXEC));
}

void AddProcessRules(Filter* f) {
  // Threads, but no processes. glibc falls back from clone3 to clone.
  f->Allow(SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
  f->Add(SCMP_ACT_KILL_PROCESS, SCMP_SYS(clone), Without(0, CLONE_THREAD));
  f->Allow(SCMP_SYS(tgkill), IntIs(0, static_cast<unsigned>(getpid())));
  f->Allow(SCMP_SYS(prlimit64), IntIs(0, 0));
  for (unsigned option : {PR_SET_NAME, PR_GET_NAME}) f->Allow(SCMP_SYS(prctl), IntIs(0, option));
}

}  // namespace

Status EnterKeeperSandbox() {
  FASTOCI_CHECK_OK(DropPrivileges(CAP_DAC_READ_SEARCH));
  if (kSanitizer) return OkStatus();
  Filter filter(SCMP_ACT_ALLOW);
  for (int call : kRefused) filter.Add(SCMP_ACT_ERRNO(EPERM), call);
  return filter.Load();
}

Status EnterFetcherSandbox() {
  FASTOCI_CHECK_OK(DropPrivileges());
  if (kSanitizer) return OkStatus();
  Filter filter;
  for (int call : kKilled) filter.Add(SCMP_ACT_KILL_PROCESS, call);
  for (int call : kAllowed) filter.Allow(call);
  AddSocketRules(&filter);
  AddFileRules(&filter);
  AddProcessRules(&filter);
  return filter.Load();
}

}  // namespace fastoci
