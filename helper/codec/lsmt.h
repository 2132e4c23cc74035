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

// Tags of index entries: turboOCI's fs.meta files tell the two sources by them;
// native layers may carry any, and mean nothing by them.
enum class LsmtTags { kSource, kIgnored };

class LsmtReader {
 public:
  // A sealed or committed file, bare or in a ZFile that the caller unwrapped, or
  // a sparse one that was not sealed: what is no hole of it is mapped, which only
  // a local file can tell. Checks everything; every kFile segment lies within
  // the file.
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

// Adds a segment behind the last one, in one piece with it where that continues.
void AppendSegment(LsmtSegments* segments, const LsmtSegment& segment);

// One layer over another: `upper` wins, its segments get the number `layer`.
LsmtSegments Overlay(const LsmtSegments& lower, const LsmtSegments& upper, uint32_t layer);

// A run of tar data that ends inside a 4 KiB block with nothing mapped behind it
// is followed by zeros up to the block's end (see docs: "past the end").
LsmtSegments ZeroTails(const LsmtSegments& segments);

// What a layer consists of before it is a file (codec/lsmt_writer.h).
struct LsmtContent {
  LsmtSegments segments;  // kFile ones map sectors of data
  Bytes data;
};

// Collects it, in any order; no overlaps.
class LsmtBuilder {
 public:
  void AddData(uint64_t sector, ByteSpan data);  // whole sectors
  void AddTar(uint64_t sector, uint64_t nr_sectors, uint64_t tar_sector);
  void AddZero(uint64_t sector, uint64_t nr_sectors);
  // That many more bytes of data are to come.
  void Reserve(uint64_t data_bytes) { data_.reserve(data_.size() + data_bytes); }
  // virtual_bytes: of the device. The builder is used up.
  Result<LsmtContent> Finish(uint64_t virtual_bytes);

 private:
  Bytes data_;
  LsmtSegments segments_;
};

}  // namespace fastoci

#endif  // FASTOCI_CODEC_LSMT_H_
