// SPDX-License-Identifier: Apache-2.0
#include "image/meta_image.h"

#include <algorithm>
#include <cstring>

#include "base/unique_fd.h"

namespace fastoci {
namespace {

constexpr size_t kCrcAt = 28;

struct Region {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint32_t crc = 0;
};

Result<Region> ParseRegion(ByteReader* r, const char* name, uint64_t total_bytes,
                           uint64_t max_bytes) {
  Region g;
  g.offset = r->U64();
  g.bytes = r->U64();
  g.crc = r->U32();
  r->Skip(4);
  const std::string where = std::string("meta image: ") + name;
  if (g.bytes == 0)
    return g.offset == 0 ? Result<Region>(g) : InvalidError(where + ": absent, but has an offset");
  if (g.bytes > max_bytes) return InvalidError(where + ": larger than its limit");
  if (g.offset % FASTOCI_META_ALIGN != 0 || g.offset < FASTOCI_META_SB_BYTES ||
      g.offset > total_bytes || g.bytes > total_bytes - g.offset)
    return InvalidError(where + ": lies outside of the image");
  return g;
}

Result<Bytes> ReadRegion(int fd, const Region& g, const char* name) {
  Bytes data(g.bytes);
  FASTOCI_CHECK_OK(PreadFull(fd, data, g.offset, std::string("meta image: ") + name));
  if (Crc32c(data) != g.crc)
    return InvalidError(std::string("meta image: ") + name + ": bad checksum");
  return data;
}

// [offset, offset + count * unit) of the helper area.
Result<ByteSpan> Part(ByteSpan helper, uint64_t offset, uint64_t count, uint64_t unit,
                      const char* name) {
  if (offset > helper.size() || count > (helper.size() - offset) / unit)
    return InvalidError(std::string("meta image: ") + name + " lies outside of the helper area");
  return helper.subspan(offset, count * unit);
}

Status ReadSpans(ByteSpan helper, uint64_t offset, uint32_t nr_spans, BlobInfo* blob) {
  if (blob->codec == FASTOCI_CODEC_RAW) {
    if (nr_spans != 0) return InvalidError("meta image: a raw blob with a span table");
    if (blob->blob_bytes != blob->data_bytes)
      return InvalidError("meta image: a raw blob of two sizes");
    blob->spans.reserve(blob->data_bytes / kRawSpanBytes + 1);
    for (uint64_t at = 0; at < blob->data_bytes; at += kRawSpanBytes)
      blob->spans.push_back({at, at});
    return OkStatus();
  }
  if (nr_spans == 0) return InvalidError("meta image: a compressed blob without spans");
  FASTOCI_TRY(ByteSpan table, Part(helper, offset, nr_spans, 16, "span table"));
  ByteReader r(table);
  blob->spans.resize(nr_spans);
  for (uint32_t i = 0; i < nr_spans; i++) {
    Span& s = blob->spans[i];
    s.data_offset = r.U64();
    s.blob_offset = r.U64();
    const bool ordered = i == 0 ? s.data_offset == 0
                                : s.data_offset > blob->spans[i - 1].data_offset &&
                                      s.blob_offset >= blob->spans[i - 1].blob_offset;
    if (!ordered || s.data_offset >= blob->data_bytes || s.blob_offset >= blob->blob_bytes)
      return InvalidError("meta image: span " + std::to_string(i) +
                          " is out of order or out of bounds");
  }
  return OkStatus();
}

Result<BlobInfo> ReadBlob(ByteReader* r, ByteSpan helper) {
  BlobInfo b;
  ByteSpan id = r->Take(32), digest = r->Take(32);
  b.data_bytes = r->U64();
  b.blob_bytes = r->U64();
  b.codec = r->U32();
  const uint32_t nr_spans = r->U32();
  const uint64_t spans_offset = r->U64(), index_offset = r->U64(), index_bytes = r->U64(),
                 digests_offset = r->U64();
  const uint32_t nr_digests = r->U32(), flags = r->U32();
  if (!r->ok()) return InvalidError("meta image: blob table is cut short");
  std::copy(id.begin(), id.end(), b.data_space_id.begin());
  std::copy(digest.begin(), digest.end(), b.blob_digest.begin());
  if (b.data_bytes == 0 || b.data_bytes > FASTOCI_MAX_DATA_BYTES || b.blob_bytes == 0 ||
      b.blob_bytes > FASTOCI_MAX_DATA_BYTES)
    return InvalidError("meta image: bad size of a blob");
  if (b.codec > FASTOCI_CODEC_ZSTD)
    return InvalidError("meta image: unknown codec " + std::to_string(b.codec));
  if (flags != 0) return InvalidError("meta image: unknown blob flags");
  FASTOCI_CHECK_OK(ReadSpans(helper, spans_offset, nr_spans, &b));
  FASTOCI_TRY(ByteSpan index, Part(helper, index_offset, index_bytes, 1, "index"));
  b.index.assign(index.begin(), index.end());
  if (nr_digests != 0) {
    const uint64_t want = ((b.data_bytes - 1) >> FASTOCI_DIGEST_SHIFT) + 1;
    if (nr_digests != want) return InvalidError("meta image: wrong number of chunk digests");
    FASTOCI_TRY(ByteSpan list,
                Part(helper, digests_offset, nr_digests, FASTOCI_DIGEST_BYTES, "digest list"));
    b.digests.resize(nr_digests);
    for (uint32_t i = 0; i < nr_digests; i++)
      std::copy_n(list.begin() + static_cast<ptrdiff_t>(i) * FASTOCI_DIGEST_BYTES,
                  FASTOCI_DIGEST_BYTES, b.digests[i].begin());
    // Else an image could name another's data space with digests of its own.
    if (DataSpaceId(b.blob_digest, b.data_bytes, b.codec, Sha256::Of(list)) != b.data_space_id)
      return MismatchError("meta image: data space id does not fit the chunk digests");
  }
  return b;
}

}  // namespace

Sha256Digest DataSpaceId(const Sha256Digest& blob_digest, uint64_t data_bytes, uint32_t codec,
                         const Sha256Digest& last_part) {
  ByteWriter w;
  w.Append(blob_digest);
  w.U64(data_bytes);
  w.U32(codec);
  w.Append(last_part);
  return Sha256::Of(w.bytes());
}

Result<MetaImage> ReadMetaImage(int fd, uint64_t device_bytes) {
  if (device_bytes < FASTOCI_META_SB_BYTES) return InvalidError("meta image: too small");
  Bytes sb(FASTOCI_META_SB_BYTES);
  FASTOCI_CHECK_OK(PreadFull(fd, sb, 0, "meta image: superblock"));
  ByteReader r(sb);
  ByteSpan magic = r.Take(8);
  if (std::memcmp(magic.data(), FASTOCI_META_MAGIC, 8) != 0)
    return InvalidError("meta image: bad magic");
  const uint32_t version = r.U32(), sb_bytes = r.U32();
  r.Skip(8);  // compat and ro_compat do not concern a reader
  const uint32_t incompat = r.U32(), crc = r.U32();
  MetaImage image;
  ByteSpan id = r.Take(32);
  std::copy(id.begin(), id.end(), image.image_id.begin());
  r.Skip(8);  // device_sectors
  const uint64_t total_bytes = r.U64();
  const uint32_t nr_blobs = r.U32();
  r.Skip(4);  // nr_extents
  if (version != FASTOCI_META_VERSION || sb_bytes != FASTOCI_META_SB_BYTES)
    return InvalidError("meta image: unknown version");
  if (incompat & ~FASTOCI_META_INCOMPAT_KNOWN) return InvalidError("meta image: unknown features");
  std::fill_n(sb.begin() + kCrcAt, 4, 0);
  if (Crc32c(sb) != crc) return InvalidError("meta image: bad superblock checksum");
  if (total_bytes > device_bytes) return InvalidError("meta image: cut short");
  if (nr_blobs > FASTOCI_MAX_BLOBS) return InvalidError("meta image: too many blobs");
  FASTOCI_TRY(Region blobs, ParseRegion(&r, "blob table", total_bytes, FASTOCI_MAX_BLOBS * 128));
  r.Skip(3 * 24);  // keys, payloads, metadata: the kernel's
  FASTOCI_TRY(Region helper, ParseRegion(&r, "helper area", total_bytes, kMaxHelperBytes));
  FASTOCI_TRY(Region json, ParseRegion(&r, "JSON part", total_bytes, kMaxJsonBytes));
  if (blobs.bytes != nr_blobs * 128ULL)
    return InvalidError("meta image: blob table has a wrong size");
  FASTOCI_TRY(Bytes table, ReadRegion(fd, blobs, "blob table"));
  FASTOCI_TRY(Bytes area, ReadRegion(fd, helper, "helper area"));
  FASTOCI_TRY(image.json, ReadRegion(fd, json, "JSON part"));
  ByteReader t(table);
  for (uint32_t i = 0; i < nr_blobs; i++) {
    auto blob = ReadBlob(&t, area);
    if (!blob.ok()) return blob.error().Wrap("blob " + std::to_string(i));
    image.blobs.push_back(std::move(*blob));
  }
  return image;
}

}  // namespace fastoci
