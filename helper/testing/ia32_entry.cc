// SPDX-License-Identifier: Apache-2.0
#include "testing/ia32_entry.h"

#ifdef __x86_64__
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace fastoci {

int Ia32Call(int nr) {
  int answer;
  asm volatile("int $0x80" : "=a"(answer) : "a"(nr), "b"(0), "c"(0) : "memory", "r8", "r9", "r10", "r11");
  return answer;
}

int Ia32KillSignal() {
  constexpr int kGetpid = 20;
  pid_t pid = fork();
  if (pid == 0) _exit(Ia32Call(kGetpid) == getpid() ? 0 : 1);
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) return SIGSEGV;
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  return SIGSYS;
}

}  // namespace fastoci
#endif
