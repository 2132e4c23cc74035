// SPDX-License-Identifier: Apache-2.0
#include "image/seed_manifest.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace fastoci {
namespace {

using Json = nlohmann::json;

std::string Digest(char c) { return "sha256:" + std::string(64, c); }

SeedConfig Config() {
  return {"registry.example/app:1.0_fastoci", {{Digest('1'), 5000}, {Digest('2'), 6000}}};
}
std::string Manifest() {
  return SeedManifestText({"application/vnd.oci.image.manifest.v1+json", Digest('a'), 900},
                          {kSeedConfigType, Digest('c'), 200},
                          {{{kSeedDataType, Digest('d'), 70000}, Sha256Digest{1}},
                           {{kSeedDataType, Digest('e'), 80000}, Sha256Digest{2}}},
                          "2026-11-30T09:08:58Z");
}

TEST(SeedManifest, IsReadAsItWasWritten) {
  auto seed = ParseSeedManifest(Manifest());
  ASSERT_TRUE(seed.ok()) << seed.error().message;
  EXPECT_EQ(seed->image_digest, Digest('a'));
  EXPECT_EQ(seed->config.digest, Digest('c'));
  ASSERT_EQ(seed->data.size(), 2U);
  EXPECT_EQ(seed->data[1].file.digest, Digest('e'));
  EXPECT_EQ(seed->data[1].file.bytes, 80000U);
  EXPECT_EQ(seed->data[1].space_id, Sha256Digest{2});
  auto config = ParseSeedConfig(SeedConfigText(Config()));
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->ref, Config().ref);
  EXPECT_EQ(config->layers, Config().layers);
}

TEST(SeedManifest, AnotherManifestIsNone) {
  EXPECT_EQ(ParseSeedManifest("{\"schemaVersion\": 2}").error().kind, ErrorKind::kMismatch);
  EXPECT_EQ(ParseSeedManifest("no JSON").error().kind, ErrorKind::kMismatch);
}

TEST(SeedManifest, RefusesWhatLies) {
  auto broken = [](auto change) {
    Json j = Json::parse(Manifest());
    change(j);
    auto parsed = ParseSeedManifest(j.dump());
    return !parsed.ok() && parsed.error().kind != ErrorKind::kMismatch;
  };
  EXPECT_TRUE(broken([](Json& j) { j.erase("subject"); }));
  EXPECT_TRUE(broken([](Json& j) { j["subject"]["digest"] = "sha256:../../x"; }));
  EXPECT_TRUE(broken([](Json& j) { j["config"] = "x"; }));
  EXPECT_TRUE(broken([](Json& j) { j["config"]["mediaType"] = "x/y"; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"] = 5; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0] = Json::array(); }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0]["digest"] = "../../etc/passwd"; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0]["mediaType"] = "x/y"; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0].erase("annotations"); }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0]["annotations"]["org.fastoci.data-space"] = 1; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][1] = j["layers"][0]; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"] = Json(300, j["layers"][0]); }));
}

TEST(SeedConfig, RefusesWhatLies) {
  auto broken = [](auto change) {
    Json j = Json::parse(SeedConfigText(Config()));
    change(j);
    return !ParseSeedConfig(j.dump()).ok();
  };
  EXPECT_FALSE(ParseSeedConfig("").ok());
  EXPECT_FALSE(ParseSeedConfig("[1]").ok());
  EXPECT_FALSE(broken([](Json&) {}));
  EXPECT_TRUE(broken([](Json& j) { j["version"] = 2; }));
  EXPECT_TRUE(broken([](Json& j) { j["ref"] = ""; }));
  EXPECT_TRUE(broken([](Json& j) { j["ref"] = std::string(5000, 'a'); }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"] = Json::array(); }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"] = Json(300, j["layers"][0]); }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0]["digest"] = "x"; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0]["bytes"] = -1; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0]["bytes"] = 1ULL << 50; }));
}

}  // namespace
}  // namespace fastoci
