// SPDX-License-Identifier: Apache-2.0
#include "kernel/dm_control.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace fastoci {
namespace {

const std::string kId(64, 'a');

TEST(ParseImageStatus, ReadsTheModulesLine) {
  auto s = ParseImageStatus(kId + " 120 7/41 1000 34 2 1 ready fail_after_ms:300");
  ASSERT_TRUE(s.ok());
  EXPECT_EQ(s->image_id, kId);
  EXPECT_EQ(s->extents, 120U);
  EXPECT_EQ(s->chunks_cached, 7U);
  EXPECT_EQ(s->chunks_total, 41U);
  EXPECT_EQ(s->hits, 1000U);
  EXPECT_EQ(s->misses, 34U);
  EXPECT_EQ(s->pending, 2U);
  EXPECT_EQ(s->errors, 1U);
  EXPECT_EQ(s->helper, "ready");
  EXPECT_EQ(s->policy, "fail_after_ms:300");
}

TEST(ParseImageStatus, IgnoresWhatANewerModuleAppends) {
  EXPECT_TRUE(ParseImageStatus(kId + " 1 0/0 0 0 0 0 none hold more 5").ok());
}

TEST(ParseImageStatus, RefusesOtherLines) {
  EXPECT_FALSE(ParseImageStatus("").ok());
  EXPECT_FALSE(ParseImageStatus("0 8 linear").ok());
  EXPECT_FALSE(ParseImageStatus(kId + " 1 7 0 0 0 0 none hold").ok());
  EXPECT_FALSE(ParseImageStatus(kId + " 1 7/ 0 0 0 0 none hold").ok());
  EXPECT_FALSE(ParseImageStatus(kId + " 1 7/8x 0 0 0 0 none hold").ok());
  EXPECT_FALSE(ParseImageStatus("ab 1 7/8 0 0 0 0 none hold").ok());
}

TEST(PolicyMessage, TurnsAStatusWordIntoTheMessageThatSetsIt) {
  EXPECT_EQ(*PolicyMessage("hold"), "hold");
  EXPECT_EQ(*PolicyMessage("fail_after_ms:0"), "fail_after_ms 0");
  EXPECT_FALSE(PolicyMessage("later").ok());
}

TEST(DmList, SaysWhatIsMissingWhereThereIsNoDeviceMapper) {
  auto misc = ReadFile("/proc/misc", 1 << 20);
  if (!misc.ok() || misc->find("device-mapper") != std::string::npos || ::geteuid() != 0)
    GTEST_SKIP() << "needs root, and a kernel without device-mapper";
  auto devices = DmList("FASTOCI-");
  if (devices.ok()) GTEST_SKIP() << "it was loaded for this";
  EXPECT_EQ(devices.error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(devices.error().message.find("list the devices: the running kernel has no device-mapper"), 0U)
      << devices.error().message;
  EXPECT_EQ(devices.error().message.find("libdevmapper"), std::string::npos);
}

TEST(IsImageName, TakesWhatIsSafeInAPathAndADeviceName) {
  EXPECT_TRUE(IsImageName("demo-latest"));
  EXPECT_TRUE(IsImageName("a_b.c"));
  EXPECT_FALSE(IsImageName(""));
  EXPECT_FALSE(IsImageName("."));
  EXPECT_FALSE(IsImageName("../x"));
  EXPECT_FALSE(IsImageName("-x"));
  EXPECT_FALSE(IsImageName("a b"));
  EXPECT_FALSE(IsImageName("a/b"));
  EXPECT_FALSE(IsImageName(std::string(101, 'a')));
}

}  // namespace
}  // namespace fastoci
