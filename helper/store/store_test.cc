// SPDX-License-Identifier: Apache-2.0
#include <fastoci_meta.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "store/cache_device.h"
#include "store/slot_db.h"

namespace fastoci {
namespace {

constexpr uint32_t kChunk = 65536;

Sha256Digest Id(uint8_t n) {
  Sha256Digest d{};
  d[0] = n;
  return d;
}

UniqueFd MemoryDevice(uint64_t bytes) {
  UniqueFd fd(memfd_create("device", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  return fd;
}

TEST(CacheDevice, FormatsABlankDeviceAndFindsItAgain) {
  UniqueFd fd = MemoryDevice(10 * kChunk);
  UniqueFd again(dup(fd.get()));
  auto first = CacheDevice::OpenFd(std::move(fd), 10 * kChunk, kChunk);
  ASSERT_TRUE(first.ok()) << first.error().message;
  EXPECT_EQ((*first)->geometry().nr_slots, 9u);
  AlignedBuffer out(kChunk), in(kChunk);
  std::fill(out.span().begin(), out.span().end(), 0x5a);
  ASSERT_TRUE((*first)->Write(8, out.span()).ok());
  EXPECT_FALSE((*first)->Write(9, out.span()).ok());
  auto second = CacheDevice::OpenFd(std::move(again), 10 * kChunk, 2 * kChunk);
  ASSERT_TRUE(second.ok()) << second.error().message;
  EXPECT_EQ((*second)->geometry().uuid, (*first)->geometry().uuid);
  EXPECT_EQ((*second)->geometry().chunk_shift, 16u) << "a cache keeps its chunk size";
  ASSERT_TRUE((*second)->Read(8, in.span()).ok());
  EXPECT_TRUE(std::equal(in.span().begin(), in.span().end(), out.span().begin()));
}

TEST(CacheDevice, LeavesForeignContentAlone) {
  UniqueFd fd = MemoryDevice(10 * kChunk);
  ASSERT_EQ(pwrite(fd.get(), "hello", 5, 1024), 5);
  EXPECT_FALSE(CacheDevice::OpenFd(std::move(fd), 10 * kChunk, kChunk).ok());
}

TEST(CacheDevice, RefusesBadSuperblocks) {
  auto g = NewCacheGeometry(10 * kChunk, kChunk);
  ASSERT_TRUE(g.ok());
  Bytes good = MakeCacheSuperblock(*g);
  EXPECT_TRUE(ParseCacheSuperblock(good, 10 * kChunk).ok());
  EXPECT_FALSE(ParseCacheSuperblock(good, 9 * kChunk).ok()) << "device became shorter";
  for (size_t at : {0, 8, 12, 24, 28, 40, 50, 60, 4095}) {
    Bytes bad = good;
    bad[at] ^= 1;
    EXPECT_FALSE(ParseCacheSuperblock(bad, 10 * kChunk).ok()) << at;
  }
  CacheGeometry odd = *g;
  odd.slots_offset = 512;
  EXPECT_FALSE(ParseCacheSuperblock(MakeCacheSuperblock(odd), 10 * kChunk).ok());
  EXPECT_FALSE(NewCacheGeometry(10 * kChunk, 3 * kChunk).ok());
  EXPECT_FALSE(NewCacheGeometry(kChunk, kChunk).ok());
}

class SlotDbTest : public testing::Test {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/fastoci-store.XXXXXX";
    ASSERT_NE(mkdtemp(dir), nullptr);
    dir_ = dir;
    path_ = dir_ + "/cache.db";
    Open();
  }
  void TearDown() override {
    db_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Open(uint8_t uuid = 1) {
    db_.reset();
    auto db = SlotDb::Open(path_, {uuid}, 100);
    ASSERT_TRUE(db.ok()) << db.error().message;
    db_ = std::move(*db);
  }
  std::vector<SlotRow> Load() {
    auto rows = db_->Load();
    EXPECT_TRUE(rows.ok()) << rows.error().message;
    return rows.ok() ? *rows : std::vector<SlotRow>();
  }
  static SlotRow Row(uint32_t slot, uint8_t space, uint32_t chunk) {
    return {slot, Id(space), 1000, chunk, Id(99)};
  }
  std::string dir_, path_;
  std::unique_ptr<SlotDb> db_;
};

TEST_F(SlotDbTest, RowsSurviveReopening) {
  std::vector<SlotRow> rows = {Row(3, 1, 0), Row(4, 1, 1), Row(9, 2, 0)};
  rows[1].digest.reset();
  ASSERT_TRUE(db_->Commit(rows, {}).ok());
  Open();
  auto got = Load();
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got[0].slot, 3u);
  EXPECT_EQ(got[0].digest, Id(99));
  EXPECT_EQ(got[0].data_bytes, 1000u);
  EXPECT_FALSE(got[1].digest.has_value());
  EXPECT_EQ(got[2].data_space_id, Id(2));
}

TEST_F(SlotDbTest, ARowReplacesItsSlotsAndItsChunks) {
  std::vector<SlotRow> rows = {Row(3, 1, 0), Row(4, 1, 1)};
  ASSERT_TRUE(db_->Commit(rows, {}).ok());
  rows = {Row(3, 1, 1)};  // chunk 1 moved from slot 4 to slot 3
  ASSERT_TRUE(db_->Commit(rows, {}).ok());
  auto got = Load();
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].slot, 3u);
  EXPECT_EQ(got[0].chunk_no, 1u);
  std::vector<uint32_t> freed = {3, 77};
  ASSERT_TRUE(db_->Commit({}, freed).ok());
  EXPECT_EQ(*db_->CountRows(), 0u);
}

TEST_F(SlotDbTest, StartsAnewForAnotherCache) {
  std::vector<SlotRow> rows = {Row(3, 1, 0)};
  ASSERT_TRUE(db_->Commit(rows, {}).ok());
  Open(2);
  EXPECT_TRUE(Load().empty());
}

TEST_F(SlotDbTest, StartsAnewWhenDamaged) {
  std::vector<SlotRow> rows;
  for (uint32_t i = 0; i < 1000; i++) rows.push_back(Row(i, 1, i));
  ASSERT_TRUE(db_->Commit(rows, {}).ok());
  db_.reset();
  {
    std::fstream f(path_, std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(0);
    f << std::string(4096, 'x');
  }
  Open();
  EXPECT_TRUE(Load().empty());
  EXPECT_TRUE(std::filesystem::exists(path_ + ".damaged"));
}

TEST_F(SlotDbTest, OneProcessAtATime) {
  auto other = SlotDb::Open(path_, {1}, 50);
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().err, EBUSY);
}

}  // namespace
}  // namespace fastoci
