// SPDX-License-Identifier: Apache-2.0
// CacheDevice: a block device (or, in tests, a file) that holds slots. All transfers use
// O_DIRECT and the device itself, never its backing file, so that the kernel's bios see
// them. The device is opened without O_EXCL, because device-mapper holds it too. The
// superblock is struct fastoci_cache_sb.
#ifndef FASTOCI_CACHE_CACHE_DEVICE_H_
#define FASTOCI_CACHE_CACHE_DEVICE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/byte_reader.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cache/aligned_buffer.h"

namespace fastoci {

struct CacheGeometry {
  std::array<uint8_t, 16> uuid{};
  uint32_t chunk_shift = 16;
  uint32_t nr_slots = 0;
  uint64_t slots_offset = 0;
};

// Encode and parse the 4096 bytes of a superblock. Parsing checks every field against
// the limits of fastoci_meta.h and against the size of the device.
Bytes EncodeCacheSuperblock(const CacheGeometry& geometry);
Result<CacheGeometry> ParseCacheSuperblock(ByteSpan bytes, uint64_t device_bytes);

class CacheDevice {
 public:
  // Opens a device that carries a superblock.
  static Result<std::unique_ptr<CacheDevice>> Open(const std::string& path);
  // Writes a superblock with a new UUID, for a cache that takes the whole device. Refuses
  // a device whose first 4096 bytes are not zeros, so that nobody's data is lost.
  static Status Format(const std::string& path, uint32_t chunk_shift);
  // True if the first 4096 bytes are zeros.
  static Result<bool> IsBlank(const std::string& path);
  virtual ~CacheDevice() = default;

  const CacheGeometry& geometry() const { return geometry_; }
  const std::string& path() const { return path_; }
  uint64_t chunk_bytes() const { return 1ULL << geometry_.chunk_shift; }
  uint64_t size_bytes() const { return size_bytes_; }
  uint32_t dev() const { return dev_; }  // as KernelDev() numbers it; 0 for a file

  // The transfers below are virtual for tests, which make them fail or hang.
  // Any thread; they wait for the device.

  // One slot of WriteSlots().
  struct SlotWrite {
    uint32_t slot = 0;
    std::span<const uint8_t> data;  // aligned memory, a whole chunk or (a multiple of 512) its head
    Status result = OkStatus();
  };
  // Writes consecutive entries whose slots are adjacent in one write, up to IOV_MAX of them. Sets
  // each result. If such a write fails, repeats it slot by slot, to find out which slots the
  // device refuses.
  virtual void WriteSlots(std::span<SlotWrite> writes);
  Status WriteSlot(uint32_t slot, std::span<const uint8_t> data);
  // data: aligned memory, a whole chunk or (a multiple of 512 bytes) its head.
  virtual Status ReadSlot(uint32_t slot, std::span<uint8_t> data);
  // Writes the superblock again, unchanged. Tells whether the device takes writes.
  virtual Status RewriteSuperblock();
  // Gives the space of all slots back, if the device can do that. Nobody may use the slots.
  virtual Status DiscardSlots();
  // When it returns, all that was written before the call is durable.
  virtual Status Flush();

 protected:
  CacheDevice() = default;
  // For a test's device, which takes over what was opened.
  CacheDevice(CacheDevice&&) = default;

 private:
  Status Check(uint32_t slot, size_t bytes) const;
  uint64_t OffsetOf(uint32_t slot) const;
  Status WriteRun(std::span<SlotWrite> run);
  UniqueFd fd_;
  std::string path_;
  CacheGeometry geometry_;
  uint64_t size_bytes_ = 0;
  uint32_t dev_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_CACHE_DEVICE_H_
