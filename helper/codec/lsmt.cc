// SPDX-License-Identifier: Apache-2.0
#include "codec/lsmt.h"

#include <algorithm>

#include "codec/lsmt_format.h"

namespace fastoci {
namespace {

constexpr size_t kUuidBytes = 37, kEntryBytes = 16;

struct Header {
  uint32_t flags = 0;
  uint64_t index_offset = 0, nr_entries = 0, virtual_bytes = 0;
};

Result<Header> ParseHeader(const ReadAtFile& file, uint64_t offset) {
  Bytes bytes(kLsmtHeaderBytes);
  FASTOCI_CHECK_OK(file.ReadAt(offset, bytes));
  ByteReader r(bytes);
  ByteSpan magic = r.Take(kLsmtMagic.size());
  if (!std::equal(magic.begin(), magic.end(), kLsmtMagic.begin())) return InvalidError("no LSMT magic");
  uint32_t size = r.U32();
  Header h;
  h.flags = r.U32();
  h.index_offset = r.U64();
  h.nr_entries = r.U64();
  h.virtual_bytes = r.U64();
  r.Skip(2 * kUuidBytes + 2);
  uint8_t version = r.U8();
  if (size != kLsmtStructBytes || version != 1) return InvalidError("unknown LSMT version");
  return h;
}

struct RawEntry {
  uint64_t sector, length, mapped;
  bool zeroed;
  uint8_t tag;
};

RawEntry ReadEntry(ByteReader* r) {
  uint64_t a = r->U64(), b = r->U64();
  return {a & kLsmtInvalidSector, a >> kLsmtLengthShift, b & kLsmtMappedMask, (b >> kLsmtZeroedBit & 1) != 0,
          static_cast<uint8_t>(b >> kLsmtTagShift)};
}

// The part of s that lies in [begin, end).
LsmtSegment Cut(const LsmtSegment& s, uint64_t begin, uint64_t end) {
  LsmtSegment out = s;
  out.sector = std::max(begin, s.sector);
  out.nr_sectors = std::min(end, s.end()) - out.sector;
  if (s.source != LsmtSource::kZero) out.mapped += out.sector - s.sector;
  return out;
}

}  // namespace

bool LsmtReader::HasMagic(ByteSpan begin) {
  return begin.size() >= kLsmtMagic.size() &&
         std::equal(kLsmtMagic.begin(), kLsmtMagic.end(), begin.begin());
}

// A sparse file holds each byte of the device at its own place.
Status LsmtReader::MapHoles(const ReadAtFile& file) {
  FASTOCI_TRY(auto runs, file.DataRuns());
  if (runs.size() > kMaxLsmtSegments) return InvalidError("sparse LSMT file: too many runs");
  for (const ByteRun& run : runs) {
    uint64_t begin = std::max(run.offset, kLsmtHeaderBytes) / kSectorBytes;
    uint64_t end = std::min(run.offset + run.bytes, kLsmtHeaderBytes + virtual_bytes_) / kSectorBytes;
    constexpr uint64_t kShift = kLsmtHeaderBytes / kSectorBytes;
    if (begin < end)
      AppendSegment(&segments_, {begin - kShift, end - begin, begin, LsmtSource::kFile, 0});
  }
  return OkStatus();
}

Result<LsmtReader> LsmtReader::Open(const ReadAtFile* file, LsmtTags tags) {
  if (file->size() < 2 * kLsmtHeaderBytes) return InvalidError("LSMT file is too short");
  FASTOCI_TRY(Header h, ParseHeader(*file, 0));
  uint64_t trailer_at = file->size() - kLsmtHeaderBytes;
  if (h.index_offset == 0 || h.nr_entries == 0) {
    auto trailer = ParseHeader(*file, trailer_at);
    if (!trailer.ok() || (trailer->flags & kLsmtSealed) == 0) {
      if ((h.flags & kLsmtSparse) == 0)
        return trailer.ok() ? InvalidError("LSMT file is not sealed")
                            : trailer.error().Wrap("LSMT trailer");
      LsmtReader sparse;
      sparse.virtual_bytes_ = h.virtual_bytes;
      if (h.virtual_bytes == 0 || h.virtual_bytes > kMaxLsmtSectors * kSectorBytes)
        return InvalidError("LSMT device has no size or is too large");
      Status mapped = sparse.MapHoles(*file);
      if (!mapped.ok()) return mapped.error().Wrap("sparse LSMT file without an index");
      return sparse;
    }
    uint64_t virtual_bytes = h.virtual_bytes;
    h = *trailer;
    if (h.virtual_bytes == 0) h.virtual_bytes = virtual_bytes;
  }
  if ((h.flags & kLsmtDataFile) == 0) return InvalidError("not an LSMT data file");
  if (h.nr_entries > kMaxLsmtSegments) return InvalidError("LSMT index is too long");
  if (h.virtual_bytes > kMaxLsmtSectors * kSectorBytes)
    return InvalidError("LSMT device is too large");
  if (h.index_offset < kLsmtHeaderBytes || h.index_offset > trailer_at ||
      h.nr_entries * kEntryBytes > trailer_at - h.index_offset)
    return InvalidError("LSMT index leaves the file");
  Bytes index(h.nr_entries * kEntryBytes);
  FASTOCI_CHECK_OK(file->ReadAt(h.index_offset, index));

  uint8_t min_tag = UINT8_MAX;
  ByteReader scan(index);
  for (uint64_t i = 0; i < h.nr_entries; i++) {
    RawEntry e = ReadEntry(&scan);
    if (e.sector != kLsmtInvalidSector) min_tag = std::min(min_tag, e.tag);
  }
  LsmtReader reader;
  reader.virtual_bytes_ = h.virtual_bytes;
  reader.segments_.reserve(h.nr_entries);
  uint64_t limit = h.virtual_bytes != 0 ? h.virtual_bytes / kSectorBytes : kMaxLsmtSectors;
  uint64_t end = 0;
  ByteReader r(index);
  for (uint64_t i = 0; i < h.nr_entries; i++) {
    RawEntry e = ReadEntry(&r);
    if (e.sector == kLsmtInvalidSector || e.length == 0) continue;  // padding
    std::string where = "LSMT entry " + std::to_string(i);
    if (e.sector < end) return InvalidError(where + " overlaps the one before");
    end = e.sector + e.length;
    if (end > limit) return InvalidError(where + " is after the device's end");
    LsmtSegment s{e.sector, e.length, e.mapped, LsmtSource::kZero, 0};
    if (e.zeroed) {
      s.mapped = 0;
    } else if (tags == LsmtTags::kIgnored) {
      s.source = LsmtSource::kFile;
    } else if (e.tag - min_tag > 1) {
      return InvalidError(where + " has an unknown tag");
    } else {
      s.source = e.tag == min_tag ? LsmtSource::kFile : LsmtSource::kTar;
    }
    // Only sectors between the header and the index: header and trailer are not data.
    if (s.source == LsmtSource::kFile &&
        (s.mapped < kLsmtHeaderBytes / kSectorBytes || s.mapped > h.index_offset / kSectorBytes ||
         s.nr_sectors > h.index_offset / kSectorBytes - s.mapped))
      return InvalidError(where + " maps a place outside of the file's data");
    AppendSegment(&reader.segments_, s);
  }
  return reader;
}

LsmtSegments LsmtReader::Lookup(uint64_t sector, uint64_t nr_sectors) const {
  LsmtSegments out;
  auto it = std::partition_point(segments_.begin(), segments_.end(),
                                 [&](const LsmtSegment& s) { return s.end() <= sector; });
  for (; it != segments_.end() && it->sector < sector + nr_sectors; ++it)
    out.push_back(Cut(*it, sector, sector + nr_sectors));
  return out;
}

void AppendSegment(LsmtSegments* segments, const LsmtSegment& s) {
  if (!segments->empty()) {
    LsmtSegment& last = segments->back();
    if (last.end() == s.sector && last.source == s.source && last.layer == s.layer &&
        (s.source == LsmtSource::kZero || last.mapped + last.nr_sectors == s.mapped)) {
      last.nr_sectors += s.nr_sectors;
      return;
    }
  }
  segments->push_back(s);
}

LsmtSegments Overlay(const LsmtSegments& lower, const LsmtSegments& upper, uint32_t layer) {
  LsmtSegments out;
  out.reserve(lower.size() + upper.size());
  size_t next = 0;     // the first lower segment that is not used up
  uint64_t begin = 0;  // what lies before is done
  auto add_lower = [&](uint64_t end) {
    if (begin >= end) return;
    for (; next < lower.size() && lower[next].sector < end; next++) {
      if (lower[next].end() > begin) AppendSegment(&out, Cut(lower[next], begin, end));
      if (lower[next].end() > end) break;
    }
  };
  for (LsmtSegment s : upper) {
    add_lower(s.sector);
    begin = s.end();
    s.layer = s.source == LsmtSource::kZero ? 0 : layer;
    AppendSegment(&out, s);
  }
  add_lower(UINT64_MAX);
  return out;
}

LsmtSegments ZeroTails(const LsmtSegments& segments) {
  LsmtSegments out;
  out.reserve(segments.size());
  for (size_t i = 0; i < segments.size(); i++) {
    AppendSegment(&out, segments[i]);
    if (segments[i].source != LsmtSource::kTar) continue;
    uint64_t end = segments[i].end();
    uint64_t block_end = (end + kLsmtBlockSectors - 1) / kLsmtBlockSectors * kLsmtBlockSectors;
    if (i + 1 < segments.size()) block_end = std::min(block_end, segments[i + 1].sector);
    if (end < block_end) AppendSegment(&out, {end, block_end - end, 0, LsmtSource::kZero, 0});
  }
  return out;
}

void LsmtBuilder::AddData(uint64_t sector, ByteSpan data) {
  segments_.push_back({sector, data.size() / kSectorBytes, data_.size() / kSectorBytes,
                       LsmtSource::kFile, 0});
  data_.insert(data_.end(), data.begin(), data.end());
}

void LsmtBuilder::AddTar(uint64_t sector, uint64_t nr_sectors, uint64_t tar_sector) {
  if (nr_sectors != 0) segments_.push_back({sector, nr_sectors, tar_sector, LsmtSource::kTar, 0});
}

void LsmtBuilder::AddZero(uint64_t sector, uint64_t nr_sectors) {
  if (nr_sectors != 0) segments_.push_back({sector, nr_sectors, 0, LsmtSource::kZero, 0});
}

Result<LsmtContent> LsmtBuilder::Finish(uint64_t virtual_bytes) {
  std::sort(segments_.begin(), segments_.end(),
            [](const LsmtSegment& a, const LsmtSegment& b) { return a.sector < b.sector; });
  LsmtContent content;
  content.segments.reserve(segments_.size());
  for (const LsmtSegment& s : segments_) {
    if (!content.segments.empty() && s.sector < content.segments.back().end())
      return Error{ErrorKind::kInternal, EINVAL, "LSMT segments overlap"};
    AppendSegment(&content.segments, s);
  }
  LsmtSegments().swap(segments_);
  if (!content.segments.empty() && content.segments.back().end() > virtual_bytes / kSectorBytes)
    return Error{ErrorKind::kInternal, EINVAL, "LSMT segment behind the device's end"};
  content.data = std::move(data_);
  return content;
}

}  // namespace fastoci
