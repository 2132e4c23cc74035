// SPDX-License-Identifier: Apache-2.0
// vfork() and not fork(): the helper is locked in memory and large, and a fork
// would copy its page tables and then each page that it writes. Until the exec
// the child shares our memory, so it makes system calls on prepared memory only,
// and no signal handler may run in it.
#include "base/process.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <span>

#include "base/packet.h"
#include "base/privileges.h"

namespace fastoci {
namespace {

constexpr int kFirstFd = 3;

// All that the child needs; it allocates nothing.
struct Start {
  const char* path = nullptr;
  int program_fd = -1;
  char* const* argv = nullptr;
  char* const* envp = nullptr;
  std::span<int> fds;  // the child's to change
  const ChildOptions* options = nullptr;
  pid_t parent = 0;
  int err = 0;  // why it did not begin
};

// In the child: makes fds[i] number kFirstFd + i. Two numbers change places, so that
// no more descriptors are open than before, of which a process may have few.
bool Place(std::span<int> fds, size_t i) {
  const int from = fds[i], to = kFirstFd + static_cast<int>(i);
  if (from == to) return ::fcntl(to, F_SETFD, 0) == 0;
  int displaced = ::fcntl(to, F_DUPFD_CLOEXEC, kFirstFd);  // -1: nothing is there
  if (::dup2(from, to) < 0) return false;
  if (displaced >= 0 && from > to) {  // below lie those that have their place already
    if (::dup3(displaced, from, O_CLOEXEC) < 0 || ::close(displaced) != 0) return false;
    displaced = from;
  }
  for (int& other : fds.subspan(i + 1)) {
    if (other == from)
      other = to;
    else if (other == to)
      other = displaced;
  }
  return true;
}

// In the child: gives each signal its default action. Handlers are ours, and an ignored
// signal would stay ignored. glibc's signal() refuses the two signals that it uses itself
// (32 and 33, see nptl(7)), which whoever started us may have set to be ignored.
void ResetSignals() {
  // The kernel's struct sigaction: handler, flags, restorer and mask, all of them zero.
  const struct {
    unsigned long handler, flags, restorer;
    uint64_t mask;
  } by_default = {};
  for (int signal = 1; signal < NSIG; signal++)
    ::syscall(SYS_rt_sigaction, signal, &by_default, nullptr, sizeof(by_default.mask));
}

// In the child: 0 to 2. Only then may Place() take the numbers above.
bool PlaceStdio(const ChildOptions& options) {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return false;
  for (int i = 0; i < 3; i++) {
    int from = options.stdio[static_cast<size_t>(i)];
    if (from < 0 && (i < 2 || options.quiet)) from = null;
    if (from >= 0 && from != i && ::dup2(from, i) < 0) return false;
  }
  // Which number "null" had matters not: 0 to 2, or one that is closed by the exec.
  return true;
}

// In the child. By system calls and not by libc, which would change all threads of ours.
bool BecomeStranger(int keep_capability, pid_t parent) {
  ::setsid();
  const uint32_t bit = keep_capability >= 0 ? 1U << keep_capability : 0;
  if (::geteuid() == 0) {
    if (::prctl(PR_SET_KEEPCAPS, bit != 0 ? 1 : 0, 0, 0, 0) != 0 ||
        ::syscall(SYS_setgroups, 0, nullptr) != 0 ||
        ::syscall(SYS_setresgid, kNobody, kNobody, kNobody) != 0 ||
        ::syscall(SYS_setresuid, kNobody, kNobody, kNobody) != 0)
      return false;
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {{bit, bit, bit}, {0, 0, 0}};
    if (bit != 0 && ::syscall(SYS_capset, &header, data) != 0) return false;
    if (bit != 0 && ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, keep_capability, 0, 0) != 0)
      return false;
  } else if (bit != 0) {
    // Who is nobody already, with that capability, hands it on; who has not got it does not.
    (void)::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, keep_capability, 0, 0);
  }
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
  // After the change of user, which clears it.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  errno = ESRCH;
  return ::getppid() == parent;
}

// In the child. Returns only on failure, with errno.
void Exec(const Start& s) {
  ResetSignals();
  const int end = kFirstFd + static_cast<int>(s.fds.size());
  int program = -1;
  if (s.program_fd >= 0 && (program = ::fcntl(s.program_fd, F_DUPFD_CLOEXEC, end)) < 0) return;
  if (!PlaceStdio(*s.options)) return;
  for (size_t i = 0; i < s.fds.size(); i++)
    if (!Place(s.fds, i)) return;
  if (s.options->stranger && !BecomeStranger(s.options->stranger_capability, s.parent)) return;
  if (::syscall(SYS_close_range, end, ~0U, CLOSE_RANGE_CLOEXEC) != 0) return;
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (program >= 0)
    ::syscall(SYS_execveat, program, "", s.argv, s.envp, AT_EMPTY_PATH);
  else
    ::execve(s.path, s.argv, s.envp);
}

// Not inlined: the child runs on the frame of the function that called vfork().
[[gnu::noinline]] pid_t VforkAndExec(Start* s) {
  const pid_t pid = ::vfork();
  if (pid == 0) {
    Exec(*s);
    s->err = errno;
    ::_exit(127);
  }
  return pid;
}

std::vector<char*> Pointers(const std::string* first, const std::vector<std::string>& rest) {
  std::vector<char*> out;
  if (first != nullptr) out.push_back(const_cast<char*>(first->c_str()));
  for (const std::string& s : rest) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

}  // namespace

Result<Program> Program::Open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd.valid()) return ErrnoError("cannot open the program " + path);
  Program program(path);
  program.file_ = std::make_shared<const UniqueFd>(std::move(fd));
  return program;
}

Result<pid_t> StartProgram(const Program& program, const ChildOptions& options) {
  const std::vector<char*> argv = Pointers(&program.path(), options.args);
  const std::vector<char*> envp = Pointers(nullptr, options.env);
  std::vector<int> fds = options.fds;
  Start start = {.path = program.path().c_str(),
                 .program_fd = program.fd(),
                 .argv = argv.data(),
                 .envp = envp.data(),
                 .fds = fds,
                 .options = &options,
                 .parent = ::getpid()};
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const int dumpable = ::prctl(PR_GET_DUMPABLE);
  const pid_t pid = VforkAndExec(&start);
  const int err = errno;
  // Memory of which a process changes its user is not dumpable any more, and it was ours.
  if (options.stranger && dumpable == 1) ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return ErrnoError("vfork for " + program.path(), err);
  if (start.err == 0) return pid;
  ::waitpid(pid, nullptr, 0);
  return ErrnoError("cannot run " + program.path(), start.err);
}

Result<pid_t> StartCommand(const std::vector<std::string>& words, bool output_to_stderr) {
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  if (output_to_stderr) {
    ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  }
  pid_t pid;
  const int err = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (err != 0) return ErrnoError("run " + words[0], err);
  return pid;
}

std::vector<std::string> KeptEnvironment(const std::vector<std::string>& names) {
  std::vector<std::string> kept;
  for (const std::string& name : names)
    if (const char* value = std::getenv(name.c_str())) kept.push_back(name + "=" + value);
  return kept;
}

Result<int> WaitForChild(pid_t pid, int timeout_ms) {
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  bool late = false;
  if (pidfd.valid()) {
    auto ended = WaitFor(pidfd.get(), POLLIN, timeout_ms);
    late = !ended.ok() || !*ended;
    if (late) ::kill(pid, SIGKILL);
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return ErrnoError("wait for a child");
  if (late && WIFSIGNALED(status))
    return Error{ErrorKind::kUnavailable, ETIMEDOUT, "it did not end in time and was killed"};
  return status;
}

std::string HowItEnded(int wait_status) {
  return WIFSIGNALED(wait_status) ? "was killed by signal " + std::to_string(WTERMSIG(wait_status))
                                  : "exited with status " + std::to_string(WEXITSTATUS(wait_status));
}

void SetProcessName(const char* name) { ::prctl(PR_SET_NAME, name, 0, 0, 0); }

}  // namespace fastoci
