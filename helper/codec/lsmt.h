// SPDX-License-Identifier: Apache-2.0
// LSMT: one layer of a block device, as overlaybd and turboOCI store it: header
// (4096 bytes), data, index, trailer (4096 bytes). The index maps sectors of the
// device to sectors of this file (tag 0), of the layer's uncompressed tar stream
// (tag 1, turboOCI only) or to zeros; what it does not map shows the layer below.
#ifndef FASTOCI_CODEC_LSMT_H_
#define FASTOCI_CODEC_LSMT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "codec/read_at.h"

namespace fastoci {

inline constexpr uint64_t kSectorBytes = 512;
inline constexpr uint64_t kLsmtHeaderBytes = 4096;
inline constexpr uint64_t kLsmtMaxSegmentSectors = 16383;
// Limits on what Open() takes; a device has less than 2^32 sectors.
inline constexpr uint64_t kMaxLsmtSegments = 8ULL << 20;
inline constexpr uint64_t kMaxLsmtSectors = (1ULL << 32) - 1;

enum class LsmtSource : uint8_t { kZero, kFile, kTar };

struct LsmtSegment {
  uint64_t sector = 0;  // of the device
  uint64_t nr_sectors = 0;
  uint64_t mapped = 0;  // sector of the source; 0 for kZero
  LsmtSource source = LsmtSource::kZero;
  uint32_t layer = 0;  // of a stack; 0 in a single file

  uint64_t end() const { return sector + nr_sectors; }
  bool operator==(const LsmtSegment&) const = default;
};
// Sorted by sector, not empty, not overlapping.
using LsmtSegments = std::vector<LsmtSegment>;

// How to read the tags of index entries. In turboOCI's fs.meta files they tell the two
// sources apart. Native layers may carry any tag, and it means nothing.
enum class LsmtTags { kSource, kIgnored };

class LsmtReader {
 public:
  // Takes a sealed or committed file, bare or out of a ZFile that the caller
  // unwrapped. Takes a sparse file that was not sealed as well: all of it that is no
  // hole is mapped. Only a local file knows its holes. Checks everything: each kFile
  // segment lies within the file.
  static Result<LsmtReader> Open(const ReadAtFile* file, LsmtTags tags = LsmtTags::kSource);
  // Whether a file that begins with these bytes is one.
  static bool HasMagic(ByteSpan begin);

  uint64_t virtual_bytes() const { return virtual_bytes_; }  // may be 0
  const LsmtSegments& segments() const { return segments_; }
  // Not overlapping parts of [sector, sector + nr_sectors) that are mapped.
  LsmtSegments Lookup(uint64_t sector, uint64_t nr_sectors) const;

 private:
  Status MapHoles(const ReadAtFile& file);
  uint64_t virtual_bytes_ = 0;
  LsmtSegments segments_;
};

// Adds a segment after the last one. If it continues the last one, the two become one.
void AppendSegment(LsmtSegments* segments, const LsmtSegment& segment);

// One layer over another: `upper` wins, its segments get the number `layer`.
LsmtSegments Overlay(const LsmtSegments& lower, const LsmtSegments& upper, uint32_t layer);

// If a run of tar data ends inside a 4 KiB block and nothing is mapped to the rest of
// the block, the rest becomes zeros (docs/meta-format.md: bytes after a file's end).
LsmtSegments ZeroTails(const LsmtSegments& segments);

// The content of a layer before it is written as a file (codec/lsmt_writer.h).
struct LsmtContent {
  LsmtSegments segments;  // kFile ones map sectors of data
  Bytes data;
};

// Collects the content of a layer. Segments come in any order and do not overlap.
class LsmtBuilder {
 public:
  void AddData(uint64_t sector, ByteSpan data);  // whole sectors
  void AddTar(uint64_t sector, uint64_t nr_sectors, uint64_t tar_sector);
  void AddZero(uint64_t sector, uint64_t nr_sectors);
  // So many bytes of data will follow.
  void Reserve(uint64_t data_bytes) { data_.reserve(data_.size() + data_bytes); }
  // virtual_bytes: of the device. The builder is used up.
  Result<LsmtContent> Finish(uint64_t virtual_bytes);

 private:
  Bytes data_;
  LsmtSegments segments_;
};

}  // namespace fastoci

#endif  // FASTOCI_CODEC_LSMT_H_
