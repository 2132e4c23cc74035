// SPDX-License-Identifier: Apache-2.0
#include "fetcher/sandbox.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "base/unique_fd.h"
#include "testing/ia32_entry.h"

namespace fastoci {
namespace {

// Runs `act` behind the sandbox; exit code 0 if it came back true.
template <typename F>
[[noreturn]] void Inside(F act) {
  if (!EnterFetcherSandbox().ok()) _exit(100);
  _exit(act() ? 0 : 1);
}

const auto kKilled = testing::KilledBySignal(SIGSYS);
const auto kFine = testing::ExitedWithCode(0);

TEST(FetcherSandboxDeathTest, KillsWhatReachesOutside) {
  EXPECT_EXIT(Inside([] { return execl("/bin/true", "true", nullptr) == 0; }), kKilled, "");
  EXPECT_EXIT(Inside([] { return fork() == 0; }), kKilled, "");
  EXPECT_EXIT(Inside([] { return system("true") == 0; }), kKilled, "");
  EXPECT_EXIT(Inside([] { return ptrace(PTRACE_ATTACH, getppid(), 0, 0) == 0; }), kKilled, "");
  EXPECT_EXIT(Inside([] { return mount("none", "/mnt", "tmpfs", 0, "") == 0; }), kKilled, "");
  EXPECT_EXIT(Inside([] { return chroot("/tmp") == 0; }), kKilled, "");
  EXPECT_EXIT(Inside([] { return unshare(CLONE_NEWUSER) == 0; }), kKilled, "");
  EXPECT_EXIT(Inside([] { return syscall(SYS_bpf, 0, 0, 0) == 0; }), kKilled, "");
  EXPECT_EXIT(Inside([] { return syscall(SYS_io_uring_setup, 1, nullptr) == 0; }), kKilled, "");
  EXPECT_EXIT(Inside([] { return syscall(SYS_pidfd_open, getppid(), 0) >= 0; }), kKilled, "");
  EXPECT_EXIT(Inside([] { return syscall(SYS_process_vm_readv, getppid(), 0, 0, 0, 0, 0) == 0; }),
              kKilled, "");
#ifdef __x86_64__
  // Other ways into the kernel, where system calls have other numbers.
  EXPECT_EXIT(Inside([] { return syscall(0x40000000 | SYS_getpid) > 0; }), kKilled, "");
  EXPECT_EXIT(Inside([] { return Ia32Call(20) > 0; }), testing::KilledBySignal(Ia32KillSignal()), "");
#endif
}

bool Opens(const char* path) { return open(path, O_RDONLY | O_NONBLOCK) >= 0; }

// Of files it reads what everybody may: CA certificates, a world-readable blob.
TEST(FetcherSandboxDeathTest, ReadsNoSecretsAndNoDevices) {
  if (geteuid() != 0) return;  // who may not read them anyway shows nothing
  char secret[] = "/tmp/fastoci-secret-XXXXXX";
  UniqueFd fd(mkstemp(secret));
  ASSERT_TRUE(fd.valid());
  std::string memory = "/proc/" + std::to_string(getpid()) + "/mem";  // the broker's, to the fetcher
  std::string environment = "/proc/" + std::to_string(getpid()) + "/environ";
  int tried = 0;
  for (const char* path : {"/etc/shadow", static_cast<const char*>(secret), memory.c_str(),
                           environment.c_str(), "/dev/loop-control", "/dev/mapper/control"}) {
    if (!Opens(path)) continue;  // no such device on this machine
    tried++;
    EXPECT_EXIT(Inside([=] { return !Opens(path) && errno == EACCES; }), kFine, "") << path;
  }
  EXPECT_GE(tried, 4);
  unlink(secret);
}

template <typename F>
auto Fails(int err, F call) {
  return [=] {
    errno = 0;
    return call() == -1 && errno == err;
  };
}

TEST(FetcherSandboxDeathTest, RefusesChanges) {
  EXPECT_EXIT(Inside(Fails(EPERM, [] { return mkdir("/tmp/fastoci-none", 0755); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(EPERM, [] { return unlink("/tmp/fastoci-none"); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(EACCES, [] { return open("/tmp/x", O_WRONLY | O_CREAT, 0600); })),
              kFine, "");
  EXPECT_EXIT(Inside(Fails(EACCES, [] { return open("/dev/null", O_RDWR); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(EPERM, [] { return kill(getppid(), 0); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(EPERM, [] {
    rlimit r{1, 1};
    return prlimit(getppid(), RLIMIT_NOFILE, &r, nullptr);
  })), kFine, "");
  EXPECT_EXIT(Inside(Fails(EPERM, [] { return prctl(PR_SET_DUMPABLE, 1); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(EPERM, [] { return setuid(0); })), kFine, "");
  for (int family : {AF_UNIX, AF_PACKET, AF_ALG, AF_VSOCK, 1000})
    EXPECT_EXIT(Inside(Fails(EAFNOSUPPORT, [=] { return socket(family, SOCK_STREAM, 0); })),
                kFine, "") << family;
  EXPECT_EXIT(Inside(Fails(EPROTONOSUPPORT, [] { return socket(AF_NETLINK, SOCK_RAW, 16); })),
              kFine, "");
}

TEST(FetcherSandboxDeathTest, LeavesWhatTheFetcherNeeds) {
  EXPECT_EXIT(Inside([] { return socket(AF_INET, SOCK_STREAM, 0) >= 0; }), kFine, "");
  EXPECT_EXIT(Inside([] { return open("/etc/passwd", O_RDONLY) >= 0; }), kFine, "");
  EXPECT_EXIT(Inside([] {
    bool ran = false;
    std::thread([&] { ran = true; }).join();
    return ran;
  }), kFine, "");
  EXPECT_EXIT(Inside([] {
    addrinfo* list = nullptr;
    addrinfo hints{};
    hints.ai_flags = AI_ADDRCONFIG;
    return getaddrinfo("localhost", "80", &hints, &list) == 0;
  }), kFine, "");
  EXPECT_EXIT(Inside([]() -> bool { std::abort(); }), testing::KilledBySignal(SIGABRT), "");
}

}  // namespace
}  // namespace fastoci
