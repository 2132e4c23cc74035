// SPDX-License-Identifier: Apache-2.0
#include "registry/options.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace fastoci {
namespace {

TEST(CredentialsFileOfEnvironment, IsTheOneThatHasCredentials) {
  char dir[] = "/tmp/fastoci-options.XXXXXX";
  ASSERT_NE(::mkdtemp(dir), nullptr);
  const std::string path = std::string(dir) + "/config.json";
  ASSERT_TRUE(WriteFileAtomic(path, AsBytes(std::string(
      R"({"auths":{"r.example/team":{"username":"u","password":"p"}}})")), 0600).ok());
  const Reference app = *ParseReference("r.example/team/app:v1");
  ASSERT_EQ(::unsetenv("REGISTRY_AUTH_FILE") + ::unsetenv("DOCKER_CONFIG"), 0);
  EXPECT_EQ(CredentialsFileOfEnvironment(app), "");
  ASSERT_EQ(::setenv("DOCKER_CONFIG", dir, 1), 0);
  EXPECT_EQ(CredentialsFileOfEnvironment(app), path);
  EXPECT_EQ(CredentialsFileOfEnvironment(*ParseReference("r.example/other:v1")), "");
  ASSERT_EQ(::setenv("REGISTRY_AUTH_FILE", "/nonexistent", 1), 0);
  EXPECT_EQ(CredentialsFileOfEnvironment(app), "");
  ASSERT_EQ(::setenv("REGISTRY_AUTH_FILE", path.c_str(), 1), 0);
  EXPECT_EQ(CredentialsFileOfEnvironment(app), path);
  ASSERT_EQ(::unsetenv("REGISTRY_AUTH_FILE") + ::unsetenv("DOCKER_CONFIG"), 0);
  ASSERT_EQ(::unlink(path.c_str()) + ::rmdir(dir), 0);
}

}  // namespace
}  // namespace fastoci
