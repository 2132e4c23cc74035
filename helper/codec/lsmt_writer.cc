// SPDX-License-Identifier: Apache-2.0
#include "codec/lsmt_writer.h"

#include <algorithm>

#include "codec/lsmt_format.h"

namespace fastoci {
namespace {

constexpr char kZeroUuid[] = "00000000-0000-0000-0000-000000000000";
constexpr uint64_t kPaddedEntries = 256;

Bytes MakeHeader(bool trailer, uint64_t index_offset, uint64_t nr_entries,
                 const LsmtFileOptions& options) {
  ByteWriter w;
  w.Append(kLsmtMagic);
  w.U32(kLsmtStructBytes);
  w.U32(trailer ? kLsmtDataFile | kLsmtSealed : kLsmtHeader | kLsmtDataFile | kLsmtSealed);
  w.U64(index_offset);
  w.U64(nr_entries);
  w.U64(options.virtual_bytes);
  for (const std::string& uuid : {options.uuid, options.parent_uuid}) {
    w.Append(AsBytes(uuid.empty() ? std::string(kZeroUuid) : uuid));
    w.U8(0);
  }
  w.U16(0);
  w.U8(1);
  w.U8(1);
  w.Zeros(kLsmtHeaderBytes - w.size());
  return std::move(w.bytes());
}

}  // namespace

Bytes LsmtHeader(const LsmtFileOptions& options) { return MakeHeader(false, 0, 0, options); }

Result<Bytes> LsmtEnd(const LsmtSegments& segments, uint64_t end_of_data,
                      const LsmtFileOptions& options) {
  ByteWriter w;
  uint64_t nr_entries = 0;
  // In steps of whole 4 KiB blocks.
  constexpr uint64_t kStep = kLsmtMaxSegmentSectors / kLsmtBlockSectors * kLsmtBlockSectors;
  // overlaybd refuses a file with an entry whose mapped offset lies outside of the file's data,
  // zeroed entries included. It gives those the place where the data of the entries so far ends.
  uint64_t data_end = kLsmtHeaderBytes / kSectorBytes;
  for (const LsmtSegment& s : segments) {
    const bool zero = s.source == LsmtSource::kZero;
    for (uint64_t at = 0; at < s.nr_sectors; at += kStep) {
      w.U64((s.sector + at) | std::min(kStep, s.nr_sectors - at) << kLsmtLengthShift);
      w.U64((zero ? data_end : s.mapped + at) | static_cast<uint64_t>(zero) << kLsmtZeroedBit |
            static_cast<uint64_t>(s.source == LsmtSource::kTar) << kLsmtTagShift);
      nr_entries++;
    }
    if (s.source == LsmtSource::kFile) data_end = s.mapped + s.nr_sectors;
  }
  for (; options.pad_index && nr_entries % kPaddedEntries != 0; nr_entries++) {
    w.U64(kLsmtInvalidSector);
    w.U64(0);
  }
  if (nr_entries > kMaxLsmtSegments) return InvalidError("too many extents in one layer");
  w.Append(MakeHeader(true, end_of_data, nr_entries, options));
  return std::move(w.bytes());
}

Result<Bytes> MakeFsMeta(const LsmtContent& content, uint64_t virtual_bytes) {
  LsmtSegments segments = content.segments;
  for (LsmtSegment& s : segments)
    if (s.source == LsmtSource::kFile) s.mapped += kLsmtHeaderBytes / kSectorBytes;
  LsmtFileOptions options;
  options.virtual_bytes = virtual_bytes;
  FASTOCI_TRY(Bytes end, LsmtEnd(segments, kLsmtHeaderBytes + content.data.size(), options));
  Bytes file = LsmtHeader(options);
  file.reserve(file.size() + content.data.size() + end.size());
  file.insert(file.end(), content.data.begin(), content.data.end());
  file.insert(file.end(), end.begin(), end.end());
  return file;
}

}  // namespace fastoci
