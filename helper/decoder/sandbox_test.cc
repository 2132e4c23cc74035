// SPDX-License-Identifier: Apache-2.0
#include "decoder/sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <vector>

namespace fastoci {
namespace {

// Runs `act` behind the sandbox; exit code 0 if it came back.
template <typename F>
[[noreturn]] void Inside(F act, bool file_io = false) {
  Status s = EnterSandbox({.max_fd = 5, .file_io = file_io});
  if (!s.ok()) _exit(100);
  act();
  _exit(0);
}

const auto kKilled = testing::KilledBySignal(SIGSYS);
const auto kFine = testing::ExitedWithCode(0);

TEST(SandboxDeathTest, KillsWhatReachesOutside) {
  EXPECT_EXIT(Inside([] { (void)open("/etc/passwd", O_RDONLY); }), kKilled, "");
  EXPECT_EXIT(Inside([] { (void)socket(AF_INET, SOCK_STREAM, 0); }), kKilled, "");
  EXPECT_EXIT(Inside([] { (void)socket(AF_UNIX, SOCK_STREAM, 0); }), kKilled, "");
  EXPECT_EXIT(Inside([] { (void)fork(); }), kKilled, "");
  EXPECT_EXIT(Inside([] { execl("/bin/true", "true", nullptr); }), kKilled, "");
  EXPECT_EXIT(Inside([] { (void)kill(getppid(), 0); }), kKilled, "");
  EXPECT_EXIT(Inside([] { (void)unlink("/tmp/none"); }), kKilled, "");
  EXPECT_EXIT(Inside([] { (void)setuid(0); }), kKilled, "");
  EXPECT_EXIT(Inside([] { (void)mmap(nullptr, 4096, PROT_READ | PROT_EXEC,
                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }), kKilled, "");
  EXPECT_EXIT(Inside([] { (void)!ftruncate(2, 0); }), kKilled, "");
}

TEST(SandboxDeathTest, LetsMemoryAndOpenDescriptorsBe) {
  EXPECT_EXIT(Inside([] {
                std::vector<char> v(64 << 20, 'x');
                v.resize(v.size() * 2);
              }), kFine, "");
  EXPECT_EXIT(Inside([] { (void)!write(2, "seen", 4); }), kFine, "seen");
  EXPECT_EXIT(Inside([] { std::abort(); }), testing::KilledBySignal(SIGABRT), "");
  EXPECT_EXIT(Inside([] {
                if (malloc(2ULL << 30) != nullptr) _exit(1);  // NOLINT: the limit is the point
              }), kFine, "");
}

TEST(SandboxDeathTest, HasALimitOnItsCpuTime) {
  EXPECT_EXIT(
      {
        Status s = EnterSandbox({.max_fd = 5, .cpu_seconds = 1});
        if (!s.ok()) _exit(100);
        for (volatile bool forever = true; forever;) {
        }
      },
      testing::KilledBySignal(SIGKILL), "");
}

TEST(SandboxDeathTest, FileIoOnDescriptorsOnly) {
  EXPECT_EXIT({
    if (dup2(memfd_create("x", 0), 5) != 5) _exit(101);
    Inside([] {
      if (ftruncate(5, 100) != 0 || pwrite(5, "abc", 3, 10) != 3) _exit(1);
    }, true);
  }, kFine, "");
}

TEST(SandboxDeathTest, ClosesOtherDescriptors) {
  EXPECT_EXIT({
    int null = open("/dev/null", O_RDWR);
    if (dup2(null, 5) != 5 || dup2(null, 6) != 6 || dup2(null, 200) != 200) _exit(101);
    Inside([] {
      if (write(5, "x", 1) != 1) _exit(1);
      if (write(6, "x", 1) != -1 || write(200, "x", 1) != -1) _exit(2);
    });
  }, kFine, "");
}

}  // namespace
}  // namespace fastoci
