// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstring>

#include "cache/cache_db.h"
#include "cache/cache_device.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Beside the test binary's working directory: tmpfs takes no O_DIRECT on older kernels.
    char name[] = "build/store_test.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override {
    std::system(("rm -rf " + dir_).c_str()) == 0 ? void() : ADD_FAILURE();
  }
  std::string MakeFile(uint64_t bytes) {
    std::string path = dir_ + "/cache";
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
    return path;
  }
  std::string dir_;
};

constexpr uint64_t kMiB = 1 << 20;

TEST_F(StoreTest, FormatsAndOpens) {
  std::string path = MakeFile(4 * kMiB);
  ASSERT_TRUE(CacheDevice::Format(path, 16).ok());
  auto d = CacheDevice::Open(path);
  ASSERT_TRUE(d.ok()) << d.error().message;
  EXPECT_EQ((*d)->geometry().nr_slots, 63u);
  EXPECT_EQ((*d)->geometry().slots_offset, 65536u);
  EXPECT_NE((*d)->geometry().uuid, (std::array<uint8_t, 16>{}));
}

TEST_F(StoreTest, RefusesToFormatWhatIsNotBlank) {
  std::string path = MakeFile(4 * kMiB);
  ASSERT_TRUE(CacheDevice::Format(path, 16).ok());
  EXPECT_FALSE(CacheDevice::Format(path, 16).ok());
}

TEST_F(StoreTest, RefusesADeviceThatIsTooSmall) {
  EXPECT_FALSE(CacheDevice::Format(MakeFile(65536), 16).ok());
}

TEST_F(StoreTest, WritesAndReadsSlots) {
  std::string path = MakeFile(4 * kMiB);
  ASSERT_TRUE(CacheDevice::Format(path, 16).ok());
  auto d = CacheDevice::Open(path);
  ASSERT_TRUE(d.ok());
  AlignedBuffer out(65536), in(65536);
  for (size_t i = 0; i < out.size(); i++) out.data()[i] = static_cast<uint8_t>(i * 7);
  ASSERT_TRUE((*d)->WriteSlot(62, out.span()).ok());
  ASSERT_TRUE((*d)->Flush().ok());
  ASSERT_TRUE((*d)->ReadSlot(62, in.span()).ok());
  EXPECT_EQ(std::memcmp(in.data(), out.data(), in.size()), 0);
  // Slot 62 ends at the device's end, and is where the kernel looks for it.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(PreadFull(fd.get(), in.span(), 63 * 65536, "file").ok());
  EXPECT_EQ(std::memcmp(in.data(), out.data(), in.size()), 0);
  EXPECT_FALSE((*d)->WriteSlot(63, out.span()).ok());
  EXPECT_FALSE((*d)->WriteSlot(0, out.span().first(100)).ok());
}

TEST(CacheSuperblock, RejectsEachBadField) {
  CacheGeometry g;
  g.uuid[0] = 1;
  g.nr_slots = 15;
  g.slots_offset = 65536;
  const Bytes good = EncodeCacheSuperblock(g);
  ASSERT_EQ(good.size(), static_cast<size_t>(FASTOCI_CACHE_SB_BYTES));
  auto parsed = ParseCacheSuperblock(good, kMiB);
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->nr_slots, 15u);
  EXPECT_EQ(parsed->uuid, g.uuid);
  EXPECT_FALSE(ParseCacheSuperblock(good, kMiB - 1).ok());
  EXPECT_FALSE(ParseCacheSuperblock(ByteSpan(good).first(4095), kMiB).ok());
  EXPECT_FALSE(ParseCacheSuperblock({}, kMiB).ok());
  for (size_t at : {0, 8, 12, 16, 24, 28, 32, 4095}) {
    Bytes bad = good;
    bad[at] ^= 1;
    EXPECT_FALSE(ParseCacheSuperblock(bad, kMiB).ok()) << "byte " << at;
  }
  auto refuses = [](CacheGeometry bad) {
    return !ParseCacheSuperblock(EncodeCacheSuperblock(bad), kMiB).ok();
  };
  CacheGeometry bad = g;
  bad.nr_slots = 0;
  EXPECT_TRUE(refuses(bad));
  bad = g, bad.nr_slots = UINT32_MAX;
  EXPECT_TRUE(refuses(bad));
  bad = g, bad.chunk_shift = 15;
  EXPECT_TRUE(refuses(bad));
  bad = g, bad.chunk_shift = 64;
  EXPECT_TRUE(refuses(bad));
  bad = g, bad.slots_offset = 4096;
  EXPECT_TRUE(refuses(bad));
  bad = g, bad.slots_offset = ~0ULL << 16;
  EXPECT_TRUE(refuses(bad));
}

SlotRow Row(uint8_t space, uint32_t chunk, uint32_t slot) {
  SlotRow r;
  r.space_id[0] = space;
  r.chunk_no = chunk;
  r.slot = slot;
  r.digest[31] = static_cast<uint8_t>(chunk);
  r.data_bytes = 1000 + space;
  return r;
}

class DbTest : public StoreTest {
 protected:
  std::unique_ptr<CacheDb> Open(uint8_t uuid = 1) {
    auto db = CacheDb::Open(dir_ + "/db", {uuid});
    EXPECT_TRUE(db.ok()) << db.error().message;
    return db.ok() ? std::move(*db) : nullptr;
  }
  static Status Flushed() { return OkStatus(); }
  static Result<std::vector<SlotRow>> Load(CacheDb* db) {
    std::vector<SlotRow> rows;
    FASTOCI_CHECK_OK(db->ForEach([&](const SlotRow& row) { rows.push_back(row); }));
    return rows;
  }
};

TEST_F(DbTest, KeepsCommittedRows) {
  auto db = Open();
  db->Add(Row(1, 5, 9));
  db->Add(Row(2, 5, 3));
  EXPECT_EQ(db->Count(), 0u);
  ASSERT_TRUE(db->Commit(Flushed).ok());
  db = nullptr;
  db = Open();
  auto rows = Load(db.get());
  ASSERT_TRUE(rows.ok());
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0].slot, 9u) << "by space";
  EXPECT_EQ((*rows)[0].digest[31], 5);
  EXPECT_EQ((*rows)[0].data_bytes, 1001u);
  EXPECT_EQ((*rows)[1].slot, 3u);
  EXPECT_EQ((*rows)[1].space_id[0], 2);
  EXPECT_EQ((*db->Find(3))->chunk_no, 5u);
  EXPECT_FALSE(*db->Find(4));
}

TEST_F(DbTest, KeepsPinsAndDigests) {
  const Sha256Digest image{1}, other{2};
  const std::vector<Sha256Digest> spaces = {{7}, {8}}, digests = {{1, 2}, {3}, {4}};
  {
    auto db = Open();
    ASSERT_TRUE(db->Pin(image, spaces).ok());
    ASSERT_TRUE(db->Pin(image, spaces).ok()) << "again is no error";
    ASSERT_TRUE(db->Pin(other, {{spaces[0]}}).ok());
    ASSERT_TRUE(db->RecordDigests({7}, digests).ok());
    db->Add(Row(7, 0, 1));  // its size does not touch the digests
    ASSERT_TRUE(db->Commit(Flushed).ok());
  }
  auto db = Open();
  EXPECT_EQ(db->Pins().size(), 3u);
  ASSERT_TRUE(db->Unpin(image).ok());
  ASSERT_EQ(db->Pins().size(), 1u);
  EXPECT_EQ(db->Pins().at(0).first, other);
  EXPECT_EQ(*db->Digests({7}), digests);
  EXPECT_TRUE(db->Digests({9})->empty());
  EXPECT_TRUE(Open(2)->Pins().empty()) << "of another cache";
}

TEST_F(DbTest, CommitsNothingWhenTheFlushFails) {
  auto db = Open();
  db->Add(Row(1, 0, 0));
  EXPECT_FALSE(db->Commit([] { return Status(ErrnoError("disk", EIO)); }).ok());
  EXPECT_EQ(db->Count(), 0u);
  EXPECT_EQ(db->nr_queued(), 1u);
  ASSERT_TRUE(db->Commit(Flushed).ok());
  EXPECT_EQ(db->Count(), 1u);
}

TEST_F(DbTest, FlushesBeforeTheRowsAreSeen) {
  auto db = Open();
  db->Add(Row(1, 0, 0));
  uint64_t seen = 99;
  ASSERT_TRUE(db->Commit([&] {
                  sqlite3* other = nullptr;
                  sqlite3_stmt* s = nullptr;
                  sqlite3_open((dir_ + "/db").c_str(), &other);
                  sqlite3_prepare_v2(other, "SELECT count(*) FROM slots", -1, &s, nullptr);
                  if (sqlite3_step(s) == SQLITE_ROW)
                    seen = static_cast<uint64_t>(sqlite3_column_int64(s, 0));
                  sqlite3_finalize(s);
                  sqlite3_close(other);
                  return OkStatus();
                }).ok());
  EXPECT_EQ(seen, 0u);
}

TEST_F(DbTest, ALaterRowReplacesConflictingOnes) {
  auto db = Open();
  db->Add(Row(1, 0, 7));
  db->Add(Row(1, 1, 8));
  db->Add(Row(1, 0, 8));  // slot 8 now holds chunk 0, which no longer lies in 7
  ASSERT_TRUE(db->Commit(Flushed).ok());
  auto rows = Load(db.get());
  ASSERT_TRUE(rows.ok());
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].slot, 8u);
  EXPECT_EQ((*rows)[0].chunk_no, 0u);
}

TEST_F(DbTest, RemovesInOrder) {
  auto db = Open();
  db->Add(Row(1, 0, 7));
  db->Remove(7);
  db->Add(Row(1, 3, 6));
  ASSERT_TRUE(db->Commit(Flushed).ok());
  db->Remove(7);  // not there: no error
  ASSERT_TRUE(db->Commit(Flushed).ok());
  auto rows = Load(db.get());
  ASSERT_TRUE(rows.ok());
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].slot, 6u);
}

TEST_F(DbTest, CountsNoRowOfASlotThatWasChangedSince) {
  auto db = Open();
  for (uint32_t slot : {1, 2, 3}) db->Add(Row(1, slot, slot));
  ASSERT_TRUE(db->Commit(Flushed).ok());
  EXPECT_EQ(db->Count(), 3u);
  db->Remove(1);           // evicted,
  db->Add(Row(1, 9, 1));   // and filled anew
  db->Add(Row(1, 10, 7));  // never had a row
  db->Remove(2);
  db->Remove(2);
  EXPECT_EQ(db->Count(), 1u) << "the third is still what its row says";
  EXPECT_FALSE(db->Commit([] { return Status(ErrnoError("disk", EIO)); }).ok());
  EXPECT_EQ(db->Count(), 1u);
  ASSERT_TRUE(db->Commit(Flushed).ok());
  EXPECT_EQ(db->Count(), 3u);
}

TEST_F(DbTest, CachesInOneFileDoNotMix) {
  {
    auto db = Open(1);
    db->Add(Row(1, 0, 0));
    ASSERT_TRUE(db->Commit(Flushed).ok());
  }
  auto other = Open(2);
  EXPECT_EQ(other->Count(), 0u);
  other->Add(Row(1, 0, 0));
  ASSERT_TRUE(other->Commit(Flushed).ok());
  other->Remove(0);
  ASSERT_TRUE(other->Commit(Flushed).ok());
  other = nullptr;
  EXPECT_EQ(Open(1)->Count(), 1u);
}

TEST_F(DbTest, SurvivesAKillAmidCommits) {
  // The child commits rows one by one and tells each over a pipe; whatever was
  // told before the kill must be there after it.
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  pid_t pid = ::fork();
  if (pid == 0) {
    auto db = CacheDb::Open(dir_ + "/db", {1});
    for (uint32_t i = 0; db.ok() && i < 100000; i++) {
      (*db)->Add(Row(1, i, i));
      if (!(*db)->Commit(Flushed).ok() || ::write(fds[1], &i, sizeof(i)) != sizeof(i)) break;
    }
    ::_exit(1);
  }
  ::close(fds[1]);
  uint32_t told = 0, last = 0;
  while (last < 20 && ::read(fds[0], &last, sizeof(last)) == sizeof(last)) told++;
  ::kill(pid, SIGKILL);
  while (::read(fds[0], &last, sizeof(last)) == sizeof(last)) told++;
  ::close(fds[0]);
  ::waitpid(pid, nullptr, 0);
  ASSERT_GT(told, 20u);
  EXPECT_GE(Open()->Count(), told);
}

TEST_F(DbTest, RefusesAFileThatIsNoDatabase) {
  {
    UniqueFd fd(::open((dir_ + "/db").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    std::string junk(8192, 'x');
    ASSERT_TRUE(WriteFull(fd.get(), AsBytes(junk), "junk").ok());
  }
  EXPECT_FALSE(CacheDb::Open(dir_ + "/db", {1}).ok());
}

}  // namespace
}  // namespace fastoci
