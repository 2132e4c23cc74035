// SPDX-License-Identifier: Apache-2.0
#include "base/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/byte_reader.h"

namespace fastoci {
namespace {

// What a shell script wrote to descriptor 3.
std::string Output(const std::string& script, std::vector<int> more = {},
                   std::vector<std::string> env = {}) {
  UniqueFd out(memfd_create("out", MFD_CLOEXEC));
  std::vector<int> fds = {out.get()};
  fds.insert(fds.end(), more.begin(), more.end());
  auto pid = StartProgram("/bin/sh", {.args = {"-c", script}, .env = env, .fds = fds});
  EXPECT_TRUE(pid.ok()) << pid.error().message;
  if (!pid.ok()) return "";
  auto status = WaitForChild(*pid, -1);
  EXPECT_TRUE(status.ok() && *status == 0) << (status.ok() ? HowItEnded(*status) : "");
  std::string text(4096, '\0');
  ssize_t n = pread(out.get(), text.data(), text.size(), 0);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

UniqueFd Holding(const std::string& text) {
  UniqueFd fd(memfd_create("in", MFD_CLOEXEC));
  EXPECT_TRUE(WriteFull(fd.get(), AsBytes(text), "memfd").ok());
  lseek(fd.get(), 0, SEEK_SET);
  return fd;
}

TEST(StartProgram, GivesTheDescriptorsThatWereAskedForAndNoOthers) {
  // Numbers that the child needs are taken here by others of the list.
  std::vector<UniqueFd> files;
  for (int i = 0; i < 9; i++) files.push_back(Holding(std::to_string(i)));
  UniqueFd forgotten(fcntl(files[0].get(), F_DUPFD, 0));  // without O_CLOEXEC
  std::vector<int> fds;
  for (int i : {8, 3, 3, 0, 1, 7, 2, 5}) fds.push_back(files[static_cast<size_t>(i)].get());
  const std::string read =
      "for fd in 4 5 6 7 8 9; do cat /proc/self/fd/$fd >&3; done; echo >&3; ls /proc/$$/fd >&3";
  // 12 is ls looking.
  EXPECT_EQ(Output(read, fds), "833017\n0\n1\n10\n11\n12\n2\n3\n4\n5\n6\n7\n8\n9\n");
}

TEST(StartProgram, AnyOrderOfNumbersArrives) {
  // 3 to 12 may all be in use here: each order of a few of them is tried.
  std::vector<UniqueFd> files;
  for (int i = 0; i < 5; i++) files.push_back(Holding(std::to_string(i)));
  std::vector<size_t> order = {0, 1, 2, 3};
  do {
    std::vector<int> fds;
    std::string want;
    for (size_t i : order) {
      fds.push_back(files[i].get());
      want += std::to_string(i);
    }
    EXPECT_EQ(Output("for fd in 4 5 6 7; do cat /proc/self/fd/$fd >&3; done", fds), want);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(StartProgram, NeedsFewMoreDescriptorsThanItGives) {
  struct rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  std::vector<UniqueFd> files;
  std::vector<int> fds;
  for (int i = 0; i < 100; i++) {
    files.push_back(Holding("x"));
    fds.push_back(files.back().get());
  }
  struct rlimit small = before;
  small.rlim_cur = static_cast<rlim_t>(fds.back()) + 20;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &small), 0);
  const std::string text = Output("ls /proc/$$/fd | wc -l >&3", fds);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_GE(std::atoi(text.c_str()), 103);
}

TEST(StartProgram, GivesNoEnvironmentOfOursButWhatIsKept) {
  setenv("FASTOCI_TEST_SECRET", "s", 1);
  setenv("FASTOCI_TEST_KEPT", "k", 1);
  EXPECT_EQ(Output("echo \"$FASTOCI_TEST_SECRET,$FASTOCI_TEST_KEPT\" >&3", {},
                   KeptEnvironment({"FASTOCI_TEST_KEPT", "FASTOCI_TEST_UNSET"})),
            ",k\n");
}

TEST(StartProgram, LeavesNoSignalBlockedOrIgnored) {
  sigset_t usr1, before;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &usr1, &before);
  auto old = signal(SIGPIPE, SIG_IGN);
  // glibc's own, 32 and 33: signal() refuses them.
  struct KernelSigaction {
    unsigned long handler, flags, restorer;
    uint64_t mask;
  } ignore = {.handler = 1, .flags = 0, .restorer = 0, .mask = 0}, cancel = {}, setxid = {};
  ASSERT_EQ(syscall(SYS_rt_sigaction, 32, &ignore, &cancel, sizeof(ignore.mask)), 0);
  ASSERT_EQ(syscall(SYS_rt_sigaction, 33, &ignore, &setxid, sizeof(ignore.mask)), 0);
  const std::string text = Output("grep -E '^Sig(Blk|Ign)' /proc/self/status >&3");
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, &before, &after);
  signal(SIGPIPE, old);
  syscall(SYS_rt_sigaction, 32, &cancel, nullptr, sizeof(ignore.mask));
  syscall(SYS_rt_sigaction, 33, &setxid, nullptr, sizeof(ignore.mask));
  EXPECT_TRUE(sigismember(&after, SIGUSR1)) << "the caller's mask was changed";
  EXPECT_EQ(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

TEST(StartProgram, SaysWhyItCannotRun) {
  auto none = StartProgram("/nonexistent/program", {});
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().err, ENOENT);
  EXPECT_EQ(none.error().message, "cannot run /nonexistent/program: No such file or directory");
  auto no_program = StartProgram("/etc/passwd", {});
  ASSERT_FALSE(no_program.ok());
  EXPECT_EQ(no_program.error().err, EACCES);
  auto bad = StartProgram("/bin/true", {.fds = {12345}});
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().err, EBADF);
}

// An upgrade puts another file at the path; whoever opened the program before goes
// on with the one that it knows.
TEST(Program, StaysTheOneThatWasOpened) {
  const std::string dir = testing::TempDir() + "program-" + std::to_string(getpid());
  ASSERT_TRUE(MakeDirs(dir).ok());
  const std::string path = dir + "/tool";
  std::filesystem::copy_file("/bin/true", path);
  auto opened = Program::Open(path);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  std::filesystem::copy_file("/bin/false", dir + "/new");
  std::filesystem::rename(dir + "/new", path);
  auto exit_code = [](const Program& program) {
    auto pid = StartProgram(program, {});
    EXPECT_TRUE(pid.ok()) << pid.error().message;
    auto status = pid.ok() ? WaitForChild(*pid, -1) : Result<int>(pid.error());
    return status.ok() && WIFEXITED(*status) ? WEXITSTATUS(*status) : -1;
  };
  EXPECT_EQ(exit_code(*opened), 0);
  EXPECT_EQ(exit_code(path), 1);
  std::filesystem::remove_all(dir);
  EXPECT_EQ(exit_code(*opened), 0);
  EXPECT_FALSE(Program::Open(path).ok());
}

TEST(WaitForChild, EndsWhoeverIsLate) {
  auto pid = StartProgram("/bin/sleep", {.args = {"1000"}});
  ASSERT_TRUE(pid.ok());
  auto status = WaitForChild(*pid, 50);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().err, ETIMEDOUT);
  EXPECT_EQ(kill(*pid, 0), -1);
  pid = StartProgram("/bin/sh", {.args = {"-c", "exit 7"}});
  ASSERT_TRUE(pid.ok());
  status = WaitForChild(*pid, 60000);
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(HowItEnded(*status), "exited with status 7");
}

}  // namespace
}  // namespace fastoci
