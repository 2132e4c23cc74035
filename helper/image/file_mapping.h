// SPDX-License-Identifier: Apache-2.0
// FileMapping: how one file's content lies in the tar stream. Whole sectors that
// are sectors of the stream, too, are mapped; what is not (the end of a sparse
// run with another run behind it, runs that are not aligned to 512 bytes, a last
// sector whose padding is not zero) is copied while the data streams by.
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

// Copied sectors of one file; what is above is refused.
inline constexpr uint64_t kMaxCopiedSectors = 512 << 10;

class FileMapping {
 public:
  explicit FileMapping(const TarEntry& entry);
  // The blocks that hold data, as (logical block, count).
  const std::vector<std::pair<uint64_t, uint64_t>>& blocks() const { return blocks_; }
  Status OnData(uint64_t offset, ByteSpan data);
  // Adds segments for each sector of the extents, which cover blocks().
  void Emit(bool zero_padding, const std::vector<FileExtent>& extents, LsmtBuilder* out) const;

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
