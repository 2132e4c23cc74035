// SPDX-License-Identifier: Apache-2.0
// CacheDevice: a block device (or, in tests, a file) that holds slots. All
// transfers are O_DIRECT through the device itself, never through a backing
// file, so that the kernel's bios see them; without O_EXCL, as device-mapper
// holds the device too. The superblock is struct fastoci_cache_sb.
#ifndef FASTOCI_STORE_CACHE_DEVICE_H_
#define FASTOCI_STORE_CACHE_DEVICE_H_

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>

#include "base/byte_reader.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

// Memory that O_DIRECT takes: aligned to a page, and zeroed.
class AlignedBuffer {
 public:
  static constexpr size_t kAlign = 4096;
  explicit AlignedBuffer(size_t bytes);
  bool ok() const { return data_ != nullptr; }
  uint8_t* data() { return data_.get(); }
  size_t size() const { return bytes_; }
  std::span<uint8_t> span() { return {data_.get(), bytes_}; }

 private:
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  size_t bytes_;
  std::unique_ptr<uint8_t, Free> data_;
};

struct CacheGeometry {
  std::array<uint8_t, 16> uuid{};
  uint32_t chunk_shift = 16;
  uint32_t nr_slots = 0;
  uint64_t slots_offset = 0;
};

// The superblock's 4096 bytes, and back. Parsing checks every field against
// the limits of fastoci_meta.h and against the size of the device.
Bytes EncodeCacheSuperblock(const CacheGeometry& geometry);
Result<CacheGeometry> ParseCacheSuperblock(ByteSpan bytes, uint64_t device_bytes);

class CacheDevice {
 public:
  // Opens a device that carries a superblock.
  static Result<std::unique_ptr<CacheDevice>> Open(const std::string& path);
  // Writes a superblock with a new UUID, over all of the device. Refuses one
  // whose first 4096 bytes are not zeros, so that nobody's data is lost.
  static Status Format(const std::string& path, uint32_t chunk_shift);
  // True if the first 4096 bytes are zeros.
  static Result<bool> IsBlank(const std::string& path);

  const CacheGeometry& geometry() const { return geometry_; }
  const std::string& path() const { return path_; }
  uint64_t chunk_bytes() const { return 1ULL << geometry_.chunk_shift; }
  uint64_t size_bytes() const { return size_bytes_; }
  uint32_t dev() const { return dev_; }  // major << 20 | minor; 0 for a file

  // data: aligned memory, a whole chunk or (a multiple of 512 bytes) its head.
  Status WriteSlot(uint32_t slot, std::span<const uint8_t> data);
  Status ReadSlot(uint32_t slot, std::span<uint8_t> data);
  // As it is: tells whether the device takes writes.
  Status RewriteSuperblock();
  // Gives the space of all slots back, if the device can: nobody may use them.
  Status DiscardSlots();
  // Durable from here on: what was written before the call.
  Status Flush();

 private:
  CacheDevice() = default;
  Status Check(uint32_t slot, size_t bytes) const;
  UniqueFd fd_;
  std::string path_;
  CacheGeometry geometry_;
  uint64_t size_bytes_ = 0;
  uint32_t dev_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_STORE_CACHE_DEVICE_H_
