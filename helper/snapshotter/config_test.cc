// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/config.h"

#include <gtest/gtest.h>

#include "snapshotter/containerd_config.h"

namespace fastoci {
namespace {

std::string Complaint(const std::string& text) {
  SnapshotterConfig config;
  Status status = ParseSnapshotterConfig(text, "f.json", &config);
  return status.ok() ? "" : status.error().message;
}

TEST(SnapshotterConfigTest, KeysAreTaken) {
  SnapshotterConfig config;
  ASSERT_TRUE(ParseSnapshotterConfig(R"({"root": "/data", "referrers": "all", "failAfterMs": 5000,
      "exporterConfig": {"enable": true, "port": 1234}, "plainHttp": true,
      "prefetch": {"learn": true, "recorded": false, "seconds": 30}})", "f", &config).ok());
  EXPECT_EQ(config.options.device.root, "/data");
  EXPECT_EQ(config.options.referrers, ReferrerMode::kAll);
  EXPECT_EQ(config.options.device.policy, "fail_after_ms 5000");
  EXPECT_EQ(config.metrics.port, 1234u);
  EXPECT_TRUE(config.options.device.learn);
  EXPECT_FALSE(config.options.device.fetch_traces);
  EXPECT_EQ(config.options.device.learn_s, 30u);
  EXPECT_TRUE(config.metrics.enable);
  EXPECT_TRUE(config.options.device.access.plain_http);
  EXPECT_EQ(config.address, kDefaultAddress);
}

TEST(SnapshotterConfigTest, MistakesAreNamed) {
  EXPECT_NE(Complaint(R"({"rot": "/x"})").find("unknown key \"rot\""), std::string::npos);
  EXPECT_NE(Complaint(R"({"root": "x"})").find("\"root\" is \"x\"; an absolute path"), std::string::npos);
  EXPECT_NE(Complaint(R"({"referrers": "yes"})").find("\"off\", \"cri\" or \"all\""), std::string::npos);
  EXPECT_NE(Complaint(R"({"exporterConfig": {"port": 70000}})").find("exporterConfig.port"), std::string::npos);
  EXPECT_NE(Complaint("{\n \"root\": ,}").find("line 2"), std::string::npos);
  EXPECT_NE(Complaint("[]").find("not a JSON object"), std::string::npos);
}

constexpr char kDebian[] =
    "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n"
    "    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n";
constexpr char kDefault[] =
    "version = 3\nroot = \"/var/lib/containerd\"\n[plugins]\n  [plugins.'io.containerd.cri.v1.images']\n"
    "    snapshotter = 'overlayfs'\n    disable_snapshot_annotations = true\n    discard_unpacked_layers = false\n"
    "[proxy_plugins]\n";

const ContainerdSetup kSetup = {"/run/s.sock", "/data", true};

TEST(ContainerdConfigTest, WhatIsAddedCanBeTakenBack) {
  for (const std::string text : {kDebian, kDefault, ""}) {
    auto added = AddToContainerdConfig(text, kSetup);
    ASSERT_TRUE(added.ok()) << added.error().message;
    EXPECT_EQ(RemoveFromContainerdConfig(*added), text);
    EXPECT_EQ(*AddToContainerdConfig(*added, kSetup), *added) << "a second time changes nothing";
  }
}

TEST(ContainerdConfigTest, OtherValuesOfOurKeysAreCommentedOut) {
  const std::string added = *AddToContainerdConfig(kDefault, kSetup);
  EXPECT_NE(added.find("#fastoci-snapshotter setup:     snapshotter = 'overlayfs'"), std::string::npos) << added;
  EXPECT_NE(added.find("  snapshotter = \"fastoci\""), std::string::npos);
  EXPECT_NE(added.find("\n    discard_unpacked_layers = false\n"), std::string::npos);
  EXPECT_NE(added.find("[proxy_plugins.fastoci.exports]"), std::string::npos);
}

TEST(ContainerdConfigTest, AFileOfVersion2HoldsForContainerd2AsWell) {
  const std::string added = *AddToContainerdConfig(kDebian, kSetup);
  for (const char* table : {"[plugins.\"io.containerd.grpc.v1.cri\".containerd]", "[plugins.\"io.containerd.cri.v1.images\"]"}) {
    const size_t at = added.find(table);
    ASSERT_NE(at, std::string::npos) << added;
    EXPECT_LT(added.find("snapshotter = \"fastoci\"", at), at + 150) << added;
  }
  EXPECT_EQ(AddToContainerdConfig(kDefault, kSetup)->find("grpc.v1.cri"), std::string::npos);
}

TEST(ContainerdConfigTest, WithoutCriPodsStayAsTheyAre) {
  const std::string added = *AddToContainerdConfig(kDebian, {"/run/s.sock", "/data", false});
  EXPECT_EQ(added.find("snapshotter = \"fastoci\""), std::string::npos);
  EXPECT_NE(added.find("address = \"/run/s.sock\""), std::string::npos);
}

TEST(ContainerdConfigTest, WhatWeDoNotUnderstandIsRefused) {
  EXPECT_FALSE(AddToContainerdConfig("root = \"/x\"\n", kSetup).ok()) << "version 1";
  EXPECT_FALSE(AddToContainerdConfig("version = 2\n[proxy_plugins.fastoci]\n", kSetup).ok());
}

}  // namespace
}  // namespace fastoci
