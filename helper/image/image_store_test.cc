// SPDX-License-Identifier: Apache-2.0
#include "image/image_store.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/digest.h"
#include "image/copy.h"

namespace fastoci {
namespace {

// Who wrote the layout may have written anything.
TEST(LayoutStore, MembersOfAnotherTypeCountAsAbsent) {
  char name[] = "/tmp/layout_test.XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string dir = name;
  {
    auto made = OpenLayoutStore(dir, true);
    ASSERT_TRUE(made.ok()) << made.error().message;
  }
  std::ofstream(dir + "/index.json")
      << R"({"manifests": [1, {"digest": 5}, {"digest": {}, "annotations":)"
         R"( {"org.opencontainers.image.ref.name": "t"}}, {"annotations": []}]})";
  auto store = OpenLayoutStore(dir);
  ASSERT_TRUE(store.ok());
  EXPECT_FALSE((*store)->GetManifest("t").ok());
  EXPECT_FALSE((*store)->Referrers("sha256:0", "").ok());
  auto put = (*store)->PutManifest("new", "application/json", R"({"subject": {"digest": 7}})");
  ASSERT_TRUE(put.ok()) << put.error().message;
  EXPECT_TRUE((*store)->GetManifest("new").ok());
  ASSERT_EQ(std::system(("rm -rf " + dir).c_str()), 0);
}

class LayoutTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/layout_test.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    Reopen();
  }
  void TearDown() override { ASSERT_EQ(std::system(("rm -rf " + dir_).c_str()), 0); }
  void Reopen() {
    auto store = OpenLayoutStore(dir_, true);
    ASSERT_TRUE(store.ok()) << store.error().message;
    store_ = std::move(*store);
  }
  std::string dir_;
  std::unique_ptr<ImageStore> store_;
};

TEST_F(LayoutTest, WritersOfTagsLoseNone) {
  std::vector<std::thread> writers;
  for (int w = 0; w < 4; w++)
    writers.emplace_back([this, w] {
      for (int i = 0; i < 10; i++) {
        const std::string tag = "t" + std::to_string(w) + "-" + std::to_string(i);
        auto store = OpenLayoutStore(dir_, true);
        ASSERT_TRUE(store.ok() && (*store)->PutManifest(tag, kOciManifest, "{\"a\":\"" + tag + "\"}").ok());
      }
    });
  for (std::thread& t : writers) t.join();
  for (int w = 0; w < 4; w++)
    for (int i = 0; i < 10; i++)
      EXPECT_TRUE(store_->GetManifest("t" + std::to_string(w) + "-" + std::to_string(i)).ok()) << w << " " << i;
  for (const auto& file : std::filesystem::directory_iterator(dir_))
    EXPECT_EQ(file.path().string().find(".tmp"), std::string::npos) << file.path();
}

TEST_F(LayoutTest, WhatAManifestIsMayStandInItsContentAlone) {
  ASSERT_TRUE(store_->PutManifest("index", kOciIndex, R"({"schemaVersion":2,"manifests":[]})").ok());
  ASSERT_TRUE(store_->PutManifest("image", kOciManifest, R"({"schemaVersion":2,"layers":[]})").ok());
  ASSERT_TRUE(store_->PutManifest("own", "x/y", R"({"mediaType":"x/y"})").ok());
  EXPECT_EQ(store_->GetManifest("index")->media_type, kOciIndex);
  EXPECT_EQ(store_->GetManifest("image")->media_type, kOciManifest);
  EXPECT_EQ(store_->GetManifest("own")->media_type, "x/y");
}

// The keeper tag is there because the original may be deleted.
TEST_F(LayoutTest, AnImageIsCopiedWithoutTheOriginalThatIsGone) {
  const std::string gone = "sha256:" + std::string(64, '1');
  const std::string body = R"({"schemaVersion":2,"layers":[],"subject":{"digest":")" + gone + R"("}})";
  ASSERT_TRUE(store_->PutManifest("t", kOciManifest, body).ok());
  auto to = OpenLayoutStore(dir_ + "/to", true);
  ASSERT_TRUE(to.ok());
  std::vector<std::string> warnings;
  CopyOptions options{.scratch_dir = dir_, .warn = [&](const std::string& text) { warnings.push_back(text); }};
  auto copied = CopyImage(store_.get(), "t", to->get(), "u", options);
  ASSERT_TRUE(copied.ok()) << copied.error().message;
  EXPECT_EQ((*to)->GetManifest("u")->body, body);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find(gone), std::string::npos);
}

TEST(LayoutStore, ABlobThatIsNotWhatItsNameSaysIsRefused) {
  char name[] = "/tmp/layout_test.XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string dir = name, digest = DigestString(Sha256::Of(AsBytes(std::string(3 << 20, 'b'))));
  auto store = OpenLayoutStore(dir, true);
  ASSERT_TRUE(store.ok());
  ASSERT_TRUE((*store)->PutBlob(digest, AsBytes(std::string(3 << 20, 'b'))).ok());
  std::string got;
  auto get = [&](Status answer) {
    got.clear();
    return (*store)->GetBlob(digest, 3 << 20, [&](ByteSpan data) {
      got.append(data.begin(), data.end());
      return answer;
    });
  };
  EXPECT_TRUE(get(OkStatus()).ok());
  EXPECT_EQ(got, std::string(3 << 20, 'b'));
  EXPECT_EQ(get(InvalidError("enough")).error().message, "enough");
  std::fstream file(dir + "/blobs/sha256/" + digest.substr(7), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp((3 << 20) - 1);
  file << 'c';
  file.close();
  EXPECT_EQ(get(OkStatus()).error().kind, ErrorKind::kMismatch);
  ASSERT_EQ(std::system(("rm -rf " + dir).c_str()), 0);
}

}  // namespace
}  // namespace fastoci
