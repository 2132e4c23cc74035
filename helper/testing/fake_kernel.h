// SPDX-License-Identifier: Apache-2.0
// A model of the kernel's side of one cache with one data space: slots,
// reservations, misses, eviction with a delay. Its readers see every byte.
#ifndef FASTOCI_TESTING_FAKE_KERNEL_H_
#define FASTOCI_TESTING_FAKE_KERNEL_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <span>
#include <vector>

#include "cache/cache_device.h"
#include "fastoci_netlink.h"
#include "image/meta_image.h"
#include "kernel/kernel_link.h"

namespace fastoci {

class FakeKernel : public KernelLink {
 public:
  static constexpr uint32_t kCache = 3, kSpace = 5, kImage = 7;
  static constexpr uint64_t kChunk = 65536;

  FakeKernel(CacheDevice* device, const BlobInfo& blob) : device_(device) {
    nr_slots_ = device->geometry().nr_slots;
    nr_chunks_ = static_cast<uint32_t>((blob.data_bytes + kChunk - 1) / kChunk);
    for (uint32_t s = 0; s < nr_slots_; s++) free_.insert(s);
    cache_.cache = kCache;
    cache_.uuid = device->geometry().uuid;
    cache_.chunk_shift = 16;
    cache_.nr_slots = nr_slots_;
    image_.image = kImage;
    image_.cache = kCache;
    space_ = {.cache = kCache,
              .space = kSpace,
              .id = blob.data_space_id,
              .data_bytes = blob.data_bytes,
              .nr_chunks = nr_chunks_};
  }
  // The helper's socket closed: reserved slots are free, chunks stay.
  void HelperLost() {
    Connect(nullptr);
    std::lock_guard lock(mutex_);
    free_.insert(reserved_.begin(), reserved_.end());
    reserved_.clear();
    free_.insert(evicting_.begin(), evicting_.end());  // no reader of ours lasts that long
    evicting_.clear();
  }
  // The last table went and came back: nothing is present.
  void Forget() {
    HelperLost();
    std::lock_guard lock(mutex_);
    map_.clear();
    bad_.clear();
    restored_.clear();
    free_.clear();
    for (uint32_t s = 0; s < nr_slots_; s++) free_.insert(s);
  }
  void Connect(KernelEvents* events) {
    std::unique_lock lock(events_mutex_);
    socket_ = events;
    events_ = nullptr;
  }
  void ShowImage(bool shown) {
    std::lock_guard lock(mutex_);
    image_shown_ = shown;
  }
  void ShowCache(bool shown) {
    std::lock_guard lock(mutex_);
    cache_shown_ = shown;
  }

  // Reads a chunk as a bio would: 0 and its bytes, or an errno.
  int Read(uint32_t chunk, Bytes* out, uint8_t miss_class = FASTOCI_CLASS_DEMAND) {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (auto it = map_.find(chunk); it != map_.end()) {
        readers_[it->second]++;
        accessed_.insert(it->second);
        const uint32_t slot = it->second;
        lock.unlock();
        AlignedBuffer buf(kChunk);
        Status s = device_->ReadSlot(slot, buf.span());
        out->assign(buf.data(), buf.data() + kChunk);
        lock.lock();
        readers_[slot]--;
        return s.ok() ? 0 : EIO;
      }
      if (!misses_.count(chunk)) {
        misses_.insert(chunk);
        failed_.erase(chunk);
        ChunkEntry e{.space = kSpace, .chunk_no = chunk, .miss_class = miss_class};
        lock.unlock();
        SendMisses({&e, 1});
        lock.lock();
      }
      if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return !misses_.count(chunk); }))
        return ETIMEDOUT;
      if (failed_.count(chunk)) return EIO;
    }
  }
  // A read of the chunk's slot failed; told: the helper hears of it.
  uint32_t Retire(uint32_t chunk, bool told) {
    std::unique_lock lock(mutex_);
    const uint32_t slot = map_.at(chunk);
    map_.erase(chunk);
    bad_.insert(slot);
    lock.unlock();
    ChunkEntry e{.space = kSpace, .chunk_no = chunk, .slot = slot};
    std::shared_lock events(events_mutex_);
    if (told) events_->OnSlotBad(kCache, {&e, 1});
    return slot;
  }
  // A read of a slot failed that is being evicted, or was asked for by Reuse().
  void RetireEvicting(uint32_t slot) {
    {
      std::lock_guard lock(mutex_);
      evicting_.erase(slot);
      bad_.insert(slot);
    }
    ChunkEntry e{.space = kSpace, .slot = slot};
    std::shared_lock events(events_mutex_);
    events_->OnSlotBad(kCache, {&e, 1});
  }
  size_t nr_present() {
    std::lock_guard lock(mutex_);
    return map_.size();
  }
  uint32_t AnyPresent() {
    std::lock_guard lock(mutex_);
    return map_.begin()->first;
  }

  Status Register(bool) override {
    std::unique_lock lock(events_mutex_);
    events_ = socket_;
    return OkStatus();
  }
  Result<std::vector<uint32_t>> Alloc(uint32_t, uint32_t count) override {
    allocs++;
    std::lock_guard lock(mutex_);
    if (free_.empty()) return ErrnoError("ALLOC", ENOSPC);
    std::vector<uint32_t> out;
    while (out.size() < count && !free_.empty()) {
      out.push_back(*free_.begin());
      reserved_.insert(*free_.begin());
      free_.erase(free_.begin());
    }
    most_reserved = std::max<size_t>(most_reserved, reserved_.size());
    return out;
  }
  Status Return(uint32_t, std::span<const uint32_t> slots) override {
    std::lock_guard lock(mutex_);
    for (uint32_t s : slots) {
      if (!reserved_.erase(s) && !restored_.erase(s)) return ErrnoError("RETURN", EINVAL);
      free_.insert(s);
    }
    return OkStatus();
  }
  Status ReturnAll(uint32_t) override {
    std::lock_guard lock(mutex_);
    free_.insert(reserved_.begin(), reserved_.end());
    reserved_.clear();
    return OkStatus();
  }
  size_t nr_reserved() {
    std::lock_guard lock(mutex_);
    return reserved_.size();
  }
  void Ack(uint32_t, uint32_t count) override { acked += count; }
  Status Fill(uint32_t, std::span<const ChunkEntry> chunks) override {
    fills++;
    std::lock_guard lock(mutex_);
    for (const ChunkEntry& c : chunks) {
      if (!map_.count(c.chunk_no)) {
        auto r = restored_.find(c.slot);
        if (r != restored_.end() && r->second == c.chunk_no)
          restored_.erase(r);
        else if (!reserved_.erase(c.slot))
          return ErrnoError("FILL", EPERM);
        map_[c.chunk_no] = c.slot;
        accessed_.insert(c.slot);
      }
      misses_.erase(c.chunk_no);
    }
    changed_.notify_all();
    return OkStatus();
  }
  Status Fail(uint32_t, std::span<const ChunkEntry> chunks) override {
    std::lock_guard lock(mutex_);
    for (const ChunkEntry& c : chunks) {
      if (misses_.erase(c.chunk_no)) failed_.insert(c.chunk_no);
    }
    changed_.notify_all();
    return OkStatus();
  }
  Status Evict(uint32_t, std::span<const ChunkEntry> chunks) override {
    if (evict_errors > 0 && evict_errors-- > 0) return ErrnoError("EVICT", ENOMEM);
    std::lock_guard lock(mutex_);
    for (const ChunkEntry& c : chunks) {
      auto it = map_.find(c.chunk_no);
      if (it == map_.end()) continue;
      evicting_.insert(it->second);
      map_.erase(it);
    }
    return OkStatus();
  }
  Status Reuse(uint32_t, std::span<const uint32_t> slots) override {
    std::lock_guard lock(mutex_);
    for (uint32_t s : slots)
      if (bad_.erase(s)) evicting_.insert(s);
    return OkStatus();
  }
  // Ends the grace periods of slots that nobody reads. The kernel does so some time after an
  // eviction; here the test calls it.
  void EndGracePeriods() {
    std::vector<ChunkEntry> gone;
    {
      std::lock_guard lock(mutex_);
      for (auto it = evicting_.begin(); it != evicting_.end();) {
        if (readers_[*it] != 0) {
          ++it;
          continue;
        }
        reserved_.insert(*it);
        gone.push_back({.space = kSpace, .slot = *it});
        it = evicting_.erase(it);
      }
    }
    std::shared_lock lock(events_mutex_);
    if (!gone.empty() && events_) events_->OnEvicted(kCache, gone);
  }
  Status Restore(uint32_t, const Sha256Digest& id, uint64_t data_bytes,
                 std::span<const ChunkEntry> chunks) override {
    std::lock_guard lock(mutex_);
    if (id != space_.id || data_bytes != space_.data_bytes) return ErrnoError("RESTORE", EEXIST);
    for (const ChunkEntry& c : chunks) {
      if (auto r = restored_.find(c.slot); r != restored_.end() && r->second == c.chunk_no)
        continue;
      if (map_.count(c.chunk_no) || !free_.erase(c.slot)) return ErrnoError("RESTORE", EEXIST);
      restored_[c.slot] = c.chunk_no;
    }
    return OkStatus();
  }
  Status GetSlots(uint32_t, bool clear, const std::function<void(const SlotInfo&)>& each) override {
    looks++;
    if (slot_errors > 0 && slot_errors-- > 0) return ErrnoError("GET_SLOTS", ENOMEM);
    std::vector<SlotInfo> all;
    {
      std::lock_guard lock(mutex_);
      for (auto [chunk, slot] : map_)
        all.push_back({slot, FASTOCI_SLOT_PRESENT, kSpace, chunk, accessed_.count(slot) != 0});
      for (auto [slot, chunk] : restored_)
        all.push_back({slot, FASTOCI_SLOT_RESTORED, kSpace, chunk, false});
      for (uint32_t slot : reserved_) all.push_back({slot, FASTOCI_SLOT_RESERVED, 0, 0, false});
      for (uint32_t slot : bad_) all.push_back({slot, FASTOCI_SLOT_BAD, kSpace, 0, false});
      for (uint32_t slot : evicting_) all.push_back({slot, FASTOCI_SLOT_EVICTING, 0, 0, false});
      if (clear) accessed_.clear();
    }
    for (const SlotInfo& i : all) each(i);
    return OkStatus();
  }
  // How many slots are in no state or in two of the states.
  size_t nr_astray() {
    std::lock_guard lock(mutex_);
    std::multiset<uint32_t> all(free_.begin(), free_.end());
    all.insert(reserved_.begin(), reserved_.end());
    all.insert(evicting_.begin(), evicting_.end());
    all.insert(bad_.begin(), bad_.end());
    for (auto [chunk, slot] : map_) all.insert(slot);
    for (auto [slot, chunk] : restored_) all.insert(slot);
    size_t bad = 0;
    for (uint32_t s = 0; s < nr_slots_; s++) bad += all.count(s) != 1;
    return bad;
  }
  Result<std::vector<CacheInfo>> GetCaches() override {
    std::lock_guard lock(mutex_);
    return cache_shown_ ? std::vector<CacheInfo>{cache_} : std::vector<CacheInfo>{};
  }
  Result<std::vector<ImageInfo>> GetImages() override {
    std::lock_guard lock(mutex_);
    return image_shown_ ? std::vector<ImageInfo>{image_} : std::vector<ImageInfo>{};
  }
  Result<std::vector<SpaceInfo>> GetSpaces() override {
    if (space_errors > 0 && space_errors-- > 0) return ErrnoError("GET_SPACES", ENOMEM);
    std::lock_guard lock(mutex_);
    space_.nr_present = static_cast<uint32_t>(map_.size());
    return std::vector<SpaceInfo>{space_};
  }
  Status GetPending() override {
    std::vector<ChunkEntry> all;
    {
      std::lock_guard lock(mutex_);
      for (uint32_t c : misses_)
        all.push_back({.space = kSpace, .chunk_no = c, .miss_class = FASTOCI_CLASS_DEMAND});
    }
    if (!all.empty()) SendMisses(all);
    return OkStatus();
  }

  std::atomic<uint64_t> acked{0};
  std::atomic<uint64_t> fills{0}, allocs{0}, looks{0};  // calls; looks: of GetSlots()
  // Of the next calls of GetSpaces(), Evict(), GetSlots().
  std::atomic<int> space_errors{0}, evict_errors{0}, slot_errors{0};
  std::atomic<size_t> most_reserved{0};

 private:
  void SendMisses(std::span<const ChunkEntry> misses) {
    std::shared_lock lock(events_mutex_);
    if (events_) events_->OnMiss(kCache, misses);
  }
  std::shared_mutex events_mutex_;  // held while an event is told
  KernelEvents* socket_ = nullptr;
  KernelEvents* events_ = nullptr;  // the registered one
  CacheDevice* device_;
  std::mutex mutex_;
  std::condition_variable changed_;
  CacheInfo cache_;
  ImageInfo image_;
  SpaceInfo space_;
  bool image_shown_ = true, cache_shown_ = true;
  uint32_t nr_slots_, nr_chunks_;
  std::set<uint32_t> free_, reserved_, evicting_, bad_, misses_, failed_, accessed_;
  std::map<uint32_t, uint32_t> map_, readers_;
  std::map<uint32_t, uint32_t> restored_;  // slot -> chunk
};

}  // namespace fastoci

#endif  // FASTOCI_TESTING_FAKE_KERNEL_H_
