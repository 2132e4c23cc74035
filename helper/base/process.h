// SPDX-License-Identifier: Apache-2.0
// Starts another program. The child gets the arguments, the environment and the
// descriptors that the caller names. It inherits nothing else: no signal mask, no signal
// handlers, no other descriptors. (A program that enters a sandbox first: attach/bounded.h.)
#ifndef FASTOCI_BASE_PROCESS_H_
#define FASTOCI_BASE_PROCESS_H_

#include <sys/types.h>

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

// A program that is to be started, perhaps many times.
class Program {
 public:
  // The program at this path; the path is looked up at each start.
  Program(std::string path) : path_(std::move(path)) {}  // NOLINT: implicit
  Program(const char* path) : path_(path) {}             // NOLINT: implicit
  // Opens the file now. Each start runs this very file, also after an upgrade has put
  // another one in its place. A process that speaks a private protocol with its
  // children opens their programs at its own start.
  static Result<Program> Open(const std::string& path);

  const std::string& path() const { return path_; }
  int fd() const { return file_ ? file_->get() : -1; }  // -1: not opened

 private:
  std::string path_;
  std::shared_ptr<const UniqueFd> file_;
};

struct ChildOptions {
  std::vector<std::string> args = {};  // behind the program's path, which is argv[0]
  std::vector<std::string> env = {};   // NAME=VALUE
  std::vector<int> fds = {};           // become 3, 4, ...; the caller still owns them
  bool quiet = false;             // stderr is /dev/null too
  // Become its standard input, output and error; each is 3 or more, and the caller still
  // owns it. -1: /dev/null for the first two, the caller's for the last.
  std::array<int, 3> stdio = {-1, -1, -1};
  // Somebody else's program. It leads a session of its own, runs as nobody if we are root,
  // cannot gain privileges, and dies with the thread that starts it.
  bool stranger = false;
  // The one capability (CAP_*, below 32) that a stranger has, if we have it. -1: none.
  int stranger_capability = -1;
};

// Starts a program. Any thread; if the child asks for a death signal, it gets it when that
// thread ends. The caller must wait for the child. If the child cannot become what the
// options say, or the exec fails, returns its error, as "cannot run PATH: ...".
Result<pid_t> StartProgram(const Program& program, const ChildOptions& options);

// Starts a user's command as a shell does: words[0] is looked up in PATH, and it has our
// environment and our standard files. output_to_stderr: what it prints goes to our standard error,
// and it has nothing to read.
Result<pid_t> StartCommand(const std::vector<std::string>& words, bool output_to_stderr);

// "NAME=VALUE" for each of the names that our environment has.
std::vector<std::string> KeptEnvironment(const std::vector<std::string>& names);

// Waits until the child has ended, and returns its wait status (waitpid()). If it has not
// ended after timeout_ms (-1: no limit), kills and reaps it and returns ETIMEDOUT in
// Error::err. ECHILD: somebody else has reaped it, or SIGCHLD is ignored.
Result<int> WaitForChild(pid_t pid, int timeout_ms);

// A wait status in words: "was killed by signal 9", "exited with status 1".
std::string HowItEnded(int wait_status);

// Sets the name that ps(1) shows. A program that was started from an open file
// (Program::Open) has the number of a descriptor for a name until it calls this.
void SetProcessName(const char* name);

}  // namespace fastoci

#endif  // FASTOCI_BASE_PROCESS_H_
