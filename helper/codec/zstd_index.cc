// SPDX-License-Identifier: Apache-2.0
#include "codec/zstd_index.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <string>

#include "base/digest.h"

namespace fastoci {
namespace {

// magic, u32 version, u64 blob bytes, u64 data bytes, u64 number of entries;
// entries: u64 data offset, u64 blob offset; u32 CRC32C of all before.
constexpr std::array<uint8_t, 8> kMagic = {'f', 'o', 'c', 'i', 'z', 's', 't', 'd'};
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 8 + 4 + 3 * 8, kEntryBytes = 16, kCrcBytes = 4;
constexpr uint64_t kMaxBytes = 1ULL << 44;  // as FASTOCI_MAX_DATA_BYTES
constexpr size_t kOutBytes = 256 << 10;

Error IndexError(const std::string& what) { return InvalidError("zstd index: " + what); }

}  // namespace

Result<ZstdIndex> ZstdIndex::Parse(ByteSpan file) {
  if (file.size() < kHeaderBytes + kCrcBytes) return IndexError("file is too short");
  ByteReader r(file);
  ByteSpan magic = r.Take(kMagic.size());
  if (!std::equal(magic.begin(), magic.end(), kMagic.begin())) return IndexError("wrong magic");
  if (uint32_t version = r.U32(); version != kVersion)
    return Error{ErrorKind::kUnsupported, EINVAL,
                 "zstd index: unknown version " + std::to_string(version)};
  ZstdIndex index;
  index.blob_bytes_ = r.U64();
  index.data_bytes_ = r.U64();
  uint64_t count = r.U64();
  if (index.blob_bytes_ == 0 || index.blob_bytes_ > kMaxBytes || index.data_bytes_ == 0 ||
      index.data_bytes_ > kMaxBytes)
    return IndexError("sizes are out of range");
  if (count == 0 || count > kMaxZstdIndexEntries ||
      file.size() != kHeaderBytes + count * kEntryBytes + kCrcBytes)
    return IndexError("number of entries does not fit the file's size");
  if (ByteReader crc(file.last(kCrcBytes)); crc.U32() != Crc32c(file.first(file.size() - kCrcBytes)))
    return IndexError("bad checksum");
  index.entries_.resize(count);
  for (uint64_t i = 0; i < count; i++) {
    ZstdIndexEntry& e = index.entries_[i];
    e.data_offset = r.U64();
    e.blob_offset = r.U64();
    bool ordered = i == 0 ? e.data_offset == 0
                          : e.data_offset > index.entries_[i - 1].data_offset &&
                                e.blob_offset > index.entries_[i - 1].blob_offset;
    if (!ordered || e.data_offset >= index.data_bytes_ || e.blob_offset >= index.blob_bytes_)
      return IndexError("entry " + std::to_string(i) + " is out of order or out of bounds");
  }
  return index;
}

bool ZstdIndex::Find(uint64_t data_offset, size_t* entry) const {
  auto it = std::lower_bound(
      entries_.begin(), entries_.end(), data_offset,
      [](const ZstdIndexEntry& e, uint64_t offset) { return e.data_offset < offset; });
  *entry = static_cast<size_t>(it - entries_.begin());
  return it != entries_.end() && it->data_offset == data_offset;
}

struct ZstdStream::Context {
  ZSTD_DCtx* dctx = ZSTD_createDCtx();
  ~Context() { ZSTD_freeDCtx(dctx); }
};

ZstdStream::ZstdStream(std::unique_ptr<Context> context) : context_(std::move(context)) {}
ZstdStream::ZstdStream(ZstdStream&&) noexcept = default;
ZstdStream& ZstdStream::operator=(ZstdStream&&) noexcept = default;
ZstdStream::~ZstdStream() = default;

Result<ZstdStream> ZstdStream::Open() {
  auto context = std::make_unique<Context>();
  if (context->dctx == nullptr ||
      ZSTD_isError(ZSTD_DCtx_setParameter(context->dctx, ZSTD_d_windowLogMax, kMaxZstdWindowLog)))
    return Error{ErrorKind::kInternal, ENOMEM, "zstd"};
  return ZstdStream(std::move(context));
}

Result<ZstdStream::Progress> ZstdStream::Decode(ByteSpan in, std::span<uint8_t> out) {
  if (out.empty()) return Progress{};
  ZSTD_inBuffer i{in.data(), in.size(), 0};
  ZSTD_outBuffer o{out.data(), out.size(), 0};
  size_t hint;
  do {  // also without input: there may be output for which there was no room
    hint = ZSTD_decompressStream(context_->dctx, &o, &i);
    if (ZSTD_isError(hint) != 0)
      return InvalidError(std::string("corrupt zstd stream: ") + ZSTD_getErrorName(hint));
  } while (hint != 0 && i.pos < i.size && o.pos < o.size);
  return Progress{i.pos, o.pos, hint == 0};
}

Result<ZstdIndexBuilder> ZstdIndexBuilder::Create(const ZstdIndexOptions& options, Sink sink) {
  FASTOCI_TRY(ZstdStream stream, ZstdStream::Open());
  return ZstdIndexBuilder(options, std::move(sink), std::move(stream));
}

Status ZstdIndexBuilder::Take(ByteSpan data) {
  if (data.empty()) return OkStatus();
  if (!has_output_ && (entries_.empty() ||
                       data_offset_ - entries_.back().data_offset >= options_.span_bytes)) {
    if (entries_.size() == kMaxZstdIndexEntries) return IndexError("too many frames");
    entries_.push_back({data_offset_, frame_at_});
  }
  has_output_ = true;
  data_offset_ += data.size();
  if (data_offset_ > kMaxBytes) return InvalidError("the zstd stream is too large");
  return sink_(data);
}

Status ZstdIndexBuilder::Update(ByteSpan compressed) {
  out_.resize(kOutBytes);
  bool full = false;  // there may be more
  while (!compressed.empty() || full) {
    if (!in_frame_) {
      frame_at_ = blob_offset_;
      has_output_ = false;
    }
    auto p = stream_.Decode(compressed, out_);
    if (!p.ok())
      return p.error().Wrap("frame at byte " + std::to_string(frame_at_) + " of the blob");
    compressed = compressed.subspan(p->consumed);
    blob_offset_ += p->consumed;
    FASTOCI_CHECK_OK(Take(ByteSpan(out_).first(p->produced)));
    full = p->produced == out_.size() && !p->frame_ended;
    in_frame_ = !p->frame_ended;
  }
  return OkStatus();
}

Result<Bytes> ZstdIndexBuilder::Finish() {
  if (in_frame_)
    return InvalidError("the zstd stream ends inside of the frame at byte " +
                        std::to_string(frame_at_) + " of the blob");
  if (entries_.empty()) return Bytes();
  ByteWriter w;
  w.Append(kMagic);
  w.U32(kVersion);
  w.U64(blob_offset_);
  w.U64(data_offset_);
  w.U64(entries_.size());
  for (const ZstdIndexEntry& e : entries_) {
    w.U64(e.data_offset);
    w.U64(e.blob_offset);
  }
  w.U32(Crc32c(w.bytes()));
  return std::move(w.bytes());
}

}  // namespace fastoci
