// SPDX-License-Identifier: Apache-2.0
#include "image/assembled.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace fastoci {
namespace {

constexpr uint64_t kBlobEntryBytes = sizeof(fastoci_meta_blob);
constexpr uint64_t kSpanBytes = sizeof(fastoci_meta_span);
constexpr size_t kCrcOffset = offsetof(fastoci_meta_sb, crc);

struct Region {
  uint64_t offset = 0, bytes = 0;
  uint32_t crc = 0;
};

struct Superblock {
  Sha256Digest image_id{};
  uint64_t device_sectors = 0, total_bytes = 0;
  uint32_t nr_blobs = 0;
  Region blobs, helper, json;
};

Error Bad(const std::string& what) { return InvalidError("meta image: " + what); }

Region ReadRegion(ByteReader* r) {
  Region g;
  g.offset = r->U64();
  g.bytes = r->U64();
  g.crc = r->U32();
  r->Skip(4);
  return g;
}

Sha256Digest ReadDigest(ByteReader* r) {
  Sha256Digest d{};
  ByteSpan s = r->Take(d.size());
  std::copy(s.begin(), s.end(), d.begin());
  return d;
}

bool Lies(const Region& g, uint64_t total) {
  if (g.bytes == 0) return g.offset == 0;
  return g.offset % FASTOCI_META_ALIGN == 0 && g.offset >= FASTOCI_META_SB_BYTES &&
         g.offset <= total && g.bytes <= total - g.offset;
}

Result<Superblock> ReadSuperblock(const ReadAtFile& file) {
  Bytes raw(FASTOCI_META_SB_BYTES);
  FASTOCI_CHECK_OK(file.ReadAt(0, raw));
  ByteReader r(raw);
  ByteSpan magic = r.Take(8);
  if (std::memcmp(magic.data(), FASTOCI_META_MAGIC, magic.size()) != 0)
    return Bad("no magic: this is no assembled meta image");
  if (r.U32() != FASTOCI_META_VERSION) return Bad("unknown version");
  if (r.U32() != FASTOCI_META_SB_BYTES) return Bad("superblock size");
  r.Skip(8);  // compat, ro_compat
  if (r.U32() & ~FASTOCI_META_INCOMPAT_KNOWN) return Bad("unknown incompatible features");
  uint32_t crc = r.U32();
  Bytes zeroed = raw;
  std::fill_n(zeroed.begin() + kCrcOffset, 4, 0);
  if (Crc32c(zeroed) != crc) return MismatchError("meta image: checksum of the superblock");
  Superblock sb;
  sb.image_id = ReadDigest(&r);
  sb.device_sectors = r.U64();
  sb.total_bytes = r.U64();
  sb.nr_blobs = r.U32();
  r.Skip(4);  // nr_extents
  sb.blobs = ReadRegion(&r);
  for (int i = 0; i < 3; i++) (void)ReadRegion(&r);  // keys, payloads, metadata
  sb.helper = ReadRegion(&r);
  sb.json = ReadRegion(&r);
  if (sb.total_bytes > file.size()) return Bad("longer than its device");
  for (const Region& g : {sb.blobs, sb.helper, sb.json})
    if (!Lies(g, sb.total_bytes)) return Bad("a region is out of bounds");
  if (sb.nr_blobs > FASTOCI_MAX_BLOBS || sb.blobs.bytes != sb.nr_blobs * kBlobEntryBytes)
    return Bad("size of the blob table");
  if (sb.helper.bytes > kMaxHelperAreaBytes) return Bad("helper area is too large");
  if (sb.json.bytes > kMaxJsonPartBytes) return Bad("JSON part is too large");
  return sb;
}

Result<Bytes> ReadPart(const ReadAtFile& file, const Region& g, const char* what) {
  Bytes data(g.bytes);
  if (g.bytes == 0) return data;
  FASTOCI_CHECK_OK(file.ReadAt(g.offset, data));
  if (Crc32c(data) != g.crc)
    return MismatchError(std::string("meta image: checksum of the ") + what);
  return data;
}

// Part of the helper area; false if it is out of bounds.
bool Slice(ByteSpan helper, uint64_t offset, uint64_t bytes, ByteSpan* out) {
  if (offset > helper.size() || bytes > helper.size() - offset) return false;
  *out = helper.subspan(offset, bytes);
  return true;
}

Status ReadSpans(ByteSpan table, AssembledBlob* blob) {
  ByteReader r(table);
  while (r.remaining() > 0) {
    BlobSpan s;
    s.data_offset = r.U64();
    s.blob_offset = r.U64();
    bool in_order = blob->spans.empty()
                        ? s.data_offset == 0
                        : s.data_offset > blob->spans.back().data_offset &&
                              s.blob_offset >= blob->spans.back().blob_offset;
    if (!in_order || s.data_offset >= blob->data_bytes || s.blob_offset >= blob->blob_bytes)
      return Bad("span table is not in order");
    blob->spans.push_back(s);
  }
  return OkStatus();
}

Result<AssembledBlob> ReadBlob(ByteReader* r, ByteSpan helper) {
  AssembledBlob b;
  b.data_space_id = ReadDigest(r);
  b.blob_digest = ReadDigest(r);
  b.data_bytes = r->U64();
  b.blob_bytes = r->U64();
  b.codec = r->U32();
  uint64_t nr_spans = r->U32();
  uint64_t spans_offset = r->U64(), index_offset = r->U64(), index_bytes = r->U64();
  uint64_t digests_offset = r->U64(), nr_digests = r->U32();
  uint32_t flags = r->U32();
  if (b.data_bytes == 0 || b.data_bytes > FASTOCI_MAX_DATA_BYTES || b.blob_bytes == 0 ||
      b.blob_bytes > FASTOCI_MAX_DATA_BYTES)
    return Bad("size of a blob");
  if (flags != 0) return Bad("unknown flags of a blob");
  bool raw = b.codec == FASTOCI_CODEC_RAW;
  if (b.codec > FASTOCI_CODEC_ZSTD) return Bad("unknown codec");
  if (raw ? nr_spans != 0 || b.data_bytes != b.blob_bytes : nr_spans == 0)
    return Bad("number of spans does not fit the codec");
  uint64_t pieces = ((b.data_bytes - 1) >> FASTOCI_DIGEST_SHIFT) + 1;
  if (nr_digests != 0 && nr_digests != pieces) return Bad("number of digests");
  ByteSpan spans, index, digests;
  if (!Slice(helper, spans_offset, nr_spans * kSpanBytes, &spans) ||
      !Slice(helper, index_offset, index_bytes, &index) ||
      !Slice(helper, digests_offset, nr_digests * FASTOCI_DIGEST_BYTES, &digests))
    return Bad("a blob's tables are out of bounds");
  FASTOCI_CHECK_OK(ReadSpans(spans, &b));
  b.index.assign(index.begin(), index.end());
  b.digests.assign(digests.begin(), digests.end());
  // Else an image could name another's data space with digests of its own.
  if (!digests.empty() &&
      DataSpaceId(b.blob_digest, b.data_bytes, b.codec, digests) != b.data_space_id)
    return MismatchError("meta image: data space id does not fit its digests");
  return b;
}

}  // namespace

Sha256Digest DataSpaceId(const Sha256Digest& blob_digest, uint64_t data_bytes, uint32_t codec,
                         ByteSpan chunk_digests) {
  ByteWriter w;
  w.Append(blob_digest);
  w.U64(data_bytes);
  w.U32(codec);
  w.Append(Sha256::Of(chunk_digests));
  return Sha256::Of(w.bytes());
}

Result<AssembledImage> ReadAssembledImage(const ReadAtFile& file) {
  FASTOCI_TRY(Superblock sb, ReadSuperblock(file));
  FASTOCI_TRY(Bytes table, ReadPart(file, sb.blobs, "blob table"));
  FASTOCI_TRY(Bytes helper, ReadPart(file, sb.helper, "helper area"));
  AssembledImage image;
  image.image_id = sb.image_id;
  image.device_sectors = sb.device_sectors;
  FASTOCI_TRY(image.json, ReadPart(file, sb.json, "JSON part"));
  ByteReader r(table);
  for (uint32_t i = 0; i < sb.nr_blobs; i++) {
    auto blob = ReadBlob(&r, helper);
    if (!blob.ok()) return blob.error().Wrap("blob " + std::to_string(i));
    image.blobs.push_back(std::move(*blob));
  }
  return image;
}

}  // namespace fastoci
