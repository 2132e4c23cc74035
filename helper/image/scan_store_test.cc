// SPDX-License-Identifier: Apache-2.0
// A layer that is replayed from its record gives what its blob gives.
#include "image/scan_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/unique_fd.h"
#include "image/layer_converter.h"
#include "testing/test_tar.h"

namespace fastoci {
namespace {

constexpr char kTarType[] = "application/vnd.oci.image.layer.v1.tar";

// Files of sizes around sectors, with padding that is zero and that is not, sparse ones, and none.
std::string Layer() {
  TestTar t;
  t.Dir("dir");
  for (size_t bytes : {0, 1, 511, 512, 513, 4096, 70000}) {
    t.File("dir/f" + std::to_string(bytes), std::string(bytes, 'f'));
    t.Pad();
  }
  TestTar::Header header;
  header.name = "dir/odd-padding";
  header.size = 700;
  t.Add(header);
  t.Raw(std::string(700, 'o'));
  t.Pad('#');
  t.Pax({{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "dir/sparse"},
         {"GNU.sparse.realsize", "100000"}});
  std::string map = "2\n1000\n300\n90000\n10000\n";
  map.resize(512, '\0');
  header.name = "dir/GNUSparseFile";
  header.size = 0;
  t.Add(header, map + std::string(300, 's') + std::string(10000, 'S'));
  t.Symlink("link", "dir/f1");
  t.HardLink("hard", "dir/f513");
  return t.Finish();
}

class ScanStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "scan-store-" + std::to_string(getpid());
    auto store = ScanStore::Open(dir_);
    ASSERT_TRUE(store.ok()) << store.error().message;
    store_.emplace(std::move(*store));
    tar_ = Layer();
    source_ = {DigestString(Sha256::Of(AsBytes(tar_))), tar_.size(), kTarType,
               DigestString(Sha256::Of(AsBytes(tar_)))};
  }
  void TearDown() override {
    ::unlink(Path().c_str());
    ::rmdir(dir_.c_str());
  }
  std::string Path() const { return dir_ + "/" + source_.digest.substr(7) + ".scan"; }

  // Cut into pieces of that size.
  LayerResult Scan(FsType type, size_t piece) {
    auto builder = FsBuilder::Create(type, {});
    LayerOrder order(builder->get());
    LayerOutput output;
    output.fs_type = type;
    output.scan = true;
    auto c = LayerConverter::Create(source_, output, 0, &order);
    EXPECT_TRUE(c.ok());
    for (size_t at = 0; at < tar_.size(); at += piece)
      EXPECT_TRUE((*c)->Update(AsBytes(tar_).subspan(at, std::min(piece, tar_.size() - at))).ok());
    auto result = (*c)->Finish();
    EXPECT_TRUE(result.ok()) << result.error().message;
    return std::move(*result);
  }
  Result<LayerResult> Replay(FsType type, LayerScan scan) {
    auto builder = FsBuilder::Create(type, {});
    LayerOrder order(builder->get());
    LayerOutput output;
    output.fs_type = type;
    return LayerConverter::Replay(source_, output, 0, &order, std::move(scan));
  }

  std::string dir_, tar_;
  std::optional<ScanStore> store_;
  LayerSource source_;
};

TEST_F(ScanStoreTest, ARecordStandsForTheBlob) {
  auto none = store_->Find(source_);
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_value());
  for (size_t piece : {size_t{333}, size_t{4096}, size_t{1} << 20}) {
    LayerResult scanned = Scan(FsType::kExt4, piece);
    ASSERT_TRUE(scanned.scan);
    ASSERT_TRUE(store_->Put(source_, *scanned.scan).ok());
    for (FsType type : {FsType::kExt4, FsType::kErofs}) {
      auto found = store_->Find(source_);
      ASSERT_TRUE(found.ok() && found->has_value());
      auto replayed = Replay(type, std::move(**found));
      ASSERT_TRUE(replayed.ok()) << replayed.error().message;
      EXPECT_EQ(replayed->nr_entries, scanned.nr_entries);
      EXPECT_EQ(replayed->meta->digest, Scan(type, piece).meta->digest) << piece;
    }
  }
}

TEST_F(ScanStoreTest, WhatIsNotRightCountsAsAbsent) {
  LayerResult scanned = Scan(FsType::kExt4, 1 << 20);
  ASSERT_TRUE(store_->Put(source_, *scanned.scan).ok());
  auto has = [&](const LayerSource& s) {
    auto found = store_->Find(s);
    EXPECT_TRUE(found.ok());
    return found.ok() && found->has_value();
  };
  EXPECT_TRUE(has(source_));
  LayerSource other = source_;
  other.diff_id = "sha256:" + std::string(64, '0');
  EXPECT_FALSE(has(other));
  other = source_;
  other.bytes++;
  EXPECT_FALSE(has(other));
  auto record = ReadFile(Path(), 1 << 20);
  ASSERT_TRUE(record.ok());
  for (size_t at = 0; at < record->size(); at += record->size() / 50 + 1) {
    std::string bad = *record;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    ASSERT_TRUE(WriteFileAtomic(Path(), AsBytes(bad)).ok());
    EXPECT_FALSE(has(source_)) << at;
    ASSERT_TRUE(WriteFileAtomic(Path(), AsBytes(record->substr(0, at))).ok());
    EXPECT_FALSE(has(source_)) << at;
  }
}

TEST_F(ScanStoreTest, ASkeletonHasNoContent) {
  LayerResult scanned = Scan(FsType::kExt4, 4096);
  std::string stream;
  ASSERT_TRUE(ReadSkeleton(scanned.scan->skeleton, tar_.size(), [&](ByteSpan data) {
                stream.append(data.begin(), data.end());
                return OkStatus();
              }).ok());
  EXPECT_EQ(stream.size(), tar_.size());
  EXPECT_EQ(stream.find(std::string(512, 'f')), std::string::npos);
  EXPECT_NE(stream.find(std::string(188, 'o') + "#"), std::string::npos) << "a tail is kept";
  auto fails = [&](ByteSpan skeleton, uint64_t bytes) {
    return !ReadSkeleton(skeleton, bytes, [](ByteSpan) { return OkStatus(); }).ok();
  };
  EXPECT_TRUE(fails(scanned.scan->skeleton, tar_.size() - 1));
  EXPECT_TRUE(fails(scanned.scan->skeleton, tar_.size() + 1));
  EXPECT_TRUE(fails(ByteSpan(scanned.scan->skeleton).first(20), tar_.size()));
}

}  // namespace
}  // namespace fastoci
