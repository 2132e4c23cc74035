// SPDX-License-Identifier: Apache-2.0
// erofs-utils is the reader: fsck.erofs must find nothing wrong and extract what
// the layers hold. Attributes are compared on a mounted one, in the VM case
// "convert".
#include "image/erofs_builder.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "testing/test_image.h"
#include "testing/test_tar.h"

namespace fastoci {
namespace {

namespace fs = std::filesystem;

std::string Random(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::string s(n, '\0');
  for (char& c : s) c = static_cast<char>(random());
  return s;
}

class ErofsBuilderTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/erofs.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { fs::remove_all(dir_); }

  void Extract(const std::vector<std::string>& tars) {
    std::vector<TestImage::Layer> layers;
    for (const std::string& tar : tars) layers.push_back({tar, layers.size() % 2 == 0});
    auto image = TestImage::Make(layers, FsType::kErofs);
    ASSERT_TRUE(image.ok()) << image.error().message;
    EXPECT_EQ(image->Fsck(), "");
    fs::remove_all(dir_);
    std::string command = "fsck.erofs --extract=" + dir_ + " --no-preserve " + image->path() + " 2>&1";
    ASSERT_EQ(std::system(command.c_str()), 0);
  }
  std::string Read(const std::string& path) {
    std::ifstream f(dir_ + "/" + path, std::ios::binary);
    std::stringstream s;
    s << f.rdbuf();
    return s.str();
  }
  std::vector<std::string> List(const std::string& path) {
    std::vector<std::string> names;
    for (const auto& e : fs::directory_iterator(dir_ + "/" + path)) names.push_back(e.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  std::string dir_;
};

TEST_F(ErofsBuilderTest, KeepsContentsOfAllSizes) {
  TestTar t;
  std::vector<size_t> sizes = {0, 1, 511, 512, 513, 4095, 4096, 4097, 100000, 3000000};
  for (size_t n : sizes) t.File("f" + std::to_string(n), Random(n, static_cast<uint32_t>(n)));
  t.Pax({{"linkpath", std::string(300, 'l')}});
  t.Symlink("link", "x");
  std::string sparse = Random(100, 1) + Random(700, 2);
  t.Pax({{"GNU.sparse.map", "50,100,20000,700"}, {"GNU.sparse.size", "30000"}});
  t.File("sparse", sparse);
  Extract({t.Finish()});
  for (size_t n : sizes) EXPECT_EQ(Read("f" + std::to_string(n)), Random(n, static_cast<uint32_t>(n))) << n;
  EXPECT_EQ(fs::read_symlink(dir_ + "/link").string(), std::string(300, 'l'));
  std::string want(30000, '\0');
  want.replace(50, 100, sparse.substr(0, 100));
  want.replace(20000, 700, sparse.substr(100));
  EXPECT_EQ(Read("sparse"), want);
}

TEST_F(ErofsBuilderTest, UpperLayersChangeAndHide) {
  TestTar lower, upper;
  lower.File("etc/a", "a");
  lower.File("etc/b", "b");
  lower.File("opq/old", "1");
  lower.File("gone/x/y", "1");
  upper.File("etc/.wh.a", "");
  upper.File("etc/b", Random(9000, 1));
  upper.File("opq/.wh..wh..opq", "");
  upper.File("opq/new", "n");
  upper.File(".wh.gone", "");
  Extract({lower.Finish(), upper.Finish()});
  EXPECT_EQ(List(""), (std::vector<std::string>{"etc", "opq"}));
  EXPECT_EQ(List("etc"), (std::vector<std::string>{"b"}));
  EXPECT_EQ(Read("etc/b"), Random(9000, 1));
  EXPECT_EQ(List("opq"), (std::vector<std::string>{"new"}));
}

TEST_F(ErofsBuilderTest, HardLinksReachLowerLayers) {
  TestTar lower, upper, top;
  lower.File("a", "data");
  upper.HardLink("d/b", "a");
  top.File(".wh.a", "");
  Extract({lower.Finish(), upper.Finish()});
  EXPECT_EQ(Read("a"), "data");
  EXPECT_EQ(Read("d/b"), "data");
  Extract({lower.Finish(), upper.Finish(), top.Finish()});
  EXPECT_EQ(Read("d/b"), "data");
  EXPECT_FALSE(fs::exists(dir_ + "/a"));
}

// Directories outgrow their records, then their blocks, layer by layer.
TEST_F(ErofsBuilderTest, DirectoriesGrow) {
  std::vector<std::string> tars, want;
  for (int layer = 0; layer < 6; layer++) {
    TestTar t;
    for (int i = 0; i < 1 << (2 * layer); i++) {
      std::string name = std::to_string(layer) + "." + std::to_string(i) + std::string(i % 90, 'n');
      t.File("d/" + name, "x");
      t.File("root" + name, "y");
      want.push_back(name);
    }
    tars.push_back(t.Finish());
    Extract(tars);
    std::sort(want.begin(), want.end());
    ASSERT_EQ(List("d"), want) << layer;
    ASSERT_EQ(List("").size(), want.size() + 1) << layer;
  }
}

// A directory whose attributes no longer fit moves; names that lead to it follow.
TEST_F(ErofsBuilderTest, DirectoriesMove) {
  TestTar lower, upper;
  lower.Dir("p/d/sub");
  lower.File("p/d/f", "f");
  upper.Pax({{"SCHILY.xattr.user.large", std::string(5000, 'v')}});
  upper.Dir("p/d");
  upper.Pax({{"SCHILY.xattr.user.root", std::string(500, 'v')}});
  upper.Dir("./");
  Extract({lower.Finish(), upper.Finish()});
  EXPECT_EQ(Read("p/d/f"), "f");
  EXPECT_EQ(List("p/d"), (std::vector<std::string>{"f", "sub"}));
  TestTar too_large;
  too_large.Pax({{"SCHILY.xattr.user.root", std::string(5000, 'v')}});
  too_large.Dir("./");
  auto refused = TestImage::Make({{too_large.Finish(), true}}, FsType::kErofs);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("root directory"), std::string::npos);
}

// A hard link's header may give a file of a lower layer attributes that no longer fit.
TEST_F(ErofsBuilderTest, FilesMoveWithAllOfTheirNames) {
  TestTar lower, upper;
  lower.Pax({{"SCHILY.xattr.user.a", "1"}});
  lower.File("p/a", "data");
  lower.HardLink("q/r/b", "p/a");
  upper.Pax({{"SCHILY.xattr.user.large", std::string(5000, 'v')}});
  upper.HardLink("c", "p/a");
  Extract({lower.Finish(), upper.Finish()});
  const std::vector<std::string> names = {"p/a", "q/r/b", "c"};
  for (const std::string& name : names) EXPECT_EQ(Read(name), "data") << name;
  // Names and values lie there as they are.
  auto image = TestImage::Make({{lower.Finish(), true}, {upper.Finish(), true}}, FsType::kErofs);
  ASSERT_TRUE(image.ok());
  const Bytes& bytes = image->assembled();
  const std::string all(bytes.begin(), bytes.end());
  const size_t at = all.find("large" + std::string(5000, 'v'));
  ASSERT_NE(at, std::string::npos);
  EXPECT_NE(all.substr(at - 40, 40).find("a1"), std::string::npos) << "what it had before";
}

}  // namespace
}  // namespace fastoci
