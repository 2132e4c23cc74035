// SPDX-License-Identifier: Apache-2.0
#include "image/content_check.h"

#include <fastoci_meta.h>
#include <zlib.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "codec/gzip_index.h"
#include "codec/zstd_index.h"
#include "image/blob_codec.h"

namespace fastoci {
namespace {

constexpr size_t kIoBytes = 256 << 10;
constexpr uint64_t kChunkBytes = 1ULL << FASTOCI_DIGEST_SHIFT;
constexpr int kGzipWindowBits = 15 + 16;

using Sink = std::function<Status(ByteSpan)>;

// Cuts data into chunks, beginning at the first chunk boundary at or after `begin`.
class ChunkHasher {
 public:
  using OnChunk = std::function<Status(uint64_t chunk_no, const Sha256Digest& digest)>;
  ChunkHasher(uint64_t begin, OnChunk on_chunk) : offset_(begin), on_chunk_(std::move(on_chunk)) {}
  Status Add(ByteSpan data) {
    while (!data.empty()) {
      uint64_t in_chunk = offset_ % kChunkBytes;
      size_t n = std::min<uint64_t>(data.size(), kChunkBytes - in_chunk);
      if (in_chunk == 0) started_ = true;
      if (started_) hash_.Update(data.first(n));
      offset_ += n;
      data = data.subspan(n);
      if (started_ && offset_ % kChunkBytes == 0) FASTOCI_CHECK_OK(EndChunk());
    }
    return OkStatus();
  }
  // The data space ends here.
  Status Finish() {
    return started_ && offset_ % kChunkBytes != 0 ? EndChunk() : OkStatus();
  }
  uint64_t offset() const { return offset_; }

 private:
  Status EndChunk() {
    Sha256Digest digest = hash_.Finish();
    hash_ = Sha256();
    return on_chunk_((offset_ - 1) / kChunkBytes, digest);
  }
  uint64_t offset_;
  bool started_ = false;
  Sha256 hash_;
  OnChunk on_chunk_;
};

// The whole file, in pieces.
Status ReadAll(const ReadAtFile& file, const Sink& sink) {
  Bytes buffer(kIoBytes);
  for (uint64_t at = 0; at < file.size();) {
    std::span<uint8_t> part(buffer.data(), std::min<uint64_t>(buffer.size(), file.size() - at));
    FASTOCI_CHECK_OK(file.ReadAt(at, part));
    FASTOCI_CHECK_OK(sink(part));
    at += part.size();
  }
  return OkStatus();
}

// All members one after the other; zlib checks their own checksums.
class MemberInflater {
 public:
  MemberInflater() { open_ = inflateInit2(&z_, kGzipWindowBits) == Z_OK; }
  ~MemberInflater() {
    if (open_) inflateEnd(&z_);
  }
  Status Update(ByteSpan in, const Sink& sink) {
    if (!open_) return Error{ErrorKind::kInternal, ENOMEM, "inflateInit2"};
    z_.next_in = const_cast<uint8_t*>(in.data());
    z_.avail_in = static_cast<uInt>(in.size());
    do {
      if (ended_) {  // another member, or zeros up to the end
        while (z_.avail_in > 0 && *z_.next_in == 0) z_.next_in++, z_.avail_in--;
        if (z_.avail_in == 0) return OkStatus();
        inflateReset(&z_);
        ended_ = false;
      }
      z_.next_out = out_.data();
      z_.avail_out = static_cast<uInt>(out_.size());
      int rc = inflate(&z_, Z_NO_FLUSH);
      if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
        return InvalidError("corrupt gzip stream");
      FASTOCI_CHECK_OK(sink(ByteSpan(out_).first(out_.size() - z_.avail_out)));
      ended_ = rc == Z_STREAM_END;
    } while (z_.avail_in > 0 || z_.avail_out == 0);
    return OkStatus();
  }
  bool ended() const { return ended_; }

 private:
  z_stream z_{};
  bool open_ = false, ended_ = false;
  Bytes out_ = Bytes(kIoBytes);
};

// Decodes from entry number `entry` up to data offset `end`: as one stream across
// entries, except where another member begins.
Status DecodeFrom(const ReadAtFile& blob, const GzipIndex& index, size_t entry, uint64_t end,
                  ChunkHasher* hasher) {
  Bytes in(kIoBytes), out(kIoBytes);
  bool at_member_end = false;
  for (size_t next = entry; hasher->offset() < end; next = index.FindEntry(hasher->offset())) {
    if (index.entries()[next].data_offset != hasher->offset() || (next == entry && at_member_end))
      return MismatchError("its member ends early, at data byte " +
                           std::to_string(hasher->offset()));
    entry = next;
    FASTOCI_TRY(GzipStream stream, GzipStream::Open(index, entry));
    uint64_t at = index.entries()[entry].blob_offset();
    ByteSpan left;
    at_member_end = false;
    while (!at_member_end && hasher->offset() < end) {
      if (left.empty()) {
        std::span<uint8_t> part(in.data(), std::min<uint64_t>(in.size(), blob.size() - at));
        FASTOCI_CHECK_OK(blob.ReadAt(at, part));
        at += part.size();
        left = part;
      }
      size_t room = std::min<uint64_t>(out.size(), end - hasher->offset());
      FASTOCI_TRY(auto p, stream.Decode(left, std::span(out).first(room)));
      left = left.subspan(p.consumed);
      FASTOCI_CHECK_OK(hasher->Add(ByteSpan(out).first(p.produced)));
      at_member_end = p.ended;
      if (p.consumed == 0 && p.produced == 0 && !p.ended && at == blob.size())
        return MismatchError("the blob ends early, at data byte " +
                             std::to_string(hasher->offset()));
    }
  }
  return end == index.uncompressed_bytes() ? hasher->Finish() : OkStatus();
}

Status CheckEntries(const ReadAtFile& blob, const GzipIndex& index,
                    const std::vector<Sha256Digest>& chunks) {
  const auto& entries = index.entries();
  for (size_t i = 0; i < entries.size(); i++) {
    // Up to the end of the chunk in which the next span begins, as readers do.
    uint64_t end = i + 1 < entries.size() ? entries[i + 1].data_offset : index.uncompressed_bytes();
    end = std::min((end + kChunkBytes - 1) / kChunkBytes * kChunkBytes, index.uncompressed_bytes());
    ChunkHasher hasher(entries[i].data_offset, [&chunks](uint64_t no, const Sha256Digest& digest) {
      if (no < chunks.size() && chunks[no] == digest) return OkStatus();
      return Status(MismatchError("chunk " + std::to_string(no) + " differs"));
    });
    Status s = DecodeFrom(blob, index, i, end, &hasher);
    if (!s.ok())
      return s.error().Wrap("index entry " + std::to_string(i) + " (data byte " +
                            std::to_string(entries[i].data_offset) + ", blob byte " +
                            std::to_string(entries[i].blob_offset()) + ")");
  }
  return OkStatus();
}

Status InflateAll(const ReadAtFile& blob, const Sink& sink) {
  MemberInflater inflater;
  FASTOCI_CHECK_OK(
      ReadAll(blob, [&](ByteSpan part) { return inflater.Update(part, sink); }));
  return inflater.ended() ? OkStatus() : InvalidError("the gzip stream ends early");
}

// Frames are independent, so an entry is right if a frame begins there.
Status CheckFrames(const ReadAtFile& blob, ByteSpan stored, const Sink& sink) {
  FASTOCI_TRY(ZstdIndex index, ZstdIndex::Parse(stored));
  FASTOCI_TRY(ZstdIndexBuilder builder, ZstdIndexBuilder::Create({.span_bytes = 0}, sink));
  FASTOCI_CHECK_OK(ReadAll(blob, [&builder](ByteSpan part) { return builder.Update(part); }));
  FASTOCI_TRY(Bytes all, builder.Finish());
  FASTOCI_TRY(ZstdIndex frames, ZstdIndex::Parse(all));
  if (index.data_bytes() != frames.data_bytes())
    return MismatchError("the index says " + std::to_string(index.data_bytes()) +
                         " bytes of data, the blob has " + std::to_string(frames.data_bytes()));
  for (const ZstdIndexEntry& e : index.entries()) {
    size_t at;
    if (!frames.Find(e.data_offset, &at) || frames.entries()[at] != e)
      return MismatchError("no frame of the data byte " + std::to_string(e.data_offset) +
                           " begins at byte " + std::to_string(e.blob_offset) + " of the blob");
  }
  return OkStatus();
}

// digests: of all chunks, or empty; where: they are from.
Status CompareChunk(uint64_t no, const Sha256Digest& got, ByteSpan digests, const std::string& where) {
  if (digests.empty()) return OkStatus();
  ByteSpan want = digests.subspan(std::min<uint64_t>(no * FASTOCI_DIGEST_BYTES, digests.size()));
  if (want.size() >= got.size() && std::equal(got.begin(), got.end(), want.begin())) return OkStatus();
  return MismatchError("chunk " + std::to_string(no) + " (data byte " + std::to_string(no * kChunkBytes) +
                       ") is not what its digest " + where + " says");
}

}  // namespace

Status CheckBlobDigest(const ReadAtFile& blob, const Sha256Digest& digest) {
  Sha256 hash;
  FASTOCI_CHECK_OK(ReadAll(blob, [&hash](ByteSpan part) {
    hash.Update(part);
    return OkStatus();
  }));
  Sha256Digest got = hash.Finish();
  if (got == digest) return OkStatus();
  return MismatchError("the blob has digest " + DigestString(got));
}

Status CheckTarBlob(const ReadAtFile& blob, const Sha256Digest& digest,
                    const MetaLayerFiles& meta) {
  FASTOCI_CHECK_OK(CheckBlobDigest(blob, digest));
  std::vector<Sha256Digest> chunks;
  ChunkHasher hasher(0, [&](uint64_t no, const Sha256Digest& got) {
    chunks.push_back(got);
    return CompareChunk(no, got, meta.chunk_digests, "in fastoci.chunks");
  });
  Sink sink = [&hasher](ByteSpan data) { return hasher.Add(data); };
  if (!meta.gzip_meta.empty()) {
    FASTOCI_CHECK_OK(InflateAll(blob, sink));
  } else if (!meta.zstd_index.empty()) {
    FASTOCI_CHECK_OK(CheckFrames(blob, meta.zstd_index, sink));
  } else {
    FASTOCI_CHECK_OK(ReadAll(blob, sink));
  }
  FASTOCI_CHECK_OK(hasher.Finish());
  if (meta.gzip_meta.empty()) return OkStatus();
  FASTOCI_TRY(GzipIndex index, GzipIndex::Parse(meta.gzip_meta));
  if (index.uncompressed_bytes() != hasher.offset())
    return MismatchError("the index says " + std::to_string(index.uncompressed_bytes()) +
                         " bytes of data, the blob has " + std::to_string(hasher.offset()));
  return CheckEntries(blob, index, chunks);
}

Status CheckEmptyBlob(const ReadAtFile& blob, const Sha256Digest& digest) {
  FASTOCI_CHECK_OK(CheckBlobDigest(blob, digest));
  Bytes begin(std::min<uint64_t>(blob.size(), kBlobMagicBytes));
  FASTOCI_CHECK_OK(blob.ReadAt(0, begin));
  FASTOCI_TRY(fastoci_codec codec, CodecOfBytes(begin));
  const Sink sink = [](ByteSpan data) {
    return data.empty() ? OkStatus() : Status(MismatchError("the blob holds data, of which its meta layer says nothing"));
  };
  if (codec == FASTOCI_CODEC_GZIP) return InflateAll(blob, sink);
  if (codec == FASTOCI_CODEC_RAW) return ReadAll(blob, sink);
  FASTOCI_TRY(ZstdIndexBuilder builder, ZstdIndexBuilder::Create({}, sink));
  FASTOCI_CHECK_OK(ReadAll(blob, [&builder](ByteSpan part) { return builder.Update(part); }));
  FASTOCI_TRY(Bytes none, builder.Finish());
  return OkStatus();
}

Status CheckZFileBlob(const ReadAtFile& blob, const Sha256Digest& digest, const ZFileIndex& index,
                      uint64_t payload_offset, ByteSpan chunk_digests) {
  FASTOCI_CHECK_OK(CheckBlobDigest(blob, digest));
  ChunkHasher hasher(0, [&](uint64_t no, const Sha256Digest& got) {
    return CompareChunk(no, got, chunk_digests, "in the referrer");
  });
  Bytes stored, data;
  for (size_t i = 0; i < index.nr_blocks(); i++) {
    stored.resize(index.block_offset(i + 1) - index.block_offset(i));
    data.resize(index.data_bytes_of(i));
    FASTOCI_CHECK_OK(blob.ReadAt(payload_offset + index.block_offset(i), stored));
    FASTOCI_CHECK_OK(index.DecodeBlock(i, stored, data));
    FASTOCI_CHECK_OK(hasher.Add(data));
  }
  return hasher.Finish();
}

}  // namespace fastoci
