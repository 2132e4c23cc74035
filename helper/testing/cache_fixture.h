// SPDX-License-Identifier: Apache-2.0
// A cache on a small file, with a model of the kernel and a database, for tests.
#ifndef FASTOCI_TESTING_CACHE_FIXTURE_H_
#define FASTOCI_TESTING_CACHE_FIXTURE_H_

#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "cache/cache.h"
#include "testing/fake_kernel.h"
#include "testing/fault_device.h"

namespace fastoci {

class CacheFixture : public ::testing::Test {
 protected:
  static constexpr uint32_t kSpace = FakeKernel::kSpace;
  static constexpr uint64_t kChunk = FakeKernel::kChunk;

  // max_rows: that wait for a commit.
  void Open(uint32_t nr_slots, FaultDevice::Hooks hooks = {},
            size_t max_rows = RowQueue::kMaxRows) {
    // Beside the test binary's working directory: tmpfs takes no O_DIRECT on older kernels.
    char name[] = "build/cache_test.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    {
      UniqueFd fd(::open((dir_ + "/cache").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      ASSERT_EQ(::ftruncate(fd.get(), static_cast<off_t>((nr_slots + 1) * kChunk)), 0);
    }
    ASSERT_TRUE(CacheDevice::Format(dir_ + "/cache", 16).ok());
    auto device = CacheDevice::Open(dir_ + "/cache");
    ASSERT_TRUE(device.ok()) << device.error().message;
    reader_ = std::move(*CacheDevice::Open(dir_ + "/cache"));
    blob_.data_space_id[0] = 1;
    blob_.data_bytes = 1000 * kChunk;
    kernel_ = std::make_unique<FakeKernel>(reader_.get(), blob_);
    auto db = CacheDb::Open(dir_ + "/db", reader_->geometry().uuid, max_rows);
    ASSERT_TRUE(db.ok()) << db.error().message;
    auto fault = std::make_unique<FaultDevice>(std::move(*device), std::move(hooks));
    auto cache = Cache::Open(kernel_.get(), (*kernel_->GetCaches())[0], std::move(fault),
                             std::move(*db), &counters_);
    ASSERT_TRUE(cache.ok()) << cache.error().message;
    cache_ = std::move(*cache);
    kernel_->Connect(&events_);
    ASSERT_TRUE(kernel_->Register(false).ok());
  }
  // What the kernel says about evictions and bad slots.
  class Events : public KernelEvents {
   public:
    explicit Events(CacheFixture* fixture) : fixture_(fixture) {}
    void OnMiss(uint32_t, std::span<const ChunkEntry>) override {}
    void OnEvicted(uint32_t, std::span<const ChunkEntry> chunks) override {
      if (fixture_->cache_) fixture_->cache_->OnEvicted(chunks);
    }
    void OnSlotBad(uint32_t, std::span<const ChunkEntry> chunks) override {
      if (fixture_->cache_) fixture_->cache_->OnSlotBad(chunks);
    }
    void OnImage(const ImageInfo&, bool) override {}
    void OnCacheRemoved(uint32_t) override {}
    void OnLost() override {}

   private:
    CacheFixture* fixture_;
  };
  // The cache as a helper finds it after a restart, when all of the kernel's map was lost.
  void Reopen() {
    const CacheInfo info = cache_->info();
    cache_ = nullptr;
    kernel_->Forget();
    auto device = CacheDevice::Open(dir_ + "/cache");
    auto db = CacheDb::Open(dir_ + "/db", info.uuid);
    ASSERT_TRUE(device.ok() && db.ok());
    auto cache = Cache::Open(kernel_.get(), info, std::move(*device), std::move(*db), &counters_);
    ASSERT_TRUE(cache.ok()) << cache.error().message;
    cache_ = std::move(*cache);
  }
  void TearDown() override {
    cache_ = nullptr;
    if (!dir_.empty()) std::filesystem::remove_all(dir_);
  }
  SlotRow RowOf(uint32_t chunk_no) const {
    SlotRow row;
    row.space_id = blob_.data_space_id;
    row.data_bytes = blob_.data_bytes;
    row.chunk_no = chunk_no;
    row.digest[0] = static_cast<uint8_t>(chunk_no);
    return row;
  }
  // Takes a slot for the chunk and publishes it, without any content.
  void Publish(uint32_t chunk_no) {
    SlotRow row = RowOf(chunk_no);
    auto slot = cache_->TakeSlot();
    ASSERT_TRUE(slot.ok()) << slot.error().message;
    row.slot = *slot;
    Status s = cache_->Publish(kSpace, row);
    ASSERT_TRUE(s.ok()) << s.error().message;
  }

  std::string dir_;
  BlobInfo blob_;
  CacheCounters counters_;
  std::unique_ptr<CacheDevice> reader_;
  std::unique_ptr<FakeKernel> kernel_;
  std::shared_ptr<Cache> cache_;
  Events events_{this};
};

}  // namespace fastoci

#endif  // FASTOCI_TESTING_CACHE_FIXTURE_H_
