// SPDX-License-Identifier: Apache-2.0
// MemoryDevice: the file-system metadata of an image after the layers so far. It is a
// sparse array of 4 KiB blocks, which are zeros where nothing was written. libext2fs reads
// and writes it through an I/O manager of ours. After each layer, Commit() reports the
// blocks whose content has changed.
#ifndef FASTOCI_IMAGE_MEMORY_DEVICE_H_
#define FASTOCI_IMAGE_MEMORY_DEVICE_H_

#include <ext2fs/ext2_fs.h>
#include <ext2fs/ext2fs.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>

#include "base/byte_reader.h"
#include "base/result.h"

namespace fastoci {

inline constexpr uint64_t kFsBlockBytes = 4096;
inline constexpr uint64_t kFsBlockSectors = 8;

class MemoryDevice {
 public:
  using Block = std::array<uint8_t, kFsBlockBytes>;

  void Read(uint64_t offset, std::span<uint8_t> out) const;
  void Write(uint64_t offset, ByteSpan data);
  void WriteBlock(uint64_t block, const Block& data) { Write(block * kFsBlockBytes, data); }

  // At least as many blocks as Commit() will tell.
  size_t nr_written() const { return before_.size(); }
  // Calls fn for each block that differs from the last Commit(), in ascending
  // order; all_zero: it became zeros.
  using CommitFn = std::function<void(uint64_t block, const Block& data, bool all_zero)>;
  void Commit(const CommitFn& fn);

  // For ext2fs_initialize(): the name of the device that it is to open. Valid
  // while the device lives.
  std::string Name() const;
  static io_manager Manager();

 private:
  void WritePart(uint64_t block, size_t at, ByteSpan data);

  std::unordered_map<uint64_t, std::unique_ptr<Block>> blocks_;
  // Written since the last Commit(), with the content before (null: zeros).
  std::unordered_map<uint64_t, std::unique_ptr<Block>> before_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_MEMORY_DEVICE_H_
