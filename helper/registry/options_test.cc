// SPDX-License-Identifier: Apache-2.0
#include "registry/options.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace fastoci {
namespace {

std::string Hidden(std::string argument, const std::string& user) {
  std::string program = "fastoci", other = "attach";
  char* argv[] = {program.data(), other.data(), argument.data(), nullptr};
  HidePassword(3, argv, user);
  EXPECT_EQ(program + other, "fastociattach");
  return argument;
}

TEST(HidePassword, WhereverAnOptionHasIt) {
  EXPECT_EQ(Hidden("me:secret:x", "me:secret:x"), "me:********");
  EXPECT_EQ(Hidden("-ume:secret", "me:secret"), "-ume:******");
  EXPECT_EQ(Hidden("--username=me:secret", "me:secret"), "--username=me:******");
  EXPECT_EQ(Hidden("me:", "me:"), "me:");
  EXPECT_EQ(Hidden("me", "me"), "me");
  EXPECT_EQ(Hidden("r.example/app:v1", "me:v1"), "r.example/app:v1");
  EXPECT_EQ(Hidden("attach", ""), "attach");
}

Result<std::string> FromInput(const std::string& input, const std::string& user) {
  UniqueFd fd(memfd_create("input", MFD_CLOEXEC));
  EXPECT_TRUE(WriteFull(fd.get(), AsBytes(input), "input").ok());
  EXPECT_EQ(lseek(fd.get(), 0, SEEK_SET), 0);
  return WithPasswordFrom(fd.get(), user);
}

TEST(PasswordStdin, UpToItsEndWithoutALineBreak) {
  EXPECT_EQ(*FromInput("secret", "me"), "me:secret");
  EXPECT_EQ(*FromInput("se:cr et\r\n", "me"), "me:se:cr et");
  EXPECT_EQ(*FromInput("two\nlines\n", "me"), "me:two\nlines");
  EXPECT_FALSE(FromInput("", "me").ok());
  EXPECT_FALSE(FromInput("\n", "me").ok());
  EXPECT_FALSE(FromInput("secret", "").ok());
  EXPECT_FALSE(FromInput("secret", "me:other").ok());
  EXPECT_TRUE(FromInput(std::string(64 << 10, 'a'), "me").ok());
  EXPECT_FALSE(FromInput(std::string((64 << 10) + 1, 'a'), "me").ok());
}

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
