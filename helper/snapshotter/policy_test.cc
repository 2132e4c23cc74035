// SPDX-License-Identifier: Apache-2.0
// The registry is a stub, keys are made here.
#include "snapshotter/policy.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/digest.h"
#include "image/oci_image.h"
#include "testing/signing_key.h"
#include "testing/stub_registry.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

std::string Digest(char c) { return "sha256:" + std::string(64, c); }

constexpr char kType[] = "application/vnd.oci.image.layer.v1.tar+gzip";

class PolicyTest : public ::testing::Test {
 protected:
  PolicyTest() {
    std::ofstream(dir_ + "/keys.pem") << key_.Pem();
    // An image of a native layer with diff id 1, and a meta layer with diff id 2.
    const std::string p = kOverlaybdLabel;
    const Json config = {{"rootfs", {{"type", "layers"}, {"diff_ids", {Digest('1'), Digest('2')}}}}};
    const Json native = {{"mediaType", kType}, {"digest", Digest('1')}, {"size", 4},
                         {"annotations", {{p + "blob-digest", Digest('1')}}}};
    const Json meta = {{"mediaType", kType}, {"digest", Digest('3')}, {"size", 4},
                       {"annotations", {{p + "turbo-oci/target-digest", Digest('4')},
                                        {p + "turbo-oci/target-media-type", kType}}}};
    const Json manifest = {{"schemaVersion", 2},
                           {"config", {{"digest", stub_.AddBlob(config.dump())}}},
                           {"layers", Json::array({native, meta})}};
    digest_ = stub_.AddManifest("prod/app", "1", kOciManifest, manifest.dump());
  }
  ~PolicyTest() override { std::filesystem::remove_all(dir_); }
  void Demand(const std::string& prefix) {
    std::ofstream(dir_ + "/node.json") << "{\"signatures\": {\"" << prefix << "\": \"" << dir_ << "/keys.pem\"}}";
  }
  void DemandNothing() { std::ofstream(dir_ + "/node.json") << "{}"; }
  Layer Told(const Labels& labels, const std::string& repository = "prod/app") {
    Labels all = labels;
    all[kImageRefLabel] = stub_.host() + "/" + repository + ":1";
    all[kManifestLabel] = digest_;
    auto layer = LayerOfLabels(all);
    EXPECT_TRUE(layer.ok());
    return layer.ok() ? *layer : Layer();
  }
  Layer Native(const std::string& repository = "prod/app") {
    return Told({{std::string(kOverlaybdLabel) + "blob-digest", Digest('1')}}, repository);
  }
  Layer Meta(char target = '4', const std::string& repository = "prod/app") {
    const std::string p = std::string(kOverlaybdLabel) + "turbo-oci/target-";
    Layer layer = Told({{p + "digest", Digest(target)}, {p + "media-type", kType}}, repository);
    layer.parts.back().members_dir = "fs";  // it was unpacked
    return layer;
  }
  std::string Chain(char second) { return ChainId(Digest('1'), Digest(second)); }
  // "": it lets the layer in.
  std::string Refusal(const Layer& layer, const std::string& chain_id) {
    Status status = policy_.Check(layer, chain_id);
    if (status.ok()) return "";
    EXPECT_EQ(status.error().kind, ErrorKind::kDenied);
    return status.error().message;
  }
  void Refused(const Layer& layer, const std::string& chain_id, const std::string& why) {
    EXPECT_NE(Refusal(layer, chain_id).find(why), std::string::npos) << Refusal(layer, chain_id);
  }

  StubRegistry stub_;
  const SigningKey key_ = SigningKey::Ec();
  const std::string dir_ = ::mkdtemp(std::string("/tmp/fastoci-policy.XXXXXX").data());
  std::string digest_;
  ImagePolicy policy_{{dir_ + "/node.json", {}}};
};

TEST_F(PolicyTest, WithoutRulesNobodyIsAsked) {
  DemandNothing();
  EXPECT_EQ(Refusal(Native(), Digest('1')), "");
  EXPECT_EQ(Refusal(Layer(), ""), "");
  EXPECT_EQ(stub_.Requests().size(), 0U);
}

TEST_F(PolicyTest, ALayerOfAnUnknownImageIsRefused) {
  Demand("*");
  Layer layer = Native();
  layer.image = "";
  Refused(layer, Digest('1'), "did not say to which image");
  layer = Native();
  layer.manifest_digest = "";
  Refused(layer, Digest('1'), "did not say to which image");
}

TEST_F(PolicyTest, EachLayerNeedsTheImagesSignature) {
  Demand("*");
  Refused(Native(), Digest('1'), "no signature by a key");
  Refused(Meta(), Chain('2'), "no signature by a key");
  SignManifest(&stub_, "prod/app", digest_, SigningKey::Ec());
  Refused(Native(), Digest('1'), "no key of it made");
  SignManifest(&stub_, "prod/app", digest_, key_);
  EXPECT_EQ(Refusal(Native(), Digest('1')), "");
  EXPECT_EQ(Refusal(Meta(), Chain('2')), "");
}

TEST_F(PolicyTest, TheAnswerIsRemembered) {
  Demand("*");
  SignManifest(&stub_, "prod/app", digest_, key_);
  EXPECT_EQ(Refusal(Native(), Digest('1')), "");
  const size_t requests = stub_.Requests().size();
  EXPECT_EQ(Refusal(Meta(), Chain('2')), "");
  EXPECT_EQ(stub_.Requests().size(), requests);
  // Until the keys are others.
  std::ofstream(dir_ + "/keys.pem") << SigningKey::Ec().Pem();
  Refused(Meta(), Chain('2'), "no key of it made");
}

// An annotation may name a signed image that the layer is none of.
TEST_F(PolicyTest, ALayerThatTheSignedImageHasNotIsRefused) {
  Demand("*");
  SignManifest(&stub_, "prod/app", digest_, key_);
  Refused(Native(), Digest('7'), "is none of " + digest_);
  Refused(Meta(), Chain('7'), "is none of " + digest_);
  Refused(Meta(), "", "is none of " + digest_);
}

// The chain id covers what a meta layer holds, but not what its annotations say.
TEST_F(PolicyTest, OtherAnnotationsThanTheSignedOnesAreRefused) {
  Demand("*");
  SignManifest(&stub_, "prod/app", digest_, key_);
  Refused(Meta('5'), Chain('2'), "annotations");
  Layer layer = Meta();
  layer.parts.back().target_media_type = "application/vnd.oci.image.layer.v1.tar";
  Refused(layer, Chain('2'), "annotations");
  layer.describes_itself = true;
  EXPECT_EQ(Refusal(layer, Chain('2')), "");
}

// other/x, which needs no signature, must not put another target under a layer of prod/y.
TEST_F(PolicyTest, AnUnsignedImagesAnnotationsDoNotCount) {
  Demand(stub_.host() + "/prod");
  EXPECT_EQ(Refusal(Native("other/x"), Digest('1')), "");
  Refused(Meta('5', "other/x"), Chain('2'), "does not describe itself");
  Layer layer = Meta('5', "other/x");
  layer.describes_itself = true;
  EXPECT_EQ(Refusal(layer, Chain('2')), "");
  EXPECT_EQ(stub_.Requests().size(), 0U);
}

TEST_F(PolicyTest, SignaturesAreLookedForWhereTheNodesHostsTomlSays) {
  const std::string unreachable = "127.0.0.1:1", hosts = dir_ + "/hosts";
  std::filesystem::create_directories(hosts + "/" + unreachable);
  std::ofstream(hosts + "/" + unreachable + "/hosts.toml") << "server = \"" << stub_.url() << "\"\n";
  std::ofstream(dir_ + "/node.json") << Json({{"signatures", {{"*", dir_ + "/keys.pem"}}}, {"hostsDir", hosts}});
  SignManifest(&stub_, "prod/app", digest_, key_);
  Layer layer = Native();
  layer.image = unreachable + "/prod/app:1";
  EXPECT_EQ(Refusal(layer, Digest('1')), "");
}

TEST_F(PolicyTest, AConfigurationThatCannotBeReadLetsNothingIn) {
  std::ofstream(dir_ + "/node.json") << "{";
  EXPECT_FALSE(policy_.Check(Native(), Digest('1')).ok());
}

}  // namespace
}  // namespace fastoci
