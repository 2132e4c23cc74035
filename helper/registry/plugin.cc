// SPDX-License-Identifier: Apache-2.0
#include "registry/plugin.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "base/unique_fd.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned kNobody = 65534;
constexpr size_t kMaxErrorBytes = 1024;
constexpr int kNoPrivilegesLeft = 126, kNoProgram = 127;  // as shells end
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

std::vector<char*> Pointers(std::vector<std::string>* texts) {
  std::vector<char*> all;
  for (std::string& t : *texts) all.push_back(t.data());
  all.push_back(nullptr);
  return all;
}

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

// Only async-signal-safe calls: the parent may have threads.
bool BecomeNobody(bool may_read_files) {
  if (may_read_files && ::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return false;
  if (::syscall(SYS_setgroups, 0, nullptr) != 0 ||
      ::syscall(SYS_setresgid, kNobody, kNobody, kNobody) != 0 ||
      ::syscall(SYS_setresuid, kNobody, kNobody, kNobody) != 0)
    return false;
  if (may_read_files) {
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    constexpr uint32_t kBit = 1U << CAP_DAC_READ_SEARCH;
    __user_cap_data_struct data[2] = {{kBit, kBit, kBit}, {0, 0, 0}};
    if (::syscall(SYS_capset, &header, data) != 0 ||
        ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0) != 0)
      return false;
  }
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
}

[[noreturn]] void Child(const PluginCommand& command, const int fds[3], char* const* argv,
                        char* const* env, pid_t parent) {
  ::setsid();
  for (int i = 0; i < 3; i++)
    if (::dup2(fds[i], i) < 0) ::_exit(kNoPrivilegesLeft);
  (void)::syscall(SYS_close_range, 3U, ~0U, 0U);
  if (::geteuid() == 0 && !BecomeNobody(command.may_read_files)) ::_exit(kNoPrivilegesLeft);
  // Who is nobody already, with that one capability, hands it on; who has not got it does not.
  if (::geteuid() != 0 && command.may_read_files)
    (void)::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0);
  // After the change of user, which clears it.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (::getppid() != parent) ::_exit(kNoPrivilegesLeft);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  ::execve(argv[0], argv, env);
  ::_exit(kNoProgram);
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
  std::vector<std::string> args = command.args, env = Environment(command.env);
  args.insert(args.begin(), command.program);
  const std::vector<char*> argv = Pointers(&args), envp = Pointers(&env);
  const int fds[3] = {in.read.get(), out.write.get(), err.write.get()};
  const pid_t parent = ::getpid();
  const auto deadline = Clock::now() + std::chrono::milliseconds(command.timeout_ms);
  const pid_t pid = ::fork();
  if (pid < 0) return ErrnoError("fork");
  if (pid == 0) Child(command, fds, argv.data(), envp.data(), parent);
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
  if (failure != 0) ::kill(pid, SIGKILL);  // perhaps before its setsid()
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
