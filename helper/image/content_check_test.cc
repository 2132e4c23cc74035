// SPDX-License-Identifier: Apache-2.0
#include "image/content_check.h"

#include <gtest/gtest.h>

#include <random>

#include "codec/gzip_index.h"
#include "codec/zstd_index.h"
#include "testing/test_tar.h"

namespace fastoci {
namespace {

class ContentCheckTest : public testing::Test {
 protected:
  void SetUp() override {
    std::mt19937 random(7);
    for (int i = 0; i < 300000; i++) tar_ += static_cast<char>(random() % 23);
    blob_ = TestGzip(tar_) + TestGzip("") + TestGzip(tar_.substr(0, 100000));
    tar_ += tar_.substr(0, 100000);
    GzipIndexOptions options;
    options.span_bytes = 50000;
    auto builder = GzipIndexBuilder::Create(options, [](ByteSpan) { return OkStatus(); });
    ASSERT_TRUE(builder.ok() && builder->Update(AsBytes(blob_)).ok());
    index_ = *builder->Finish();
    for (size_t at = 0; at < tar_.size(); at += 65536) {
      Sha256Digest d = Sha256::Of(AsBytes(tar_).subspan(at, std::min<size_t>(65536, tar_.size() - at)));
      digests_.insert(digests_.end(), d.begin(), d.end());
    }
  }
  Status Check() {
    return CheckTarBlob(MemoryFile(AsBytes(blob_)), Sha256::Of(AsBytes(blob_)), Meta());
  }
  MetaLayerFiles Meta() const {
    MetaLayerFiles meta;
    meta.gzip_meta = index_;
    meta.chunk_digests = digests_;
    return meta;
  }
  void ExpectDiffers(const std::string& text) {
    Status s = Check();
    ASSERT_FALSE(s.ok()) << text;
    EXPECT_NE(s.error().message.find(text), std::string::npos) << s.error().message;
  }
  std::string tar_, blob_;
  Bytes index_, digests_;
};

TEST_F(ContentCheckTest, TakesWhatIsRightWithAndWithoutDigests) {
  Status s = Check();
  EXPECT_TRUE(s.ok()) << s.error().message;
  digests_.clear();
  EXPECT_TRUE(Check().ok());
  EXPECT_TRUE(CheckTarBlob(MemoryFile(AsBytes(tar_)), Sha256::Of(AsBytes(tar_)), {}).ok());
}

TEST_F(ContentCheckTest, NamesTheChunkThatDiffers) {
  digests_[3 * 32 + 5] ^= 1;
  ExpectDiffers("chunk 3 (data byte 196608)");
  digests_[3 * 32 + 5] ^= 1;
  digests_.resize(digests_.size() - 32);
  ExpectDiffers("chunk 6");
}

TEST_F(ContentCheckTest, RefusesAnotherBlobAndAnotherIndex) {
  EXPECT_FALSE(CheckTarBlob(MemoryFile(AsBytes(blob_)), {}, Meta()).ok());
  blob_ = TestGzip(tar_);  // the same data
  EXPECT_FALSE(Check().ok());
  blob_.resize(blob_.size() - 20);
  ExpectDiffers("ends early");
}

TEST_F(ContentCheckTest, KnowsTheFramesOfZstd) {
  blob_ = TestZstd(tar_.substr(0, 70000)) + TestZstd("") + TestZstd(tar_.substr(70000));
  auto builder = ZstdIndexBuilder::Create({.span_bytes = 1}, [](ByteSpan) { return OkStatus(); });
  ASSERT_TRUE(builder->Update(AsBytes(blob_)).ok());
  MetaLayerFiles meta;
  meta.zstd_index = *builder->Finish();
  meta.chunk_digests = digests_;
  auto check = [&] {
    return CheckTarBlob(MemoryFile(AsBytes(blob_)), Sha256::Of(AsBytes(blob_)), meta);
  };
  Status s = check();
  EXPECT_TRUE(s.ok()) << s.error().message;
  blob_ = TestZstd(tar_.substr(0, 70001)) + TestZstd(tar_.substr(70001));  // the same data
  s = check();
  ASSERT_FALSE(s.ok());
  EXPECT_NE(s.error().message.find("data byte 70000"), std::string::npos) << s.error().message;
}

}  // namespace
}  // namespace fastoci
