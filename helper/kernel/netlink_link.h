// SPDX-License-Identifier: Apache-2.0
// KernelLink: what the broker says to dm-fastoci and hears from it, see
// include/uapi/fastoci_netlink.h. NetlinkLink speaks generic netlink through
// libnl; tests have a kernel of their own.
//
// All calls are thread-safe. A command waits for the kernel's answer; events
// that come meanwhile are kept for TakeEvents(). Dumps use a socket of their
// own, so that a long one delays no command.
//
// Errors carry the kernel's errno: ESTALE when another helper took over, ENOENT
// when the cache is gone, ENOSPC from Alloc().
#ifndef FASTOCI_KERNEL_NETLINK_LINK_H_
#define FASTOCI_KERNEL_NETLINK_LINK_H_

#include <fastoci_netlink.h>

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/digest.h"
#include "base/result.h"

namespace fastoci {

using Uuid = std::array<uint8_t, 16>;

// A chunk as kernel and broker name it; which fields mean something depends on
// the command (fastoci_netlink.h).
struct KernelChunk {
  uint32_t space = 0;
  uint32_t chunk_no = 0;
  uint32_t slot = 0;
  uint8_t miss_class = 0;  // enum fastoci_miss_class
  uint32_t err = 0;        // positive errno
};

struct KernelCache {
  uint32_t cache = 0;
  Uuid uuid{};
  uint32_t cache_dev = 0;  // major << 20 | minor
  uint32_t chunk_shift = 0;
  uint32_t nr_slots = 0;
  uint32_t nr_free = 0;
};

struct KernelImage {
  uint32_t image = 0;
  uint32_t cache = 0;
  uint32_t meta_dev = 0;
  uint32_t cache_dev = 0;
  Sha256Digest image_id{};
};

struct KernelSpace {
  uint32_t cache = 0;
  uint32_t space = 0;
  Sha256Digest id{};
  uint64_t data_bytes = 0;
  uint32_t nr_chunks = 0;
  uint32_t nr_present = 0;
};

struct KernelSlot {
  uint32_t slot = 0;
  fastoci_slot_state state = FASTOCI_SLOT_FREE;
  uint32_t space = 0;  // not for RESERVED
  uint32_t chunk_no = 0;
  bool accessed = false;
};

struct KernelEvent {
  enum class Type { kMiss, kEvicted, kImages, kCaches, kLost };
  Type type = Type::kLost;  // kLost: some were dropped, dump everything
  uint32_t cache = 0;       // kMiss, kEvicted
  std::vector<KernelChunk> chunks;
};

class KernelLink {
 public:
  virtual ~KernelLink() = default;

  // Becomes the helper. EBUSY while another one is and takeover is false.
  virtual Status Register(bool takeover) = 0;
  // 1 to `count` slots.
  virtual Result<std::vector<uint32_t>> Alloc(uint32_t cache, uint32_t count) = 0;
  virtual Status Return(uint32_t cache, std::span<const uint32_t> slots) = 0;
  virtual Status Ack(uint32_t cache, uint32_t count) = 0;
  virtual Status Fill(uint32_t cache, const KernelChunk& chunk) = 0;
  virtual Status Fail(uint32_t cache, const KernelChunk& chunk) = 0;
  virtual Status Evict(uint32_t cache, std::span<const KernelChunk> chunks) = 0;
  // One batch; EEXIST if one of the chunks or slots is taken: those before it
  // are in force.
  virtual Status Restore(uint32_t cache, const Sha256Digest& id, uint64_t data_bytes,
                         std::span<const KernelChunk> chunks) = 0;

  virtual Result<std::vector<KernelCache>> Caches() = 0;
  virtual Result<std::vector<KernelImage>> Images() = 0;
  virtual Result<std::vector<KernelSpace>> Spaces() = 0;
  // All but the free ones. clear_accessed: and clears their access bits.
  virtual Result<std::vector<KernelSlot>> Slots(uint32_t cache, bool clear_accessed) = 0;
  // Has every pending miss sent again as an event.
  virtual Status ResendPending() = 0;

  // Readable when TakeEvents() may have some.
  virtual std::vector<int> event_fds() const = 0;
  // What has come; does not wait.
  virtual Result<std::vector<KernelEvent>> TakeEvents() = 0;
};

// kUnsupported if the module is not loaded.
Result<std::unique_ptr<KernelLink>> OpenNetlinkLink();

}  // namespace fastoci

#endif  // FASTOCI_KERNEL_NETLINK_LINK_H_
