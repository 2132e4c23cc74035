// SPDX-License-Identifier: Apache-2.0
#include "codec/gzip_index.h"

#define ZLIB_CONST
#include <zlib.h>

#include <algorithm>
#include <cinttypes>

#include "base/digest.h"
#include "codec/gzip_format.h"

namespace fastoci {
namespace {

// Inflates the whole of `in`, a zlib stream, into just out.size() bytes.
bool InflateExactly(ByteSpan in, std::span<uint8_t> out) {
  z_stream z{};
  if (inflateInit(&z) != Z_OK) return false;
  z.next_in = in.data();
  z.avail_in = static_cast<uInt>(in.size());
  z.next_out = out.data();
  z.avail_out = static_cast<uInt>(out.size());
  int rc = inflate(&z, Z_FINISH);
  // With a full buffer the end of the stream may not be seen yet.
  uint8_t extra;
  if (rc == Z_BUF_ERROR && z.avail_out == 0) {
    z.next_out = &extra;
    z.avail_out = 1;
    rc = inflate(&z, Z_FINISH);
    if (z.avail_out == 0) rc = Z_DATA_ERROR;
  } else if (z.avail_out != 0) {
    rc = Z_DATA_ERROR;
  }
  inflateEnd(&z);
  return rc == Z_STREAM_END;
}

Error IndexError(const std::string& what) { return InvalidError("gzip index: " + what); }

std::string EntryText(uint64_t i, const char* what) {
  return "entry " + std::to_string(i) + ": " + what;
}

struct Header {
  uint64_t entries;
  uint64_t gzip_bytes;
  uint64_t uncompressed_bytes;
  uint64_t index_start;
  uint64_t index_area_bytes;
  bool compressed;
};

Result<Header> ParseHeader(ByteSpan file) {
  if (file.size() > kMaxGzipIndexBytes) return IndexError("file is too large");
  if (file.size() < kGzipIndexHeaderBytes) return IndexError("file is too short");
  ByteReader r(file.first(kGzipIndexHeaderBytes));
  ByteSpan magic = r.Take(8);
  if (!std::equal(magic.begin(), magic.end(), kGzipIndexMagic.begin()))
    return IndexError("wrong magic");
  Header h{};
  uint8_t major = r.U8();
  r.Skip(1);  // minor: compatible by definition
  uint8_t algorithm = r.U8();
  r.Skip(2);  // level and flag: of no use to a reader
  uint32_t span = r.U32();
  uint32_t window = r.U32();
  uint32_t entry_bytes = r.U32();
  h.entries = r.U64();
  h.gzip_bytes = r.U64();
  uint64_t file_bytes = r.U64();
  h.uncompressed_bytes = r.U64();
  r.Skip(256);
  h.index_start = r.U64();
  h.index_area_bytes = r.U64();
  uint32_t crc = r.U32();
  if (Crc32cRaw(0, file.first(kGzipIndexHeaderBytes - 4)) != crc)
    return IndexError("wrong header checksum");
  if (major != kGzipIndexVersion && major != kGzipIndexMembers)
    return IndexError("version " + std::to_string(major) + " is not supported");
  if (algorithm > 1) return IndexError("unknown window compression");
  h.compressed = algorithm == 1;
  if (span == 0 || span > INT32_MAX) return IndexError("span out of range");
  if (window != kGzipWindowBytes) return IndexError("window is not 32 KiB");
  if (entry_bytes != kGzipIndexEntryBytes) return IndexError("entry size is not 29");
  if (file_bytes != file.size()) return IndexError("file size differs from the header's");
  if (h.entries == 0 || h.entries > kMaxGzipIndexEntries)
    return IndexError("number of entries out of range");
  if (h.gzip_bytes > kMaxGzipBytes || h.uncompressed_bytes > kMaxGzipBytes)
    return IndexError("stream size out of range");
  if (h.index_start < kGzipIndexHeaderBytes || h.index_start > file.size() ||
      h.index_area_bytes > file.size() - h.index_start)
    return IndexError("entry table lies outside of the file");
  return h;
}

Result<Bytes> ReadEntryTable(ByteSpan file, const Header& h) {
  ByteSpan area = file.subspan(h.index_start, h.index_area_bytes);
  uint64_t table_bytes = h.entries * kGzipIndexEntryBytes;
  if (!h.compressed) {
    if (area.size() != table_bytes) return IndexError("entry table has a wrong size");
    return Bytes(area.begin(), area.end());
  }
  // Deflate compresses at most 1:1032, so a large allocation needs a large input.
  if (table_bytes / 1032 > area.size()) return IndexError("entry table is too short");
  Bytes table(table_bytes);
  if (!InflateExactly(area, table)) return IndexError("entry table does not inflate");
  return table;
}

}  // namespace

bool IsMembersIndex(ByteSpan file) {
  return file.size() > kGzipIndexMagic.size() && file[kGzipIndexMagic.size()] == kGzipIndexMembers;
}

Result<GzipIndex> GzipIndex::Parse(ByteSpan file) {
  FASTOCI_TRY(Header h, ParseHeader(file));
  FASTOCI_TRY(Bytes table, ReadEntryTable(file, h));
  GzipIndex index;
  index.file_ = file;
  index.uncompressed_bytes_ = h.uncompressed_bytes;
  index.gzip_bytes_ = h.gzip_bytes;
  index.windows_compressed_ = h.compressed;
  index.entries_.reserve(h.entries);
  ByteReader r(table);
  GzipIndexEntry last{};
  for (uint64_t i = 0; i < h.entries; i++) {
    GzipIndexEntry e{};
    e.data_offset = r.U64();
    e.compressed_offset = r.U64();
    e.window_offset = r.U64();
    e.bits = r.U8();
    e.window_bytes = r.U32();
    if (e.bits > 7) return IndexError(EntryText(i, "more than 7 bits"));
    if (e.compressed_offset < kMinGzipHeaderBytes || e.compressed_offset >= h.gzip_bytes)
      return IndexError(EntryText(i, "compressed position out of range"));
    if (e.data_offset > h.uncompressed_bytes || (i == 0 && e.data_offset != 0))
      return IndexError(EntryText(i, "uncompressed position out of range"));
    if (i > 0 && (e.data_offset < last.data_offset || e.blob_offset() < last.blob_offset()))
      return IndexError(EntryText(i, "positions decrease"));
    if (e.window_offset < kGzipIndexHeaderBytes || e.window_offset > file.size() ||
        e.window_bytes > file.size() - e.window_offset)
      return IndexError(EntryText(i, "window lies outside of the file"));
    if (!h.compressed && e.window_bytes != kGzipWindowBytes)
      return IndexError(EntryText(i, "window is not 32 KiB"));
    // Empty blocks give entries that start no span of their own.
    bool starts_span =
        i == 0 || (e.data_offset > last.data_offset && e.data_offset < h.uncompressed_bytes);
    if (!starts_span) continue;
    index.entries_.push_back(e);
    last = e;
  }
  return index;
}

size_t GzipIndex::FindEntry(uint64_t data_offset) const {
  auto it = std::upper_bound(
      entries_.begin(), entries_.end(), data_offset,
      [](uint64_t offset, const GzipIndexEntry& e) { return offset < e.data_offset; });
  return static_cast<size_t>(it - entries_.begin()) - 1;
}

Status GzipIndex::ReadWindow(size_t entry, GzipWindow* window) const {
  if (entry >= entries_.size()) return IndexError("no such entry");
  const GzipIndexEntry& e = entries_[entry];
  ByteSpan stored = file_.subspan(e.window_offset, e.window_bytes);
  if (!windows_compressed_) {
    std::copy(stored.begin(), stored.end(), window->begin());
  } else if (!InflateExactly(stored, *window)) {
    return IndexError(EntryText(entry, "window does not inflate to 32 KiB"));
  }
  return OkStatus();
}

}  // namespace fastoci
