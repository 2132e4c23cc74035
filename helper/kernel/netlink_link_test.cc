// SPDX-License-Identifier: Apache-2.0
// With FASTOCI_TEST_DIR this runs against the real module, in a VM, as
// selftests/cases/netlink-client.sh arranges it: a device "t" over a cache
// that store/ made, whose misses are served from a file through NetlinkLink.
// Without, there is only the module's absence to see.
#include "kernel/netlink_link.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "base/log.h"
#include "cache/cache_device.h"
#include "fastoci_netlink.h"
#include "kernel/loop.h"

namespace fastoci {
namespace {

constexpr uint32_t kChunkBytes = 65536;
constexpr int kRounds = 20;  // of evictions and misses while dumps run

// Serves misses from one blob in memory, each chunk at most once at a time.
class Server : public KernelEvents {
 public:
  explicit Server(Bytes blob) : blob_(std::move(blob)) {}
  void OnMiss(uint32_t cache, std::span<const ChunkEntry> chunks) override {
    link->Ack(cache, static_cast<uint32_t>(chunks.size()));
    std::lock_guard lock(mutex_);
    for (const ChunkEntry& c : chunks) queue_.emplace_back(cache, c);
    changed_.notify_all();
  }
  void OnEvicted(uint32_t, std::span<const ChunkEntry> chunks) override {
    std::lock_guard lock(mutex_);
    for (const ChunkEntry& c : chunks) evicted.insert(c.slot);
    changed_.notify_all();
  }
  void OnSlotBad(uint32_t, std::span<const ChunkEntry>) override {}
  void OnImage(const ImageInfo&, bool added) override {
    std::lock_guard lock(mutex_);
    (added ? images_added : images_removed)++;
    changed_.notify_all();
  }
  void OnCacheRemoved(uint32_t) override {
    std::lock_guard lock(mutex_);
    caches_removed++;
    changed_.notify_all();
  }
  void OnLost() override { lost = true; }
  void OnBroken() override { broken = true; }

  template <typename Predicate>
  bool WaitFor(Predicate p) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), p);
  }

  void Run(CacheDevice* device) {
    AlignedBuffer chunk(kChunkBytes);
    for (;;) {
      std::pair<uint32_t, ChunkEntry> job;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop || !queue_.empty(); });
        if (stop) return;
        job = queue_.front();
        queue_.pop_front();
      }
      auto& [cache, entry] = job;
      if (fail) {
        entry.err = EIO;
        if (!link->Fail(cache, {&entry, 1}).ok()) ok = false;
        continue;
      }
      auto slots = link->Alloc(cache, 1);
      if (!slots.ok()) {
        Log(LogLevel::kError, "%s", slots.error().message.c_str());
        ok = false;
        continue;
      }
      const size_t at = static_cast<size_t>(entry.chunk_no) * kChunkBytes;
      std::fill_n(chunk.data(), kChunkBytes, 0);
      std::copy_n(blob_.begin() + static_cast<ptrdiff_t>(at),
                  std::min<size_t>(kChunkBytes, blob_.size() - at), chunk.data());
      entry.slot = (*slots)[0];
      Status s = device->WriteSlot(entry.slot, chunk.span());
      if (s.ok()) s = link->Fill(cache, {&entry, 1});
      if (!s.ok()) Log(LogLevel::kError, "%s", s.error().message.c_str());
      if (!s.ok()) ok = false;
      std::lock_guard lock(mutex_);
      filled.push_back(entry);
    }
  }
  void Stop() {
    std::lock_guard lock(mutex_);
    stop = true;
    changed_.notify_all();
  }

  NetlinkLink* link = nullptr;
  bool stop = false;
  std::atomic<bool> lost{false}, broken{false};
  std::atomic<bool> ok{true}, fail{false};
  int images_added = 0, images_removed = 0, caches_removed = 0;
  std::set<uint32_t> evicted;
  std::vector<ChunkEntry> filled;

 private:
  const Bytes blob_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<uint32_t, ChunkEntry>> queue_;
};

bool Sh(const std::string& command) { return std::system(command.c_str()) == 0; }

TEST(NetlinkLink, SpeaksWithTheModule) {
  const char* dir = std::getenv("FASTOCI_TEST_DIR");
  if (!dir) {
    if (::access("/sys/module/dm_fastoci", F_OK) == 0) return;  // a live node: hands off
    Server none{Bytes()};
    auto link = NetlinkLink::Open(&none);
    ASSERT_FALSE(link.ok());
    EXPECT_EQ(link.error().kind, ErrorKind::kNotFound);
    return;
  }
  const std::string d = dir, meta_dev = std::getenv("FASTOCI_TEST_META_DEV");
  const std::string sectors = std::getenv("FASTOCI_TEST_SECTORS");
  auto blob = ReadFile(d + "/blob", 64 << 20);
  ASSERT_TRUE(blob.ok());

  // The cache: sparse file, loop device with direct I/O, superblock.
  auto loop = AttachLoop(d + "/cache.img", 8 << 20);
  ASSERT_TRUE(loop.ok()) << loop.error().message;
  EXPECT_TRUE(loop->direct_io);
  auto again = AttachLoop(d + "/cache.img", 8 << 20);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->path, loop->path) << "a bound file is found again";
  ASSERT_TRUE(CacheDevice::Format(loop->path, 16).ok());
  auto device = CacheDevice::Open(loop->path);
  ASSERT_TRUE(device.ok()) << device.error().message;

  Server server(Bytes(blob->begin(), blob->end()));
  auto opened = NetlinkLink::Open(&server);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  NetlinkLink& link = **opened;
  server.link = &link;
  auto early = link.Alloc(1, 1);
  ASSERT_FALSE(early.ok()) << "no cache yet";
  Status registered = link.Register(false);
  ASSERT_TRUE(registered.ok()) << registered.error().message;
  {
    Server second{Bytes()};
    auto other = NetlinkLink::Open(&second);
    ASSERT_TRUE(other.ok());
    Status busy = (*other)->Register(false);
    ASSERT_FALSE(busy.ok());
    EXPECT_EQ(busy.error().err, EBUSY);
    EXPECT_NE(busy.error().message.find("another helper"), std::string::npos)
        << busy.error().message;
  }

  const std::string create = "dmsetup create t --readonly --table '0 " + sectors + " fastoci " +
                             meta_dev + " " + loop->path + "'";
  ASSERT_TRUE(Sh(create));
  EXPECT_TRUE(server.WaitFor([&] { return server.images_added == 1; }));

  auto caches = link.GetCaches();
  ASSERT_TRUE(caches.ok()) << caches.error().message;
  ASSERT_EQ(caches->size(), 1u);
  const CacheInfo cache = (*caches)[0];
  EXPECT_EQ(cache.uuid, (*device)->geometry().uuid);
  EXPECT_EQ(cache.dev, (*device)->dev());
  EXPECT_EQ(cache.nr_slots, (*device)->geometry().nr_slots);
  auto images = link.GetImages();
  ASSERT_TRUE(images.ok());
  ASSERT_EQ(images->size(), 1u);
  EXPECT_EQ((*images)[0].cache_dev, cache.dev);
  auto spaces = link.GetSpaces();
  ASSERT_TRUE(spaces.ok());
  ASSERT_EQ(spaces->size(), 1u);
  EXPECT_EQ((*spaces)[0].data_bytes, blob->size());

  std::thread worker([&] { server.Run(device->get()); });
  const std::string same = "cmp /dev/mapper/t " + d + "/data";
  EXPECT_TRUE(Sh(same));
  EXPECT_TRUE(server.ok);
  EXPECT_FALSE(server.lost);
  EXPECT_GT(link.GetSpaces()->at(0).nr_present, 0u);

  // Reserved slots go back; a bad slot is refused with an errno.
  auto slots = link.Alloc(cache.cache, 8);
  ASSERT_TRUE(slots.ok());
  EXPECT_EQ(slots->size(), 8u);
  EXPECT_TRUE(link.Return(cache.cache, *slots).ok());
  EXPECT_FALSE(link.Return(cache.cache, *slots).ok());
  ChunkEntry bad{.space = (*spaces)[0].space, .chunk_no = 1 << 27};
  Status refused = link.Fill(cache.cache, {&bad, 1});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().err, EINVAL);
  EXPECT_NE(refused.error().message.find("chunk refused"), std::string::npos)
      << refused.error().message;

  // Dumps while other answers come in: a stray error of the socket ends nothing.
  {
    auto busy = [&] {
      for (int i = 0; i < 3000; i++) {
        auto slot = link.Alloc(cache.cache, 1);
        if (!slot.ok() || !link.Return(cache.cache, *slot).ok()) server.ok = false;
      }
    };
    std::thread one(busy), two(busy);
    for (int i = 0; i < 3000; i++) EXPECT_TRUE(link.GetCaches().ok()) << i;
    one.join();
    two.join();
    EXPECT_TRUE(server.ok);
  }

  // All slots can be taken, no more.
  std::vector<uint32_t> all;
  for (;;) {
    auto part = link.Alloc(cache.cache, 256);
    if (!part.ok()) {
      EXPECT_EQ(part.error().err, ENOSPC);
      break;
    }
    all.insert(all.end(), part->begin(), part->end());
  }
  EXPECT_TRUE(link.ReturnAll(cache.cache).ok());
  EXPECT_FALSE(link.Return(cache.cache, {&all[0], 1}).ok()) << "it is free";

  // Evicted chunks come back by new misses.
  auto evict_all = [&] {
    server.evicted.clear();
    const std::vector<ChunkEntry> filled = std::exchange(server.filled, {});
    EXPECT_TRUE(link.Evict(cache.cache, filled).ok());
    EXPECT_TRUE(server.WaitFor([&] { return server.evicted.size() == filled.size(); }));
    const std::vector<uint32_t> back(server.evicted.begin(), server.evicted.end());
    EXPECT_TRUE(link.Return(cache.cache, back).ok()) << "they were reserved for us";
  };
  evict_all();
  EXPECT_EQ(link.GetSpaces()->at(0).nr_present, 0u);
  EXPECT_TRUE(Sh("blockdev --flushbufs /dev/mapper/t && " + same));
  EXPECT_TRUE(link.GetPending().ok());

  // Events, replies and dumps share the socket: a dump that ends while an event is received leaves
  // an error on it, which is none.
  std::atomic<bool> over = false;
  std::thread dumper([&] {
    while (!over) EXPECT_TRUE(link.GetSlots(cache.cache, false, [](const SlotInfo&) {}).ok());
  });
  for (int i = 0; i < kRounds; i++) {
    evict_all();
    EXPECT_TRUE(Sh("blockdev --flushbufs /dev/mapper/t && " + same)) << "round " << i;
  }
  over = true;
  dumper.join();
  EXPECT_FALSE(server.broken);
  EXPECT_FALSE(server.lost);

  // What slots hold; the access bits can be cleared.
  auto states = [&](bool clear) {
    std::map<uint32_t, SlotInfo> slots;
    EXPECT_TRUE(
        link.GetSlots(cache.cache, clear, [&](const SlotInfo& i) { slots[i.slot] = i; }).ok());
    return slots;
  };
  auto accessed = [](const std::map<uint32_t, SlotInfo>& slots) {
    return std::count_if(slots.begin(), slots.end(), [](auto& s) { return s.second.accessed; });
  };
  const auto before = states(true);
  const auto present = std::find_if(before.begin(), before.end(), [](auto& s) {
    return s.second.state == FASTOCI_SLOT_PRESENT;
  });
  ASSERT_NE(present, before.end());
  EXPECT_EQ(present->second.space, (*spaces)[0].space);
  EXPECT_GT(accessed(before), 0);
  EXPECT_EQ(accessed(states(false)), 0);
  EXPECT_TRUE(Sh("blockdev --flushbufs /dev/mapper/t && " + same));
  EXPECT_GT(accessed(states(false)), 0);

  // A chunk that the database knew: restored, returned, restored and filled.
  ChunkEntry old{.space = present->second.space, .chunk_no = present->second.chunk_no,
                 .slot = present->first};
  auto restore = [&] {
    return link.Restore(cache.cache, (*spaces)[0].id, (*spaces)[0].data_bytes, {&old, 1});
  };
  auto taken = restore();
  ASSERT_FALSE(taken.ok());
  EXPECT_EQ(taken.error().err, EEXIST) << "it is served";
  EXPECT_TRUE(link.Evict(cache.cache, {&old, 1}).ok());
  EXPECT_TRUE(
      server.WaitFor([&] { return states(false)[old.slot].state == FASTOCI_SLOT_RESERVED; }));
  ASSERT_TRUE(restore().ok());
  EXPECT_EQ(states(false)[old.slot].state, FASTOCI_SLOT_RESTORED);
  EXPECT_TRUE(link.Return(cache.cache, {&old.slot, 1}).ok());
  EXPECT_EQ(states(false).count(old.slot), 0u);
  ASSERT_TRUE(restore().ok());
  EXPECT_TRUE(link.Fill(cache.cache, {&old, 1}).ok());
  EXPECT_EQ(states(false)[old.slot].state, FASTOCI_SLOT_PRESENT);
  EXPECT_TRUE(Sh("blockdev --flushbufs /dev/mapper/t && " + same));

  // A failed chunk is an error of the read, and is asked for anew.
  {
    std::vector<ChunkEntry> copy = server.filled;
    EXPECT_TRUE(link.Evict(cache.cache, copy).ok());
  }
  server.fail = true;
  EXPECT_FALSE(Sh(
      "blockdev --flushbufs /dev/mapper/t; dd if=/dev/mapper/t of=/dev/null bs=4096 2>/dev/null"));
  server.fail = false;
  EXPECT_TRUE(Sh("blockdev --flushbufs /dev/mapper/t && " + same));

  EXPECT_TRUE(Sh("dmsetup remove t"));
  EXPECT_TRUE(server.WaitFor([&] { return server.images_removed == 1; }));
  EXPECT_TRUE(server.WaitFor([&] { return server.caches_removed == 1; }));
  EXPECT_TRUE(server.ok);
  server.Stop();
  worker.join();
  *device = nullptr;
  EXPECT_TRUE(DetachLoop(loop->path).ok());
}

}  // namespace
}  // namespace fastoci
