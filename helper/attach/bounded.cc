// SPDX-License-Identifier: Apache-2.0
#include "attach/bounded.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/unique_fd.h"

namespace fastoci {
namespace {

constexpr int64_t kDieMs = 300;  // what a killed child gets before it is left behind

using Clock = std::chrono::steady_clock;

int64_t LeftMs(Clock::time_point end) {
  auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
  return std::max<int64_t>(left, 0);
}

// 0..255, or an Error; the child is dead or abandoned afterwards.
Result<int> Reap(pid_t pid, int pidfd, Clock::time_point end, const std::string& what) {
  struct pollfd poll_fd = {pidfd, POLLIN, 0};
  int ready;
  do {
    ready = ::poll(&poll_fd, 1, static_cast<int>(LeftMs(end)));
  } while (ready < 0 && errno == EINTR);
  bool late = ready <= 0;
  if (late) {
    ::kill(pid, SIGKILL);
    if (::poll(&poll_fd, 1, kDieMs) <= 0) {
      return Error{ErrorKind::kUnavailable, ETIMEDOUT,
                   what + " hangs (process " + std::to_string(pid) + " is left behind)"};
    }
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return ErrnoError("wait for " + what);
  }
  if (late) return Error{ErrorKind::kUnavailable, ETIMEDOUT, what + " took too long"};
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  return Error{ErrorKind::kIo, EIO,
               what + " was killed by signal " + std::to_string(WTERMSIG(status))};
}

// Takes what the pipe gives until its end or the deadline.
void Drain(int fd, Clock::time_point end, size_t max_bytes, std::string* output) {
  char buffer[4096];
  for (;;) {
    struct pollfd poll_fd = {fd, POLLIN, 0};
    int ready = ::poll(&poll_fd, 1, static_cast<int>(LeftMs(end)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return;
    ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n <= 0) return;
    for (ssize_t i = 0; i < n && output->size() < max_bytes; i++) {
      char c = buffer[i];
      output->push_back(c == '\n' || (c >= ' ' && c <= '~') ? c : '?');
    }
  }
}

Result<pid_t> Fork(const std::string& what, UniqueFd* pidfd, const std::function<void()>& child) {
  pid_t pid = ::fork();
  if (pid < 0) return ErrnoError("fork for " + what);
  if (pid == 0) {
    child();
    ::_exit(125);
  }
  pidfd->reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd->valid()) {
    Error error = ErrnoError("pidfd_open for " + what);
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return error;
  }
  return pid;
}

}  // namespace

Result<int> RunBounded(const std::string& what, int64_t timeout_ms,
                       const std::function<int()>& fn) {
  auto end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  UniqueFd pidfd;
  FASTOCI_TRY(pid_t pid, Fork(what, &pidfd, [&] { ::_exit(fn()); }));
  return Reap(pid, pidfd.get(), end, what);
}

Result<int> RunBoundedProgram(const BoundedProgram& program, std::string* output) {
  auto end = Clock::now() + std::chrono::milliseconds(program.timeout_ms);
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return ErrnoError("pipe for " + program.what);
  UniqueFd out(pipe_fds[0]), in(pipe_fds[1]);
  std::vector<char*> argv, env;
  for (const auto& a : program.argv) argv.push_back(const_cast<char*>(a.c_str()));
  for (const auto& e : program.env) env.push_back(const_cast<char*>(e.c_str()));
  argv.push_back(nullptr);
  env.push_back(nullptr);
  UniqueFd pidfd;
  FASTOCI_TRY(pid_t pid, Fork(program.what, &pidfd, [&] {
                int null = ::open("/dev/null", O_RDONLY);
                ::dup2(null, 0);
                ::dup2(in.get(), 1);
                ::dup2(in.get(), 2);
                ::syscall(SYS_close_range, 3U, ~0U, 0U);
                int code = program.enter ? program.enter() : 0;
                if (code != 0) ::_exit(code);
                ::execve(argv[0], argv.data(), env.data());
                ::_exit(127);
              }));
  in.reset();
  Drain(out.get(), end, program.max_output, output);
  return Reap(pid, pidfd.get(), end, program.what);
}

}  // namespace fastoci
