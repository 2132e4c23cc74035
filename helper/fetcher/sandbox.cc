// SPDX-License-Identifier: Apache-2.0
#include "fetcher/sandbox.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

namespace fastoci {
namespace {

constexpr unsigned kNobody = 65534;

// A sanitizer's runtime forks and traces at exit.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitizer = true;
#else
constexpr bool kSanitizer = false;
#endif

constexpr int kKilled[] = {
    // programs and other processes
    SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork), SCMP_SYS(vfork), SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(process_madvise),
    SCMP_SYS(pidfd_open), SCMP_SYS(pidfd_getfd), SCMP_SYS(pidfd_send_signal), SCMP_SYS(kcmp),
    SCMP_SYS(move_pages), SCMP_SYS(migrate_pages),
    // mounts and namespaces
    SCMP_SYS(mount), SCMP_SYS(umount2), SCMP_SYS(pivot_root), SCMP_SYS(chroot),
    SCMP_SYS(open_tree), SCMP_SYS(move_mount), SCMP_SYS(fsopen), SCMP_SYS(fsconfig),
    SCMP_SYS(fsmount), SCMP_SYS(fspick), SCMP_SYS(mount_setattr), SCMP_SYS(setns),
    SCMP_SYS(unshare), SCMP_SYS(name_to_handle_at), SCMP_SYS(open_by_handle_at),
    // the kernel itself
    SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(delete_module),
    SCMP_SYS(kexec_load), SCMP_SYS(kexec_file_load), SCMP_SYS(reboot), SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open), SCMP_SYS(userfaultfd), SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register), SCMP_SYS(add_key),
    SCMP_SYS(request_key), SCMP_SYS(keyctl), SCMP_SYS(swapon), SCMP_SYS(swapoff),
    SCMP_SYS(acct), SCMP_SYS(quotactl), SCMP_SYS(syslog), SCMP_SYS(sethostname),
    SCMP_SYS(setdomainname), SCMP_SYS(settimeofday), SCMP_SYS(clock_settime),
    SCMP_SYS(clock_adjtime), SCMP_SYS(adjtimex), SCMP_SYS(iopl), SCMP_SYS(ioperm),
    SCMP_SYS(personality), SCMP_SYS(vhangup), SCMP_SYS(fanotify_init),
};

constexpr int kRefused[] = {
    // changes to files
    SCMP_SYS(creat), SCMP_SYS(mkdir), SCMP_SYS(mkdirat), SCMP_SYS(mknod), SCMP_SYS(mknodat),
    SCMP_SYS(rmdir), SCMP_SYS(unlink), SCMP_SYS(unlinkat), SCMP_SYS(link), SCMP_SYS(linkat),
    SCMP_SYS(symlink), SCMP_SYS(symlinkat), SCMP_SYS(rename), SCMP_SYS(renameat),
    SCMP_SYS(renameat2), SCMP_SYS(chmod), SCMP_SYS(fchmod), SCMP_SYS(fchmodat),
    SCMP_SYS(chown), SCMP_SYS(lchown), SCMP_SYS(fchown), SCMP_SYS(fchownat),
    SCMP_SYS(truncate), SCMP_SYS(setxattr), SCMP_SYS(lsetxattr), SCMP_SYS(fsetxattr),
    SCMP_SYS(utime), SCMP_SYS(utimes), SCMP_SYS(utimensat),
    // others that run as nobody too
    SCMP_SYS(kill), SCMP_SYS(tkill), SCMP_SYS(rt_sigqueueinfo), SCMP_SYS(rt_tgsigqueueinfo),
    SCMP_SYS(setpriority), SCMP_SYS(ioprio_set), SCMP_SYS(sched_setparam),
    SCMP_SYS(sched_setscheduler), SCMP_SYS(sched_setattr), SCMP_SYS(sched_setaffinity),
    SCMP_SYS(shmget), SCMP_SYS(shmat), SCMP_SYS(msgget), SCMP_SYS(semget), SCMP_SYS(mq_open),
    // servers
    SCMP_SYS(listen), SCMP_SYS(accept), SCMP_SYS(accept4),
};

class Filter {
 public:
  Filter() : ctx_(seccomp_init(SCMP_ACT_ALLOW)) { ok_ = ctx_ != nullptr; }
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = delete;
  ~Filter() {
    if (ctx_ != nullptr) seccomp_release(ctx_);
  }
  template <typename... Compare>
  void Add(uint32_t action, int call, Compare... compare) {
    ok_ = ok_ && seccomp_rule_add(ctx_, action, call, sizeof...(compare), compare...) == 0;
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

constexpr auto kAnyFamily = static_cast<scmp_datum_t>(AF_MAX);

void AddSocketRules(Filter* f) {
  // netlink: getaddrinfo() asks for the local addresses.
  for (scmp_datum_t family = 0; family < kAnyFamily; family++)
    if (family != AF_INET && family != AF_INET6 && family != AF_NETLINK)
      f->Add(SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, family, 0));
  f->Add(SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), SCMP_A0(SCMP_CMP_GE, kAnyFamily, 0));
  for (int protocol = 1; protocol < 32; protocol++)  // only 0, NETLINK_ROUTE
    f->Add(SCMP_ACT_ERRNO(EPROTONOSUPPORT), SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, AF_NETLINK, 0),
           SCMP_A2(SCMP_CMP_EQ, static_cast<scmp_datum_t>(protocol), 0));
}

void AddFileRules(Filter* f) {
  for (scmp_datum_t flag : {O_WRONLY, O_RDWR, O_CREAT, O_TRUNC}) {
    f->Add(SCMP_ACT_ERRNO(EACCES), SCMP_SYS(open), SCMP_A1(SCMP_CMP_MASKED_EQ, flag, flag));
    f->Add(SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), SCMP_A2(SCMP_CMP_MASKED_EQ, flag, flag));
  }
  f->Add(SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(openat2));  // flags out of sight
}

void AddProcessRules(Filter* f) {
  // Threads, but no processes; glibc falls back from clone3 to clone.
  f->Add(SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3));
  f->Add(SCMP_ACT_KILL_PROCESS, SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
  f->Add(SCMP_ACT_ERRNO(EPERM), SCMP_SYS(tgkill),
         SCMP_A0(SCMP_CMP_NE, static_cast<scmp_datum_t>(getpid()), 0));
  f->Add(SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prlimit64), SCMP_A0(SCMP_CMP_NE, 0, 0));
  // Not to be made traceable again.
  f->Add(SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_DUMPABLE, 0));
  f->Add(SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_PTRACER, 0));
}

Status BecomeNobody(int keep_capability) {
  if (geteuid() == 0) {
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
      if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno != EPERM)
        return ErrnoError("sandbox: bounding set");
    if (prctl(PR_SET_KEEPCAPS, keep_capability >= 0 ? 1 : 0, 0, 0, 0) != 0 ||
        setgroups(0, nullptr) != 0 || setresgid(kNobody, kNobody, kNobody) != 0 ||
        setresuid(kNobody, kNobody, kNobody) != 0)
      return ErrnoError("sandbox: cannot become nobody");
  }
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
    return ErrnoError("sandbox: ambient capabilities");
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return ErrnoError("sandbox: capget");
  // What is not there cannot be kept: a fetcher that was not started by root.
  __u32 keep = keep_capability < 0 ? 0 : data[0].permitted & (1U << keep_capability);
  data[0] = {keep, keep, 0};
  data[1] = {};
  if (syscall(SYS_capset, &header, data) != 0) return ErrnoError("sandbox: capset");
  return OkStatus();
}

}  // namespace

Status DropPrivileges(int keep_capability) {
  FASTOCI_CHECK_OK(BecomeNobody(keep_capability));
  // A change of user clears the death signal, so it is set behind it.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || prctl(PR_SET_DUMPABLE, 0) != 0 ||
      prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return ErrnoError("sandbox: prctl");
  rlimit none{0, 0};
  if (setrlimit(RLIMIT_CORE, &none) != 0) return ErrnoError("sandbox: setrlimit");
  return OkStatus();
}

Status EnterFetcherSandbox() {
  FASTOCI_CHECK_OK(DropPrivileges());
  if (kSanitizer) return OkStatus();
  Filter filter;
  for (int call : kKilled) filter.Add(SCMP_ACT_KILL_PROCESS, call);
  for (int call : kRefused) filter.Add(SCMP_ACT_ERRNO(EPERM), call);
  AddSocketRules(&filter);
  AddFileRules(&filter);
  AddProcessRules(&filter);
  return filter.Load();
}

}  // namespace fastoci
