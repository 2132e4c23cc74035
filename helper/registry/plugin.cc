// SPDX-License-Identifier: Apache-2.0
#include "registry/plugin.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "base/process.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxErrorBytes = 1024;
constexpr char kDefaultPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

struct Pipe {
  UniqueFd read, write;
  static Result<Pipe> Open() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) return ErrnoError("pipe");
    Pipe p;
    p.read.reset(fds[0]);
    p.write.reset(fds[1]);
    return p;
  }
};

std::string NameOf(const std::string& assignment) {
  return assignment.substr(0, assignment.find('='));
}

std::vector<std::string> Environment(const std::vector<std::string>& more) {
  std::vector<std::string> env = more;
  for (char** e = environ; e != nullptr && *e != nullptr; e++) {
    const std::string name = NameOf(*e);
    if (std::none_of(more.begin(), more.end(),
                     [&](const std::string& m) { return NameOf(m) == name; }))
      env.emplace_back(*e);
  }
  return env;
}

// A string that is wiped.
struct Output {
  ~Output() {
    if (!text.empty()) ::explicit_bzero(text.data(), text.size());
  }
  std::string text;
};

int MsUntil(Clock::time_point deadline) {
  auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count() + 1, 0, 1 << 30));
}

// Feeds and reads until both outputs end; ETIMEDOUT, EOVERFLOW or 0.
int Converse(const PluginCommand& command, UniqueFd in, UniqueFd out, UniqueFd err,
             Clock::time_point deadline, Output* output, std::string* errors) {
  size_t sent = 0;
  if (command.input.empty()) in.reset();
  while (out.valid() || err.valid()) {
    pollfd p[3] = {{in.get(), POLLOUT, 0}, {out.get(), POLLIN, 0}, {err.get(), POLLIN, 0}};
    const int ready = ::poll(p, 3, MsUntil(deadline));
    if (ready < 0 && errno != EINTR) return errno;
    if (ready == 0 && Clock::now() >= deadline) return ETIMEDOUT;
    if (ready <= 0) continue;
    if (p[0].revents != 0) {
      ssize_t n = ::send(in.get(), command.input.data() + sent, command.input.size() - sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) sent += static_cast<size_t>(n);
      // A plugin need not read what it does not want to know.
      if ((n < 0 && errno != EAGAIN) || sent == command.input.size()) in.reset();
    }
    char buffer[4096];
    if (p[1].revents != 0) {
      ssize_t n = ::read(out.get(), buffer, sizeof(buffer));
      if (n <= 0) out.reset();
      else output->text.append(buffer, static_cast<size_t>(n));
      ::explicit_bzero(buffer, sizeof(buffer));
      if (output->text.size() > command.max_output_bytes) return EOVERFLOW;
    }
    if (p[2].revents != 0) {
      ssize_t n = ::read(err.get(), buffer, sizeof(buffer));
      if (n <= 0) err.reset();
      for (ssize_t i = 0; i < n && errors->size() < kMaxErrorBytes; i++)
        *errors += buffer[i] >= ' ' && buffer[i] < 127 ? buffer[i] : ' ';
    }
  }
  return 0;
}

// Both outputs have ended; the process does so soon.
int WaitForEnd(pid_t pid, Clock::time_point deadline) {
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.valid()) return errno;
  for (;;) {
    pollfd p = {pidfd.get(), POLLIN, 0};
    const int ready = ::poll(&p, 1, MsUntil(deadline));
    if (ready > 0) return 0;
    if (ready < 0 && errno != EINTR) return errno;
    if (ready == 0 && Clock::now() >= deadline) return ETIMEDOUT;
  }
}

}  // namespace

Result<PluginResult> RunPlugin(const PluginCommand& command) {
  const std::string name = command.program.substr(command.program.rfind('/') + 1);
  if (::access(command.program.c_str(), X_OK) != 0)
    return NotFoundError(command.program + ": there is no such program");
  Pipe in;  // a socket: writing to one that is closed raises no signal
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    return ErrnoError("socketpair");
  in.read.reset(pair[0]);
  in.write.reset(pair[1]);
  FASTOCI_TRY(Pipe out, Pipe::Open());
  FASTOCI_TRY(Pipe err, Pipe::Open());
  const auto deadline = Clock::now() + std::chrono::milliseconds(command.timeout_ms);
  FASTOCI_TRY(const pid_t pid,
              StartProgram(command.program,
                           {.args = command.args,
                            .env = Environment(command.env),
                            .stdio = {in.read.get(), out.write.get(), err.write.get()},
                            .stranger = true,
                            .stranger_capability =
                                command.may_read_files ? CAP_DAC_READ_SEARCH : -1}));
  in.read.reset();
  out.write.reset();
  err.write.reset();

  Output output;
  PluginResult result;
  int failure = Converse(command, std::move(in.write), std::move(out.read), std::move(err.read),
                         deadline, &output, &result.errors);
  if (failure == 0) failure = WaitForEnd(pid, deadline);
  // Whatever it started; its number stays taken until it is waited for.
  ::kill(-pid, SIGKILL);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (failure == ETIMEDOUT)
    return Error{ErrorKind::kUnavailable, ETIMEDOUT,
                 name + " gave no answer in " + std::to_string(command.timeout_ms) + " ms"};
  if (failure == EOVERFLOW)
    return InvalidError(name + " wrote more than " + std::to_string(command.max_output_bytes) +
                        " bytes");
  if (failure != 0) return ErrnoError(name, failure);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.output = Secret(std::move(output.text));
  return result;
}

std::string FindProgram(const std::string& name) {
  if (name.empty() || name.find('/') != std::string::npos) return "";
  const char* set = std::getenv("PATH");
  const std::string path = set != nullptr && *set != '\0' ? set : kDefaultPath;
  for (size_t at = 0; at <= path.size();) {
    const size_t end = std::min(path.find(':', at), path.size());
    std::string candidate = path.substr(at, end - at) + "/" + name;
    at = end + 1;
    if (candidate[0] == '/' && ::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return "";
}

}  // namespace fastoci
