// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/disk_sync.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>
#include <vector>

namespace fastoci {
namespace {

TEST(DiskSyncTest, ADirectoryIsSynced) {
  auto disk = DiskSync::Open("/tmp");
  ASSERT_TRUE(disk.ok());
  EXPECT_TRUE((*disk)->Sync().ok());
  EXPECT_FALSE(DiskSync::Open("/nonexistent").ok());
}

TEST(DiskSyncTest, WhoComesDuringARoundGetsALaterOne) {
  std::atomic<int> rounds{0};
  std::promise<void> first_runs, first_may_end;
  auto may_end = first_may_end.get_future().share();
  DiskSync disk([&] {
    if (rounds++ == 0) {
      first_runs.set_value();
      may_end.wait();
    }
    return OkStatus();
  });
  std::thread first([&] { EXPECT_TRUE(disk.Sync().ok()); });
  first_runs.get_future().wait();
  std::atomic<int> came{0}, ended{0};
  std::vector<std::thread> others;
  for (int i = 0; i < 8; i++)
    others.emplace_back([&] {
      came++;
      EXPECT_TRUE(disk.Sync().ok());
      EXPECT_GE(rounds.load(), 2) << "the round that ran already is not enough";
      ended++;
    });
  while (came < 8) std::this_thread::yield();
  EXPECT_EQ(ended.load(), 0);
  first_may_end.set_value();
  first.join();
  for (std::thread& t : others) t.join();
  EXPECT_LE(rounds.load(), 9);
}

TEST(DiskSyncTest, AFailureIsTold) {
  bool fails = true;
  DiskSync disk([&] { return fails ? Status(ErrnoError("sync", EIO)) : OkStatus(); });
  EXPECT_EQ(disk.Sync().error().err, EIO);
  fails = false;
  EXPECT_TRUE(disk.Sync().ok());
}

}  // namespace
}  // namespace fastoci
