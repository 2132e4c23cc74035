// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/layer.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/digest.h"
#include "image/meta_layer.h"
#include "snapshotter/overlay.h"
#include "snapshotter/project_quota.h"

namespace fastoci {
namespace {

const std::string kA = "sha256:" + std::string(64, 'a');
const std::string kB = "sha256:" + std::string(64, 'b');
const std::string kPrefix = kOverlaybdLabel;

class LayerTest : public ::testing::Test {
 protected:
  LayerTest() {
    char path[] = "/tmp/fastoci-layer.XXXXXX";
    dir_ = ::mkdtemp(path);
    std::filesystem::create_directory(dir_ + "/fs");
  }
  ~LayerTest() override { std::filesystem::remove_all(dir_); }
  void Put(const std::string& name, const std::string& text = "x") { std::ofstream(dir_ + "/fs/" + name) << text; }
  void PutDescription(const std::string& digest) {
    MetaLayerDescription d;
    d.target_digest = digest;
    d.target_bytes = 1000;
    d.target_media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    d.data_bytes = 5000;
    Put("fastoci.json", DescriptionJson(d));
  }
  Layer Told(const Labels& labels) {
    auto layer = LayerOfLabels(labels);
    EXPECT_TRUE(layer.ok()) << layer.error().message;
    return layer.ok() ? *layer : Layer();
  }
  std::string dir_;
};

TEST_F(LayerTest, OrdinaryLabelsAreOrdinary) {
  EXPECT_EQ(Told({{kImageRefLabel, "127.0.0.1:5000/app:1"}, {kRefLabel, kA}}).kind, LayerKind::kOrdinary);
  EXPECT_EQ(LayerToJson(Layer()), "");
}

TEST_F(LayerTest, OverlaybdAnnotationsMakeANativeLayer) {
  const Layer layer = Told({{kPrefix + "blob-digest", kA}, {kPrefix + "blob-size", "4096"},
                            {kImageRefLabel, "127.0.0.1:5000/app:1"}});
  ASSERT_EQ(layer.kind, LayerKind::kNative);
  EXPECT_EQ(layer.parts[0].target_digest, kA);
  EXPECT_EQ(layer.parts[0].target_bytes, 4096u);
  EXPECT_EQ(layer.parts[0].repository, "127.0.0.1:5000/app");
  EXPECT_EQ(Told({{kPrefix + "blob-digest", kA}, {kPrefix + "acceleration-layer", "yes"}}).kind, LayerKind::kTrace);
}

TEST_F(LayerTest, ADigestThatIsNoneIsRefused) {
  EXPECT_FALSE(LayerOfLabels({{kPrefix + "blob-digest", "sha256:../../etc"}}).ok());
}

TEST_F(LayerTest, WhatIsKeptIsReadAgain) {
  Layer layer = Told({{kPrefix + "blob-digest", kA}, {kPrefix + "blob-size", "4096"},
                      {kImageRefLabel, "127.0.0.1:5000/app:1"}});
  auto read = LayerFromJson(LayerToJson(layer));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(LayerToJson(*read), LayerToJson(layer));
  EXPECT_FALSE(LayerFromJson("{}").ok());
  EXPECT_FALSE(LayerFromJson("[").ok());
}

TEST_F(LayerTest, AMetaLayerTellsItsTargetItself) {
  Put(".turbo.ociv1", "");
  Put("ext4.fs.meta");
  PutDescription(kB);
  Layer told;
  EXPECT_FALSE(LayerOfFiles(told, dir_).ok()) << "without a repository";
  told = Told({{kImageRefLabel, "127.0.0.1:5000/app:1"}, {kPrefix + "turbo-oci/target-digest", kB}});
  EXPECT_EQ(told.kind, LayerKind::kMeta);
  auto layer = LayerOfFiles(told, dir_);
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_EQ(layer->kind, LayerKind::kMeta);
  EXPECT_EQ(layer->parts[0].target_digest, kB);
  EXPECT_EQ(layer->parts[0].target_bytes, 1000u);
  EXPECT_EQ(layer->parts[0].members_dir, "fs");
  told.parts[0].target_digest = kA;
  EXPECT_EQ(LayerOfFiles(told, dir_).error().kind, ErrorKind::kMismatch);
}

TEST_F(LayerTest, AMetaLayerThatTurboOciCannotDescribeIsOne) {
  Put("fastoci.ext4");
  Put("fastoci.zstd");
  Put("fastoci.chunks");
  Layer told = Told({{kImageRefLabel, "127.0.0.1:5000/app:1"}, {kPrefix + "turbo-oci/target-digest", kB}});
  EXPECT_FALSE(LayerOfFiles(told, dir_).ok()) << "without fastoci.json it is none";
  PutDescription(kB);
  auto layer = LayerOfFiles(told, dir_);
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_EQ(layer->kind, LayerKind::kMeta);
  EXPECT_EQ(layer->parts[0].target_digest, kB);
  EXPECT_EQ(layer->parts[0].digest.substr(0, 7), "sha256:");
}

// A tag can be pushed again with other members under the annotations of what it was.
TEST_F(LayerTest, WhatLiesThereNamesTheDeviceAndNoAnnotation) {
  Put(".turbo.ociv1", "");
  Put("erofs.fs.meta", "metadata");
  Put("gzip.meta", "index");
  const Layer told = Told({{kImageRefLabel, "127.0.0.1:5000/app:1"},
                           {kPrefix + "blob-digest", kA},
                           {kPrefix + "turbo-oci/target-digest", kB}});
  auto name = [&] {
    auto layer = LayerOfFiles(told, dir_);
    EXPECT_TRUE(layer.ok()) << layer.error().message;
    return layer.ok() ? DeviceName("", *layer) : "";
  };
  const std::string good = name();
  EXPECT_EQ(name(), good);
  Put("gzip.meta", "indez");
  EXPECT_NE(name(), good) << "another index over the same file system";
  Put("gzip.meta", "index");
  EXPECT_EQ(name(), good);
  Put("erofs.fs.meta", "metadatb");
  EXPECT_NE(name(), good);
  Put("erofs.fs.meta", "metadata");
  std::filesystem::remove(dir_ + "/fs/gzip.meta");
  EXPECT_NE(name(), good);
}

TEST_F(LayerTest, AnotherTypeOfTargetIsAnotherDevice) {
  Layer a = Told({{kPrefix + "turbo-oci/target-digest", kA}}), b = a;
  b.parts[0].target_media_type = "application/vnd.oci.image.layer.v1.tar";
  EXPECT_NE(DeviceName("", a), DeviceName("", b));
  EXPECT_FALSE(SameContent(a, b));
}

// The description is part of what containerd has verified, an annotation is not.
TEST_F(LayerTest, ADescriptionDecidesTheTargetsType) {
  Put("fastoci.ext4");
  Put("fastoci.zstd");
  PutDescription(kB);
  Layer told = Told({{kImageRefLabel, "127.0.0.1:5000/app:1"}, {kPrefix + "turbo-oci/target-digest", kB}});
  told.parts[0].target_media_type = "application/vnd.oci.image.layer.v1.tar";
  auto layer = LayerOfFiles(told, dir_);
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_EQ(layer->parts[0].target_media_type, "application/vnd.oci.image.layer.v1.tar+gzip");
  EXPECT_TRUE(layer->describes_itself);
}

// Without the image's reference they have the same repository, "localhost/local".
TEST_F(LayerTest, NativeLayersThatWereUnpackedAreTheirFiles) {
  auto read = [&] {
    auto layer = LayerOfFiles(Layer(), dir_);
    EXPECT_TRUE(layer.ok()) << layer.error().message;
    return layer.ok() ? *layer : Layer();
  };
  Put("overlaybd.commit", "one");
  const Layer one = read();
  ASSERT_EQ(one.kind, LayerKind::kNative);
  EXPECT_EQ(one.parts[0].target_digest, DigestString(Sha256::Of(AsBytes("one"))));
  EXPECT_EQ(one.parts[0].target_bytes, 3u);
  Put("overlaybd.commit", "two");
  EXPECT_NE(DeviceName("", read()), DeviceName("", one));
}

TEST_F(LayerTest, AnAnnotationThatNamesAnotherBlobIsRefused) {
  for (const char* more : {"blob-size", "turbo-oci/target-digest", "acceleration-layer"}) {
    Labels labels = {{kPrefix + "blob-digest", kA}, {kLayerDigestLabel, kA}, {kPrefix + more, more[0] == 't' ? kB : "yes"}};
    EXPECT_TRUE(LayerOfLabels(labels).ok());
    labels[kLayerDigestLabel] = kB;
    EXPECT_EQ(LayerOfLabels(labels).error().kind, ErrorKind::kInvalid);
  }
}

TEST_F(LayerTest, AMetaLayersMembersAreFiles) {
  Put(".turbo.ociv1", "");
  ASSERT_EQ(::symlink("/etc/shadow", (dir_ + "/fs/ext4.fs.meta").c_str()), 0);
  Layer told = Told({{kImageRefLabel, "127.0.0.1:5000/app:1"}, {kPrefix + "turbo-oci/target-digest", kB}});
  EXPECT_FALSE(LayerOfFiles(told, dir_).ok());
}

TEST_F(LayerTest, AnOrdinaryTreeWithSuchFilesIsOrdinary) {
  Put(".turbo.ociv1", "");
  Put("ext4.fs.meta");
  Put("README");
  auto layer = LayerOfFiles(Layer(), dir_);
  ASSERT_TRUE(layer.ok());
  EXPECT_EQ(layer->kind, LayerKind::kOrdinary);
  Layer told = Told({{kPrefix + "turbo-oci/target-digest", kB}});
  EXPECT_FALSE(LayerOfFiles(told, dir_).ok()) << "its annotations lie";
}

TEST_F(LayerTest, DevicesOfDifferentChainsHaveDifferentNames) {
  Layer a = Told({{kPrefix + "blob-digest", kA}, {kPrefix + "blob-size", "1"}});
  Layer b = Told({{kPrefix + "blob-digest", kB}, {kPrefix + "blob-size", "1"}});
  const std::string one = DeviceName("", a);
  EXPECT_EQ(DeviceName("", a), one);
  EXPECT_NE(DeviceName("", b), one);
  EXPECT_NE(DeviceName(one, b), DeviceName("", b));
  Layer trace;
  trace.kind = LayerKind::kTrace;
  EXPECT_EQ(DeviceName(one, trace), one);
}

TEST(ParseQuotaTest, SizesAreUnderstood) {
  EXPECT_EQ(*ParseQuota("10g"), 10ull << 30);
  EXPECT_EQ(*ParseQuota("512M"), 512ull << 20);
  EXPECT_EQ(*ParseQuota("2GiB"), 2ull << 30);
  EXPECT_EQ(*ParseQuota("1kb"), 1024u);
  EXPECT_EQ(*ParseQuota("1000"), 1000u);
  for (const char* bad : {"", "g", "-1", "0", "1x", "10 g", "99999999999t", "1gg"}) EXPECT_FALSE(ParseQuota(bad).ok()) << bad;
}

TEST(OverlayMountsTest, OneDirectoryIsABindMount) {
  OverlayInput in;
  in.upper = "/s/1/fs", in.work = "/s/1/work";
  EXPECT_EQ(OverlayMounts(in)[0].type, "bind");
  EXPECT_EQ(OverlayMounts(in)[0].options, (std::vector<std::string>{"rw", "rbind"}));
  in.kind = SnapshotKind::kView;
  EXPECT_EQ(OverlayMounts(in)[0].options, (std::vector<std::string>{"ro", "rbind"}));
  in.lowers = {"/low"};
  EXPECT_EQ(OverlayMounts(in)[0].source, "/low");
}

TEST(OverlayMountsTest, SeveralAreAnOverlayTopFirst) {
  OverlayInput in;
  in.upper = "/s/1/fs", in.work = "/s/1/work";
  in.lowers = {"/b", "/a"};
  in.index_off = true;
  in.uid_map = "0:100000:65536";
  EXPECT_EQ(OverlayMounts(in)[0].options,
            (std::vector<std::string>{"index=off", "uidmap=0:100000:65536", "workdir=/s/1/work", "upperdir=/s/1/fs",
                                      "lowerdir=/b:/a"}));
  in.kind = SnapshotKind::kView;
  in.uid_map = "";
  EXPECT_EQ(OverlayMounts(in)[0].options, (std::vector<std::string>{"index=off", "lowerdir=/b:/a"}));
}

}  // namespace
}  // namespace fastoci
