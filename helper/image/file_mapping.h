// SPDX-License-Identifier: Apache-2.0
// FileMapping: how one file's content lies in the tar stream. A sector of the file that
// is a whole sector of the stream is mapped. Everything else is copied while the data
// streams by: the end of a sparse run that another run follows, runs that are not
// aligned to 512 bytes, and a last sector whose padding is not zero.
#ifndef FASTOCI_IMAGE_FILE_MAPPING_H_
#define FASTOCI_IMAGE_FILE_MAPPING_H_

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "codec/lsmt.h"
#include "codec/tar_reader.h"
#include "image/ext4_fs.h"

namespace fastoci {

// The most sectors of one file that are copied. A file that needs more is refused.
inline constexpr uint64_t kMaxCopiedSectors = 512 << 10;

class FileMapping {
 public:
  explicit FileMapping(const TarEntry& entry);
  // The blocks that hold data, as (logical block, count).
  const std::vector<std::pair<uint64_t, uint64_t>>& blocks() const { return blocks_; }
  Status OnData(uint64_t offset, ByteSpan data);
  // Adds segments for each sector of the extents, which cover blocks().
  void Emit(bool zero_padding, const std::vector<FileExtent>& extents, LsmtBuilder* out) const;
  // How much memory it takes besides the object itself, about.
  uint64_t memory_bytes() const {
    return blocks_.capacity() * sizeof(blocks_[0]) + mapped_.capacity() * sizeof(Mapped) +
           copies_.capacity() * sizeof(Copy) + copied_.size() * (sizeof(Sector) + 64);
  }

 private:
  using Sector = std::array<uint8_t, kSectorBytes>;
  struct Mapped {
    uint64_t sector, nr_sectors, tar_sector;  // of the file, of the tar
  };
  struct Copy {
    uint64_t stored, bytes, file_offset;
  };
  void AddRun(const TarRun& run, uint64_t stored, uint64_t data_offset, bool last);
  void EmitBlocks(const FileExtent& extent, const std::vector<Mapped>& mapped, bool tail_mapped,
                  LsmtBuilder* out) const;

  std::vector<std::pair<uint64_t, uint64_t>> blocks_;
  std::vector<Mapped> mapped_;  // sorted
  std::vector<Copy> copies_;    // sorted
  size_t next_copy_ = 0;
  std::map<uint64_t, Sector> copied_;
  // The last, partial sector: copied, and mapped instead if its padding is zero.
  bool has_tail_ = false;
  Mapped tail_{};
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_FILE_MAPPING_H_
