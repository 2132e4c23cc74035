// SPDX-License-Identifier: Apache-2.0
#include "cache/writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <thread>

#include "testing/cache_fixture.h"
#include "testing/latch.h"

namespace fastoci {
namespace {

constexpr auto kLong = std::chrono::seconds(60);

class WriterTest : public CacheFixture {
 protected:
  void TearDown() override {
    writer_ = nullptr;
    CacheFixture::TearDown();
  }
  void StartWriter(const ChunkWriterOptions& options = {}) {
    auto writer = ChunkWriter::Start(
        cache_, options, [this](std::vector<VerifiedChunk> chunks) {
          MutexLock lock(mutex_);
          for (VerifiedChunk& c : chunks) {
            const uint32_t no = c.row.chunk_no;
            EXPECT_TRUE(results_.emplace(no, c.result).second || twice_) << no << " came twice";
          }
          changed_.NotifyAll();
        });
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    writer_ = std::move(*writer);
  }
  static uint8_t Value(uint32_t chunk_no, size_t at) {
    return static_cast<uint8_t>(chunk_no * 7 + at * 13 + 1);
  }
  VerifiedChunk Chunk(uint32_t chunk_no, bool urgent = false, size_t bytes = kChunk) {
    VerifiedChunk c;
    c.space = kSpace;
    c.row = RowOf(chunk_no);
    c.data = writer_->WaitForChunk(std::chrono::steady_clock::now() + kLong);
    c.data_bytes = bytes;
    c.urgent = urgent;
    for (size_t i = 0; i < c.data.span().size(); i++) c.data.span()[i] = Value(chunk_no, i);
    return c;
  }
  std::vector<VerifiedChunk> Chunks(uint32_t first, uint32_t n, bool urgent = false) {
    std::vector<VerifiedChunk> chunks;
    for (uint32_t i = 0; i < n; i++) chunks.push_back(Chunk(first + i, urgent));
    return chunks;
  }
  static bool Holds(std::span<const CacheDevice::SlotWrite> writes, uint32_t chunk_no) {
    return std::any_of(writes.begin(), writes.end(), [&](const CacheDevice::SlotWrite& w) {
      return w.data[0] == Value(chunk_no, 0);  // differs for all below 256
    });
  }
  // One chunk as an array of one.
  std::vector<VerifiedChunk> One(VerifiedChunk chunk) {
    std::vector<VerifiedChunk> one;
    one.push_back(std::move(chunk));
    return one;
  }
  Status Result(uint32_t chunk_no) {
    MutexLock lock(mutex_);
    EXPECT_TRUE(changed_.WaitFor(mutex_, kLong, [&]() REQUIRES(mutex_) {
      return results_.count(chunk_no) != 0;
    }));
    return results_.count(chunk_no) ? results_.at(chunk_no) : Status(NotFoundError("not done"));
  }
  bool IsDone(uint32_t chunk_no) {
    MutexLock lock(mutex_);
    return results_.count(chunk_no) != 0;
  }
  void ExpectServed(uint32_t chunk_no, size_t bytes = kChunk) {
    Status s = Result(chunk_no);
    EXPECT_TRUE(s.ok()) << s.error().message;
    Bytes got;
    ASSERT_EQ(kernel_->Read(chunk_no, &got), 0);
    size_t wrong = 0;
    for (size_t i = 0; i < got.size(); i++) wrong += got[i] != (i < bytes ? Value(chunk_no, i) : 0);
    EXPECT_EQ(wrong, 0u) << "chunk " << chunk_no;
  }

  std::unique_ptr<ChunkWriter> writer_;
  bool twice_ = false;  // a chunk may be done twice, as it was written twice
  Mutex mutex_;
  CondVar changed_;
  std::map<uint32_t, Status> results_ GUARDED_BY(mutex_);
};

TEST_F(WriterTest, ABatchIsOneWriteAndOneFill) {
  std::atomic<size_t> writes = 0, adjacent = 0;
  Open(64, {.writes = [&](std::span<const CacheDevice::SlotWrite> w) {
    writes++;
    for (size_t i = 1; i < w.size(); i++) adjacent += w[i].slot == w[i - 1].slot + 1;
  }});
  StartWriter({.batch_bytes = 16 * kChunk});
  const uint64_t fills = kernel_->fills;
  writer_->Write(Chunks(0, 16));
  ASSERT_TRUE(writer_->Drain(std::chrono::steady_clock::now() + kLong));
  for (uint32_t i = 0; i < 16; i++) ExpectServed(i);
  // Slots are asked for by 4 in so small a cache: never less than that is written at a time.
  EXPECT_LE(writes, 4u);
  EXPECT_GE(adjacent, 12u);
  EXPECT_EQ(kernel_->fills - fills, writes);
  EXPECT_EQ(counters_.fills, 16u);
}

TEST_F(WriterTest, AnUrgentChunkDoesNotWaitForALargeWrite) {
  Latch large;
  Open(64, {.writes = [&](std::span<const CacheDevice::SlotWrite> w) {
    if (!Holds(w, 100) && !Holds(w, 101)) large.Wait();
  }});
  StartWriter({.nr_threads = 3, .batch_bytes = 4 * kChunk});
  for (uint32_t i = 0; i < 6; i++) writer_->Write(Chunks(i * 8, 8));
  large.AwaitWaiting(2);  // all that take such
  writer_->Write(One(Chunk(100, true)));
  ExpectServed(100);
  writer_->Write(One(Chunk(101, true)));
  ExpectServed(101);
  EXPECT_FALSE(IsDone(0));
  large.Open();
  ASSERT_TRUE(writer_->Drain(std::chrono::steady_clock::now() + kLong));
  for (uint32_t i = 0; i < 48; i++) ExpectServed(i);
}

TEST_F(WriterTest, UrgentChunksComeBeforeThoseThatWait) {
  Latch normal, urgent;
  Mutex mutex;
  std::vector<uint8_t> order;
  Open(64, {.writes = [&](std::span<const CacheDevice::SlotWrite> w) {
    {
      MutexLock lock(mutex);
      order.push_back(w[0].data[0]);
    }
    if (Holds(w, 0)) normal.Wait();
    if (Holds(w, 200)) urgent.Wait();
  }});
  StartWriter({.nr_threads = 2, .batch_bytes = 4 * kChunk});
  writer_->Write(One(Chunk(0)));
  normal.AwaitWaiting();
  writer_->Write(One(Chunk(200, true)));
  urgent.AwaitWaiting();
  std::vector<VerifiedChunk> mixed = Chunks(10, 4);
  mixed.push_back(Chunk(100, true));
  writer_->Write(std::move(mixed));
  normal.Open();  // this thread takes both kinds
  ExpectServed(10);
  ExpectServed(100);
  urgent.Open();
  ASSERT_TRUE(writer_->Drain(std::chrono::steady_clock::now() + kLong));
  MutexLock lock(mutex);
  ASSERT_GE(order.size(), 4u);
  EXPECT_EQ(order[2], Value(100, 0)) << "apart from those that were queued before it";
}

TEST_F(WriterTest, ARefusedSlotIsRetiredAndAnotherOneTaken) {
  std::atomic<uint32_t> refused = UINT32_MAX;
  Open(64, {.write = [&](uint32_t slot) {
    uint32_t none = UINT32_MAX;
    refused.compare_exchange_strong(none, slot);
    return refused == slot ? Status(ErrnoError("write", EIO)) : OkStatus();
  }});
  StartWriter();
  writer_->Write(Chunks(0, 8));
  // The device may be full: slots that held a chunk are taken for a while.
  while (!writer_->Drain(std::chrono::steady_clock::now() + std::chrono::milliseconds(1)))
    kernel_->EndGracePeriods();
  for (uint32_t i = 0; i < 8; i++) {
    Status s = Result(i);
    EXPECT_TRUE(s.ok()) << i << ": " << s.error().message;
  }
  EXPECT_EQ(kernel_->nr_astray(), 0u);
  EXPECT_EQ(counters_.retired, 1u);
  EXPECT_EQ(cache_->GetStat().retired, 1u);
  EXPECT_NE(cache_->GetStat().trouble, "");
}

TEST_F(WriterTest, ADeviceThatTakesNothingLosesNoSlot) {
  std::atomic<bool> takes = false;
  auto refuse = [&] { return takes ? OkStatus() : Status(ErrnoError("write", EIO)); };
  Open(64, {.write = [&](uint32_t) { return refuse(); }, .superblock = refuse});
  StartWriter();
  writer_->Write(Chunks(0, 8));
  for (uint32_t i = 0; i < 8; i++) {
    Status s = Result(i);
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().err, EROFS) << s.error().message;
  }
  EXPECT_EQ(counters_.retired, 0u);
  takes = true;
  writer_->Write(Chunks(10, 8));
  for (uint32_t i = 10; i < 18; i++) ExpectServed(i);
  EXPECT_EQ(kernel_->nr_astray(), 0u);
}

// A batch that is larger than the cache: it writes what it has slots for, which can then be evicted.
TEST_F(WriterTest, ABatchLargerThanTheCacheComesThrough) {
  Open(6);
  StartWriter({.nr_threads = 4});
  for (uint32_t i = 0; i < 4; i++) writer_->Write(Chunks(i * 20, 20));
  while (!writer_->Drain(std::chrono::steady_clock::now() + std::chrono::milliseconds(1)))
    kernel_->EndGracePeriods();
  for (uint32_t i = 0; i < 80; i++) {
    Status s = Result(i);
    EXPECT_TRUE(s.ok()) << i << ": " << s.error().message;
  }
  EXPECT_EQ(kernel_->nr_astray(), 0u);
}

TEST_F(WriterTest, WhatIsThereAlreadyIsNotWrittenAgain) {
  std::atomic<size_t> written = 0;
  Open(64, {.writes = [&](std::span<const CacheDevice::SlotWrite> w) { written += w.size(); }});
  StartWriter();
  twice_ = true;
  writer_->Write(Chunks(0, 4));
  ASSERT_TRUE(writer_->Drain(std::chrono::steady_clock::now() + kLong));
  std::vector<VerifiedChunk> again = Chunks(2, 4);
  again.push_back(Chunk(5));  // and one of them twice
  writer_->Write(std::move(again));
  ASSERT_TRUE(writer_->Drain(std::chrono::steady_clock::now() + kLong));
  for (uint32_t i = 0; i < 6; i++) ExpectServed(i);
  EXPECT_EQ(written, 6u);
  EXPECT_EQ(kernel_->nr_astray(), 0u);
}

TEST_F(WriterTest, ARestoredSlotMakesRoomAlsoWhenItsCheckFails) {
  Open(64);
  for (uint32_t i = 0; i < 3; i++) Publish(i);
  cache_->Commit();
  Reopen();
  ASSERT_EQ(cache_->GetStat().restored, 3u);
  StartWriter();
  auto claimed = cache_->Claim(kSpace, 1);
  auto sound = cache_->Claim(kSpace, 2);
  ASSERT_TRUE(claimed && sound);
  writer_->Write(Chunks(0, 2));
  Bytes got;
  EXPECT_EQ(kernel_->Read(0, &got), 0) << "nobody verified it, and nobody waits for chunk 1";
  EXPECT_FALSE(IsDone(1));
  cache_->Drop({&*claimed, 1});
  ExpectServed(1);
  cache_->Drop({&*sound, 1});
  EXPECT_EQ(kernel_->nr_astray(), 0u);
}

TEST_F(WriterTest, TheRestOfTheLastChunkIsZeros) {
  Open(64);
  StartWriter();
  writer_->Write(One(Chunk(9, true, 1000)));
  ExpectServed(9, 1000);
}

TEST_F(WriterTest, TheChunksInFlightAreBounded) {
  Latch device;
  Open(64, {.writes = [&](std::span<const CacheDevice::SlotWrite>) { device.Wait(); }});
  StartWriter({.nr_threads = 2, .batch_bytes = 2 * kChunk, .pool_bytes = 4 * kChunk});
  writer_->Write(Chunks(0, 4));
  EXPECT_FALSE(writer_->NewChunk());
  EXPECT_FALSE(writer_->WaitForChunk(std::chrono::steady_clock::now()));
  EXPECT_EQ(writer_->nr_pending(), 4u);
  device.Open();
  EXPECT_TRUE(writer_->WaitForChunk(std::chrono::steady_clock::now() + kLong));
  writer_->Stop();  // its threads use the latch
}

TEST_F(WriterTest, WhatIsQueuedAtTheEndIsToldSo) {
  Latch device;
  Open(64, {.writes = [&](std::span<const CacheDevice::SlotWrite>) { device.Wait(); }});
  StartWriter({.nr_threads = 2, .batch_bytes = 2 * kChunk});
  writer_->Write(Chunks(0, 8));
  device.AwaitWaiting();
  std::thread stop([this] { writer_->Stop(); });
  for (uint32_t i = 2; i < 8; i++) EXPECT_EQ(Result(i).error().err, ECANCELED);
  device.Open();
  stop.join();
  ExpectServed(0);
  ExpectServed(1);
  EXPECT_FALSE(writer_->NewChunk());
  VerifiedChunk late;
  late.space = kSpace;
  late.row = RowOf(50);
  writer_->Write(One(std::move(late)));
  EXPECT_EQ(Result(50).error().err, ECANCELED);
}

TEST(ChunkPoolTest, KeepsMemoryWhileChunksAreOut) {
  auto pool = ChunkPool::Make(4096, 4, 1);
  std::vector<ChunkBuffer> out;
  for (int i = 0; i < 4; i++) out.push_back(pool->Take());
  EXPECT_TRUE(out.back());
  EXPECT_FALSE(pool->Take());
  out.resize(1);
  EXPECT_EQ(pool->nr_spare(), 3U) << "for those that come next";
  out.push_back(pool->Take());
  EXPECT_EQ(pool->nr_spare(), 2U);
  out.clear();
  EXPECT_EQ(pool->nr_spare(), 1U) << "nobody needs them now";
}

}  // namespace
}  // namespace fastoci
