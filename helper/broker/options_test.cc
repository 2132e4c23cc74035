// SPDX-License-Identifier: Apache-2.0
#include "broker/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

namespace fastoci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class OptionsTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/options_test.XXXXXX";
    const int fd = ::mkstemp(name);
    ASSERT_GE(fd, 0);
    ::close(fd);
    given_.config = name;
  }
  void TearDown() override { ::unlink(given_.config.c_str()); }
  Result<HelperOptions> With(const std::string& text) {
    std::ofstream(given_.config) << text;
    return Configure(given_);
  }
  HelperOptions given_;
};

TEST_F(OptionsTest, TheCommandLineGoesBefore) {
  given_.chunk_kb = 256;
  given_.cache_dir = "/c";
  auto o = With(R"({"chunkKB": 64, "cacheDevice": "/dev/x", "minFreeGB": 2,
                    "credentialConfig": {"path": "/cred"}})");
  ASSERT_TRUE(o.ok()) << o.error().message;
  EXPECT_EQ(o->chunk_kb, 256U);
  EXPECT_EQ(o->cache_dir, "/c");
  EXPECT_EQ(o->cache_device, "");
  EXPECT_EQ(o->credentials, "/cred");
  EXPECT_EQ(o->limits.dir, "/c");
  EXPECT_EQ(o->limits.min_free_bytes, uint64_t{2} << 30);
  EXPECT_EQ(o->source, given_.config);
}

TEST_F(OptionsTest, ACacheDeviceHasNoLimits) {
  auto o = With(R"({"cacheDevice": "/dev/x", "minFreeGB": 2})");
  ASSERT_TRUE(o.ok()) << o.error().message;
  EXPECT_EQ(o->limits.dir, "");
}

TEST_F(OptionsTest, AMistakeIsNamedWithItsPlace) {
  auto o = With("{\n \"minFreeGB\": \"2\"}");
  ASSERT_FALSE(o.ok());
  EXPECT_THAT(o.error().message, HasSubstr(given_.config + ":2:2: \"minFreeGB\" must be"));
}

TEST_F(OptionsTest, WhatAReloadCannotChangeIsNamed) {
  auto a = With("{}"), b = With(R"({"minFreeGB": 1, "download": {"enable": true},
      "gzipCacheConfig": {"enable": false}, "exporterConfig": {"enable": true}})");
  auto c = With(R"({"cacheDevice": "/dev/x", "wholeBlob": "off", "cacheConfig": {"cacheDir": "/d"},
      "verifyOnRead": true, "wholeLayerKB": 0,
      "credentialConfig": {"path": "/cred"}})");
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  EXPECT_THAT(NeedRestart(*a, *b), IsEmpty());
  EXPECT_THAT(NeedRestart(*a, *c), ElementsAre("cacheDir", "cacheDevice", "credentialConfig.path",
                                               "wholeBlob", "wholeLayerKB", "verifyOnRead"));
  given_.cache_dir = "/c";  // given on the command line, the file does not matter
  auto d = With(R"({"cacheConfig": {"cacheDir": "/d"}})"), e = With("{}");
  ASSERT_TRUE(d.ok() && e.ok());
  EXPECT_THAT(NeedRestart(*d, *e), IsEmpty());
}

}  // namespace
}  // namespace fastoci
