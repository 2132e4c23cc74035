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

#include "base/monotonic.h"
#include "base/packet.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

constexpr int kDieMs = 300;  // what a killed child gets before it is left behind

using Clock = std::chrono::steady_clock;

bool Ended(int pidfd, int timeout_ms) {
  auto ended = WaitFor(pidfd, POLLIN, timeout_ms);
  return ended.ok() && *ended;
}

LeftBehind& AllLeftBehind() {
  static LeftBehind* all = new LeftBehind;  // never destroyed: threads may outlive main()
  return *all;
}

// 0..255, or an Error; the child is dead or left behind afterwards.
Result<int> Reap(pid_t pid, int pidfd, Clock::time_point end, const std::string& what) {
  const bool late = !Ended(pidfd, MsUntil(end));
  if (late) {
    ::kill(pid, SIGKILL);
    if (!Ended(pidfd, kDieMs)) {
      AllLeftBehind().Add(pid);
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
void Drain(int fd, Clock::time_point end, const BoundedProgram& program, std::string* output) {
  char buffer[4096];
  for (;;) {
    auto ready = WaitFor(fd, POLLIN, MsUntil(end));
    if (!ready.ok() || !*ready) break;
    ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n <= 0) break;
    for (ssize_t i = 0; i < n && (program.last_output || output->size() < program.max_output); i++) {
      char c = buffer[i];
      output->push_back(c == '\n' || (c >= ' ' && c <= '~') ? c : '?');
    }
    // Not each time: that would move all of it again and again.
    if (output->size() > 2 * program.max_output) output->erase(0, output->size() - program.max_output);
  }
  if (output->size() > program.max_output) output->erase(0, output->size() - program.max_output);
}

// In the child. keep: sorted.
void CloseOthers(const std::vector<int>& keep) {
  unsigned from = STDERR_FILENO + 1;
  for (int fd : keep) {
    const auto kept = static_cast<unsigned>(fd);
    if (kept > from) ::syscall(SYS_close_range, from, kept - 1, 0U);
    from = std::max(from, kept + 1);
  }
  ::syscall(SYS_close_range, from, ~0U, 0U);
}

// In the child.
void ReplaceStdio(int output) {
  const int null = ::open("/dev/null", O_RDWR);
  ::dup2(null, 0);
  ::dup2(output >= 0 ? output : null, 1);
  ::dup2(output >= 0 ? output : null, 2);
}

Result<pid_t> Fork(const std::string& what, UniqueFd* pidfd, const std::function<void()>& child) {
  AllLeftBehind().Reap();
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

void LeftBehind::Add(pid_t pid) {
  MutexLock lock(mutex_);
  pids_.push_back(pid);
}

size_t LeftBehind::Reap() {
  MutexLock lock(mutex_);
  std::erase_if(pids_, [](pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) != 0; });
  return pids_.size();
}

Result<int> RunBounded(const std::string& what, int64_t timeout_ms, const std::vector<int>& keep,
                       const std::function<int()>& fn) {
  auto end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  std::vector<int> kept = keep;
  std::sort(kept.begin(), kept.end());
  UniqueFd pidfd;
  FASTOCI_TRY(pid_t pid, Fork(what, &pidfd, [&] {
                ReplaceStdio(-1);
                CloseOthers(kept);
                ::_exit(fn());
              }));
  return Reap(pid, pidfd.get(), end, what);
}

Result<Bytes> ReadBounded(const std::string& what, int fd, uint64_t offset, size_t bytes,
                          int64_t timeout_ms) {
  if (bytes > kMaxBoundedRead) return InvalidError(what + ": too much is to be read");
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return ErrnoError("pipe for " + what);
  UniqueFd out(pipe_fds[0]), in(pipe_fds[1]);
  Bytes data(bytes);
  FASTOCI_TRY(int code, RunBounded("reading " + what, timeout_ms, {fd, in.get()}, [&] {
                Status status = PreadFull(fd, data, offset, what);
                // The pipe has room for all of it.
                if (status.ok()) status = WriteFull(in.get(), data, what);
                return status.ok() ? 0 : status.error().err;
              }));
  if (code != 0) return ErrnoError("read " + what, code);
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = ::read(out.get(), data.data() + done, bytes - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return ErrnoError("read " + what, n < 0 ? errno : EPIPE);
    done += static_cast<size_t>(n);
  }
  return data;
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
                ReplaceStdio(in.get());
                CloseOthers({});
                int code = program.enter ? program.enter() : 0;
                if (code != 0) ::_exit(code);
                ::execve(argv[0], argv.data(), env.data());
                ::_exit(127);
              }));
  in.reset();
  Drain(out.get(), end, program, output);
  return Reap(pid, pidfd.get(), end, program.what);
}

}  // namespace fastoci
