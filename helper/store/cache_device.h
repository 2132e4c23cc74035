// SPDX-License-Identifier: Apache-2.0
// CacheDevice: the block device whose slots hold chunks. By default a sparse
// file behind a loop device; the loop device clears itself when neither a helper
// nor a device-mapper table holds it, and is found again by the next helper.
//
// All I/O is O_DIRECT through the device itself, since that is what the kernel's
// bios see. Buffers are aligned to kIoAlign and whole multiples of it.
// Thread-safe.
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

inline constexpr size_t kIoAlign = 4096;

struct FreeDeleter {
  void operator()(uint8_t* p) const { std::free(p); }
};
// Memory for O_DIRECT.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t bytes)
      : data_(static_cast<uint8_t*>(std::aligned_alloc(kIoAlign, bytes))), bytes_(bytes) {
    if (!data_) std::abort();  // as operator new would
  }
  std::span<uint8_t> span() { return {data_.get(), bytes_}; }
  size_t size() const { return bytes_; }

 private:
  std::unique_ptr<uint8_t, FreeDeleter> data_;
  size_t bytes_;
};

struct CacheGeometry {
  std::array<uint8_t, 16> uuid{};
  uint32_t chunk_shift = 0;
  uint32_t nr_slots = 0;
  uint64_t slots_offset = 0;
  uint64_t chunk_bytes() const { return 1ULL << chunk_shift; }
};

// The superblock's 4096 bytes, and what they say. device_bytes: to be checked against.
Bytes MakeCacheSuperblock(const CacheGeometry& geometry);
Result<CacheGeometry> ParseCacheSuperblock(ByteSpan bytes, uint64_t device_bytes);
// For a device of that size; kInvalid if it holds no slot.
Result<CacheGeometry> NewCacheGeometry(uint64_t device_bytes, uint32_t chunk_bytes);

struct CacheDeviceOptions {
  std::string dir;     // for the file, if device is empty; must exist
  std::string device;  // a block device
  uint64_t file_bytes = 4ULL << 30;  // of a new file
  uint32_t chunk_bytes = 65536;      // of a new cache
};

class CacheDevice {
 public:
  // Formats a new file, and a device whose first bytes are zeros; kInvalid if
  // there is anything else. Warns in the log where the loop device is buffered.
  static Result<std::unique_ptr<CacheDevice>> Open(const CacheDeviceOptions& options);
  // Over any file or device, without checks of the device; for tests.
  static Result<std::unique_ptr<CacheDevice>> OpenFd(UniqueFd fd, uint64_t bytes,
                                                     uint32_t chunk_bytes);

  const std::string& path() const { return path_; }
  const CacheGeometry& geometry() const { return geometry_; }
  uint32_t dev() const { return dev_; }  // as FASTOCI_A_CACHE_DEV
  bool direct_io() const { return direct_io_; }

  // data: the first bytes of the chunk, a multiple of 512.
  Status Write(uint32_t slot, std::span<const uint8_t> data) const;
  Status Read(uint32_t slot, std::span<uint8_t> data) const;
  Status Flush() const;

 private:
  CacheDevice() = default;
  Status LoadOrFormat(uint64_t device_bytes, uint32_t chunk_bytes);

  std::string path_;
  UniqueFd fd_;
  CacheGeometry geometry_;
  uint32_t dev_ = 0;
  bool direct_io_ = true;
};

}  // namespace fastoci

#endif  // FASTOCI_STORE_CACHE_DEVICE_H_
