// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/directories.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "attach/bounded.h"
#include "base/unique_fd.h"
#include "snapshotter/tree.h"

namespace fastoci {
namespace {

constexpr int kSkipped = 200;  // of a child that may not do what the test needs

bool Exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

void WriteTo(const std::string& path, size_t bytes) {
  ASSERT_TRUE(WriteFileAtomic(path, Bytes(bytes, 'x')).ok()) << path;
}

class DirectoriesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/fastoci-directories.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    root_ = name;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(root_).ok()); }

  // A directory in a directory in ..., and a file of bytes in the lowest one.
  void MakeDeep(const std::string& path, const std::string& name, int levels, size_t bytes) {
    UniqueFd at(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (int i = 0; i < levels; i++) {
      ASSERT_EQ(::mkdirat(at.get(), name.c_str(), 0700), 0);
      at.reset(::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      ASSERT_TRUE(at.valid());
    }
    UniqueFd file(::openat(at.get(), "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(WriteFull(file.get(), Bytes(bytes, 'x'), "file").ok());
    ASSERT_EQ(::fsync(file.get()), 0);  // its blocks are given to it
  }

  std::string root_;
};

TEST_F(DirectoriesTest, MeasuresEachFileOnce) {
  ASSERT_EQ(::mkdir((root_ + "/d").c_str(), 0700), 0);
  WriteTo(root_ + "/d/one", 100000);
  ASSERT_EQ(::link((root_ + "/d/one").c_str(), (root_ + "/two").c_str()), 0);
  ASSERT_EQ(::symlink("/", (root_ + "/link").c_str()), 0);
  const DiskUsage usage = MeasureDirectory(root_);
  EXPECT_EQ(usage.inodes, 4);
  EXPECT_GE(usage.bytes, 100000);
  EXPECT_EQ(MeasureDirectory(root_ + "/none").inodes, 0);
}

// A container that makes such a tree must neither hide what it occupies nor keep it for ever.
TEST_F(DirectoriesTest, ATreeWithPathsLongerThanAPathMayBe) {
  const std::string name(200, 'n');
  MakeDeep(root_, name, 50, 100000);
  const DiskUsage usage = MeasureDirectory(root_);
  EXPECT_EQ(usage.inodes, 52);
  EXPECT_GE(usage.bytes, 100000);
  Status removed = RemoveTree(root_ + "/" + name);
  EXPECT_TRUE(removed.ok()) << removed.error().message;
  EXPECT_FALSE(Exists(root_ + "/" + name));
}

TEST_F(DirectoriesTest, ATreeWithMoreLevelsThanDescriptors) {
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few = {64, before.rlim_max};
  MakeDeep(root_, "d", 500, 1);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  EXPECT_EQ(MeasureDirectory(root_).inodes, 502);
  Status removed = RemoveTree(root_ + "/d");
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(removed.ok()) << removed.error().message;
  EXPECT_FALSE(Exists(root_ + "/d"));
}

TEST_F(DirectoriesTest, NothingThatIsMountedThereGoesAndAllElseDoes) {
  const std::string tree = root_ + "/tree", outside = root_ + "/outside", mounted = tree + "/a/mounted";
  for (const std::string& dir : {tree, tree + "/a", mounted, tree + "/b", outside})
    ASSERT_EQ(::mkdir(dir.c_str(), 0700), 0);
  WriteTo(outside + "/file", 10);
  for (const char* name : {"/a/one", "/a/two", "/b/one", "/one"}) WriteTo(tree + name, 10);
  // In a child, with mounts of its own. The same file system lies there.
  auto code = RunBounded("removal", 10000, {}, [&] {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount(outside.c_str(), mounted.c_str(), nullptr, MS_BIND, nullptr) != 0)
      return kSkipped;
    if (MeasureDirectory(tree).inodes != 7) return 1;
    Status removed = RemoveTree(tree);
    if (removed.ok() || removed.error().err != EBUSY) return 2;
    return Exists(mounted + "/file") ? 0 : 3;
  });
  if (code.ok() && *code == kSkipped) GTEST_SKIP() << "this needs mounts";
  ASSERT_TRUE(code.ok()) << code.error().message;
  EXPECT_EQ(*code, 0);
  EXPECT_TRUE(Exists(outside + "/file"));
  for (const char* name : {"/a/one", "/a/two", "/b", "/one"}) EXPECT_FALSE(Exists(tree + name)) << name;
}

// A container may move directories while they are measured.
TEST_F(DirectoriesTest, AWalkComesBackFromADirectoryThatWasMoved) {
  for (const char* dir : {"/a", "/a/b", "/a/b/c", "/z"}) ASSERT_EQ(::mkdir((root_ + dir).c_str(), 0700), 0);
  WriteTo(root_ + "/a/b/c/file", 1);
  WriteTo(root_ + "/z/file", 1);
  std::string seen;
  Status walked = WalkTree(root_, {[&](int parent, const char*) {
                                     struct stat st, z;
                                     ASSERT_EQ(::fstat(parent, &st), 0);
                                     ASSERT_EQ(::stat((root_ + "/z").c_str(), &z), 0);
                                     if (st.st_ino == z.st_ino) return void(seen += "z/file ");
                                     seen += "c/file ";
                                     ASSERT_EQ(::rename((root_ + "/a/b").c_str(), (root_ + "/moved").c_str()), 0);
                                   },
                                   [&](int, const char* name) { seen += std::string(name) + " "; }});
  EXPECT_TRUE(walked.ok());
  for (const char* name : {"z/file", "c/file", "z ", "a "}) EXPECT_NE(seen.find(name), std::string::npos) << seen;
}

TEST_F(DirectoriesTest, WhatASnapshotHadGoesWithIt) {
  auto store = SnapshotStore::Open(root_ + "/metadata.db");
  ASSERT_TRUE(store.ok());
  auto directories = SnapshotDirectories::Open(root_, store->get());
  ASSERT_TRUE(directories.ok());
  auto id = (*directories)->Make(true);
  ASSERT_TRUE(id.ok());
  MakeDeep((*directories)->Files(*id), std::string(250, 'n'), 40, 10);
  (*directories)->Adopt(*id);
  Status removed = (*directories)->RemoveRubbish();
  EXPECT_TRUE(removed.ok()) << removed.error().message;
  EXPECT_FALSE(Exists((*directories)->Dir(*id)));
}

}  // namespace
}  // namespace fastoci
