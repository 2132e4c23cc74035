// SPDX-License-Identifier: Apache-2.0
#include "codec/lsmt.h"

#include <algorithm>
#include <cstring>

namespace fastoci {
namespace {

constexpr uint8_t kMagic[24] = {0x4c, 0x53, 0x4d, 0x54, 0x00, 0x01, 0x02, 0x00,
                                0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c,
                                0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a};
constexpr uint32_t kStructBytes = 390;
constexpr size_t kUuidBytes = 37, kTagBytes = 256;
constexpr char kZeroUuid[] = "00000000-0000-0000-0000-000000000000";
// Flags.
constexpr uint32_t kHeader = 1, kDataFile = 2, kSealed = 4, kSparse = 16;
// Index entries.
constexpr size_t kEntryBytes = 16;
constexpr uint64_t kInvalidSector = (1ULL << 50) - 1, kMappedMask = (1ULL << 55) - 1;
constexpr int kLengthShift = 50, kZeroedBit = 55, kTagShift = 56;
constexpr uint64_t kBlockSectors = 8;

struct Header {
  uint32_t flags = 0;
  uint64_t index_offset = 0, nr_entries = 0, virtual_bytes = 0;
};

Result<Header> ParseHeader(const ReadAtFile& file, uint64_t offset) {
  Bytes bytes(kLsmtHeaderBytes);
  FASTOCI_CHECK_OK(file.ReadAt(offset, bytes));
  ByteReader r(bytes);
  ByteSpan magic = r.Take(sizeof(kMagic));
  if (std::memcmp(magic.data(), kMagic, sizeof(kMagic)) != 0) return InvalidError("no LSMT magic");
  uint32_t size = r.U32();
  Header h;
  h.flags = r.U32();
  h.index_offset = r.U64();
  h.nr_entries = r.U64();
  h.virtual_bytes = r.U64();
  r.Skip(2 * kUuidBytes + 2);
  uint8_t version = r.U8();
  if (size != kStructBytes || version != 1) return InvalidError("unknown LSMT version");
  return h;
}

Bytes MakeHeader(bool trailer, uint64_t index_offset, uint64_t nr_entries, uint64_t virtual_bytes) {
  ByteWriter w;
  w.Append(kMagic);
  w.U32(kStructBytes);
  w.U32(trailer ? kDataFile | kSealed : kHeader | kDataFile | kSealed);
  w.U64(index_offset);
  w.U64(nr_entries);
  w.U64(virtual_bytes);
  for (int i = 0; i < 2; i++) {
    w.Append(AsBytes(kZeroUuid));
    w.U8(0);
  }
  w.U16(0);
  w.U8(1);
  w.U8(1);
  w.Zeros(kLsmtHeaderBytes - w.size());
  return std::move(w.bytes());
}

struct RawEntry {
  uint64_t sector, length, mapped;
  bool zeroed;
  uint8_t tag;
};

RawEntry ReadEntry(ByteReader* r) {
  uint64_t a = r->U64(), b = r->U64();
  return {a & kInvalidSector, a >> kLengthShift, b & kMappedMask, (b >> kZeroedBit & 1) != 0,
          static_cast<uint8_t>(b >> kTagShift)};
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

Result<LsmtReader> LsmtReader::Open(const ReadAtFile* file) {
  if (file->size() < 2 * kLsmtHeaderBytes) return InvalidError("LSMT file is too short");
  FASTOCI_TRY(Header h, ParseHeader(*file, 0));
  uint64_t trailer_at = file->size() - kLsmtHeaderBytes;
  if ((h.flags & kSparse) != 0 && h.index_offset == 0)
    return Error{ErrorKind::kUnsupported, EINVAL, "LSMT file without an index"};
  if (h.index_offset == 0 || h.nr_entries == 0) {
    auto trailer = ParseHeader(*file, trailer_at);
    if (!trailer.ok()) return trailer.error().Wrap("LSMT trailer");
    h = *trailer;
  }
  if ((h.flags & kDataFile) == 0) return InvalidError("not an LSMT data file");
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
    if (e.sector != kInvalidSector) min_tag = std::min(min_tag, e.tag);
  }
  LsmtReader reader;
  reader.virtual_bytes_ = h.virtual_bytes;
  reader.segments_.reserve(h.nr_entries);
  uint64_t limit = h.virtual_bytes != 0 ? h.virtual_bytes / kSectorBytes : kMaxLsmtSectors;
  uint64_t end = 0;
  ByteReader r(index);
  for (uint64_t i = 0; i < h.nr_entries; i++) {
    RawEntry e = ReadEntry(&r);
    if (e.sector == kInvalidSector || e.length == 0) continue;  // padding
    std::string where = "LSMT entry " + std::to_string(i);
    if (e.sector < end) return InvalidError(where + " overlaps the one before");
    end = e.sector + e.length;
    if (end > limit) return InvalidError(where + " is behind the device's end");
    LsmtSegment s{e.sector, e.length, e.mapped, LsmtSource::kZero, 0};
    if (e.zeroed) {
      s.mapped = 0;
    } else if (e.tag - min_tag > 1) {
      return InvalidError(where + " has an unknown tag");
    } else {
      s.source = e.tag == min_tag ? LsmtSource::kFile : LsmtSource::kTar;
    }
    // Sectors before the index only: neither header nor trailer are data.
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
    uint64_t block_end = (end + kBlockSectors - 1) / kBlockSectors * kBlockSectors;
    if (i + 1 < segments.size()) block_end = std::min(block_end, segments[i + 1].sector);
    if (end < block_end) AppendSegment(&out, {end, block_end - end, 0, LsmtSource::kZero, 0});
  }
  return out;
}

LsmtBuilder::LsmtBuilder() { out_.Zeros(kLsmtHeaderBytes); }

void LsmtBuilder::AddData(uint64_t sector, ByteSpan data) {
  segments_.push_back(
      {sector, data.size() / kSectorBytes, out_.size() / kSectorBytes, LsmtSource::kFile, 0});
  out_.Append(data);
}

void LsmtBuilder::Reserve(uint64_t data_bytes) {
  out_.bytes().reserve(out_.size() + data_bytes + segments_.size() * kEntryBytes +
                       2 * kLsmtHeaderBytes);
}

void LsmtBuilder::AddTar(uint64_t sector, uint64_t nr_sectors, uint64_t tar_sector) {
  if (nr_sectors != 0) segments_.push_back({sector, nr_sectors, tar_sector, LsmtSource::kTar, 0});
}

void LsmtBuilder::AddZero(uint64_t sector, uint64_t nr_sectors) {
  if (nr_sectors != 0) segments_.push_back({sector, nr_sectors, 0, LsmtSource::kZero, 0});
}

Result<Bytes> LsmtBuilder::Finish(uint64_t virtual_bytes) {
  std::sort(segments_.begin(), segments_.end(),
            [](const LsmtSegment& a, const LsmtSegment& b) { return a.sector < b.sector; });
  LsmtSegments merged;
  merged.reserve(segments_.size());
  for (const LsmtSegment& s : segments_) {
    if (!merged.empty() && s.sector < merged.back().end())
      return Error{ErrorKind::kInternal, EINVAL, "LSMT segments overlap"};
    AppendSegment(&merged, s);
  }
  LsmtSegments().swap(segments_);
  if (!merged.empty() && merged.back().end() > virtual_bytes / kSectorBytes)
    return Error{ErrorKind::kInternal, EINVAL, "LSMT segment behind the device's end"};
  uint64_t index_offset = out_.size(), nr_entries = 0;
  // In steps of whole 4 KiB blocks.
  constexpr uint64_t kStep = kLsmtMaxSegmentSectors / kBlockSectors * kBlockSectors;
  for (const LsmtSegment& s : merged) {
    for (uint64_t at = 0; at < s.nr_sectors; at += kStep) {
      bool zero = s.source == LsmtSource::kZero;
      out_.U64((s.sector + at) | std::min(kStep, s.nr_sectors - at) << kLengthShift);
      out_.U64((zero ? 0 : s.mapped + at) | static_cast<uint64_t>(zero) << kZeroedBit |
               static_cast<uint64_t>(s.source == LsmtSource::kTar) << kTagShift);
      nr_entries++;
    }
  }
  if (nr_entries > kMaxLsmtSegments) return InvalidError("too many extents in one layer");
  Bytes header = MakeHeader(false, 0, 0, virtual_bytes);
  std::copy(header.begin(), header.end(), out_.bytes().begin());
  out_.Append(MakeHeader(true, index_offset, nr_entries, virtual_bytes));
  return std::move(out_.bytes());
}

}  // namespace fastoci
