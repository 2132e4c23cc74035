// SPDX-License-Identifier: Apache-2.0
#include "image/convert.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include <nlohmann/json.hpp>

#include "image/layer_converter.h"
#include "testing/stub_registry.h"
#include "testing/test_tar.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

class Quiet : public ConvertObserver {
 public:
  void OnImage(const OriginalImage&) override {}
  void OnLayer(size_t, uint64_t) override {}
  void OnKnownLayer(size_t) override { known++; }
  void OnLayerDone(size_t, ImageFormat, const ConvertedLayer&, uint64_t) override { done++; }
  void OnWarning(const std::string& text) override { warnings.push_back(text); }
  int done = 0, known = 0;
  std::vector<std::string> warnings;
};

class ConvertTest : public testing::Test {
 protected:
  void SetUp() override {
    RegistryOptions options;
    options.retry.first_delay_ms = 1;
    auto store = OpenRegistryStore(registry_.host() + "/demo", options, Credentials());
    ASSERT_TRUE(store.ok());
    store_ = std::move(*store);
    options_.source = "latest";
    options_.turbo_tag = "fast";
    options_.scratch_dir = testing::TempDir();
  }
  // An image of two layers under demo:latest; returns the manifest's digest.
  std::string Push(bool right_diff_ids = true) {
    TestTar a, b;
    a.File("etc/motd", std::string(200000, 'm'));
    b.HardLink("motd", "etc/motd");
    std::vector<std::string> tars = {a.Finish(), b.Finish()};
    Json layers = Json::array(), ids = Json::array();
    for (size_t i = 0; i < 2; i++) {
      std::string blob = i == 0 ? TestGzip(tars[i]) : tars[i];
      targets_.push_back(registry_.AddBlob(blob));
      layers.push_back({{"mediaType", std::string("application/vnd.oci.image.layer.v1.tar") + (i ? "" : "+gzip")},
                        {"digest", targets_.back()},
                        {"size", blob.size()}});
      ids.push_back(DigestString(Sha256::Of(AsBytes(right_diff_ids ? tars[i] : "x"))));
    }
    Json config = {{"architecture", HostArch()}, {"os", "linux"}, {"config", {{"Cmd", {"sh"}}}},
                   {"rootfs", {{"type", "layers"}, {"diff_ids", ids}}}};
    std::string text = config.dump();
    Json manifest = {{"schemaVersion", 2},
                     {"mediaType", kOciManifest},
                     {"config", {{"mediaType", "application/vnd.oci.image.config.v1+json"},
                                 {"digest", registry_.AddBlob(text)},
                                 {"size", text.size()}}},
                     {"layers", layers}};
    return registry_.AddManifest("demo", "latest", kOciManifest, manifest.dump());
  }
  Result<ConvertedImage> Convert() {
    FASTOCI_TRY(auto images, ConvertImage(store_.get(), options_, &quiet_));
    return images.front();
  }

  StubRegistry registry_;
  std::unique_ptr<ImageStore> store_;
  std::vector<std::string> targets_;
  ConvertOptions options_;
  Quiet quiet_;
};

TEST_F(ConvertTest, PushesAnImageThatNamesTheOriginalLayers) {
  Push();
  auto image = Convert();
  ASSERT_TRUE(image.ok()) << image.error().message;
  EXPECT_EQ(quiet_.done, 2);
  auto pushed = store_->GetManifest("fast");
  ASSERT_TRUE(pushed.ok());
  EXPECT_EQ(pushed->digest, image->manifest.digest);
  EXPECT_EQ(pushed->media_type, kDockerManifest);
  Json m = Json::parse(pushed->body);
  EXPECT_EQ(m["layers"].size(), 2u);
  std::string prefix = "containerd.io/snapshot/overlaybd/";
  for (size_t i = 0; i < 2; i++) {
    Json notes = m["layers"][i]["annotations"];
    EXPECT_EQ(notes[prefix + "turbo-oci/target-digest"], targets_[i]);
    EXPECT_EQ(notes[prefix + "version"], "0.1.0-turbo.ociv1");
    EXPECT_EQ(notes[prefix + "blob-digest"], m["layers"][i]["digest"]);
    EXPECT_EQ(registry_.BlobData(m["layers"][i]["digest"]).size(), m["layers"][i]["size"]);
  }
  Json config = Json::parse(registry_.BlobData(m["config"]["digest"]));
  EXPECT_EQ(config["config"]["Cmd"][0], "sh");
  EXPECT_EQ(config["rootfs"]["diff_ids"][0], image->layers[0].diff_id);
  EXPECT_FALSE(m.contains("subject"));
}

TEST_F(ConvertTest, MakesReferrers) {
  std::string original = Push();
  options_.referrer = true;
  auto image = Convert();
  ASSERT_TRUE(image.ok()) << image.error().message;
  Json m = Json::parse(store_->GetManifest("fast")->body);
  EXPECT_EQ(m["mediaType"], kOciManifest);
  EXPECT_EQ(m["subject"]["digest"], original);
  EXPECT_EQ(m["artifactType"], "application/vnd.containerd.overlaybd.turbo.v1+json");
}

TEST_F(ConvertTest, IsReproducibleAndConvertsOnePlatformOfAnIndex) {
  std::string original = Push();
  auto first = Convert();
  Json index = {{"schemaVersion", 2},
                {"mediaType", kOciIndex},
                {"manifests",
                 {{{"digest", "sha256:" + std::string(64, '0')}, {"size", 1},
                   {"platform", {{"os", "linux"}, {"architecture", "other"}}}},
                  {{"digest", original}, {"size", 1},
                   {"platform", {{"os", "linux"}, {"architecture", HostArch()}}}}}}};
  registry_.AddManifest("demo", "multi", kOciIndex, index.dump());
  options_.source = "multi";
  options_.arch = HostArch();
  auto second = Convert();
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->manifest.digest, second->manifest.digest);
  options_.arch = "none";
  EXPECT_EQ(Convert().error().kind, ErrorKind::kNotFound);
}

TEST_F(ConvertTest, SurvivesABrokenTransferAndPushesNothingForADamagedLayer) {
  Push();
  registry_.Inject(Fault::kClose, 1, 100);
  EXPECT_TRUE(Convert().ok());
  options_.turbo_tag = "damaged";
  targets_.clear();
  Push(false);
  auto image = Convert();
  ASSERT_FALSE(image.ok());
  EXPECT_NE(image.error().message.find("diff id"), std::string::npos) << image.error().message;
  EXPECT_FALSE(store_->GetManifest("damaged").ok());
}

TEST_F(ConvertTest, RefusesConvertedAndForeignImages) {
  Push();
  ASSERT_TRUE(Convert().ok());
  options_.source = "fast";
  options_.turbo_tag = "faster";
  EXPECT_EQ(Convert().error().kind, ErrorKind::kUnsupported);
  registry_.AddManifest("demo", "v1", kDockerManifest, "{\"schemaVersion\":1}");
  options_.source = "v1";
  EXPECT_EQ(Convert().error().kind, ErrorKind::kUnsupported);
  options_.source = "absent";
  EXPECT_EQ(Convert().error().kind, ErrorKind::kNotFound);
}

// Both formats at once, any number of layers at a time: the same digests.
TEST_F(ConvertTest, MakesBothFormatsWhateverTheConcurrency) {
  Push();
  options_.overlaybd_tag = "native";
  std::vector<std::string> want;
  for (unsigned n : {1U, 2U, 8U}) {
    options_.concurrency = n;
    auto images = ConvertImage(store_.get(), options_, &quiet_);
    ASSERT_TRUE(images.ok()) << images.error().message;
    std::vector<std::string> got = {images->at(0).manifest.digest, images->at(1).manifest.digest};
    if (want.empty()) want = got;
    EXPECT_EQ(got, want) << n;
  }
  Json m = Json::parse(store_->GetManifest("native")->body);
  Json notes = m["layers"][0]["annotations"];
  EXPECT_EQ(notes["containerd.io/snapshot/overlaybd/version"], "0.1.0");
  EXPECT_EQ(m["layers"][0]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar");
  Json config = Json::parse(registry_.BlobData(m["config"]["digest"]));
  EXPECT_EQ(config["rootfs"]["diff_ids"][0], m["layers"][0]["digest"]);
  std::string blob = registry_.BlobData(m["layers"][0]["digest"]);
  EXPECT_EQ(blob.substr(0, 13), "overlaybd.pax");
  Json referrers = Json::parse(*store_->Referrers(want[1]));
  ASSERT_EQ(referrers["manifests"].size(), 1u);
  Json artifact = Json::parse(store_->GetManifest(referrers["manifests"][0]["digest"])->body);
  EXPECT_EQ(artifact["artifactType"], kDigestsArtifact);
  EXPECT_EQ(artifact["layers"][1]["annotations"]["org.fastoci.layer"], m["layers"][1]["digest"]);
}

// With a directory for scans no blob is read a second time, for the same result.
TEST_F(ConvertTest, ReadsNoLayerTwiceWithAScanDirectory) {
  Push();
  auto plain = Convert();
  ASSERT_TRUE(plain.ok()) << plain.error().message;
  options_.scan_dir = testing::TempDir() + "scans-" + std::to_string(getpid());
  auto first = Convert();
  ASSERT_TRUE(first.ok()) << first.error().message;
  EXPECT_EQ(quiet_.known, 0);
  auto reads = [&] {
    int n = 0;
    for (const std::string& digest : targets_) n += registry_.CountRequests("GET", digest);
    return n;
  };
  const int before = reads();
  auto second = Convert();
  ASSERT_TRUE(second.ok()) << second.error().message;
  EXPECT_EQ(quiet_.known, 2);
  EXPECT_EQ(reads(), before);
  EXPECT_EQ(first->manifest.digest, plain->manifest.digest);
  EXPECT_EQ(second->manifest.digest, plain->manifest.digest);
  options_.overlaybd_tag = "native";  // wants the data
  ASSERT_TRUE(Convert().ok());
  EXPECT_GT(reads(), before);
  std::filesystem::remove_all(options_.scan_dir);
}

TEST_F(ConvertTest, KeepsTheOriginalAndAttestations) {
  std::string original = Push();
  std::string attestation = registry_.AddManifest(
      "demo", "att", kOciManifest, R"({"schemaVersion":2,"mediaType":")" + std::string(kOciManifest) + R"("})");
  Json index = {{"schemaVersion", 2}, {"mediaType", kOciIndex}, {"manifests", Json::array()}};
  index["manifests"].push_back({{"mediaType", kOciManifest}, {"digest", original}, {"size", 1},
                                {"platform", {{"os", "linux"}, {"architecture", "amd64"}}}});
  index["manifests"].push_back({{"mediaType", kOciManifest}, {"digest", attestation}, {"size", 1},
                                {"platform", {{"os", "unknown"}, {"architecture", "unknown"}}},
                                {"annotations", {{"vnd.docker.reference.type", "attestation-manifest"}}}});
  registry_.AddManifest("demo", "multi", kOciIndex, index.dump());
  options_.source = "multi";
  options_.oci = true;
  auto image = Convert();
  ASSERT_TRUE(image.ok()) << image.error().message;
  Json made = Json::parse(store_->GetManifest("fast")->body);
  EXPECT_EQ(made["mediaType"], kOciIndex);
  EXPECT_EQ(made["manifests"][0]["platform"]["architecture"], "amd64");
  EXPECT_NE(made["manifests"][0]["digest"], original);
  EXPECT_EQ(made["manifests"][1], index["manifests"][1]);
  auto kept = store_->GetManifest("fast-original");
  ASSERT_TRUE(kept.ok());
  Json again = Json::parse(kept->body);
  Json child = Json::parse(store_->GetManifest(again["manifests"][0]["digest"])->body);
  EXPECT_NE(again["manifests"][0]["digest"], original);
  EXPECT_EQ(child["layers"][0]["digest"], targets_[0]);
  EXPECT_TRUE(quiet_.warnings.empty());
}

// Nothing under a tag before all of it is there.
TEST_F(ConvertTest, LeavesNoTagBehindAFailedUpload) {
  Push();
  registry_.Inject(Fault::kStatus, 1000, 403, "PUT");
  EXPECT_FALSE(Convert().ok());
  EXPECT_EQ(registry_.CountRequests("PUT", "/manifests/fast"), 0);
}

TEST(ChunkDigester, CutsAt64KiB) {
  std::string data(65536 * 2 + 5, 'x');
  ChunkDigester d;
  for (size_t at = 0; at < data.size(); at += 1000)
    d.Update(AsBytes(data).subspan(at, std::min<size_t>(1000, data.size() - at)));
  Bytes digests = d.Finish();
  ASSERT_EQ(digests.size(), 96u);
  Sha256Digest last = Sha256::Of(AsBytes(data).last(5));
  EXPECT_TRUE(std::equal(last.begin(), last.end(), digests.begin() + 64));
}

TEST(LayerConverter, RefusesAnotherBlob) {
  auto builder = FsBuilder::Create(FsType::kExt4, {});
  LayerOrder order(builder->get());
  std::string digest = "sha256:" + std::string(64, '0');
  TestTar t;
  std::string tar = t.Finish();
  auto c = LayerConverter::Create({digest, tar.size(), "application/vnd.oci.image.layer.v1.tar", ""}, {},
                                  0, &order);
  ASSERT_TRUE((*c)->Update(AsBytes(tar)).ok());
  EXPECT_EQ((*c)->Finish().error().kind, ErrorKind::kMismatch);
  EXPECT_FALSE(LayerConverter::Create({digest, 1, "application/vnd.oci.image.layer.v1.tar+bzip2", ""}, {},
                                      0, &order).ok());
}

}  // namespace
}  // namespace fastoci
