// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/taking.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "image/oci_image.h"

namespace fastoci {
namespace {

std::string Digest(char c) { return "sha256:" + std::string(64, c); }

class FakeArtifacts : public ArtifactSource {
 public:
  Found Find(const std::string&, const std::string&, const Trial&) override { return found; }
  Found found;
};

class TakingTest : public ::testing::Test {
 protected:
  TakingTest() {
    char path[] = "/tmp/fastoci-taking.XXXXXX";
    dir_ = ::mkdtemp(path);
    std::ofstream(dir_ + "/node.json") << "{}";
    store_ = std::move(*SnapshotStore::Open(dir_ + "/metadata.db"));
    directories_ = std::move(*SnapshotDirectories::Open(dir_, store_.get()));
    lowers_ = std::make_unique<LowerLayers>(store_.get(), directories_.get());
    DeviceOptions device;
    device.root = dir_;
    devices_ = std::make_unique<ChainDevices>(device, store_.get(), &metrics_);
    policy_ = std::make_unique<ImagePolicy>(ImagePolicy::Options{dir_ + "/node.json", {}});
    taker_ = std::make_unique<LayerTaker>(
        LayerTaker::Parts{store_.get(), directories_.get(), lowers_.get(), devices_.get(), &artifacts_, policy_.get(),
                          &disk_, &metrics_},
        ReferrerMode::kAll);
  }
  ~TakingTest() override {
    taker_ = nullptr;
    devices_ = nullptr;
    directories_ = nullptr;
    store_ = nullptr;
    std::filesystem::remove_all(dir_);
  }
  Labels NativeLabels(const std::string& digest, const std::string& ref, bool trace = false) {
    const std::string p = kOverlaybdLabel;
    Labels labels = {{kRefLabel, ref}, {p + "blob-digest", digest}, {p + "blob-size", "4096"},
                     {kImageRefLabel, "127.0.0.1:1/app:1"}, {kLayerDigestLabel, digest}};
    if (trace) labels[p + "acceleration-layer"] = "yes";
    return labels;
  }
  // The layers of an ordinary image, and its artifact whose meta layer is in that file.
  Labels OrdinaryLabels(const std::string& digest, const std::string& ref) {
    return {{kRefLabel, ref}, {kImageRefLabel, "127.0.0.1:1/app:1"}, {kManifestLabel, Digest('9')}, {kLayerDigestLabel, digest}};
  }
  void HaveArtifact(const std::string& meta_digest, const std::string& target, const std::string& meta_path) {
    auto image = std::make_shared<ResolvedImage>();
    MetaLayer layer;
    layer.digest = meta_digest;
    layer.target_digest = target;
    layer.meta_path = meta_path;
    image->fastoci.layers = {layer};
    artifacts_.found.image = image;
  }
  std::string MetaFile() {
    const std::string path = dir_ + "/downloaded";
    std::ofstream(path) << "meta";
    return path;
  }
  // Of a layer that was unpacked, as containerd names it.
  void Unpacked(const std::string& name, const std::string& parent, const std::string& layer) {
    Snapshot s;
    s.id = store_->NextId();
    s.name = name;
    s.parent = parent;
    s.kind = SnapshotKind::kCommitted;
    s.layer = layer;
    ASSERT_TRUE(store_->Create(s).ok());
  }
  std::string SomeLayer(char digest) {
    Layer layer;
    layer.kind = LayerKind::kArtifact;
    layer.parts.resize(1);
    layer.parts[0].digest = Digest(digest);
    return LayerToJson(layer);
  }
  bool Take(const std::string& parent, const Labels& labels, const std::string& key = "default/5/extract-1 x") {
    auto taken = taker_->Take(key, parent, labels);
    EXPECT_TRUE(taken.ok()) << taken.error().message;
    return taken.ok() && *taken;
  }
  void FellBack(const std::string& reason) {
    EXPECT_NE(metrics_.Render("").find("fallbacks_total{reason=\"" + reason + "\"} 1\n"), std::string::npos)
        << metrics_.Render("");
  }
  size_t Rows() { return store_->List()->size(); }

  SnapshotterMetrics metrics_;
  std::string dir_;
  std::unique_ptr<SnapshotStore> store_;
  std::unique_ptr<SnapshotDirectories> directories_;
  std::unique_ptr<LowerLayers> lowers_;
  std::unique_ptr<ChainDevices> devices_;
  FakeArtifacts artifacts_;
  std::unique_ptr<ImagePolicy> policy_;
  std::function<void()> at_sync_ = [] {};
  int syncs_ = 0;
  DiskSync disk_{[this] {
    syncs_++;
    at_sync_();
    return OkStatus();
  }};
  std::unique_ptr<LayerTaker> taker_;
};

TEST_F(TakingTest, NamesHaveChainIds) {
  EXPECT_EQ(ChainIdIn("default/12/" + Digest('a')), Digest('a'));
  EXPECT_EQ(ChainIdIn(Digest('a')), Digest('a'));
  EXPECT_EQ(ChainIdIn(Digest('a') + " k8s.io/5/extract-1 " + Digest('b')), Digest('a'));
  EXPECT_EQ(ChainIdIn("default/12/mine"), "");
  EXPECT_EQ(ChainIdIn(""), "");
}

TEST_F(TakingTest, NativeLayersAreTakenUnderTheirChainIds) {
  EXPECT_TRUE(Take("", NativeLabels(Digest('a'), Digest('a'))));
  const std::string second = ChainId(Digest('a'), Digest('b'));
  EXPECT_TRUE(Take(Digest('a'), NativeLabels(Digest('b'), second)));
  EXPECT_FALSE(Take(second, NativeLabels(Digest('c'), ChainId(second, Digest('c')), true))) << "a trace is unpacked";
  EXPECT_TRUE(Take(Digest('a'), NativeLabels(Digest('b'), second))) << "it is there";
  EXPECT_EQ(Rows(), 2U);
  // Over one that was unpacked.
  Unpacked("default/7/" + Digest('d'), "", SomeLayer('d'));
  EXPECT_TRUE(Take("default/7/" + Digest('d'), NativeLabels(Digest('b'), ChainId(Digest('d'), Digest('b')))));
}

// What the image's config says is its diff id.
TEST_F(TakingTest, ANativeLayerIsNotTakenForAnotherOne) {
  const std::string victim = Digest('a');
  EXPECT_FALSE(Take("", NativeLabels(Digest('e'), victim)));
  FellBack("chain_id");
  ASSERT_TRUE(Take("", NativeLabels(Digest('b'), Digest('b'))));
  EXPECT_FALSE(Take(Digest('b'), NativeLabels(Digest('e'), ChainId(Digest('b'), victim))));
  EXPECT_FALSE(Take(Digest('b'), NativeLabels(Digest('e'), Digest('e')))) << "that of a bottom layer";
  EXPECT_FALSE(Take("", NativeLabels(Digest('e'), ChainId(Digest('b'), Digest('e'))))) << "without its parent";
  Unpacked("default/7/mine", "", SomeLayer('d'));
  EXPECT_FALSE(Take("default/7/mine", NativeLabels(Digest('e'), Digest('e')))) << "over what has no chain id";
  EXPECT_EQ(Rows(), 2U);
}

TEST_F(TakingTest, AnotherLayerThatIsThereIsNotOffered) {
  Unpacked(Digest('a'), "", SomeLayer('d'));
  EXPECT_FALSE(Take("", NativeLabels(Digest('a'), Digest('a'))));
  FellBack("layer_differs");
  HaveArtifact(Digest('e'), Digest('f'), MetaFile());
  EXPECT_FALSE(Take("", OrdinaryLabels(Digest('f'), Digest('a'))));
  EXPECT_EQ(Rows(), 1U);
}

TEST_F(TakingTest, OneOfAnotherParentHasAnotherName) {
  Unpacked("default/1/" + Digest('c'), "", SomeLayer('c'));
  Unpacked(Digest('a'), "default/1/" + Digest('c'), SomeLayer('d'));
  EXPECT_TRUE(Take("", NativeLabels(Digest('a'), Digest('a')), "default/5/extract-1 x"));
  auto taken = store_->Get(Digest('a') + " default/5/extract-1 x");
  ASSERT_TRUE(taken.ok());
  EXPECT_EQ(taken->parent, "");
}

TEST_F(TakingTest, AnArtifactsLayerIsOnTheDiskBeforeItIsInTheDatabase) {
  HaveArtifact(Digest('e'), Digest('f'), MetaFile());
  size_t rows = 99;
  at_sync_ = [&] { rows = Rows(); };
  EXPECT_TRUE(Take("", OrdinaryLabels(Digest('f'), Digest('a'))));
  EXPECT_EQ(syncs_, 1);
  EXPECT_EQ(rows, 0U);
  auto taken = store_->Get(Digest('a'));
  ASSERT_TRUE(taken.ok());
  EXPECT_TRUE(std::filesystem::exists(directories_->Dir(taken->id) + "/layer.meta"));
}

TEST_F(TakingTest, AMetaFileThatIsGoneMakesItOrdinary) {
  HaveArtifact(Digest('e'), Digest('f'), dir_ + "/gone");
  EXPECT_FALSE(Take("", OrdinaryLabels(Digest('f'), Digest('a'))));
  FellBack("meta_layers");
  EXPECT_EQ(Rows(), 0U);
}

// Two pulls at the same time: the other one is first by a moment.
TEST_F(TakingTest, WhatSomebodyElseMadeMeanwhileIsLookedAt) {
  HaveArtifact(Digest('e'), Digest('f'), MetaFile());
  Layer same;
  same.kind = LayerKind::kArtifact;
  same.parts.push_back(artifacts_.found.image->fastoci.layers[0]);
  auto once = [&](const std::string& parent, const std::string& layer) {
    const auto all = *store_->List();
    for (const Snapshot& s : all) {
      if (s.name.starts_with(Digest('a'))) (void)store_->Remove(s.name).ok();
    }
    at_sync_ = [=, this, first = true]() mutable {
      if (first) Unpacked(Digest('a'), parent, layer);
      first = false;
    };
  };
  Unpacked("other", "", SomeLayer('c'));
  once("", LayerToJson(same));
  EXPECT_TRUE(Take("", OrdinaryLabels(Digest('f'), Digest('a')))) << "the same";
  EXPECT_EQ(Rows(), 2U);
  once("", SomeLayer('d'));
  EXPECT_FALSE(Take("", OrdinaryLabels(Digest('f'), Digest('a')))) << "another one";
  EXPECT_EQ(Rows(), 2U);
  once("other", LayerToJson(same));
  EXPECT_TRUE(Take("", OrdinaryLabels(Digest('f'), Digest('a')), "key")) << "over another parent";
  EXPECT_TRUE(store_->Get(Digest('a') + " key").ok());
}

TEST_F(TakingTest, ALazyLayerThatPolicyRefusesIsAnError) {
  std::ofstream(dir_ + "/node.json") << R"({"signatures": {"*": "/nonexistent.pem"}})";
  for (bool trace : {false, true}) {
    auto taken = taker_->Take("key", "", NativeLabels(Digest('a'), Digest('a'), trace));
    ASSERT_FALSE(taken.ok());
    EXPECT_EQ(taken.error().kind, ErrorKind::kDenied);
  }
  EXPECT_FALSE(Take("", OrdinaryLabels(Digest('f'), Digest('a')))) << "an ordinary image needs no artifact";
}

TEST_F(TakingTest, LabelsThatContradictEachOtherMakeItOrdinary) {
  Labels labels = NativeLabels(Digest('a'), Digest('a'));
  labels[kLayerDigestLabel] = Digest('b');
  EXPECT_FALSE(Take("", labels));
  FellBack("labels");
}

}  // namespace
}  // namespace fastoci
