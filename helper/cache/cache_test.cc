// SPDX-License-Identifier: Apache-2.0
#include "cache/cache.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <future>
#include <set>

#include "testing/cache_fixture.h"
#include "testing/latch.h"

namespace fastoci {
namespace {

class CacheTest : public CacheFixture {
 protected:
  // What else uses the database file.
  class Intruder {
   public:
    explicit Intruder(const std::string& dir) { sqlite3_open((dir + "/db").c_str(), &db_); }
    ~Intruder() { sqlite3_close(db_); }
    void Run(const char* sql) {
      EXPECT_EQ(sqlite3_exec(db_, sql, nullptr, nullptr, nullptr), SQLITE_OK) << sql;
    }

   private:
    sqlite3* db_ = nullptr;
  };

  // All that control socket, metrics and watchdog ask for; it must not wait.
  void AskAll() {
    EXPECT_EQ(cache_->GetStat().present, 3u);
    EXPECT_EQ(cache_->GetStat().durable, 2u) << "the third waits for the commit";
    EXPECT_EQ(cache_->CountPresent(kSpace), 3u);
    EXPECT_TRUE(cache_->Find(kSpace, 1));
    EXPECT_EQ(cache_->db()->Pins().size(), 0u);
    EXPECT_TRUE(cache_->RowOf(cache_->Find(kSpace, 1)->slot)) << "for a read of a restored chunk";
    cache_->SetPinned({kSpace});
    cache_->SetMayGrow(true);
  }
  bool Runs(std::future<void>* commit) {
    return commit->wait_for(std::chrono::seconds(0)) == std::future_status::timeout;
  }
};

// The flush of a device that is stuck takes minutes: whoever does not need it goes on.
TEST_F(CacheTest, AFlushThatHangsHoldsUpNobodyElse) {
  Latch flush;
  std::atomic<bool> hang = false;
  Open(8, {.flush = [&] {
    if (hang) flush.Wait();
    return OkStatus();
  }});
  Publish(1);
  Publish(2);
  cache_->Commit();
  Publish(3);
  hang = true;
  auto commit = std::async(std::launch::async, [&] { cache_->Commit(); });
  flush.AwaitWaiting();
  AskAll();
  Publish(4);  // chunks are served on
  EXPECT_TRUE(Runs(&commit));
  hang = false;
  flush.Open();
  commit.get();
  EXPECT_EQ(cache_->GetStat().durable, 3u) << "the fourth came after the flush began";
  cache_->Commit();
  EXPECT_EQ(cache_->GetStat().durable, 4u);
}

// The same for the database's own disk, here a lock that another program holds.
TEST_F(CacheTest, ACommitThatHangsHoldsUpNobodyElse) {
  std::atomic<int> flushes = 0;
  Open(8, {.flush = [&] {
    flushes++;
    return OkStatus();
  }});
  Publish(1);
  Publish(2);
  cache_->Commit();
  Publish(3);
  Intruder other(dir_);
  other.Run("BEGIN IMMEDIATE");
  auto commit = std::async(std::launch::async, [&] { cache_->Commit(); });
  while (flushes < 2) std::this_thread::yield();
  AskAll();
  EXPECT_TRUE(Runs(&commit));
  other.Run("ROLLBACK");
  commit.get();
  EXPECT_EQ(cache_->GetStat().durable, 3u);
}

TEST_F(CacheTest, ACommittingThreadCommitsAndRecordsPins) {
  Open(8);
  ASSERT_TRUE(cache_->StartCommits(std::chrono::hours(1)).ok());
  Publish(1);
  ASSERT_TRUE(cache_->RecordPin({7}, true, {{1}, {2}}).ok());
  EXPECT_EQ(cache_->db()->Pins().size(), 2u);
  ASSERT_TRUE(cache_->RecordPin({7}, false, {}).ok());
  EXPECT_EQ(cache_->db()->Pins().size(), 0u);
  const auto uuid = cache_->info().uuid;
  cache_ = nullptr;  // commits once more
  EXPECT_EQ((*CacheDb::Open(dir_ + "/db", uuid))->Count(), 1u);
}

// While the database takes no rows, those that wait are bounded, status says that the others are
// missing, and they are made up for when it works again.
TEST_F(CacheTest, RowsThatCannotBeKeptAreToldAndMadeUpFor) {
  constexpr size_t kMax = 4;
  Open(16, {}, kMax);
  Publish(0);
  cache_->Commit();
  Intruder other(dir_);
  other.Run("ALTER TABLE slots RENAME TO away");
  for (uint32_t chunk = 1; chunk < 11; chunk++) {
    Publish(chunk);
    cache_->Commit();
  }
  EXPECT_EQ(counters_.missed_rows, 6u);
  const std::string trouble = cache_->GetStat().trouble;
  EXPECT_NE(trouble.find("lost at a restart"), std::string::npos) << trouble;
  EXPECT_NE(trouble.find("6 more chunks"), std::string::npos) << trouble;
  uint32_t cursor = 0;
  EXPECT_TRUE(cache_->ToCheck(100, {kSpace}, &cursor).empty()) << "in vain for now";
  EXPECT_FALSE(cache_->TakeMissedRows());

  other.Run("ALTER TABLE away RENAME TO slots");
  cache_->Commit();
  EXPECT_EQ(cache_->GetStat().trouble, "");
  EXPECT_EQ(cache_->GetStat().durable, 1 + kMax);
  EXPECT_TRUE(cache_->TakeMissedRows());
  EXPECT_FALSE(cache_->TakeMissedRows()) << "once";
  cursor = 0;
  const auto missed = cache_->ToCheck(100, {kSpace}, &cursor);
  ASSERT_EQ(missed.size(), 6u);
  for (size_t i = 0; i < kMax; i++) {
    SlotRow row = RowOf(missed[i].chunk_no);
    row.slot = missed[i].slot;
    cache_->Adopt(row);
  }
  cache_->Commit();
  EXPECT_EQ(cache_->GetStat().durable, 1 + 2 * kMax);
}

TEST_F(CacheTest, NeighboursGetAdjacentSlots) {
  Open(256);
  auto first = cache_->TakeSlots(4, kSpace, 100);
  ASSERT_TRUE(first.ok());
  ASSERT_EQ(first->size(), 4u);
  for (size_t i = 1; i < 4; i++) EXPECT_EQ((*first)[i], (*first)[0] + i);
  std::vector<Cache::Filling> chunks;
  // The last one of another run, so that the slot behind chunk 103's is free.
  for (uint32_t i = 0; i < 4; i++) {
    chunks.push_back({.space = kSpace, .row = RowOf(100 + i)});
    chunks.back().row.slot = (*first)[i];
  }
  cache_->PublishAll(chunks);
  for (const auto& c : chunks) EXPECT_TRUE(c.result.ok());
  auto one = cache_->TakeSlots(1, kSpace, 999);  // somebody else's
  ASSERT_TRUE(one.ok());
  cache_->GiveBack((*one)[0]);
  auto next = cache_->TakeSlots(2, kSpace, 104);
  ASSERT_TRUE(next.ok());
  EXPECT_EQ((*next)[0], first->back() + 1);
  EXPECT_TRUE(cache_->TakeSlots(1, kSpace, 7, false).ok());
}

TEST_F(CacheTest, WhoDoesNotWaitGetsNoneWhenThereIsNone) {
  Open(4);
  size_t taken = 0;
  for (bool wait = true;; wait = false) {
    auto slots = cache_->TakeSlots(4, kSpace, 0, wait);
    ASSERT_TRUE(slots.ok()) << slots.error().message;
    if (slots->empty()) break;
    taken += slots->size();
  }
  EXPECT_EQ(taken, 4u);
}

// Access bits are read from the moment on when half of the slots are used; of many slots by the
// committing thread, so that who takes a slot does not wait for that.
TEST_F(CacheTest, ALargeCacheIsSweptByItsCommittingThread) {
  constexpr uint32_t kSlots = 8200;
  Open(kSlots);
  auto nr_clear = [&] {
    size_t n = 0;
    EXPECT_TRUE(kernel_->GetSlots(0, false, [&](const SlotInfo& i) {
      n += i.state == FASTOCI_SLOT_PRESENT && !i.accessed;
    }).ok());
    return n;
  };
  for (uint32_t chunk = 0; chunk < kSlots / 2 + 1; chunk++) Publish(chunk);
  EXPECT_EQ(nr_clear(), 0u) << "each fill sets the bit";
  ASSERT_TRUE(cache_->StartCommits(std::chrono::milliseconds(1)).ok());
  while (nr_clear() == 0) std::this_thread::yield();
}

// A reader of an evicted chunk may take its time, as on a device that is suspended: the others stay.
TEST_F(CacheTest, EvictionsThatDoNotEndAreNotFollowedByMore) {
  Open(64);  // two are evicted at a time
  for (uint32_t chunk = 0; chunk < 64; chunk++) Publish(chunk);
  auto taken = std::async(std::launch::async, [&] { return cache_->TakeSlot(); });
  const uint64_t before = kernel_->allocs;
  while (kernel_->allocs < before + 10) std::this_thread::yield();  // it asks again and again
  EXPECT_LE(counters_.evictions, 4u);
  kernel_->EndGracePeriods();
  EXPECT_TRUE(taken.get().ok());
}

// What the kernel did not evict is served and may be evicted later.
TEST_F(CacheTest, AnEvictionThatFailsLeavesNothingBehind) {
  Open(8);
  for (uint32_t chunk = 0; chunk < 8; chunk++) Publish(chunk);
  cache_->Commit();
  const auto evicting = cache_->GetStat().evicting;  // ahead of need
  const auto evictions = counters_.evictions.load();
  const auto present = cache_->CountPresent(kSpace);
  kernel_->evict_errors = 1;
  cache_->EvictChunk(kSpace, 4);
  EXPECT_EQ(cache_->GetStat().evicting, evicting);
  EXPECT_EQ(cache_->CountPresent(kSpace), present);
  EXPECT_EQ(counters_.evictions, evictions);
  cache_->Commit();
  EXPECT_TRUE(cache_->TakeMissedRows()) << "its row is gone";
  // More failures than evictions may be under way.
  kernel_->EndGracePeriods();
  kernel_->evict_errors = 5;
  auto first = cache_->TakeSlot();
  ASSERT_TRUE(first.ok()) << first.error().message;
  std::atomic<bool> done = false;
  auto grace = std::async(std::launch::async, [&] {
    for (; !done; std::this_thread::yield()) kernel_->EndGracePeriods();
  });
  auto slot = cache_->TakeSlot();
  EXPECT_TRUE(slot.ok()) << slot.error().message;
  done = true;
  grace.get();
  EXPECT_EQ(kernel_->evict_errors, 0);
  if (slot.ok()) cache_->GiveBack(*slot);
  cache_->GiveBack(*first);
  EXPECT_EQ(kernel_->nr_astray(), 0u);
}

// If the kernel does not say, either, it is asked again soon.
TEST_F(CacheTest, AResyncThatFailsIsTriedAgain) {
  Open(8);
  for (uint32_t chunk = 0; chunk < 3; chunk++) Publish(chunk);
  kernel_->evict_errors = 1;
  kernel_->slot_errors = 1;
  cache_->EvictChunk(kSpace, 1);
  EXPECT_EQ(cache_->GetStat().evicting, 1u);
  Publish(1);  // as if it were not there: the kernel keeps the slot that it has
  ASSERT_TRUE(cache_->StartCommits(std::chrono::milliseconds(1)).ok());
  while (cache_->GetStat().evicting > 0) std::this_thread::yield();
  EXPECT_EQ(cache_->CountPresent(kSpace), 3u);
  cache_->StopCommits();
  EXPECT_EQ(kernel_->nr_astray(), 0u);
  cache_->EvictChunk(kSpace, 1);
  EXPECT_EQ(kernel_->nr_present(), 2u) << "the right one";
}

// The link to the kernel may go before the cache does.
TEST_F(CacheTest, AfterTheLastCommitTheKernelIsLeftAlone) {
  Open(32);
  ASSERT_TRUE(cache_->StartCommits(std::chrono::hours(1)).ok());
  for (uint32_t chunk = 0; chunk < 20; chunk++) Publish(chunk);
  cache_->StopCommits();
  EXPECT_EQ(cache_->GetStat().durable, 20u);
  for (uint32_t chunk = 20; chunk < 30; chunk++) Publish(chunk);
  const uint64_t looks = kernel_->looks;
  const auto uuid = cache_->info().uuid;
  cache_ = nullptr;
  EXPECT_EQ(kernel_->looks, looks);
  EXPECT_EQ((*CacheDb::Open(dir_ + "/db", uuid))->Count(), 20u) << "no commit after the last one";
}

// Whoever would add an image asks before, and does not wait.
TEST_F(CacheTest, ACacheThatCanTakeNothingSaysWhy) {
  std::atomic<bool> works = false;
  auto write = [&] { return works ? OkStatus() : Status(ErrnoError("write", EIO)); };
  Open(8, {.write = [&](uint32_t) { return write(); }, .superblock = write});
  EXPECT_EQ(cache_->Refuses(), "") << "nothing was written yet";
  auto slot = cache_->TakeSlot();
  ASSERT_TRUE(slot.ok());
  EXPECT_FALSE(cache_->Retire(*slot, "write: refused").ok());
  EXPECT_NE(cache_->Refuses().find("refuses writes"), std::string::npos) << cache_->Refuses();
  works = true;
  EXPECT_TRUE(cache_->Writable().ok());
  EXPECT_EQ(cache_->Refuses(), "");

  cache_->SetPinned({kSpace});
  for (uint32_t chunk = 0; chunk < 8; chunk++) {
    EXPECT_EQ(cache_->Refuses(), "");
    Publish(chunk);
  }
  EXPECT_NE(cache_->Refuses().find("unpin an image"), std::string::npos) << cache_->Refuses();
  cache_->SetPinned({});
  EXPECT_EQ(cache_->Refuses(), "") << "what is there can be evicted";
}

// A device that failed and works again: scrub tries the slots that were given up.
TEST_F(CacheTest, BadSlotsAreTriedAgain) {
  std::atomic<bool> works = false;
  std::set<uint32_t> refuses;
  Open(16, {.write = [&](uint32_t slot) {
    return works || !refuses.count(slot) ? OkStatus() : Status(ErrnoError("write", EIO));
  }});
  for (uint32_t chunk = 0; chunk < 4; chunk++) Publish(chunk);
  const uint32_t unreadable = kernel_->Retire(1, true), untold = kernel_->Retire(2, false);
  cache_->Resync();  // learns of the second one
  auto slot = cache_->TakeSlot();
  ASSERT_TRUE(slot.ok());
  refuses = {*slot, unreadable};
  ASSERT_TRUE(cache_->Retire(*slot, "write: refused").ok());
  EXPECT_EQ(cache_->GetStat().retired, 3u);
  EXPECT_NE(cache_->GetStat().trouble, "");

  EXPECT_EQ(cache_->RetryBadSlots(), 3u);
  kernel_->EndGracePeriods();
  cache_->TestSlots();  // while the device still refuses two of them
  EXPECT_EQ(cache_->GetStat().retired, 2u);
  EXPECT_NE(cache_->Find(kSpace, 0)->slot, untold);

  works = true;
  EXPECT_EQ(cache_->RetryBadSlots(), 2u);
  cache_->TestSlots();
  EXPECT_EQ(cache_->GetStat().retired, 0u);
  EXPECT_EQ(cache_->RetryBadSlots(), 0u);
  EXPECT_EQ(kernel_->nr_astray(), 0u);
  std::set<uint32_t> taken;
  for (auto more = cache_->TakeSlots(16, kSpace, 50); more.ok() && !more->empty();
       more = cache_->TakeSlots(16, kSpace, 50, false))
    taken.insert(more->begin(), more->end());
  for (uint32_t s : {*slot, unreadable, untold}) EXPECT_TRUE(taken.count(s)) << s;
}

// A read that began before the slot was given up may fail after the slot was asked for.
TEST_F(CacheTest, ASlotThatFailsAgainBeforeItComesIsAskedForAgain) {
  Open(16);
  for (uint32_t chunk = 0; chunk < 4; chunk++) Publish(chunk);
  const uint32_t slot = kernel_->Retire(1, true);
  EXPECT_EQ(cache_->RetryBadSlots(), 1u);
  kernel_->RetireEvicting(slot);
  kernel_->EndGracePeriods();
  cache_->TestSlots();
  EXPECT_EQ(cache_->GetStat().retired, 1u);

  EXPECT_EQ(cache_->RetryBadSlots(), 1u);
  kernel_->EndGracePeriods();
  cache_->TestSlots();
  EXPECT_EQ(cache_->GetStat().retired, 0u);
  EXPECT_EQ(kernel_->nr_astray(), 0u);
}

}  // namespace
}  // namespace fastoci
