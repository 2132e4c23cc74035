// SPDX-License-Identifier: Apache-2.0
// KernelLink: what the broker and dm-fastoci say to each other, without netlink, so that
// tests can stand in for the kernel. fastoci_netlink.h describes the protocol. Any thread
// may call the functions; from within KernelEvents only Ack() may be called. Those that
// return a Status or a Result wait for the kernel's reply; the wait has a limit.
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
  uint32_t dev = 0;  // as KernelDev() numbers it
  uint32_t chunk_shift = 0;
  uint32_t nr_slots = 0;
  uint32_t nr_free = 0;
  uint32_t nr_pending = 0;
  uint32_t nr_bad = 0;  // slots that cannot be read
};

struct ImageInfo {
  uint32_t image = 0;
  uint32_t cache = 0;
  uint32_t meta_dev = 0;
  uint32_t cache_dev = 0;
  Sha256Digest image_id{};
  // Only GetImages() sets these: reads of blob data so far, and those that wait now.
  uint64_t hits = 0, misses = 0, errors = 0;
  uint32_t waiting = 0;
  // Some of the hits are timed, see FASTOCI_NR_HIT_TIMES. 0 if the module does not time hits.
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
  uint32_t space = 0;     // not set if RESERVED
  uint32_t chunk_no = 0;  // not set if RESERVED
  bool accessed = false;
};

// Called on the link's receiving thread. May call Ack() and nothing else of
// the link; must not block.
class KernelEvents {
 public:
  virtual ~KernelEvents() = default;
  virtual void OnMiss(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  virtual void OnEvicted(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  // These slots cannot be read: their chunks are not present any more, and
  // nobody gets the slots until Reuse() or until the cache goes. No OnEvicted()
  // comes for them, even if they were being evicted.
  virtual void OnSlotBad(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  virtual void OnImage(const ImageInfo& image, bool added) = 0;
  // Comes some time after the cache's last image was removed. Until then the cache is listed.
  virtual void OnCacheRemoved(uint32_t cache) = 0;
  // Events were lost (ENOBUFS): dump caches and images, then GetPending().
  virtual void OnLost() = 0;
  // Another helper took over. The kernel refuses all commands of this one from now on.
  // Called by any thread, perhaps more than once.
  virtual void OnReplaced() {}
  // No event will come any more. The helper has to be started anew; the kernel sends the
  // pending misses to the next one. Called once.
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
  // Gives back every slot that this helper has reserved in the cache, also those
  // that it reserved in a former cache of the same UUID. The caller has no write
  // under way to any of them. The default is for fakes that reserve nothing.
  virtual Status ReturnAll(uint32_t cache) {
    (void)cache;
    return OkStatus();
  }
  // Takes slots into use again that OnSlotBad() or GetSlots() named as bad. They come back
  // with OnEvicted() once no reader is left, and are then reserved. Slots that are not bad
  // stay as they are. The default is for fakes without bad slots.
  virtual Status Reuse(uint32_t cache, std::span<const uint32_t> slots) {
    (void)cache;
    (void)slots;
    return OkStatus();
  }
  virtual void Ack(uint32_t cache, uint32_t count) = 0;  // does not wait
  virtual Status Fill(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  virtual Status Fail(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  // The slots come back with OnEvicted() once no reader is left. They are then reserved.
  virtual Status Evict(uint32_t cache, std::span<const ChunkEntry> chunks) = 0;
  // EEXIST in Error::err: a slot or a chunk is taken. The chunks before it are restored.
  virtual Status Restore(uint32_t cache, const Sha256Digest& space_id, uint64_t data_bytes,
                         std::span<const ChunkEntry> chunks) = 0;
  // each: called on the receiving thread. It must neither block nor call the link.
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
