// SPDX-License-Identifier: Apache-2.0
#include "attach/bounded.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/unique_fd.h"

namespace fastoci {
namespace {

TEST(RunBounded, ReturnsTheValueOrTimesOut) {
  EXPECT_EQ(*RunBounded("test", 10000, {}, [] { return 7; }), 7);
  auto begin = std::chrono::steady_clock::now();
  auto late = RunBounded("test", 50, {}, [] { return ::pause(); });
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(late.error().err, ETIMEDOUT);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

// A child that hangs outlives its parent: what it holds open then stays open.
TEST(RunBounded, TheChildHasOnlyTheDescriptorsThatAreNamed) {
  int fds[6];
  for (int i = 0; i < 6; i += 2) ASSERT_EQ(::pipe2(fds + i, O_CLOEXEC), 0);
  const std::vector<int> keep = {fds[4], fds[1]};  // in no order
  auto code = RunBounded("test", 10000, keep, [&] {
    int wrong = 0;
    for (int fd = 3; fd < 256; fd++)
      if (IsOpen(fd) != (fd == fds[4] || fd == fds[1])) wrong++;
    return wrong;
  });
  EXPECT_EQ(*code, 0);
  code = RunBounded("test", 10000, {}, [] {
    int open = 0;
    for (int fd = 3; fd < 256; fd++) open += IsOpen(fd);
    return open;
  });
  EXPECT_EQ(*code, 0);
  for (int fd : fds) ::close(fd);
}

TEST(RunBounded, TheChildHoldsNoStandardDescriptorOfTheCaller) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  UniqueFd out(fds[0]), in(fds[1]), saved(::dup(STDERR_FILENO));
  ASSERT_GE(::dup2(in.get(), STDERR_FILENO), 0);
  auto code = RunBounded("test", 10000, {}, [] { return ::write(STDERR_FILENO, "x", 1) == 1 ? 0 : 1; });
  ::dup2(saved.get(), STDERR_FILENO);
  in.reset();
  EXPECT_EQ(*code, 0);
  char byte;
  EXPECT_EQ(::read(out.get(), &byte, 1), 0);
}

TEST(LeftBehindTest, ReapsWhoDies) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  UniqueFd out(fds[0]), in(fds[1]);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::close(fds[1]);
    char byte;
    ::_exit(static_cast<int>(::read(fds[0], &byte, 1)));
  }
  ASSERT_GT(pid, 0);
  LeftBehind all;
  all.Add(pid);
  EXPECT_EQ(all.Reap(), 1U);
  in.reset();
  for (int i = 0; i < 1000 && all.Reap() > 0; i++) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(all.Reap(), 0U);
  EXPECT_EQ(::waitpid(pid, nullptr, WNOHANG), -1) << "it is a zombie";
}

TEST(ReadBounded, GivesWhatIsThere) {
  char name[] = "/tmp/fastoci-bounded.XXXXXX";
  UniqueFd fd(::mkstemp(name));
  ASSERT_TRUE(fd.valid());
  ::unlink(name);
  Bytes data(3 * kMaxBoundedRead);
  for (size_t i = 0; i < data.size(); i++) data[i] = static_cast<uint8_t>(i * 7 + i / 256);
  ASSERT_TRUE(WriteFull(fd.get(), data, name).ok());
  auto read = ReadBounded("it", fd.get(), 1024, kMaxBoundedRead, 10000);
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(*read, Bytes(data.begin() + 1024, data.begin() + 1024 + kMaxBoundedRead));
  EXPECT_FALSE(ReadBounded("it", fd.get(), data.size() - 10, 11, 10000).ok());
  EXPECT_FALSE(ReadBounded("it", fd.get(), 0, kMaxBoundedRead + 1, 10000).ok());
}

TEST(RunBoundedProgram, KeepsPrintableOutputWithinItsLimit) {
  BoundedProgram p;
  p.what = "test";
  p.argv = {"/bin/sh", "-c", "printf 'a\\033b\\n'; printf x 1>&2; exit 3"};
  std::string output;
  EXPECT_EQ(*RunBoundedProgram(p, &output), 3);
  EXPECT_EQ(output, "a?b\nx");
  p.argv = {"/bin/sh", "-c", "head -c 100000 /dev/zero; echo; echo the end"};
  p.max_output = 10;
  output.clear();
  EXPECT_EQ(*RunBoundedProgram(p, &output), 0);
  EXPECT_EQ(output, "??????????");
  p.last_output = true;
  output.clear();
  EXPECT_EQ(*RunBoundedProgram(p, &output), 0);
  EXPECT_EQ(output, "?\nthe end\n");
  p.argv = {"/no/such/program"};
  EXPECT_EQ(*RunBoundedProgram(p, &output), 127);
}

}  // namespace
}  // namespace fastoci
