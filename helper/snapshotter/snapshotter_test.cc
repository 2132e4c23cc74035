// SPDX-License-Identifier: Apache-2.0
// Without the module: no device can be attached here.
#include "snapshotter/snapshotter.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

namespace fastoci {
namespace {

std::string Digest(char c) { return "sha256:" + std::string(64, c); }

class SnapshotterTest : public ::testing::Test {
 protected:
  SnapshotterTest() {
    char path[] = "/tmp/fastoci-snapshotter.XXXXXX";
    dir_ = ::mkdtemp(path);
    std::ofstream(dir_ + "/node.json") << "{}";
  }
  ~SnapshotterTest() override {
    s_ = nullptr;
    std::filesystem::remove_all(dir_);
  }
  void Open() {
    SnapshotterOptions options;
    options.device.root = dir_;
    options.device.node_config = dir_ + "/node.json";
    options.device.control_socket = dir_ + "/no.sock";
    options.referrers = ReferrerMode::kOff;
    options.sync = [this] {
      at_sync_();
      return sync_status_;
    };
    auto opened = Snapshotter::Open(options, &metrics_);
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    s_ = std::move(*opened);
  }
  // The directory that containerd would unpack to.
  std::string Prepare(const std::string& key, const Labels& labels = {}) {
    auto mounts = s_->Prepare(key, "", labels);
    EXPECT_TRUE(mounts.ok()) << mounts.error().message;
    return mounts.ok() ? (*mounts)[0].source : "";
  }
  std::string KindOf(const std::string& name) {
    auto snapshot = s_->Stat(name);
    if (!snapshot.ok()) return "none";
    if (snapshot->kind != SnapshotKind::kCommitted) return "active";
    auto layer = LayerFromJson(snapshot->layer);
    return layer.ok() ? LayerKindName(layer->kind) : "damaged";
  }

  SnapshotterMetrics metrics_;
  std::string dir_;
  std::function<void()> at_sync_ = [] {};
  Status sync_status_ = OkStatus();
  std::unique_ptr<Snapshotter> s_;
};

TEST_F(SnapshotterTest, ALayerIsOnTheDiskBeforeTheDatabaseSaysThatItIsCommitted) {
  Open();
  std::ofstream(Prepare("key") + "/file") << "data";
  std::string then;
  at_sync_ = [&] { then = KindOf("key") + " " + KindOf("name"); };
  sync_status_ = ErrnoError("sync", EIO);
  EXPECT_FALSE(s_->Commit("name", "key", "", {}).ok());
  EXPECT_EQ(KindOf("key"), "active");
  sync_status_ = OkStatus();
  EXPECT_TRUE(s_->Commit("name", "key", "", {}).ok());
  EXPECT_EQ(then, "active none");
  EXPECT_EQ(KindOf("name"), "ordinary");
}

TEST_F(SnapshotterTest, OneDeviceThatFailsKeepsNoOtherFromComing) {
  constexpr int kDevices = 24;
  {
    auto store = SnapshotStore::Open(dir_ + "/metadata.db");
    ASSERT_TRUE(store.ok());
    for (int i = 0; i < kDevices; i++) {
      Layer layer;
      layer.kind = LayerKind::kNative;
      layer.parts.resize(1);
      layer.parts[0].native = true;
      layer.parts[0].digest = layer.parts[0].target_digest = Digest('a');
      layer.parts[0].target_bytes = 1;
      layer.parts[0].repository = "127.0.0.1:1/app";
      Snapshot s;
      s.id = (*store)->NextId();
      s.name = "layer" + std::to_string(i);
      s.kind = SnapshotKind::kCommitted;
      s.layer = LayerToJson(layer);
      s.device = "ctd-test" + std::to_string(i);
      ASSERT_TRUE((*store)->Create(s).ok());
      s.id = (*store)->NextId();
      s.parent = s.name;
      s.name = "container" + std::to_string(i);
      s.kind = SnapshotKind::kActive;
      s.layer = "";
      ASSERT_TRUE((*store)->Create(s).ok());
    }
  }
  Open();
  s_->Recover();
  const std::string all = "attach_failures_total " + std::to_string(kDevices) + "\n";
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (metrics_.Render("").find(all) == std::string::npos && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_NE(metrics_.Render("").find(all), std::string::npos) << metrics_.Render("");
}

TEST_F(SnapshotterTest, ALazyLayerThatPolicyRefusesIsNotCommitted) {
  Open();
  std::ofstream(dir_ + "/node.json") << R"({"signatures": {"127.0.0.1:1": "/nonexistent.pem"}})";
  std::ofstream(Prepare("default/1/extract") + "/overlaybd.commit") << "data";
  const std::string name = "default/2/" + Digest('a');
  Status refused = s_->Commit(name, "default/1/extract", "", {});
  ASSERT_FALSE(refused.ok()) << "of an unknown image";
  EXPECT_EQ(refused.error().kind, ErrorKind::kDenied);
  const Labels labels = {{kImageRefLabel, "127.0.0.1:1/app:1"}, {kManifestLabel, Digest('b')}};
  refused = s_->Commit(name, "default/1/extract", "", labels);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("/nonexistent.pem"), std::string::npos);
  EXPECT_EQ(KindOf(name), "none");
  std::ofstream(dir_ + "/node.json") << "{}";
  EXPECT_TRUE(s_->Commit(name, "default/1/extract", "", labels).ok());
  EXPECT_EQ(KindOf(name), "native");
}

// A trace layer over these snapshots.
Labels TraceLabels() {
  const std::string p = kOverlaybdLabel;
  return {{kRefLabel, Digest('a')}, {p + "acceleration-layer", "yes"}, {p + "blob-digest", Digest('b')},
          {kImageRefLabel, "127.0.0.1:1/app:1"}, {kManifestLabel, Digest('9')}};
}

TEST_F(SnapshotterTest, ATraceLayerIsUnpackedAndLiesOnItsParentsDevice) {
  Open();
  std::ofstream(Prepare("base") + "/overlaybd.commit") << "data";
  ASSERT_TRUE(s_->Commit("native", "base", "", {}).ok());
  auto mounts = s_->Prepare("key", "native", TraceLabels());
  ASSERT_TRUE(mounts.ok()) << mounts.error().message;
  EXPECT_EQ((*mounts)[0].type, "bind") << "its file is unpacked, and nothing under it";
  std::ofstream((*mounts)[0].source + "/trace") << "fastoci-start 2\n";
  EXPECT_TRUE(s_->Mounts("key").ok());
  Status committed = s_->Commit("traced", "key", "", TraceLabels());
  ASSERT_TRUE(committed.ok()) << committed.error().message;
  EXPECT_EQ(KindOf("traced"), "trace");
  EXPECT_EQ(s_->Stat("traced")->device, s_->Stat("native")->device);
  EXPECT_NE(s_->Stat("traced")->device, "");
}

TEST_F(SnapshotterTest, TheTraceOfAnOrdinaryImageIsAFile) {
  Open();
  std::ofstream(Prepare("base") + "/file") << "data";
  ASSERT_TRUE(s_->Commit("ordinary", "base", "", {}).ok());
  auto mounts = s_->Prepare("key", "ordinary", TraceLabels());
  ASSERT_TRUE(mounts.ok()) << mounts.error().message;
  EXPECT_EQ((*mounts)[0].type, "overlay");
  ASSERT_TRUE(s_->Commit("traced", "key", "", TraceLabels()).ok());
  EXPECT_EQ(KindOf("traced"), "ordinary");
}

TEST_F(SnapshotterTest, LabelsThatMakeNoSenseDoNoHarmToAnOrdinaryLayer) {
  Open();
  const std::string p = kOverlaybdLabel;
  const Labels labels = {{kRefLabel, Digest('a')}, {p + "blob-digest", Digest('b')}, {kLayerDigestLabel, Digest('c')}};
  std::ofstream(Prepare("key", labels) + "/file") << "data";
  EXPECT_TRUE(s_->Commit("name", "key", "", labels).ok());
  EXPECT_EQ(KindOf("name"), "ordinary");
  std::ofstream(Prepare("key", labels) + "/overlaybd.commit") << "data";
  EXPECT_FALSE(s_->Commit("lazy", "key", "", labels).ok());
}

}  // namespace
}  // namespace fastoci
