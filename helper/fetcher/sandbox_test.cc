// SPDX-License-Identifier: Apache-2.0
#include "fetcher/sandbox.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
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
  EXPECT_EXIT(Inside(Fails(ENOSYS, [] { return mkdir("/tmp/fastoci-none", 0755); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(ENOSYS, [] { return unlink("/tmp/fastoci-none"); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(ENOSYS, [] { return open("/tmp/x", O_WRONLY | O_CREAT, 0600); })),
              kFine, "");
  EXPECT_EXIT(Inside(Fails(ENOSYS, [] { return open("/dev/null", O_RDWR); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(ENOSYS, [] { return open("/dev/null", O_ACCMODE); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(ENOSYS, [] { return kill(getppid(), 0); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(ENOSYS, [] {
    rlimit r{1, 1};
    return prlimit(getppid(), RLIMIT_NOFILE, &r, nullptr);
  })), kFine, "");
  EXPECT_EXIT(Inside(Fails(ENOSYS, [] { return prctl(PR_SET_DUMPABLE, 1); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(ENOSYS, [] { return setuid(0); })), kFine, "");
  EXPECT_EXIT(Inside(Fails(ENOSYS, [] { return listen(socket(AF_INET, SOCK_STREAM, 0), 1); })),
              kFine, "");
  EXPECT_EXIT(Inside([] {
    return mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
           MAP_FAILED;
  }), kFine, "");
}

// As an attacker calls the kernel, who does not keep to the types of C: of an int
// the kernel looks at the lower half alone.
constexpr long kHigh = 1L << 32;

TEST(FetcherSandboxDeathTest, ComparesWhatTheKernelReads) {
  auto refused = [](auto... arguments) {
    EXPECT_EXIT(Inside(Fails(ENOSYS, [=] { return syscall(arguments...); })), kFine, "");
  };
  for (long high : {0L, kHigh}) {
    for (int family : {AF_UNIX, AF_PACKET, AF_ALG, AF_VSOCK, 1000})
      refused(SYS_socket, high | family, SOCK_STREAM, 0);
    refused(SYS_socket, AF_NETLINK, SOCK_RAW, high | 16);
    refused(SYS_socket, high | AF_NETLINK, SOCK_RAW, 16);
    refused(SYS_socket, AF_INET, high | SOCK_RAW, 1);
    refused(SYS_prctl, high | PR_SET_DUMPABLE, 1);
    refused(SYS_prctl, high | PR_SET_PTRACER, -1);
    refused(SYS_openat, AT_FDCWD, "/dev/null", high | O_RDWR);
    refused(SYS_fcntl, 0, high | F_SETOWN, static_cast<long>(getpid()));
    refused(SYS_ioctl, 0, high | FIOASYNC, &high);
    refused(SYS_tgkill, high | getppid(), static_cast<long>(getppid()), 0);
    refused(SYS_prlimit64, high | getppid(), RLIMIT_NOFILE, nullptr, nullptr);
    EXPECT_EXIT(Inside([=] { return syscall(SYS_clone, high | SIGCHLD, 0, 0, 0, 0) == 0; }),
                kKilled, "");
  }
}

// Somebody else's Unix socket cannot be reached through a pair of own ones.
TEST(FetcherSandboxDeathTest, ReachesNoSocketOfOthers) {
  sockaddr_un server{AF_UNIX, "/tmp/fastoci-sandbox-XXXXXX"};
  UniqueFd name(mkstemp(server.sun_path));
  ASSERT_EQ(unlink(server.sun_path), 0);
  UniqueFd mailbox(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const auto* address = reinterpret_cast<const sockaddr*>(&server);
  ASSERT_EQ(bind(mailbox.get(), address, sizeof(server)), 0);
  ASSERT_EQ(chmod(server.sun_path, 0777), 0);
  auto sends = [=](long type) {
    int pair[2];
    return syscall(SYS_socketpair, AF_UNIX, type, 0, pair) == 0 &&
           sendto(pair[0], "x", 1, 0, address, sizeof(server)) == 1;
  };
  ASSERT_TRUE(sends(SOCK_DGRAM)) << "who is not in the sandbox can";
  for (long type : {long{SOCK_DGRAM}, long{SOCK_SEQPACKET}, kHigh | SOCK_DGRAM, long{SOCK_STREAM}})
    EXPECT_EXIT(Inside([=] { return !sends(type); }), kFine, "") << type;
  unlink(server.sun_path);
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
  EXPECT_EXIT(Inside([] {  // how libcurl wakes itself
    int pair[2];
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0;
  }), kFine, "");
  EXPECT_EXIT(Inside([]() -> bool { std::abort(); }), testing::KilledBySignal(SIGABRT), "");
}

}  // namespace
}  // namespace fastoci
