// SPDX-License-Identifier: Apache-2.0
// The sandbox of a file-system check, with programs that behave as one that hangs.
#include <dirent.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <thread>

#include "attach/fs_check.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

// The processes that have this among their arguments.
std::vector<std::string> ProcessesWith(const std::string& argument) {
  std::vector<std::string> found;
  std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), ::closedir);
  while (struct dirent* e = ::readdir(proc.get())) {
    const std::string pid = e->d_name;
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    auto args = ReadFile("/proc/" + pid + "/cmdline", 1 << 16);
    if (args.ok() && args->find(argument + '\0') != std::string::npos) found.push_back(pid);
  }
  return found;
}

// Reads for ever, with the system calls that a check may make.
SandboxedCheck EndlessReader(const std::string& mark) {
  SandboxedCheck check;
  check.what = "reader";
  check.argv = {"/usr/bin/cksum", "/dev/zero", mark};
  check.timeout_ms = 200;
  check.cpu_seconds = 3600;
  return check;
}

TEST(FsckSandbox, WhatIsLateIsGoneWithAllItsProcesses) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  const std::string mark = "/fastoci-test-late-" + std::to_string(::getpid());
  std::string output;
  auto code = RunInFsckSandbox(EndlessReader(mark), &output);
  ASSERT_FALSE(code.ok()) << "exit code " << *code << ": " << output;
  EXPECT_EQ(code.error().err, ETIMEDOUT);
  // Nothing else would end it: its CPU time is an hour.
  for (int i = 0; i < 600 && !ProcessesWith(mark).empty(); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(ProcessesWith(mark), std::vector<std::string>());
}

TEST(FsckSandbox, HasALimitOnItsCpuTime) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  auto check = EndlessReader("/fastoci-test-cpu");
  check.timeout_ms = 600000;
  check.cpu_seconds = 1;
  std::string output;
  auto code = RunInFsckSandbox(check, &output);
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(*code, 126);  // it was killed in there
}

}  // namespace
}  // namespace fastoci
