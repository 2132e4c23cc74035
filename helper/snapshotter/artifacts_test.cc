// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/artifacts.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "testing/stub_registry.h"

namespace fastoci {
namespace {

class ArtifactsTest : public ::testing::Test {
 protected:
  ArtifactsTest() {
    char path[] = "/tmp/fastoci-artifacts.XXXXXX";
    dir_ = ::mkdtemp(path);
  }
  ~ArtifactsTest() override { std::filesystem::remove_all(dir_); }
  // Why there is none. rules: of "signatures".
  std::string ReasonWith(const std::string& rules) {
    std::ofstream(dir_ + "/node.json") << "{\"signatures\": {" + rules + "}}";
    ArtifactFinder finder({dir_ + "/artifacts", dir_ + "/node.json", dir_ + "/no.sock", {}});
    const auto found = finder.Find(stub_.host() + "/other/x:1", "sha256:" + std::string(64, 'a'),
                                   [](const ResolvedImage&) { return OkStatus(); });
    EXPECT_FALSE(found.image);
    EXPECT_FALSE(found.why.empty());
    return found.reason;
  }
  StubRegistry stub_;
  std::string dir_;
};

// What it says of a layer would be taken for that layer in every image, also in one that must be signed.
TEST_F(ArtifactsTest, WhileImagesMustBeSignedNoOthersArtifactIsTaken) {
  EXPECT_EQ(ReasonWith("\"" + stub_.host() + "/prod\": \"/etc/keys.pem\""), "policy");
  EXPECT_EQ(ReasonWith("\"*\": \"/etc/keys.pem\", \"" + stub_.host() + "/other\": \"none\""), "policy");
  EXPECT_EQ(stub_.Requests().size(), 0U);
}

TEST_F(ArtifactsTest, APolicyThatCannotBeReadLetsNothingIn) {
  EXPECT_EQ(ReasonWith("\"*\": 3"), "policy");
  EXPECT_EQ(stub_.Requests().size(), 0U);
}

TEST_F(ArtifactsTest, WithoutAPolicyItDoesNotRefuse) {
  const std::string reason = ReasonWith("");
  EXPECT_TRUE(reason == "no_module" || reason == "no_helper") << reason;
}

}  // namespace
}  // namespace fastoci
