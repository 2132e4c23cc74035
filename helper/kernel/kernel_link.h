// SPDX-License-Identifier: Apache-2.0
// KernelLink: what the broker says to dm-fastoci and hears from it, free of
// netlink, so that tests can stand in for the kernel. fastoci_netlink.h holds
// the protocol. All calls may be made from any thread; those that return a
// Status wait for the kernel's reply (bounded), except from KernelEvents.
#ifndef FASTOCI_KERNEL_KERNEL_LINK_H_
#define FASTOCI_KERNEL_KERNEL_LINK_H_

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/digest.h"
#include "base/result.h"
#include "fastoci_netlink.h"

namespace fastoci {

using CacheUuid = std::array<uint8_t, 16>;

// One entry of a batch; each command uses the fields that it names.
struct ChunkEntry {
  uint32_t space = 0;
  uint32_t chunk_no = 0;
  uint32_t slot = 0;
  uint32_t err = 0;         // FAIL: positive errno
  uint8_t miss_class = 0;   // MISS: enum fastoci_miss_class
};

struct CacheInfo {
  uint32_t cache = 0;
  CacheUuid uuid{};
  uint32_t dev = 0;  // major << 20 | minor
  uint32_t chunk_shift = 0;
  uint32_t nr_slots = 0;
  uint32_t nr_free = 0;
  uint32_t nr_pending = 0;
};

struct ImageInfo {
  uint32_t image = 0;
  uint32_t cache = 0;
  uint32_t meta_dev = 0;
  uint32_t cache_dev = 0;
  Sha256Digest image_id{};
  // GetImages() alone: reads of blob data so far, and those that wait now.
  uint64_t hits = 0, misses = 0, errors = 0;
  uint32_t waiting = 0;
  // Of some of the hits, see FASTOCI_NR_HIT_TIMES; 0 with a module that does not time them.
  std::array<uint64_t, FASTOCI_NR_HIT_TIMES> hit_times{};
  uint64_t hit_ns = 0;
};

struct SpaceInfo {
  uint32_t cache = 0;
  uint32_t space = 0;
  Sha256Digest id{};
  uint64_t data_bytes = 0;
  uint32_t nr_chunks = 0;
  uint32_t nr_present = 0;
};

// A slot that is not free.
struct SlotInfo {
  uint32_t slot = 0;
  uint8_t state = 0;  // enum fastoci_slot_state
  uint32_t space = 0;     // not if RESERVED
  uint32_t chunk_no = 0;  // not if RESERVED
  bool accessed = false;
};

// Called on the link's receiving thread. May call Ack() and nothing else of
// the link; must not block.
class KernelEvents {
 public:
  virtual ~KernelEvents() = default;
  virtual void OnMiss(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  virtual void OnEvicted(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  // A read of these slots failed: their chunks are not present any more, and
  // nobody gets them until the cache goes, also if they were being evicted.
  virtual void OnSlotBad(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  virtual void OnImage(const ImageInfo& image, bool added) = 0;
  // Comes some time after its last image was removed; until then it is listed.
  virtual void OnCacheRemoved(uint32_t cache) = 0;
  // Events were lost (ENOBUFS): dump caches and images, then GetPending().
  virtual void OnLost() = 0;
  // Another helper took over: no command of this one counts any more. From any
  // thread, perhaps more than once.
  virtual void OnReplaced() {}
  // Nothing will be heard any more: the helper has to be started anew, as the
  // kernel sends what is pending to the next one. Once.
  virtual void OnBroken() {}
};

class KernelLink {
 public:
  virtual ~KernelLink() = default;
  // EBUSY in Error::err: another helper is registered.
  virtual Status Register(bool takeover) = 0;
  // At most count slots, at least one; ENOSPC in Error::err when none is free.
  virtual Result<std::vector<uint32_t>> Alloc(uint32_t cache, uint32_t count) = 0;
  virtual Status Return(uint32_t cache, std::span<const uint32_t> slots) = 0;
  virtual void Ack(uint32_t cache, uint32_t count) = 0;  // does not wait
  virtual Status Fill(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  virtual Status Fail(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  // The slots come back with OnEvicted() once no reader is left: reserved.
  virtual Status Evict(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  // EEXIST in Error::err: a slot or chunk is taken; those before it stay done.
  virtual Status Restore(uint32_t cache, const Sha256Digest& space_id, uint64_t data_bytes,
                         std::span<const ChunkEntry> chunks) = 0;
  // each: called on the receiving thread; must not block nor call the link.
  virtual Status GetSlots(uint32_t cache, bool clear_accessed,
                          const std::function<void(const SlotInfo&)>& each) = 0;
  virtual Result<std::vector<CacheInfo>> GetCaches() = 0;
  virtual Result<std::vector<ImageInfo>> GetImages() = 0;
  virtual Result<std::vector<SpaceInfo>> GetSpaces() = 0;
  // Makes the kernel send all pending misses again as events.
  virtual Status GetPending() = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_KERNEL_KERNEL_LINK_H_
