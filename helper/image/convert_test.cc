// SPDX-License-Identifier: Apache-2.0
#include "image/convert.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "image/layer_converter.h"
#include "codec/overlaybd_layer.h"
#include "image/meta_layer.h"
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
    const std::string tar_a = a.Finish(), tar_b = b.Finish();
    return PushLayers({{TestGzip(tar_a), "+gzip", right_diff_ids ? tar_a : "x"},
                       {tar_b, "", right_diff_ids ? tar_b : "x"}});
  }
  struct Layer {
    std::string blob, suffix, tar;  // suffix: of the media type; or all of it, if it has a '/'
  };
  std::string PushLayers(const std::vector<Layer>& pushed) {
    Json layers = Json::array(), ids = Json::array();
    for (const Layer& layer : pushed) {
      targets_.push_back(registry_.AddBlob(layer.blob));
      const bool whole = layer.suffix.find('/') != std::string::npos;
      layers.push_back({{"mediaType", whole ? layer.suffix : "application/vnd.oci.image.layer.v1.tar" + layer.suffix},
                        {"digest", targets_.back()},
                        {"size", layer.blob.size()}});
      ids.push_back(DigestString(Sha256::Of(AsBytes(layer.tar))));
    }
    Json config = {{"architecture", arch_}, {"os", "linux"}, {"config", {{"Cmd", {"sh"}}}},
                   {"rootfs", {{"type", "layers"}, {"diff_ids", ids}}}};
    std::string text = config.dump();
    if (!bad_byte_at_.empty()) text.replace(text.find(bad_byte_at_), bad_byte_at_.size(), "\xff");
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
  std::string bad_byte_at_;  // what is replaced in the config by a byte that is not UTF-8
  std::string arch_ = HostArch();
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

// What overlaybd's snapshotter goes by: with a target digest but without blob-digest and blob-size the pull fails.
TEST_F(ConvertTest, WhatTurboOciCannotDescribeIsNotForOverlaybd) {
  TestTar a, b;
  a.File("a", std::string(200000, 'a'));
  b.File("b", std::string(200000, 'b'));
  const std::string tar_a = a.Finish(), tar_b = b.Finish();
  PushLayers({{TestZstd(tar_a), "+zstd", tar_a},
              {TestGzip(tar_b.substr(0, 1000)) + TestGzip(tar_b.substr(1000)), "+gzip", tar_b},
              {TestGzip(tar_b), "+gzip", tar_b}});
  auto image = Convert();
  ASSERT_TRUE(image.ok()) << image.error().message;
  Json m = Json::parse(store_->GetManifest("fast")->body);
  const std::string prefix = "containerd.io/snapshot/overlaybd/";
  for (size_t i = 0; i < 3; i++) {
    const bool turbo = i == 2;
    Json notes = m["layers"][i]["annotations"];
    EXPECT_EQ(notes[prefix + "turbo-oci/target-digest"], targets_[i]);
    EXPECT_EQ(notes.contains(prefix + "blob-digest"), turbo) << i;
    EXPECT_EQ(notes.contains(prefix + "blob-size"), turbo) << i;
    EXPECT_EQ(notes[prefix + "version"] == "0.1.0-turbo.ociv1", turbo) << i;
    const std::string packed = registry_.BlobData(m["layers"][i]["digest"]);
    Sha256Digest digest;
    MemoryFile file(AsBytes(packed));
    auto files = UnpackMetaLayer(file, 1 << 20, &digest);
    ASSERT_TRUE(files.ok()) << files.error().message;
    EXPECT_FALSE(files->ext4_fs_meta.empty());
    EXPECT_EQ(files->own_names, !turbo) << i;
    EXPECT_EQ(PackMetaLayer(*files)->digest, digest) << i;
  }
  ASSERT_EQ(quiet_.warnings.size(), 2u);
  EXPECT_NE(quiet_.warnings[0].find("overlaybd will not read it"), std::string::npos) << quiet_.warnings[0];
}

// By its bytes a layer is taken, as docker does.
TEST_F(ConvertTest, ALayersBytesTellItsCompression) {
  std::vector<std::string> tars;
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    TestTar t;
    t.File(name, std::string(100000, *name));
    tars.push_back(t.Finish());
  }
  PushLayers({{tars[0], "+gzip", tars[0]},
              {TestGzip(tars[1]), "", tars[1]},
              {TestGzip(tars[2]), "application/vnd.docker.image.rootfs.foreign.diff.tar", tars[2]},
              {std::string("\x50\x2a\x4d\x18\3\0\0\0abc", 11) + TestZstd(tars[3]), "+gzip", tars[3]},
              {TestGzip(tars[4]), "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", tars[4]}});
  auto image = Convert();
  ASSERT_TRUE(image.ok()) << image.error().message;
  std::vector<std::string> types;
  for (const ConvertedLayer& layer : image->layers) types.push_back(layer.target.media_type);
  const std::string tar = "application/vnd.oci.image.layer.v1.tar";
  EXPECT_EQ(types, (std::vector<std::string>{tar, tar + "+gzip", tar + "+gzip", tar + "+zstd", tar + "+gzip"}));
  const auto warned = [this](const std::string& part) {
    return std::count_if(quiet_.warnings.begin(), quiet_.warnings.end(),
                         [&](const std::string& w) { return w.find(part) != std::string::npos; });
  };
  EXPECT_EQ(warned("but its bytes are"), 4) << quiet_.warnings.size();
  EXPECT_EQ(warned("layer 1 has the media type 'application/vnd.oci.image.layer.v1.tar+gzip', but its bytes are tar,"), 1);
}

TEST_F(ConvertTest, ALayerTypeMayBeEmptyAndOthersAreRefused) {
  TestTar t;
  t.File("a", "a");
  const std::string tar = t.Finish();
  // The helper below takes a suffix; an empty media type goes by way of a manifest of its own.
  std::string manifest = store_->GetManifest(PushLayers({{TestGzip(tar), "+gzip", tar}}))->body;
  Json j = Json::parse(manifest);
  j["layers"][0]["mediaType"] = "";
  registry_.AddManifest("demo", "latest", kOciManifest, j.dump());
  auto image = Convert();
  ASSERT_TRUE(image.ok()) << image.error().message;
  EXPECT_EQ(image->layers[0].target.media_type, "application/vnd.oci.image.layer.v1.tar+gzip");
  j["layers"][0]["mediaType"] = "application/vnd.in-toto+json";
  registry_.AddManifest("demo", "latest", kOciManifest, j.dump());
  EXPECT_EQ(Convert().error().kind, ErrorKind::kUnsupported);
}

TEST_F(ConvertTest, AnImageWithoutLayersHasAnEmptyRoot) {
  PushLayers({});
  options_.overlaybd_tag = "native";
  options_.scratch_dir = testing::TempDir() + "scratch-" + std::to_string(getpid());  // is made
  for (FsType type : {FsType::kExt4, FsType::kErofs}) {
    options_.fs_type = type;
    auto images = ConvertImage(store_.get(), options_, &quiet_);
    ASSERT_TRUE(images.ok()) << images.error().message;
    for (const ConvertedImage& image : *images) {
      ASSERT_EQ(image.layers.size(), 1u);
      Json m = Json::parse(store_->GetManifest(image.manifest.digest)->body);
      const std::string blob = registry_.BlobData(m["layers"][0]["digest"]);
      MemoryFile file(AsBytes(blob));
      auto layer = OverlaybdLayer::Open(&file);
      ASSERT_TRUE(layer.ok()) << layer.error().message;
      EXPECT_EQ((*layer)->virtual_bytes(), kDefaultFsBytes);
      EXPECT_FALSE((*layer)->DataSpaceSegments().empty());
      Json notes = m["layers"][0]["annotations"];
      EXPECT_EQ(notes.value("containerd.io/snapshot/overlaybd/blob-fs-type", "ext4"), type == FsType::kErofs ? "erofs" : "ext4");
      EXPECT_EQ(Json::parse(*store_->Referrers(image.manifest.digest, ""))["manifests"].size(), 1u);
    }
  }
  std::filesystem::remove_all(options_.scratch_dir);
}

TEST_F(ConvertTest, AConfigMayHaveBytesThatAreNoUtf8) {
  bad_byte_at_ = "sh";
  Push();
  auto image = Convert();
  ASSERT_TRUE(image.ok()) << image.error().message;
  Json m = Json::parse(store_->GetManifest("fast")->body);
  Json config = Json::parse(registry_.BlobData(m["config"]["digest"]));
  EXPECT_EQ(config["config"]["Cmd"][0], "\xef\xbf\xbd");
}

// As BuildKit and SBOM tools make them.
TEST_F(ConvertTest, IndexesWithinAnIndexAreConvertedAndTheRestIsCarriedOver) {
  const std::string image = Push();
  Json inner = {{"schemaVersion", 2}, {"mediaType", kOciIndex}, {"manifests", Json::array()}};
  inner["manifests"].push_back({{"mediaType", kOciManifest}, {"digest", image}, {"size", 1},
                                {"platform", {{"os", "linux"}, {"architecture", HostArch()}}}});
  const std::string inner_digest = registry_.AddManifest("demo", "inner", kOciIndex, inner.dump());
  const std::string sbom = registry_.AddManifest("demo", "sbom", kOciManifest, Json({
      {"schemaVersion", 2}, {"mediaType", kOciManifest}, {"artifactType", "application/spdx+json"},
      {"config", {{"mediaType", "application/vnd.oci.empty.v1+json"}, {"digest", "sha256:" + std::string(64, '0')}, {"size", 2}}},
      {"layers", {{{"mediaType", "application/spdx+json"}, {"digest", "sha256:" + std::string(64, '1')}, {"size", 9}}}}}).dump());
  const std::string attestation = registry_.AddManifest("demo", "attestation", kOciManifest, Json({
      {"schemaVersion", 2}, {"mediaType", kOciManifest},
      {"config", {{"mediaType", "application/vnd.oci.image.config.v1+json"}, {"digest", "sha256:" + std::string(64, '2')}, {"size", 2}}},
      {"layers", {{{"mediaType", "application/vnd.in-toto+json"}, {"digest", "sha256:" + std::string(64, '3')}, {"size", 9}}}}}).dump());
  Json outer = {{"schemaVersion", 2}, {"mediaType", kOciIndex}, {"manifests", Json::array()}};
  auto add = [&outer](const std::string& type, const std::string& digest) -> Json& {
    outer["manifests"].push_back({{"mediaType", type}, {"digest", digest}, {"size", 1}});
    return outer["manifests"].back();
  };
  add(kOciIndex, inner_digest);
  add(kOciManifest, sbom)["platform"] = {{"os", "linux"}, {"architecture", ""}};
  add(kOciManifest, attestation);
  add("application/vnd.example.blob", "sha256:" + std::string(64, '4'));
  registry_.AddManifest("demo", "nested", kOciIndex, outer.dump());
  options_.source = "nested";
  options_.oci = true;
  auto made = Convert();
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ(made->layers.size(), 2u);
  Json top = Json::parse(store_->GetManifest("fast")->body);
  for (size_t i : {1, 2, 3}) EXPECT_EQ(top["manifests"][i], outer["manifests"][i]) << i;
  EXPECT_EQ(top["manifests"][0]["mediaType"], kOciIndex);
  Json below = Json::parse(store_->GetManifest(top["manifests"][0]["digest"])->body);
  EXPECT_EQ(below["manifests"][0]["platform"]["architecture"], HostArch());
  Json converted = Json::parse(store_->GetManifest(below["manifests"][0]["digest"])->body);
  EXPECT_EQ(converted["layers"][0]["annotations"]["containerd.io/snapshot/overlaybd/turbo-oci/target-digest"], targets_[0]);
  // The original is kept as deep as it is.
  Json kept = Json::parse(store_->GetManifest("fast-original")->body);
  Json kept_below = Json::parse(store_->GetManifest(kept["manifests"][0]["digest"])->body);
  Json original = Json::parse(store_->GetManifest(kept_below["manifests"][0]["digest"])->body);
  EXPECT_EQ(original["layers"][0]["digest"], targets_[0]);
  EXPECT_NE(kept_below["manifests"][0]["digest"], image);
  // One platform of it.
  options_.platform = HostPlatform();
  options_.turbo_tag = "one";
  auto one = Convert();
  ASSERT_TRUE(one.ok()) << one.error().message;
  EXPECT_EQ(one->manifest.digest, below["manifests"][0]["digest"]);
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
  options_.platform = HostPlatform();
  auto second = Convert();
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->manifest.digest, second->manifest.digest);
  options_.platform.arch = "none";
  EXPECT_EQ(Convert().error().kind, ErrorKind::kNotFound);
}

TEST_F(ConvertTest, AnImageThatIsNoIndexIsForThePlatformThatIsDemanded) {
  arch_ = "pdp11";
  Push();
  ASSERT_TRUE(Convert().ok());
  ASSERT_EQ(quiet_.warnings.size(), 1u);
  EXPECT_NE(quiet_.warnings[0].find("the image is for linux/pdp11"), std::string::npos) << quiet_.warnings[0];
  options_.turbo_tag = "demanded";
  options_.platform = HostPlatform();
  EXPECT_TRUE(Convert().ok()) << "only of an index";
  options_.platform_demanded = true;
  auto refused = Convert();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message, "the image is for linux/pdp11, not for " + HostPlatform().Text());
  options_.platform = {"linux", "pdp11", ""};
  EXPECT_TRUE(Convert().ok());
  EXPECT_EQ(quiet_.warnings.size(), 2u) << "what is demanded is no surprise";
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
  Json referrers = Json::parse(*store_->Referrers(want[1], ""));
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

TEST(LayerConverter, RefusesABlobOfAnotherSizeOrCompression) {
  auto builder = FsBuilder::Create(FsType::kExt4, {});
  LayerOrder order(builder->get());
  std::string digest = "sha256:" + std::string(64, '0');
  TestTar t;
  std::string tar = t.Finish();
  auto c = LayerConverter::Create({digest, tar.size() + 1, "application/vnd.oci.image.layer.v1.tar", ""}, {},
                                  0, &order);
  ASSERT_TRUE((*c)->Update(AsBytes(tar)).ok());
  EXPECT_EQ((*c)->Finish().error().kind, ErrorKind::kMismatch);
  c = LayerConverter::Create({digest, tar.size() - 1, "application/vnd.oci.image.layer.v1.tar", ""}, {}, 0, &order);
  EXPECT_EQ((*c)->Update(AsBytes(tar)).error().kind, ErrorKind::kMismatch);
  for (const char* compressed : {"BZh91AY&SY", "\xfd" "7zXZ\0\0"}) {
    const std::string blob(compressed, 7);
    c = LayerConverter::Create({digest, blob.size(), "application/vnd.oci.image.layer.v1.tar", ""}, {}, 0, &order);
    EXPECT_EQ((*c)->Update(AsBytes(blob)).error().kind, ErrorKind::kUnsupported);
  }
}

}  // namespace
}  // namespace fastoci
