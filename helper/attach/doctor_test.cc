// SPDX-License-Identifier: Apache-2.0
#include "attach/doctor.h"

#include <gtest/gtest.h>

namespace fastoci {
namespace {

CacheFacts GoodCache() {
  return {.device = "/dev/loop0",
          .block_bytes = 512,
          .is_loop = true,
          .direct_io = true,
          .backing_file = "/c/cache.img",
          .left_bytes = 1 << 30,
          .free_bytes = 2 << 20};
}

TEST(CheckKernel, KnowsTheTestedSeries) {
  EXPECT_EQ(CheckKernel("6.1.0-56-amd64").health, Health::kGood);
  EXPECT_EQ(CheckKernel("6.12.117+deb12-amd64").health, Health::kGood);
  for (const char* other : {"6.10.3", "6.11.0-1", "6.13.1", "5.10.0-30-amd64", "16.1.0", ""}) {
    Finding f = CheckKernel(other);
    EXPECT_EQ(f.health, Health::kWarning) << other;
    EXPECT_FALSE(f.advice.empty());
  }
}

TEST(CheckModule, MustBeLoadedAndOurs) {
  EXPECT_EQ(CheckModule("0.1.0", "0.1.0", true).health, Health::kGood);
  EXPECT_EQ(CheckModule("0.0.9", "0.1.0", false).health, Health::kWarning);
  auto absent = CheckModule("", "0.1.0", false);
  EXPECT_EQ(absent.health, Health::kBad);
  EXPECT_EQ(absent.advice.find("mokutil"), std::string::npos) << absent.advice;
  auto refused = CheckModule("", "0.1.0", true);
  EXPECT_EQ(refused.health, Health::kBad);
  EXPECT_NE(refused.advice.find("mokutil"), std::string::npos) << refused.advice;
}

TEST(SignedModulesOnly, ByTheParameterOrByLockdown) {
  EXPECT_FALSE(SignedModulesOnly("", ""));
  EXPECT_FALSE(SignedModulesOnly("N", "[none] integrity confidentiality"));
  EXPECT_TRUE(SignedModulesOnly("Y", ""));
  EXPECT_TRUE(SignedModulesOnly("N", "none [integrity] confidentiality"));
  EXPECT_TRUE(SignedModulesOnly("", "none integrity [confidentiality]"));
}

TEST(CheckCache, NamesBlocksBufferingAndSpace) {
  CacheFacts facts = GoodCache();
  facts.free_bytes = facts.left_bytes;
  auto good = CheckCache(facts);
  ASSERT_EQ(good.size(), 1U);
  EXPECT_EQ(good[0].health, Health::kGood);

  auto small = CheckCache(GoodCache());
  ASSERT_EQ(small.size(), 2U);
  EXPECT_EQ(small[1].health, Health::kWarning);
  EXPECT_NE(small[1].what.find("1024 MiB"), std::string::npos) << small[1].what;
  EXPECT_NE(small[1].what.find("2 MiB left"), std::string::npos) << small[1].what;

  facts.direct_io = false;
  EXPECT_EQ(CheckCache(facts)[0].health, Health::kWarning);
  facts.is_loop = false;  // a partition has no such flag
  EXPECT_EQ(CheckCache(facts)[0].health, Health::kGood);
  facts.block_bytes = 4096;
  EXPECT_EQ(CheckCache(facts)[0].health, Health::kBad);
}

TEST(CheckImage, SaysWhatToDoAboutEach) {
  ImageReport image;
  image.name = "demo";
  EXPECT_TRUE(CheckImage(image).empty());  // kept by detach --keep
  image.state.attached = true;
  ASSERT_EQ(CheckImage(image).size(), 1U);
  EXPECT_NE(CheckImage(image)[0].advice.find("fastoci restore"), std::string::npos);

  image.attached = true;
  image.device = "/dev/mapper/fastoci-demo";
  image.status = ImageStatus{};
  image.status->helper = "ready";
  image.status->pending = 3;  // somebody is at work on them
  ASSERT_EQ(CheckImage(image).size(), 1U);
  EXPECT_EQ(CheckImage(image)[0].health, Health::kGood);

  image.status->helper = "none";
  image.status->errors = 2;
  image.suspended = true;
  auto all = CheckImage(image);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[0].advice, "dmsetup resume /dev/mapper/fastoci-demo");
  EXPECT_NE(all[1].what.find("3 reads wait"), std::string::npos);
  EXPECT_NE(all[1].advice.find("fastoci fail demo"), std::string::npos);
  EXPECT_EQ(all[2].health, Health::kWarning);
}

}  // namespace
}  // namespace fastoci
