// SPDX-License-Identifier: Apache-2.0
#include "image/ext4_fs.h"
#include "image/fs_builder.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>

#include "base/unique_fd.h"
#include "codec/lsmt_writer.h"
#include "codec/read_at.h"
#include "testing/test_image.h"
#include "testing/test_tar.h"

namespace fastoci {
namespace {

std::string Random(size_t n, uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::string s(n, '\0');
  for (char& c : s) c = static_cast<char>(random());
  return s;
}

TestImage Build(const std::vector<std::string>& tars) {
  std::vector<TestImage::Layer> layers;
  for (const std::string& tar : tars) layers.push_back({tar, layers.size() % 2 == 0});
  auto image = TestImage::Make(layers);
  if (!image.ok()) {
    ADD_FAILURE() << image.error().message;
    std::abort();
  }
  EXPECT_EQ(image->Fsck(), "");
  return std::move(*image);
}

Error BuildError(const std::string& tar) {
  auto image = TestImage::Make({{tar, true}});
  EXPECT_FALSE(image.ok());
  return image.ok() ? InvalidError("it was built") : image.error();
}

TEST(Ext4Builder, KeepsContentsOfAllSizes) {
  TestTar t;
  std::vector<size_t> sizes = {0, 1, 511, 512, 513, 4095, 4096, 4097, 8192, 100000, 3000000};
  for (size_t n : sizes) t.File("f" + std::to_string(n), Random(n, static_cast<uint32_t>(n)));
  TestImage image = Build({t.Finish()});
  for (size_t n : sizes) {
    auto f = image.Find("f" + std::to_string(n));
    ASSERT_TRUE(f) << n;
    EXPECT_EQ(f->size, n);
    EXPECT_EQ(f->data, Random(n, static_cast<uint32_t>(n))) << n;
  }
}

TEST(Ext4Builder, KeepsAttributes) {
  TestTar t;
  TestTar::Header h;
  h.name = "./";
  h.type = '5';
  h.mode = 01777;
  h.uid = 5;
  t.Add(h);
  t.Pax({{"uid", "3000000"}, {"gid", "4000000000"}, {"mtime", "5000000000.123456789"}});
  t.File("suid", "x", 04755);
  t.Pax({{"mtime", "-1.5"}});
  t.File("old", "x");
  for (char type : {'3', '4', '6'}) {
    h = TestTar::Header();
    h.name = std::string("dev") + type;
    h.type = type;
    h.dev_major = type == '4' ? 300 : 1;
    h.dev_minor = type == '4' ? 70000 : 3;
    t.Add(h);
  }
  t.Symlink("fast", std::string(59, 'f'));
  t.Symlink("slow", std::string(60, 's'));
  t.Pax({{"linkpath", std::string(4000, 'p')}});
  t.Symlink("slower", "x");
  TestImage image = Build({t.Finish()});
  auto root = image.Find("/");
  EXPECT_EQ(root->mode, 041777u);
  EXPECT_EQ(root->uid, 5u);
  EXPECT_TRUE(image.Find("lost+found") == std::nullopt);
  auto suid = image.Find("suid");
  EXPECT_EQ(suid->mode, 0104755u);
  EXPECT_EQ(suid->uid, 3000000u);
  EXPECT_EQ(suid->gid, 4000000000u);
  EXPECT_EQ(suid->mtime_sec, 5000000000);
  EXPECT_EQ(suid->mtime_nsec, 123456789u);
  EXPECT_EQ(image.Find("old")->mtime_sec, 0);
  EXPECT_EQ(image.Find("old")->mtime_nsec, 0u);
  EXPECT_EQ(image.Find("dev3")->mode & 0170000u, 0020000u);
  EXPECT_EQ(image.Find("dev3")->rdev, 1u << 8 | 3);
  EXPECT_EQ(image.Find("dev4")->rdev, (70000u & 0xff) | 300u << 8 | (70000u & ~0xffu) << 12);
  EXPECT_EQ(image.Find("dev6")->mode & 0170000u, 0010000u);
  EXPECT_EQ(image.List("/").size(), 8u);
}

TEST(Ext4Builder, KeepsExtendedAttributes) {
  std::string capability("\1\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
  TestTar t;
  t.Pax({{"SCHILY.xattr.security.capability", capability}, {"SCHILY.xattr.user.empty", ""}});
  t.File("small", "x");
  t.Pax({{"SCHILY.xattr.user.large", std::string(3000, 'v')},
         {"SCHILY.xattr.trusted.other", std::string(500, 'w')},
         {"SCHILY.xattr.com.apple.quarantine", "left out"}});
  t.File("large", "x");
  TestTar upper;
  upper.File("large", "y");
  upper.Pax({{"SCHILY.xattr.user.d", "1"}});
  upper.Dir("dir");
  TestTar top;
  top.Dir("dir");
  TestImage image = Build({t.Finish()});
  EXPECT_EQ(image.Find("small")->xattrs.at("security.capability"), capability);
  EXPECT_EQ(image.Find("small")->xattrs.at("user.empty"), "");
  auto large = image.Find("large")->xattrs;
  EXPECT_EQ(large.size(), 2u);
  EXPECT_EQ(large.at("user.large"), std::string(3000, 'v'));
  image = Build({t.Finish(), upper.Finish(), top.Finish()});
  EXPECT_TRUE(image.Find("large")->xattrs.empty());
  EXPECT_TRUE(image.Find("dir")->xattrs.empty());
  TestTar too_large;
  too_large.Pax({{"SCHILY.xattr.user.x", std::string(5000, 'v')}});
  too_large.File("a", "");
  EXPECT_NE(BuildError(too_large.Finish()).message.find("extended attributes"), std::string::npos);
}

TEST(Ext4Builder, TimesThatItCannotHoldAreBoundAndSaidOnce) {
  auto builder = FsBuilder::Create(FsType::kExt4, {});
  ASSERT_TRUE(builder.ok());
  std::vector<std::string> said;
  (*builder)->set_warn([&said](const std::string& text) { said.push_back(text); });
  (*builder)->BeginLayer();
  LayerEntry e;
  e.tar.type = TarType::kFifo;
  for (int64_t sec : {int64_t{0}, kMaxExt4Time, kMaxExt4Time + 1, INT64_MAX / 2}) {
    e.tar.path = "x" + std::to_string(sec);
    e.tar.mtime_sec = sec;
    EXPECT_EQ(said.size(), sec > kMaxExt4Time + 1 ? 1u : 0u) << sec;
    ASSERT_TRUE((*builder)->Add(e).ok());
  }
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("2446"), std::string::npos);
  TestTar t;
  t.Pax({{"mtime", "15032385536.5"}});
  t.File("late", "");
  TestImage image = Build({t.Finish()});
  EXPECT_EQ(image.Find("late")->mtime_sec, kMaxExt4Time);
  EXPECT_EQ(image.Find("late")->mtime_nsec, 0u);
}

// What is set as setxattr(2) would.
TEST(Ext4Builder, KeepsAclsThatAreSome) {
  const auto entry = [](unsigned tag, unsigned permissions, uint32_t id) {
    std::string s(8, '\0');
    s[0] = static_cast<char>(tag);
    s[2] = static_cast<char>(permissions);
    for (int i = 0; i < 4; i++) s[static_cast<size_t>(4 + i)] = static_cast<char>(id >> 8 * i);
    return s;
  };
  const std::string version("\2\0\0\0", 4);
  const std::string acl = version + entry(1, 6, UINT32_MAX) + entry(2, 4, 1000) + entry(4, 4, UINT32_MAX) +
                          entry(16, 4, UINT32_MAX) + entry(32, 0, UINT32_MAX);
  TestTar t;
  t.Pax({{"SCHILY.xattr.system.posix_acl_access", ""}, {"SCHILY.xattr.system.posix_acl_default", version}});
  t.Dir("none");
  t.Pax({{"SCHILY.xattr.system.posix_acl_access", std::string("\3\0\0\0x", 5)}, {"SCHILY.xattr.user.a", "1"}});
  t.File("of another version", "");
  t.Pax({{"SCHILY.xattr.system.posix_acl_access", acl}, {"SCHILY.xattr.system.posix_acl_default", acl}});
  t.Dir("some");
  t.Pax({{"SCHILY.xattr.system.posix_acl_access", acl}});
  t.Symlink("symlink", "some");
  TestImage image = Build({t.Finish()});
  EXPECT_TRUE(image.Find("none")->xattrs.empty());
  EXPECT_EQ(image.Find("of another version")->xattrs.size(), 1u);
  EXPECT_EQ(image.Find("some")->xattrs.size(), 2u);
  EXPECT_TRUE(image.Find("symlink")->xattrs.empty());
  const std::vector<std::string> damaged = {
      "x", version + "1234567", version + entry(1, 6, 0), version + entry(1, 8, 0) + entry(4, 4, 0) + entry(32, 0, 0),
      version + entry(1, 6, 0) + entry(2, 4, 1) + entry(4, 4, 0) + entry(32, 0, 0),  // needs a mask
      version + entry(4, 6, 0) + entry(1, 4, 0) + entry(32, 0, 0),
      version + entry(1, 6, 0) + entry(4, 4, 0) + entry(32, 0, 0) + entry(32, 0, 0),
      version + entry(1, 6, 0) + entry(2, 4, UINT32_MAX) + entry(4, 4, 0) + entry(16, 4, 0) + entry(32, 0, 0)};
  for (const std::string& value : damaged) {
    TestTar bad;
    bad.Pax({{"SCHILY.xattr.system.posix_acl_access", value}});
    bad.File("bad", "");
    EXPECT_NE(BuildError(bad.Finish()).message.find("is no ACL"), std::string::npos) << value;
  }
  TestTar file;
  file.Pax({{"SCHILY.xattr.system.posix_acl_default", acl}});
  file.File("bad", "");
  EXPECT_NE(BuildError(file.Finish()).message.find("only a directory"), std::string::npos);
}

TEST(Ext4Builder, WhiteoutsHideLowerLayersOnly) {
  TestTar lower;
  lower.File("etc/a", "a");
  lower.File("etc/b", "b");
  lower.File("opq/old1", "1");
  lower.File("opq/sub/old2", "2");
  TestTar upper;
  upper.File("etc/.wh.a", "");
  upper.File("opq/new", "n");
  upper.File("opq/sub/new", "n");
  upper.File("opq/.wh..wh..opq", "");
  upper.File("opq/old1", "again");
  upper.File("c", "c");
  upper.File(".wh.c", "");           // brought by this layer: stays
  upper.File("missing/.wh.x", "");   // nothing to hide, but it has a directory
  TestImage image = Build({lower.Finish(), upper.Finish()});
  EXPECT_EQ(image.List("etc"), (std::vector<std::string>{"b"}));
  EXPECT_EQ(image.List("opq"), (std::vector<std::string>{"new", "old1", "sub"}));
  EXPECT_EQ(image.List("opq/sub"), (std::vector<std::string>{"new"}));
  EXPECT_EQ(image.Find("opq/old1")->data, "again");
  EXPECT_EQ(image.List("/"), (std::vector<std::string>{"c", "etc", "missing", "opq"}));
}

// As containerd with overlayfs and docker unpack it: into a directory of the layer's own.
TEST(Ext4Builder, ALowerLayersLinkInAPathIsNotFollowed) {
  TestTar lower;
  lower.Dir("usr/", 0750);
  lower.Dir("usr/lib/", 0711);
  lower.Dir("usr/lib/sub/", 01777);
  lower.File("usr/lib/old", "o");
  lower.Symlink("lib", "usr/lib");
  lower.Symlink("wl", "usr/lib");
  lower.Symlink("ol", "/usr/lib");
  lower.Symlink("dangling", "no/where");
  TestTar upper;
  upper.File("lib/foo", "f");
  upper.File("lib/bar", "b");
  upper.File("lib/sub/x", "x");
  upper.File("wl/.wh.old", "");
  upper.File("ol/.wh..wh..opq", "");
  upper.File("dangling/x", "x");
  upper.Symlink("own", "usr/lib");  // the layer's own is
  upper.File("own/new", "n");
  TestImage image = Build({lower.Finish(), upper.Finish()});
  EXPECT_EQ(image.List("usr/lib"), (std::vector<std::string>{"new", "old", "sub"}));
  EXPECT_EQ(image.List("usr/lib/sub"), std::vector<std::string>());
  EXPECT_EQ(image.List("lib"), (std::vector<std::string>{"bar", "foo", "sub"}));
  EXPECT_EQ(image.List("wl"), std::vector<std::string>());
  EXPECT_EQ(image.List("ol"), std::vector<std::string>());
  EXPECT_EQ(image.List("dangling"), std::vector<std::string>{"x"});
  // With the attributes of where the path led.
  EXPECT_EQ(image.Find("lib")->mode, 0040711u);
  EXPECT_EQ(image.Find("lib")->mtime_sec, 1600000000);
  EXPECT_EQ(image.Find("wl")->mode, 0040711u);
  EXPECT_EQ(image.Find("dangling")->mode, 0040755u);
  EXPECT_EQ(image.Find("own")->mode & 0170000u, 0120000u);
  auto erofs = TestImage::Make({{lower.Finish(), true}, {upper.Finish(), true}}, FsType::kErofs);
  ASSERT_TRUE(erofs.ok()) << erofs.error().message;
  EXPECT_EQ(erofs->Fsck(), "");
}

// A path that was resolved is resolved again when a link in it went, even if that keeps another name.
TEST(Ext4Builder, ALinkInAPathMayGoWithinALayer) {
  TestTar t;
  t.Dir("target");
  t.Symlink("d", "target");
  t.HardLink("other", "d");
  t.File("d/x", "1");
  t.Dir("d");
  t.File("d/y", "2");
  TestImage image = Build({t.Finish()});
  EXPECT_EQ(image.List("target"), std::vector<std::string>{"x"});
  EXPECT_EQ(image.List("d"), std::vector<std::string>{"y"});
}

TEST(Ext4Builder, TypesReplaceEachOther) {
  TestTar lower;
  lower.File("d/x/y", "1");
  lower.File("f", Random(20000));
  lower.Symlink("s", "d");
  TestTar upper;
  upper.File("d", "file now");
  upper.File("f/inside", "directory now");
  upper.Dir("s");
  TestImage image = Build({lower.Finish(), upper.Finish()});
  EXPECT_EQ(image.Find("d")->data, "file now");
  EXPECT_EQ(image.Find("f/inside")->data, "directory now");
  EXPECT_EQ(image.Find("s")->mode & 0170000u, 0040000u);
  TestTar bad;  // of one layer
  bad.File("f", "");
  bad.File("f/inside", "");
  EXPECT_NE(BuildError(bad.Finish()).message.find("not a directory"), std::string::npos);
}

TEST(Ext4Builder, HardLinksReachLowerLayers) {
  TestTar lower;
  lower.File("a", "data");
  lower.HardLink("b", "a");
  TestTar upper;
  upper.HardLink("c", "a");
  upper.File(".wh.a", "");
  TestTar top;
  top.File("b", "own");
  TestImage image = Build({lower.Finish(), upper.Finish(), top.Finish()});
  EXPECT_EQ(image.List("/"), (std::vector<std::string>{"b", "c"}));
  EXPECT_EQ(image.Find("c")->data, "data");
  EXPECT_EQ(image.Find("c")->links, 1u);
  image = Build({lower.Finish(), upper.Finish()});
  EXPECT_EQ(image.Find("c")->links, 2u);
  EXPECT_EQ(image.Find("c")->ino, image.Find("b")->ino);
  TestTar bad;
  bad.HardLink("x", "nowhere");
  EXPECT_NE(BuildError(bad.Finish()).message.find("does not exist"), std::string::npos);
  TestTar dir;
  dir.Dir("d");
  dir.HardLink("x", "d");
  EXPECT_NE(BuildError(dir.Finish()).message.find("directory"), std::string::npos);
}

TEST(Ext4Builder, TheHeaderOfAHardLinkDecides) {
  TestTar lower;
  lower.Pax({{"SCHILY.xattr.user.a", "1"}, {"SCHILY.xattr.user.b", "2"}});
  lower.File("a", "data", 0644);
  lower.Symlink("s", "a");
  TestTar upper;
  TestTar::Header h;
  h.name = "b";
  h.type = '1';
  h.link = "a";
  h.mode = 04711;
  h.uid = 5;
  h.gid = 6;
  h.mtime = 1234567890;
  upper.Pax({{"SCHILY.xattr.user.b", "3"}, {"SCHILY.xattr.user.c", "4"}});
  upper.Add(h);
  h.name = "s2";
  h.link = "s";
  upper.Add(h);
  TestImage image = Build({lower.Finish(), upper.Finish()});
  for (const char* name : {"a", "b"}) {
    auto f = image.Find(name);
    EXPECT_EQ(f->mode, 0104711u) << name;
    EXPECT_EQ(f->uid, 5u);
    EXPECT_EQ(f->gid, 6u);
    EXPECT_EQ(f->mtime_sec, 1234567890);
    EXPECT_EQ(f->links, 2u);
    EXPECT_EQ(f->data, "data");
    EXPECT_EQ(f->xattrs, (std::map<std::string, std::string>{{"user.a", "1"}, {"user.b", "3"}, {"user.c", "4"}}));
  }
  EXPECT_EQ(image.Find("s2")->mode, 0120777u);
  EXPECT_EQ(image.Find("s2")->uid, 5u);
}

TEST(Ext4Builder, ResolvesHardLinksIntoAufssDirectory) {
  TestTar t;
  t.Dir(".wh..wh.plnk");
  t.File(".wh..wh.plnk/12.34", Random(5000), 0600);
  t.File(".wh..wh.aufs", "");
  t.HardLink("a", ".wh..wh.plnk/12.34");
  t.HardLink("dir/b", "./.wh..wh.plnk/12.34");
  TestImage image = Build({t.Finish()});
  EXPECT_EQ(image.List("/"), (std::vector<std::string>{"a", "dir"}));
  for (const char* name : {"a", "dir/b"}) {
    EXPECT_EQ(image.Find(name)->data, Random(5000)) << name;
    EXPECT_EQ(image.Find(name)->mode, 0100600u);
    EXPECT_EQ(image.Find(name)->links, 1u);  // as containerd unpacks it
  }
  TestTar bad;
  bad.HardLink("a", ".wh..wh.plnk/none");
  EXPECT_NE(BuildError(bad.Finish()).message.find("does not exist"), std::string::npos);
}

TEST(Ext4Builder, MoreHardLinksThanItHoldsNameErofs) {
  auto builder = FsBuilder::Create(FsType::kExt4, {});
  ASSERT_TRUE(builder.ok());
  (*builder)->BeginLayer();
  LayerEntry e;
  e.tar.type = TarType::kFifo;
  e.tar.path = "first";
  ASSERT_TRUE((*builder)->Add(e).ok());
  e.tar.type = TarType::kHardLink;
  e.tar.link = "first";
  Status status = OkStatus();
  for (uint32_t i = 1; i <= kMaxLinks && status.ok(); i++) {
    e.tar.path = "link" + std::to_string(i);
    status = (*builder)->Add(e);
    ASSERT_EQ(status.ok(), i < kMaxLinks) << i;
  }
  EXPECT_NE(status.error().message.find("--fstype erofs"), std::string::npos) << status.error().message;
}

TEST(Ext4Builder, StoresWhatCannotBeMapped) {
  // Two runs of which neither ends nor begins at a multiple of 512.
  std::string data = Random(100) + Random(700, 2) + Random(5000, 3);
  TestTar t;
  t.Pax({{"GNU.sparse.map", "50,100,400,700,20000,5000"}, {"GNU.sparse.size", "30000"}});
  t.File("unaligned", data);
  std::string aligned = Random(1024) + Random(600, 2);
  t.Pax({{"GNU.sparse.map", "4096,1024,16384,600"}, {"GNU.sparse.size", "20000"}});
  t.File("aligned", aligned);
  size_t at = t.bytes().size();
  t.File("padding", "abc");
  std::string tar = t.Finish();
  tar[at + 512 + 300] = 'P';
  TestImage image = Build({tar});
  std::string want(30000, '\0');
  want.replace(50, 100, data.substr(0, 100));
  want.replace(400, 700, data.substr(100, 700));
  want.replace(20000, 5000, data.substr(800));
  EXPECT_EQ(image.Find("unaligned")->data, want);
  want.assign(20000, '\0');
  want.replace(4096, 1024, aligned.substr(0, 1024));
  want.replace(16384, 600, aligned.substr(1024));
  EXPECT_EQ(image.Find("aligned")->data, want);
  EXPECT_EQ(image.Find("padding")->data, "abc");
  // Nothing of the padding may be on the device.
  auto names = image.List("/");
  EXPECT_EQ(names.size(), 3u);
}

TEST(Ext4Builder, LargeDirectoriesAreHashTreesAndChangeLittle) {
  constexpr int kFiles = 20000;
  TestTar lower;
  for (int i = 0; i < kFiles; i++)
    lower.File("d/" + std::to_string(i) + std::string(static_cast<size_t>(i % 50), 'x'), "");
  TestTar upper;
  for (int i = 0; i < kFiles; i += 100)
    upper.File("d/.wh." + std::to_string(i) + std::string(static_cast<size_t>(i % 50), 'x'), "");
  TestTar top;
  top.File("d/one more", "1");
  TestImage image = Build({lower.Finish(), upper.Finish(), top.Finish()});
  EXPECT_NE(image.Find("d")->flags & EXT2_INDEX_FL, 0u);
  EXPECT_EQ(image.List("d").size(), static_cast<size_t>(kFiles - kFiles / 100 + 1));
  EXPECT_EQ(image.Find("d/one more")->data, "1");
  EXPECT_TRUE(image.Find("d/1x"));
  // One leaf of the directory, not all of its blocks.
  EXPECT_LT(image.meta_layers()[2].size(), 16u << 10);
}

TEST(Ext4Builder, ManyExtentsNeedATree) {
  std::string map, data;
  for (int i = 0; i < 2000; i++) {
    map += (i ? "," : "") + std::to_string(i * 8192) + ",512";
    data += std::string(512, static_cast<char>(i));
  }
  TestTar t;
  t.Pax({{"GNU.sparse.map", map}, {"GNU.sparse.size", std::to_string(2000 * 8192)}});
  t.File("s", data);
  TestTar upper;
  upper.File(".wh.s", "");
  TestImage image = Build({t.Finish()});
  auto f = image.Find("s");
  for (size_t i = 0; i < 2000; i++)
    ASSERT_EQ(f->data.substr(i * 8192, 513), std::string(512, static_cast<char>(i)) + '\0');
  Build({t.Finish(), upper.Finish()});
}

TEST(Ext4Builder, IsReproducible) {
  TestTar t;
  for (int i = 0; i < 500; i++) t.File("d" + std::to_string(i % 7) + "/" + std::to_string(i), Random(900));
  TestTar upper;
  upper.File("d3/.wh..wh..opq", "");
  upper.HardLink("d3/x", "d1/1");
  TestImage a = Build({t.Finish(), upper.Finish()}), b = Build({t.Finish(), upper.Finish()});
  EXPECT_EQ(a.meta_layers(), b.meta_layers());
  EXPECT_EQ(a.assembled(), b.assembled());
}

TEST(Ext4Builder, SmallLayersStaySmall) {
  TestTar lower, upper;
  for (int i = 0; i < 1000; i++) lower.File("usr/" + std::to_string(i), "x");
  upper.File("etc/one", "1");
  TestImage image = Build({lower.Finish(), upper.Finish()});
  EXPECT_LT(image.meta_layers()[1].size(), 4096u);
}

TEST(Ext4Builder, DirectoriesDeeperThanAStackGoAway) {
  TestTar lower;
  std::string path;
  for (int i = 0; i < 800; i++) path += "d/";
  lower.Pax({{"path", path + "f"}});
  lower.File("x", "x");
  lower.Pax({{"linkpath", path}});
  lower.Symlink("s", "x");
  lower.Pax({{"path", "s/" + path + "g"}});
  lower.File("x", "x");
  TestTar upper;
  upper.File(".wh.d", "");
  TestImage image = Build({lower.Finish(), upper.Finish()});
  EXPECT_EQ(image.List("/"), (std::vector<std::string>{"s"}));
}

TEST(Ext4Builder, RefusesSymlinkLoops) {
  TestTar t;
  t.Symlink("a", "b");
  t.Symlink("b", "a");
  t.File("a/x", "");
  EXPECT_NE(BuildError(t.Finish()).message.find("too many symbolic links"), std::string::npos);
}

// What mke2fs makes, as a layer.
std::string MakeBase(const std::string& features, const std::string& options = "", const char* size = "4G") {
  const std::string path = testing::TempDir() + "base.img";
  ::unlink(path.c_str());
  const std::string command = "mke2fs -q -t ext4 -E lazy_itable_init=1,nodiscard -O " + features + " " + options +
                              " " + path + " " + size + " > /dev/null";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const auto bytes = static_cast<uint64_t>(::lseek(fd.get(), 0, SEEK_END));
  FdFile file(fd.get(), bytes);
  LsmtBuilder lsmt;
  const std::vector<ByteRun> runs = *file.DataRuns();
  for (const ByteRun& run : runs) {
    const uint64_t begin = run.offset / 4096 * 4096;
    const uint64_t end = std::min(bytes, (run.offset + run.bytes + 4095) / 4096 * 4096);
    Bytes data(end - begin);
    EXPECT_TRUE(file.ReadAt(begin, data).ok());
    lsmt.AddData(begin / kSectorBytes, data);
  }
  auto content = lsmt.Finish(bytes);
  Bytes out = *MakeFsMeta(*content, bytes);
  ::unlink(path.c_str());
  return {out.begin(), out.end()};
}

TEST(Ext4Builder, BuildsOnABaseLayer) {
  for (const char* features :
       {"^has_journal,metadata_csum,64bit", "^has_journal,metadata_csum,^64bit,^resize_inode",
        "^has_journal,^metadata_csum,^64bit,uninit_bg", "^has_journal,^metadata_csum,^flex_bg,^dir_index"}) {
    TestTar a, b, c;
    for (int i = 0; i < 300; i++) a.File("many/file" + std::to_string(i), Random(100, static_cast<uint32_t>(i)));
    a.File("big", Random(3000000));
    b.File("many/.wh.file7", "");
    b.File("lost+found/x", "in the base layer's directory");
    b.HardLink("link", "big");
    c.File(".wh.lost+found", "");
    std::string base = MakeBase(features);
    std::vector<TestImage::Layer> layers = {{a.Finish(), true}, {b.Finish(), false}};
    auto two = TestImage::Make(layers, FsType::kExt4, base);
    ASSERT_TRUE(two.ok()) << features << ": " << two.error().message;
    EXPECT_EQ(two->Fsck(), "") << features;
    EXPECT_EQ(two->Find("big")->data, Random(3000000));
    EXPECT_EQ(two->Find("link")->links, 2u);
    EXPECT_EQ(two->List("many").size(), 299u);
    EXPECT_EQ(two->List("lost+found").size(), 1u);
    layers.push_back({c.Finish(), true});
    auto three = TestImage::Make(layers, FsType::kExt4, base);
    ASSERT_TRUE(three.ok()) << features << ": " << three.error().message;
    EXPECT_EQ(three->Fsck(), "") << features;
    EXPECT_FALSE(three->Find("lost+found"));
    EXPECT_EQ(TestImage::Make(layers, FsType::kExt4, base)->meta_layers(), three->meta_layers());
  }
}

TEST(Ext4Builder, RefusesABaseLayerThatItCannotContinue) {
  TestTar t;
  t.File("x", "y");
  const TestImage::Layer layer = {t.Finish(), true};
  auto error = [&](const std::string& features, const std::string& options = "", const char* size = "4G") {
    auto image = TestImage::Make({layer}, FsType::kExt4, MakeBase(features, options, size));
    return image.ok() ? "it was built" : image.error().message;
  };
  auto unsupported = [&](const std::string& features) {
    return error(features).find("features that are not supported") != std::string::npos;
  };
  EXPECT_TRUE(unsupported("has_journal"));
  EXPECT_TRUE(unsupported("^has_journal,bigalloc"));
  EXPECT_TRUE(unsupported("^has_journal,inline_data"));
  EXPECT_NE(error("^has_journal", "-b 1024").find("blocks of 1024"), std::string::npos);
  EXPECT_NE(error("^has_journal,^64bit,^extents").find("lacks"), std::string::npos);
  EXPECT_NE(error("^has_journal", "-d helper/testing").find("is not empty"), std::string::npos);
  EXPECT_NE(error("^has_journal", "", "1G").find("4 to 2047 GiB"), std::string::npos);
}

}  // namespace
}  // namespace fastoci
