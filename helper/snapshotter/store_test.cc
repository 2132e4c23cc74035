// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/store.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/unique_fd.h"
#include "snapshotter/filter.h"
#include "snapshotter/layer.h"

namespace fastoci {
namespace {

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() {
    char path[] = "/tmp/fastoci-store.XXXXXX";
    dir_ = ::mkdtemp(path);
    Reopen();
  }
  ~StoreTest() override {
    store_ = nullptr;
    std::filesystem::remove_all(dir_);
  }
  std::string path() const { return dir_ + "/metadata.db"; }
  void Reopen() {
    store_ = nullptr;
    auto opened = SnapshotStore::Open(path());
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    store_ = std::move(*opened);
  }
  Status Create(const std::string& name, const std::string& parent, SnapshotKind kind = SnapshotKind::kActive,
                const Labels& labels = {}, const std::string& device = "") {
    Snapshot s;
    s.id = store_->NextId();
    s.name = name;
    s.parent = parent;
    s.kind = kind;
    s.labels = labels;
    s.device = device;
    return store_->Create(s);
  }
  Status Commit(const std::string& key, const std::string& name, const Labels& labels = {}) {
    return store_->Commit({key, name, "", labels, {100, 2}, "", ""});
  }
  void Committed(const std::string& name, const std::string& parent) {
    ASSERT_TRUE(Create(name + "-active", parent).ok());
    ASSERT_TRUE(Commit(name + "-active", name).ok());
  }
  std::string dir_;
  std::unique_ptr<SnapshotStore> store_;
};

TEST_F(StoreTest, WhatWasWrittenIsThereAfterAnotherStart) {
  ASSERT_TRUE(Create("a", "", SnapshotKind::kActive, {{"l", "1"}}).ok());
  ASSERT_TRUE(Commit("a", "base", {{"m", "2"}}).ok());
  ASSERT_TRUE(Create("c", "base", SnapshotKind::kView, {}, "dev").ok());
  const int64_t next = store_->NextId();
  Reopen();
  auto base = store_->Get("base");
  ASSERT_TRUE(base.ok());
  EXPECT_EQ(base->kind, SnapshotKind::kCommitted);
  EXPECT_EQ(base->labels, (Labels{{"m", "2"}})) << "labels of a commit replace those before";
  EXPECT_EQ(base->usage.bytes, 100);
  EXPECT_EQ(base->created_ns, base->updated_ns);
  EXPECT_EQ(store_->Get("c")->parent, "base");
  EXPECT_FALSE(store_->Get("a").ok());
  EXPECT_GE(store_->NextId(), next - 1);
  EXPECT_EQ(store_->UseOf("dev")->readers, 1);
}

TEST_F(StoreTest, NamesAreTakenOnce) {
  ASSERT_TRUE(Create("a", "").ok());
  EXPECT_EQ(Create("a", "").error().err, kMarkTaken);
  Committed("base", "");
  EXPECT_EQ(Commit("a", "base").error().err, kMarkTaken);
  EXPECT_EQ(store_->Get("a")->kind, SnapshotKind::kActive) << "a commit that fails changes nothing";
}

TEST_F(StoreTest, AParentMustBeCommitted) {
  EXPECT_EQ(Create("a", "nobody").error().kind, ErrorKind::kNotFound);
  ASSERT_TRUE(Create("active", "").ok());
  EXPECT_EQ(Create("a", "active").error().kind, ErrorKind::kInvalid);
  EXPECT_FALSE(store_->Get("a").ok());
}

TEST_F(StoreTest, ASnapshotWithChildrenStays) {
  Committed("base", "");
  Committed("top", "base");
  EXPECT_EQ(store_->Remove("base").error().err, kMarkState);
  EXPECT_TRUE(store_->Remove("top").ok());
  EXPECT_TRUE(store_->Remove("base").ok());
  EXPECT_EQ(store_->Remove("base").error().kind, ErrorKind::kNotFound);
  EXPECT_TRUE(store_->List()->empty());
}

TEST_F(StoreTest, OnlyActiveOnesAreCommitted) {
  Committed("base", "");
  ASSERT_TRUE(Create("view", "base", SnapshotKind::kView).ok());
  EXPECT_EQ(Commit("view", "x").error().err, kMarkState);
  EXPECT_EQ(Commit("base", "x").error().err, kMarkState);
  EXPECT_EQ(Commit("nobody", "x").error().kind, ErrorKind::kNotFound);
}

TEST_F(StoreTest, ACommitMayNameTheParentOfWhatHadNone) {
  Committed("base", "");
  Committed("other", "");
  ASSERT_TRUE(Create("a", "").ok());
  ASSERT_TRUE(store_->Commit({"a", "top", "base", {}, {}, "", ""}).ok());
  EXPECT_EQ(store_->Get("top")->parent, "base");
  ASSERT_TRUE(Create("b", "base").ok());
  EXPECT_EQ(store_->Commit({"b", "x", "other", {}, {}, "", ""}).error().kind, ErrorKind::kInvalid);
}

TEST_F(StoreTest, AChainIsTopFirst) {
  Committed("1", "");
  Committed("2", "1");
  Committed("3", "2");
  auto chain = store_->Chain("3");
  ASSERT_TRUE(chain.ok());
  ASSERT_EQ(chain->size(), 3u);
  EXPECT_EQ((*chain)[0].name, "3");
  EXPECT_EQ((*chain)[2].name, "1");
  EXPECT_EQ(store_->Chain("none").error().kind, ErrorKind::kNotFound);
}

TEST_F(StoreTest, ADatabaseOfANewerVersionIsRefusedWithWords) {
  {
    auto db = SqliteDb::Open(path(), "test");
    ASSERT_TRUE((*db)->Exec("PRAGMA user_version=99").ok());
  }
  auto opened = SnapshotStore::Open(path());
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.error().message.find("newer fastoci-snapshotter"), std::string::npos);
}

TEST_F(StoreTest, TheStateOfVersion1IsRead) {
  store_ = nullptr;
  std::filesystem::remove_all(dir_);
  std::filesystem::create_directory(dir_);
  auto text = ReadFile("selftests/fixtures/snapshotter-v1.sql", 1 << 20);
  ASSERT_TRUE(text.ok()) << "run it from the top of the tree";
  {
    auto db = SqliteDb::Open(path(), "test");
    ASSERT_TRUE(db.ok());
    ASSERT_TRUE((*db)->Exec(*text).ok());
  }
  Reopen();
  ASSERT_EQ(store_->List()->size(), 5u);
  EXPECT_EQ(store_->Get("default/9/container")->labels.at("containerd.io/gc.root"), "2026-11-29T00:00:00Z");
  auto chain = store_->Chain("default/9/container");
  ASSERT_EQ(chain->size(), 3u);
  EXPECT_EQ(store_->UseOf("ctd-99887766554433221100")->readers, 2);
  EXPECT_EQ(store_->UseOf("ctd-99887766554433221100")->makers, 1);
  auto meta = LayerFromJson((*chain)[1].layer);
  ASSERT_TRUE(meta.ok());
  EXPECT_EQ(meta->kind, LayerKind::kMeta);
  EXPECT_EQ(meta->parts[0].members_dir, "fs");
  auto native = LayerFromJson((*chain)[2].layer);
  ASSERT_TRUE(native.ok());
  EXPECT_EQ(native->parts[0].target_bytes, 4096u);
  EXPECT_EQ(store_->NextId(), 9);
}

// What another process had begun when it was killed is not there; what it had finished is.
TEST_F(StoreTest, ConcurrentChangesOfLabelsAreAllMade) {
  constexpr int kThreads = 4, kEach = 25;
  ASSERT_TRUE(Create("a", "").ok());
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++)
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; i++) {
        auto changed = store_->UpdateLabels("a", [&](Labels* labels) {
          std::string& n = (*labels)["n"];
          n = std::to_string(std::atoi(n.c_str()) + 1);
          (*labels)[std::to_string(t)] = std::to_string(i);
          return OkStatus();
        });
        EXPECT_TRUE(changed.ok());
      }
    });
  for (std::thread& thread : threads) thread.join();
  const Labels labels = store_->Get("a")->labels;
  EXPECT_EQ(labels.at("n"), std::to_string(kThreads * kEach));
  EXPECT_EQ(labels.at("0"), std::to_string(kEach - 1));
  EXPECT_FALSE(store_->UpdateLabels("a", [](Labels* l) {
    l->clear();
    return Status(InvalidError("no"));
  }).ok());
  EXPECT_EQ(store_->Get("a")->labels, labels);
  EXPECT_EQ(store_->UpdateLabels("b", [](Labels*) { return OkStatus(); }).error().kind, ErrorKind::kNotFound);
}

TEST_F(StoreTest, ANumberIsLargerThanThoseInUse) {
  ASSERT_TRUE(Create("a", "").ok());
  const int64_t first = store_->Get("a")->id;
  ASSERT_TRUE(Create("b", "").ok());
  ASSERT_TRUE(store_->Remove("b").ok());
  EXPECT_EQ(store_->NextId(), first + 2) << "while the process runs, none is used twice";
  Reopen();
  store_->SkipIds(first + 7);
  EXPECT_EQ(store_->NextId(), first + 8);
}

TEST_F(StoreTest, AKillLeavesTheStateBeforeOrAfter) {
  store_ = nullptr;
  for (int round = 0; round < 20; round++) {
    int begun[2];  // the child tells that something is there
    ASSERT_EQ(::pipe(begun), 0);
    UniqueFd out(begun[0]), in(begun[1]);
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      auto opened = SnapshotStore::Open(path());
      if (!opened.ok()) ::_exit(1);
      store_ = std::move(*opened);
      for (int i = 0;; i++) {
        const std::string n = std::to_string(round) + "-" + std::to_string(i);
        if (!Create("a" + n, "", SnapshotKind::kActive, {{"k", n}}).ok() || !Commit("a" + n, "c" + n, {{"k", n}}).ok())
          ::_exit(1);
        if (i == 0 && ::write(in.get(), "x", 1) != 1) ::_exit(1);
      }
    }
    in.reset();
    char byte;
    ASSERT_EQ(::read(out.get(), &byte, 1), 1);
    ::usleep(static_cast<useconds_t>(1000 * round));
    ::kill(pid, SIGKILL);
    int status = 0;
    ::waitpid(pid, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
  }
  Reopen();
  auto all = store_->List();
  ASSERT_TRUE(all.ok());
  EXPECT_FALSE(all->empty());
  for (const Snapshot& s : *all) {
    EXPECT_EQ(s.labels.size(), 1u) << s.name;
    EXPECT_EQ(s.labels.at("k"), s.name.substr(1));
    EXPECT_EQ(s.name[0], s.kind == SnapshotKind::kCommitted ? 'c' : 'a');
  }
}

bool Matches(const std::vector<std::string>& filters, const Snapshot& s) {
  auto filter = SnapshotFilter::Parse(filters);
  EXPECT_TRUE(filter.ok()) << filter.error().message;
  return filter.ok() && filter->Matches(s);
}

TEST(SnapshotFilterTest, ContainerdsSyntax) {
  Snapshot s;
  s.name = "default/12/sha256:abc";
  s.parent = "p \"q\"";
  s.kind = SnapshotKind::kCommitted;
  s.labels = {{"containerd.io/snapshot.ref", "sha256:abc"}, {"a.b", "c"}};
  EXPECT_TRUE(Matches({}, s));
  EXPECT_TRUE(Matches({""}, s));
  EXPECT_TRUE(Matches({"kind==committed,name==default/12/sha256:abc"}, s));
  EXPECT_TRUE(Matches({R"(labels."containerd.io/snapshot.ref"==sha256:abc,parent=="p \"q\"")"}, s));
  EXPECT_FALSE(Matches({R"(labels."containerd.io/snapshot.ref"==sha256:abc,parent=="")"}, s));
  EXPECT_TRUE(Matches({"kind==view", "labels.a.b"}, s)) << "one of several is enough";
  EXPECT_FALSE(Matches({"kind==view,labels.a.b"}, s));
  EXPECT_TRUE(Matches({"labels.none!=x"}, s));
  EXPECT_FALSE(Matches({"labels.none==x"}, s));
  EXPECT_TRUE(Matches({"name~=sha256:[a-c]+$"}, s));
  EXPECT_TRUE(Matches({R"(labels."a\x2eb"=="\u0063")"}, s));
  for (const char* bad : {"=", "kind=", "kind==a b", "kind==a,", R"(name=="x)", "name~=(", "1==2", "name=~x"})
    EXPECT_FALSE(SnapshotFilter::Parse({bad}).ok()) << bad;
}

}  // namespace
}  // namespace fastoci
