// SPDX-License-Identifier: Apache-2.0
#include "cache/committer.h"

#include <gtest/gtest.h>

#include <atomic>

#include "testing/latch.h"

namespace fastoci {
namespace {

constexpr auto kNever = std::chrono::hours(1);

TEST(Committer, CommitsWhenKickedAndAtTheEnd) {
  std::atomic<int> commits = 0;
  Latch first;
  auto started = Committer::Start(
      [&] {
        if (++commits == 1) first.Wait();
      },
      kNever);
  ASSERT_TRUE(started.ok());
  Committer& committer = **started;
  committer.Kick();
  first.AwaitWaiting();
  EXPECT_EQ(commits, 1);
  first.Open();
  committer.Stop();
  EXPECT_EQ(commits, 2) << "once more, for what came during the first";
}

TEST(Committer, WhoAsksForAWriteGetsItsOutcome) {
  auto started = Committer::Start([] {}, kNever);
  ASSERT_TRUE(started.ok());
  Committer& committer = **started;
  EXPECT_TRUE(committer.Run([] { return OkStatus(); }, kNever).ok());
  Status s = committer.Run([] { return Status(ErrnoError("disk", EIO)); }, kNever);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().err, EIO);
}

// A disk that does not answer: who asks goes on, and the write is done when it does.
TEST(Committer, NobodyWaitsForADiskThatHangs) {
  Latch disk;
  std::atomic<bool> written = false;
  auto started = Committer::Start([&] { disk.Wait(); }, kNever);
  ASSERT_TRUE(started.ok());
  Committer& committer = **started;
  committer.Kick();
  disk.AwaitWaiting();
  Status s = committer.Run(
      [&] {
        written = true;
        return OkStatus();
      },
      std::chrono::milliseconds(1));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().err, ETIMEDOUT);
  for (int i = 1; i < 64; i++)
    EXPECT_EQ(committer.Run([] { return OkStatus(); }, std::chrono::seconds(0)).error().err,
              ETIMEDOUT);
  EXPECT_EQ(committer.Run([] { return OkStatus(); }, std::chrono::seconds(0)).error().err, EBUSY)
      << "they are bounded";
  EXPECT_FALSE(written);
  disk.Open();
  committer.Stop();
  EXPECT_TRUE(written);
  EXPECT_EQ(committer.Run([] { return OkStatus(); }, kNever).error().err, ECANCELED);
}

}  // namespace
}  // namespace fastoci
