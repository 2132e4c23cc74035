// SPDX-License-Identifier: Apache-2.0
#include "kernel/disk_use.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace fastoci {
namespace {

namespace fs = std::filesystem;

TEST(FastociDisks, ReadsWhatTheBlockLayerCounted) {
  char dir[] = "/tmp/disk_use_test.XXXXXX";
  ASSERT_NE(::mkdtemp(dir), nullptr);
  const fs::path block = fs::path(dir) / "block";
  auto put = [&](const std::string& path, const std::string& text) {
    fs::create_directories((block / path).parent_path());
    std::ofstream(block / path) << text << "\n";
  };
  put("dm-0/dm/uuid", "CRYPT-LUKS2-x");
  put("dm-0/dev", "253:0");
  put("dm-1/dm/uuid", "FASTOCI-demo-1.0");
  put("dm-1/dev", "253:1");
  put("dm-1/stat", "     100       3     2048      20        0        0        0        0        0");
  put("dm-1/slaves/loop3/dev", "7:3");
  put("dm-1/slaves/sda/dev", "8:0");
  put("loop3/dev", "7:3");
  put("dm-2/dm/uuid", "FASTOCI-gone");  // without a number: it goes just now
  const auto disks = FastociDisks(dir);
  ASSERT_EQ(disks.size(), 1U);
  EXPECT_EQ(disks[0].name, "demo-1.0");
  EXPECT_EQ(disks[0].major, 253U);
  EXPECT_EQ(disks[0].minor, 1U);
  EXPECT_EQ(disks[0].read_bytes, 2048U * 512);
  std::vector<uint32_t> below = disks[0].below;
  std::sort(below.begin(), below.end());
  EXPECT_EQ(below, (std::vector<uint32_t>{7 << 20 | 3, 8 << 20}));
  EXPECT_TRUE(FastociDisks(std::string(dir) + "/none").empty());
  fs::remove_all(dir);
}

}  // namespace
}  // namespace fastoci
