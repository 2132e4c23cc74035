// SPDX-License-Identifier: Apache-2.0
// RunFsck(): the sandbox that fs_check.h promises.
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <sstream>
#include <utility>

#include "attach/bounded.h"
#include "attach/fs_check.h"
#include "base/privileges.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

constexpr uint64_t kMaxMemory = 2ULL << 30;
constexpr int kEnterFailed = 126;
constexpr int kNoProgram = 127;
// Empty directories inside the sandbox: sockets, other processes, secrets.
constexpr const char* kHidden[] = {"/run", "/proc", "/home", "/root", "/tmp", "/dev/shm"};
constexpr char kNode[] = "/run/image";
constexpr char kConfigPath[] = "/run/e2fsck.conf";
// turboOCI's convertor leaves /lost+found with a hash-tree leaf that its root
// does not name (0x020034), for which e2fsck would drop the tree (0x020038).
// The kernel never looks at such a leaf. Every other finding in a hash tree has
// a code of its own, which still makes the file system a damaged one.
constexpr char kConfig[] =
    "[problems]\n"
    "0x020034 = {\nno_ok = true\n}\n"
    "0x020038 = {\nno_ok = true\n}\n";

int Fail(const char* what) {
  dprintf(2, "sandbox: %s: %s\n", what, std::strerror(errno));
  return kEnterFailed;
}

// A list of what e2fsck and fsck.erofs call. Opens are for reading only.
bool LoadSeccomp() {
  scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
  if (ctx == nullptr) return false;
  static const int allowed[] = {
      SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(preadv), SCMP_SYS(write), SCMP_SYS(writev),
      SCMP_SYS(close), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(stat), SCMP_SYS(lstat),
      SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(access), SCMP_SYS(faccessat),
      SCMP_SYS(faccessat2), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(mmap),
      SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise), SCMP_SYS(brk),
      SCMP_SYS(fadvise64), SCMP_SYS(ioctl), SCMP_SYS(uname), SCMP_SYS(getuid),
      SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(getpid),
      SCMP_SYS(gettid), SCMP_SYS(getrusage), SCMP_SYS(times), SCMP_SYS(gettimeofday),
      SCMP_SYS(clock_gettime), SCMP_SYS(time), SCMP_SYS(sysinfo), SCMP_SYS(getrandom),
      SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
      SCMP_SYS(sigaltstack), SCMP_SYS(getrlimit), SCMP_SYS(prlimit64), SCMP_SYS(arch_prctl),
      SCMP_SYS(set_tid_address), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(futex),
      SCMP_SYS(sched_getaffinity), SCMP_SYS(execve), SCMP_SYS(exit), SCMP_SYS(exit_group),
      SCMP_SYS(getcwd), SCMP_SYS(fcntl), SCMP_SYS(dup), SCMP_SYS(tgkill)};
  bool ok = true;
  for (int nr : allowed) ok = ok && seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0) == 0;
  // Threads, with which e2fsck reads bitmaps, but no processes. libc falls back
  // from clone3, whose flags a filter cannot see.
  ok = ok &&
       seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                        SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD)) == 0 &&
       seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0) == 0;
  const scmp_datum_t writing = O_ACCMODE | O_CREAT | O_TRUNC;
  ok = ok &&
       seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(open), 1,
                        SCMP_A1(SCMP_CMP_MASKED_EQ, writing, O_RDONLY)) == 0 &&
       seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                        SCMP_A2(SCMP_CMP_MASKED_EQ, writing, O_RDONLY)) == 0 &&
       seccomp_load(ctx) == 0;
  seccomp_release(ctx);
  return ok;
}

bool WriteConfig() {
  UniqueFd fd(::open(kConfigPath, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
  ssize_t length = sizeof(kConfig) - 1;
  return fd.valid() && ::write(fd.get(), kConfig, sizeof(kConfig) - 1) == length;
}

// True while the process is there that has the pipe's other end.
bool Lives(int pipe) {
  struct pollfd fd = {pipe, 0, 0};
  return ::poll(&fd, 1, 0) == 0;
}

// Runs in the child before the exec; ends as process 1 of its own namespace.
int Enter(dev_t device, uint64_t cpu_seconds) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS) != 0) {
    return Fail("new namespaces");
  }
  int parent[2];  // the read end tells that the write end's process is gone
  if (::pipe2(parent, O_CLOEXEC) != 0) return Fail("pipe");
  pid_t pid = ::fork();
  if (pid < 0) return Fail("fork");
  if (pid > 0) {  // stays outside as the one that passes the exit code on
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : kEnterFailed);
  }
  ::close(parent[1]);
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return Fail("private mounts");
  }
  for (const char* dir : kHidden) {
    struct stat st;
    if (::stat(dir, &st) != 0) continue;
    if (::mount("none", dir, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k") != 0) {
      return Fail(dir);
    }
  }
  ::umask(0);
  if (::mknod(kNode, S_IFBLK | 0400, device) != 0 || ::chown(kNode, kNobody, kNobody) != 0) {
    return Fail("make the device node");
  }
  if (!WriteConfig()) return Fail(kConfigPath);
  for (auto [resource, value] : {std::pair<int, uint64_t>{RLIMIT_AS, kMaxMemory},
                                 {RLIMIT_CPU, cpu_seconds},
                                 {RLIMIT_FSIZE, 0},
                                 {RLIMIT_NOFILE, 32},
                                 {RLIMIT_MEMLOCK, 0}}) {
    if (!LimitResource(resource, value).ok()) return Fail("limits");
  }
  // Whoever is killed for being late takes the check along: DropPrivileges() asks
  // for the death signal last, as a change of user clears it.
  if (::chdir("/") != 0 || !DropPrivileges().ok()) return Fail("drop privileges");
  if (!Lives(parent[0])) return Fail("the parent is gone");
  if (!LoadSeccomp()) return Fail("seccomp");
  return 0;
}

// e2fsck tries /dev/null for writing at its start, and says so.
std::string WithoutNoise(const std::string& output) {
  std::istringstream lines(output);
  std::string line, out;
  while (std::getline(lines, line)) {
    if (line.find("open /dev/null") == std::string::npos) out += line + "\n";
  }
  return out;
}

std::string FindProgram(const std::string& name) {
  for (const char* dir : {"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"}) {
    std::string path = dir + name;
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  return "";
}

}  // namespace

Result<int> RunInFsckSandbox(const SandboxedCheck& check, std::string* output) {
  BoundedProgram program;
  program.what = check.what;
  program.argv = check.argv;
  program.env = {"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                 std::string("E2FSCK_CONFIG=") + kConfigPath};
  program.enter = [&check] { return Enter(check.device, check.cpu_seconds); };
  program.timeout_ms = check.timeout_ms;
  return RunBoundedProgram(program, output);
}

Status RunFsck(FsType type, uint32_t major, uint32_t minor, int64_t timeout_ms) {
  std::string name = type == FsType::kExt4 ? "e2fsck" : "fsck.erofs";
  std::string path = FindProgram(name);
  std::string package = type == FsType::kExt4 ? "e2fsprogs" : "erofs-utils";
  if (path.empty()) {
    return Error{ErrorKind::kUnsupported, ENOENT,
                 name + " is needed before a mount: install " + package};
  }
  SandboxedCheck check;
  check.what = name;
  check.argv = type == FsType::kExt4 ? std::vector<std::string>{path, "-f", "-n", kNode}
                                     : std::vector<std::string>{path, kNode};
  check.device = makedev(major, minor);
  check.timeout_ms = timeout_ms;
  check.cpu_seconds = static_cast<uint64_t>(timeout_ms / 1000 + 1);
  std::string output;
  FASTOCI_TRY(int code, RunInFsckSandbox(check, &output));
  if (code == 0) return OkStatus();
  if (code == kEnterFailed || code == kNoProgram) {
    return Error{ErrorKind::kIo, EIO, "cannot run " + name + " in its sandbox: " + output};
  }
  return MismatchError("refused to mount: " + name + " says that the file system is damaged (exit " +
                       std::to_string(code) + "):\n" + WithoutNoise(output));
}

}  // namespace fastoci
