// SPDX-License-Identifier: Apache-2.0
// What one can do who runs code of his own in a decoder: crafted input has
// taken it over, and now each way out is tried. The decoder is this program,
// started with the descriptors of a real one and confined as one.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/packet.h"
#include "decoder/client.h"
#include "decoder/decoder.h"
#include "decoder/sandbox.h"
#include "testing/ia32_entry.h"
#include "testing/proc_status.h"

namespace fastoci {
namespace {

// What came of the attempts, as the attacker tells it through the one socket.
struct Loot {
  int map_input_errno, write_input_errno, forged_credentials_errno;
  int descriptors;  // of 6 to 4095 that can be used
  int stdin_bytes;
  bool memory;  // more than the limit
};

Loot Plunder() {
  Loot loot{};
  void* p = mmap(nullptr, kPieceBytes * kOutputPieces, PROT_READ | PROT_WRITE, MAP_SHARED, kDecoderInputFd, 0);
  loot.map_input_errno = p == MAP_FAILED ? errno : 0;
  loot.write_input_errno = write(kDecoderInputFd, "x", 1) < 0 ? errno : 0;
  char buffer[256];
  for (int fd = kDecoderOutputFd + 1; fd < 4096; fd++)
    if (syscall(SYS_fstat, fd, buffer) == 0) loot.descriptors++;
  loot.stdin_bytes = static_cast<int>(read(0, buffer, sizeof(buffer)));
  p = mmap(nullptr, 2ULL << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  loot.memory = p != MAP_FAILED;

  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))] = {};
  iovec iov{buffer, 1};
  msghdr m{};
  m.msg_iov = &iov;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof(control);
  cmsghdr* c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_CREDENTIALS;
  c->cmsg_len = CMSG_LEN(sizeof(ucred));
  ucred root{1, 0, 0};
  std::memcpy(CMSG_DATA(c), &root, sizeof(root));
  loot.forged_credentials_errno = sendmsg(kDecoderSocketFd, &m, 0) < 0 ? errno : 0;
  return loot;
}

TEST(Attacker, DISABLED_Plunders) {
  auto decoder = Decoder::Open(UniqueFd(kDecoderSocketFd), kDecoderInputFd, kDecoderOutputFd);
  ASSERT_TRUE(decoder.ok()) << decoder.error().message;
  if (!EnterSandbox({.max_fd = kDecoderOutputFd}).ok()) _exit(100);
  Loot loot = Plunder();
  (void)!write(kDecoderSocketFd, &loot, sizeof(loot));
  for (char c; read(kDecoderSocketFd, &c, 1) > 0;) {
  }
  _exit(0);
}

UniqueFd Ring(const char* name, int seals) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), kPieceBytes * kOutputPieces), 0);
  EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | seals), 0);
  return fd;
}

TEST(DecoderAttackerTest, HasItsThreeDescriptorsAndNothingElse) {
  UniqueFd input = Ring("input", F_SEAL_FUTURE_WRITE), output = Ring("output", 0);
  UniqueFd others = Ring("another lane's", 0);
  ASSERT_EQ(fcntl(others.get(), F_SETFD, 0), 0);  // forgotten O_CLOEXEC
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  UniqueFd ours(pair[0]), theirs(pair[1]);
  const int fds[] = {theirs.get(), input.get(), output.get()};
  auto pid = SpawnWithFds(std::filesystem::read_symlink("/proc/self/exe").string(),
                          {"--gtest_also_run_disabled_tests",
                           "--gtest_filter=Attacker.DISABLED_Plunders"}, fds);
  ASSERT_TRUE(pid.ok()) << pid.error().message;
  theirs.reset();
  Loot loot{};
  Status s = ReceivePacket(ours.get(), WritableObjectBytes(&loot), 20000);
  ASSERT_TRUE(s.ok()) << s.error().message;
  EXPECT_EQ(loot.map_input_errno, EPERM);
  EXPECT_EQ(loot.write_input_errno, EPERM);
  EXPECT_EQ(loot.forged_credentials_errno, EPERM);
  EXPECT_EQ(loot.descriptors, 0);
  EXPECT_EQ(loot.stdin_bytes, 0);
  EXPECT_FALSE(loot.memory);

  ExpectConfined(*pid);
  EXPECT_EQ(StatusField(*pid, "CapPrm"), "0000000000000000");
  std::ifstream maps("/proc/" + std::to_string(*pid) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    EXPECT_EQ(line.find("another lane's"), std::string::npos) << line;
    EXPECT_EQ(line.find(" rwx"), std::string::npos) << line;
    if (line.find("memfd:input") != std::string::npos) {
      EXPECT_NE(line.find(" r--s "), std::string::npos) << line;
    }
  }
  ours.reset();
  int status = 0;
  ASSERT_EQ(waitpid(*pid, &status, 0), *pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

// The calls of the sandbox that do something when all their arguments are 0;
// sandbox.cc says what each is for.
const std::set<long> kUsable = {
    SYS_read, SYS_write, SYS_writev, SYS_lseek, SYS_fstat, SYS_close, SYS_recvmsg, SYS_sendmsg,
    SYS_poll, SYS_ppoll, SYS_munmap, SYS_mremap, SYS_brk, SYS_madvise, SYS_futex, SYS_exit,
    SYS_exit_group, SYS_clock_gettime, SYS_gettimeofday, SYS_getrandom, SYS_rt_sigaction,
    SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_sigaltstack, SYS_getpid, SYS_gettid, SYS_sched_yield,
    SYS_restart_syscall, SYS_mmap, SYS_mprotect, SYS_newfstatat, SYS_ioctl};
// uretprobe and uprobe: the kernel lets them past every filter, and they do
// nothing where there is no probe.
const std::set<long> kPastFilters = {335, 336};

// The signal that ended `attempt` behind the sandbox, 0 if it came back.
template <typename F>
int SignalOf(F attempt) {
  pid_t pid = fork();
  if (pid == 0) {
    alarm(10);  // what waits, would the sandbox let it
    if (!EnterSandbox({}).ok()) _exit(100);
    attempt();
    _exit(0);
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == 100) << "no sandbox";
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST(DecoderAttackerTest, DiesOfEachSystemCallThatADecoderDoesNotMake) {
  constexpr long kBeyondTheLast = 600;
  for (long nr = 0; nr < kBeyondTheLast; nr++) {
    if (kUsable.contains(nr) || kPastFilters.contains(nr)) continue;
    EXPECT_EQ(SignalOf([nr] { syscall(nr, 0, 0, 0, 0, 0, 0); }), SIGSYS) << "system call " << nr;
  }
}

#ifdef __x86_64__
TEST(DecoderAttackerTest, DiesOfOtherWaysIntoTheKernel) {
  constexpr long kX32 = 0x40000000;
  EXPECT_EQ(SignalOf([] { syscall(kX32 | SYS_getpid); }), SIGSYS);
  // getpid() and open() of 32-bit programs, which have numbers of their own.
  for (int nr : {20, 5})
    EXPECT_EQ(SignalOf([nr] { Ia32Call(nr); }), Ia32KillSignal()) << nr;
}
#endif

}  // namespace
}  // namespace fastoci
