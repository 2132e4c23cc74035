// SPDX-License-Identifier: Apache-2.0
#include "image/platform.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/digest.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

// Manifests and configs by digest.
class PlatformTest : public testing::Test {
 protected:
  std::string Add(const Json& j) {
    const std::string body = j.dump(), digest = DigestString(Sha256::Of(AsBytes(body)));
    bodies_[digest] = body;
    return digest;
  }
  std::string Image(const std::string& name, const std::string& arch) {
    const std::string config = Add({{"os", "linux"}, {"architecture", arch}, {"name", name}});
    return Add({{"schemaVersion", 2}, {"name", name},
                {"config", {{"mediaType", "application/vnd.oci.image.config.v1+json"}, {"digest", config}, {"size", 1}}},
                {"layers", Json::array()}});
  }
  static Json Entry(const std::string& digest, const std::string& os, const std::string& arch,
                    const std::string& variant = "") {
    Json e = {{"digest", digest}, {"size", 1}};
    if (!os.empty() || !arch.empty()) e["platform"] = {{"os", os}, {"architecture", arch}};
    if (!variant.empty()) e["platform"]["variant"] = variant;
    return e;
  }
  static Json Index(const std::vector<Json>& entries) { return {{"schemaVersion", 2}, {"manifests", entries}}; }
  // The name of the image that is found, or the error.
  std::string Find(const Json& top, const std::string& platform) {
    auto get = [this](const std::string& digest) -> Result<std::string> {
      auto it = bodies_.find(digest);
      if (it == bodies_.end()) return NotFoundError("absent");
      return it->second;
    };
    const ManifestReader reader{[&](const std::string& digest) -> Result<Manifest> {
                                  FASTOCI_TRY(std::string body, get(digest));
                                  return Manifest{"", digest, body};
                                },
                                get};
    auto found = ManifestOfPlatform({"", "", top.dump()}, *ParsePlatform(platform), reader);
    return found.ok() ? Json::parse(found->body)["name"].get<std::string>() : "error: " + found.error().message;
  }
  std::map<std::string, std::string> bodies_;
};

TEST(ParsePlatformTest, TakesWhatDockerTakes) {
  for (const char* amd64 : {"amd64", "linux/amd64", "x86_64", "linux/x86-64"})
    EXPECT_EQ(ParsePlatform(amd64)->Text(), "linux/amd64") << amd64;
  EXPECT_EQ(ParsePlatform("linux/arm64/v8")->Text(), "linux/arm64/v8");
  EXPECT_EQ(ParsePlatform("arm/v7")->Text(), "linux/arm/v7");
  EXPECT_EQ(ParsePlatform("aarch64")->Text(), "linux/arm64");
  EXPECT_TRUE(ParsePlatform("all")->any());
  EXPECT_TRUE(ParsePlatform("")->any());
  for (const char* bad : {"windows/amd64", "linux", "linux/", "/amd64", "/", "linux/arm/v7/x", "windows", "amd64/v2/x"})
    EXPECT_FALSE(ParsePlatform(bad).ok()) << bad;
}

TEST_F(PlatformTest, AManifestIsTakenAsItIs) {
  EXPECT_EQ(Find(Json::parse(bodies_[Image("one", "pdp11")]), "amd64"), "one");
}

TEST_F(PlatformTest, TheEntryOfThePlatformIsTaken) {
  Json index = Index({Entry(Image("w", "amd64"), "windows", "amd64"), Entry(Image("r", "riscv64"), "linux", "riscv64"),
                      Entry(Image("a", "amd64"), "linux", "amd64"), Entry(Image("m", "arm64"), "linux", "arm64")});
  EXPECT_EQ(Find(index, "amd64"), "a");
  EXPECT_EQ(Find(index, "arm64"), "m");
  EXPECT_NE(Find(index, "s390x").find("no manifest for linux/s390x"), std::string::npos);
}

TEST_F(PlatformTest, AVariantIsComparedWhereBothNameOne) {
  Json index = Index({Entry(Image("v6", "arm"), "linux", "arm", "v6"), Entry(Image("v7", "arm"), "linux", "arm", "v7"),
                      Entry(Image("a", "amd64"), "linux", "amd64")});
  EXPECT_EQ(Find(index, "linux/arm/v7"), "v7");
  EXPECT_EQ(Find(index, "linux/arm"), "v6");
  EXPECT_NE(Find(index, "linux/arm/v5").find("no manifest for linux/arm/v5"), std::string::npos);
  EXPECT_EQ(Find(index, "linux/amd64/v2"), "a");
}

TEST_F(PlatformTest, IndexesWithinAnIndexAreDescendedInto) {
  const std::string inner = Add(Index({Entry(Image("a", "amd64"), "linux", "amd64")}));
  const std::string other = Add(Index({Entry(Image("m", "arm64"), "linux", "arm64")}));
  EXPECT_EQ(Find(Index({Entry(inner, "", ""), Entry(other, "", "")}), "arm64"), "m");
  std::string deep = inner;
  for (int i = 0; i < kMaxIndexDepth; i++) deep = Add(Index({Entry(deep, "", "")}));
  EXPECT_NE(Find(Index({Entry(deep, "", "")}), "amd64").find("indexes within indexes"), std::string::npos);
}

TEST_F(PlatformTest, AnEntryWithoutAPlatformIsLookedAt) {
  const std::string artifact = Add({{"schemaVersion", 2}, {"name", "sbom"},
                                    {"config", {{"mediaType", "application/vnd.oci.empty.v1+json"}, {"digest", "x"}}}});
  Json attestation = Entry(Image("att", "amd64"), "", "");
  attestation["annotations"]["vnd.docker.reference.type"] = "attestation-manifest";
  Json blob = Entry("sha256:" + std::string(64, '0'), "", "");
  blob["mediaType"] = "text/plain";
  EXPECT_EQ(Find(Index({Entry(artifact, "", ""), Entry(artifact, "linux", ""), attestation, blob,
                        Entry(Image("m", "arm64"), "", ""), Entry(Image("a", "amd64"), "", "")}),
                 "amd64"),
            "a");
}

}  // namespace
}  // namespace fastoci
