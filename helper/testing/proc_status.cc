// SPDX-License-Identifier: Apache-2.0
#include "testing/proc_status.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

namespace fastoci {

std::string StatusField(pid_t pid, const std::string& key) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":")) {
      size_t at = line.find_first_not_of(" \t", key.size() + 1);
      return at == std::string::npos ? "" : line.substr(at);
    }
  return "none";
}

void ExpectConfined(pid_t pid, const std::string& bounding) {
  EXPECT_EQ(StatusField(pid, "NoNewPrivs"), "1");
  EXPECT_EQ(StatusField(pid, "Seccomp"), "2");
  if (geteuid() != 0) return;
  EXPECT_EQ(StatusField(pid, "Uid"), "65534\t65534\t65534\t65534");
  EXPECT_EQ(StatusField(pid, "Gid"), "65534\t65534\t65534\t65534");
  EXPECT_EQ(StatusField(pid, "Groups"), "");
  EXPECT_EQ(StatusField(pid, "CapBnd"), bounding);
}

}  // namespace fastoci
