// SPDX-License-Identifier: Apache-2.0
#include "codec/zfile.h"

#include <lz4.h>
#include <zstd.h>

#include <algorithm>

#include "base/digest.h"

namespace fastoci {
namespace {

constexpr std::array<uint8_t, 24> kMagic = {'Z', 'F', 'i', 'l', 'e', 0,   1,   0,
                                            't', 'u', 'j', 'i', '.', 'y', 'y', 'f',
                                            '@', 'A', 'l', 'i', 'b', 'a', 'b', 'a'};
constexpr std::array<uint8_t, 8> kIndexMagic = {'F', 'A', 'S', 'T', 'O', 'C', 'I', 'z'};
constexpr uint32_t kStructBytes = 96;
constexpr size_t kDigestOffset = 28;
constexpr uint32_t kBlockCrcSeed = 100007;
constexpr uint64_t kMaxDataBytes = 1ULL << 44;
constexpr uint32_t kCrcBytes = 4;

constexpr uint64_t kFlagHeader = 1, kFlagData = 2, kFlagSealed = 4, kFlagOverwritten = 8,
                   kFlagDigest = 16;

Error ZError(const std::string& what) { return InvalidError("ZFile: " + what); }

uint32_t HeaderDigest(ByteSpan header) {
  Bytes copy(header.begin(), header.end());
  std::fill_n(copy.begin() + kDigestOffset, 4, 0);
  return Crc32cRaw(0, copy);
}

size_t CompressBound(ZFileAlgorithm algorithm, uint32_t n) {
  if (algorithm == ZFileAlgorithm::kZstd) return ZSTD_compressBound(n);
  return static_cast<size_t>(LZ4_compressBound(static_cast<int>(n)));
}

}  // namespace

struct ZFileIndex::Header {
  uint64_t flags;
  uint64_t index_offset, nr_blocks, data_bytes;
  uint32_t index_crc, block_bytes, dictionary_bytes;
  uint8_t algorithm;
  bool verify;
};

bool ZFileIndex::HasMagic(ByteSpan begin) {
  return begin.size() >= kMagic.size() && std::equal(kMagic.begin(), kMagic.end(), begin.begin());
}

Result<ZFileIndex::Header> ZFileIndex::ParseHeader(ByteSpan bytes) {
  if (!HasMagic(bytes)) return ZError("wrong magic");
  ByteReader r(bytes);
  r.Skip(kMagic.size());
  uint32_t struct_bytes = r.U32();
  uint32_t digest = r.U32();
  Header h{};
  h.flags = r.U64() & 0x1f;  // old files have garbage above
  h.index_offset = r.U64();
  h.nr_blocks = r.U64();
  h.data_bytes = r.U64();
  h.index_crc = r.U32();
  r.Skip(4);
  h.block_bytes = r.U32();
  h.algorithm = r.U8();
  r.Skip(1);  // level: of no use to a reader
  uint8_t dictionary_used = r.U8();
  r.Skip(5);
  h.dictionary_bytes = r.U32();
  h.verify = r.U8() != 0;
  if (!r.ok() || struct_bytes != kStructBytes) return ZError("wrong header size");
  if ((h.flags & kFlagDigest) != 0 && HeaderDigest(bytes) != digest)
    return ZError("wrong header checksum");
  if (dictionary_used != 0)
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP, "ZFile: dictionaries are not supported"};
  return h;
}

Status ZFileIndex::Build(const Header& h, ByteSpan table) {
  if (h.algorithm != 1 && h.algorithm != 2) return ZError("unknown algorithm");
  if (h.block_bytes < kMinZFileBlockBytes || h.block_bytes > kMaxZFileBlockBytes ||
      (h.block_bytes & (h.block_bytes - 1)) != 0)
    return ZError("block size out of range");
  if ((h.flags & kFlagDigest) != 0 && Crc32cRaw(0, table) != h.index_crc)
    return ZError("wrong index checksum");
  data_bytes_ = h.data_bytes;
  block_bytes_ = h.block_bytes;
  algorithm_ = static_cast<ZFileAlgorithm>(h.algorithm);
  verify_ = h.verify;
  size_t most = CompressBound(algorithm_, block_bytes_) + kCrcBytes;
  ByteReader r(table);
  ends_.reserve(h.nr_blocks + 1);
  ends_.push_back(kZFileHeaderBytes + uint64_t{h.dictionary_bytes});
  for (uint64_t i = 0; i < h.nr_blocks; i++) {
    uint32_t length = r.U32();
    if (length <= (verify_ ? kCrcBytes : 0) || length > most)
      return ZError("length of block " + std::to_string(i) + " out of range");
    ends_.push_back(ends_.back() + length);
  }
  if (ends_.back() > h.index_offset) return ZError("blocks overlap the index");
  return OkStatus();
}

namespace {

Status CheckCounts(uint64_t nr_blocks, uint64_t data_bytes, uint32_t block_bytes) {
  if (data_bytes == 0 || data_bytes > kMaxDataBytes) return ZError("size out of range");
  if (block_bytes == 0 || nr_blocks > kMaxZFileBlocks ||
      nr_blocks != (data_bytes + block_bytes - 1) / block_bytes)
    return ZError("number of blocks out of range");
  return OkStatus();
}

}  // namespace

Result<ZFileIndex> ZFileIndex::Read(const ReadAtFile& file) {
  if (file.size() < 2 * kZFileHeaderBytes) return ZError("file is too short");
  ZFileIndex index;
  FASTOCI_CHECK_OK(file.ReadAt(0, index.header_));
  FASTOCI_TRY(Header h, ParseHeader(index.header_));
  if ((h.flags & kFlagOverwritten) == 0) {  // written as a stream
    FASTOCI_CHECK_OK(file.ReadAt(file.size() - kZFileHeaderBytes, index.header_));
    FASTOCI_TRY(h, ParseHeader(index.header_));
  }
  FASTOCI_CHECK_OK(CheckCounts(h.nr_blocks, h.data_bytes, h.block_bytes));
  if (h.index_offset > file.size() || h.nr_blocks * 4 > file.size() - h.index_offset)
    return ZError("index lies outside of the file");
  Bytes table(h.nr_blocks * 4);
  FASTOCI_CHECK_OK(file.ReadAt(h.index_offset, table));
  FASTOCI_CHECK_OK(index.Build(h, table));
  return index;
}

Bytes ZFileIndex::Serialize(uint64_t payload_offset) const {
  ByteWriter w;
  w.Append(kIndexMagic);
  w.U64(payload_offset);
  w.Append(header_);
  for (size_t i = 0; i + 1 < ends_.size(); i++)
    w.U32(static_cast<uint32_t>(ends_[i + 1] - ends_[i]));
  return std::move(w.bytes());
}

Result<ZFileIndex> ZFileIndex::Parse(ByteSpan serialized) {
  ByteReader r(serialized);
  ByteSpan magic = r.Take(kIndexMagic.size());
  if (!std::equal(magic.begin(), magic.end(), kIndexMagic.begin(), kIndexMagic.end()))
    return ZError("wrong magic of the index");
  ZFileIndex index;
  index.payload_offset_ = r.U64();
  if (index.payload_offset_ > kMaxDataBytes) return ZError("payload offset out of range");
  ByteSpan header = r.Take(kZFileHeaderBytes);
  if (!r.ok()) return ZError("index is too short");
  std::copy(header.begin(), header.end(), index.header_.begin());
  FASTOCI_TRY(Header h, ParseHeader(header));
  FASTOCI_CHECK_OK(CheckCounts(h.nr_blocks, h.data_bytes, h.block_bytes));
  if (h.nr_blocks * 4 != r.remaining()) return ZError("index has a wrong size");
  FASTOCI_CHECK_OK(index.Build(h, r.Take(r.remaining())));
  return index;
}

uint32_t ZFileIndex::data_bytes_of(size_t i) const {
  return static_cast<uint32_t>(
      std::min<uint64_t>(block_bytes_, data_bytes_ - uint64_t{i} * block_bytes_));
}

Status ZFileIndex::DecodeBlock(size_t i, ByteSpan stored, std::span<uint8_t> out) const {
  auto bad = [i](const char* what) { return ZError("block " + std::to_string(i) + ": " + what); };
  if (i >= nr_blocks() || stored.size() != ends_[i + 1] - ends_[i] ||
      out.size() != data_bytes_of(i))
    return bad("wrong length");
  if (verify_) {
    ByteReader crc(stored.last(kCrcBytes));
    stored = stored.first(stored.size() - kCrcBytes);
    if (Crc32cRaw(kBlockCrcSeed, stored) != crc.U32()) return bad("wrong checksum");
  }
  if (algorithm_ == ZFileAlgorithm::kLz4) {
    int n = LZ4_decompress_safe(reinterpret_cast<const char*>(stored.data()),
                                reinterpret_cast<char*>(out.data()),
                                static_cast<int>(stored.size()), static_cast<int>(out.size()));
    if (n < 0 || static_cast<size_t>(n) != out.size()) return bad("lz4 data is corrupt");
  } else {
    size_t n = ZSTD_decompress(out.data(), out.size(), stored.data(), stored.size());
    if (ZSTD_isError(n) != 0 || n != out.size()) return bad("zstd data is corrupt");
  }
  return OkStatus();
}

Result<ZFileReader> ZFileReader::Open(const ReadAtFile* file) {
  FASTOCI_TRY(ZFileIndex index, ZFileIndex::Read(*file));
  return ZFileReader(file, std::move(index));
}

Status ZFileReader::LoadBlock(size_t i) const {
  cached_block_ = SIZE_MAX;
  stored_.resize(index_.block_offset(i + 1) - index_.block_offset(i));
  data_.resize(index_.data_bytes_of(i));
  FASTOCI_CHECK_OK(file_->ReadAt(index_.block_offset(i), stored_));
  FASTOCI_CHECK_OK(index_.DecodeBlock(i, stored_, data_));
  cached_block_ = i;
  return OkStatus();
}

Status ZFileReader::ReadAt(uint64_t offset, std::span<uint8_t> out) const {
  FASTOCI_CHECK_OK(CheckRange(offset, out.size()));
  while (!out.empty()) {
    size_t i = offset / index_.block_bytes();
    if (i != cached_block_) FASTOCI_CHECK_OK(LoadBlock(i));
    size_t at = offset % index_.block_bytes();
    size_t n = std::min(out.size(), data_.size() - at);
    std::copy_n(data_.begin() + static_cast<ptrdiff_t>(at), n, out.begin());
    out = out.subspan(n);
    offset += n;
  }
  return OkStatus();
}

Result<ZFileWriter> ZFileWriter::Create(const ZFileOptions& options, Sink sink) {
  if (options.block_bytes < kMinZFileBlockBytes || options.block_bytes > kMaxZFileBlockBytes ||
      (options.block_bytes & (options.block_bytes - 1)) != 0 || options.level < 0 ||
      options.level > 22)
    return ZError("option out of range");
  return ZFileWriter(options, std::move(sink));
}

Status ZFileWriter::WriteBlock(ByteSpan data) {
  if (table_.size() / 4 == kMaxZFileBlocks) return ZError("too many blocks");
  if (written_ == 0) {
    FASTOCI_CHECK_OK(sink_(Bytes(kZFileHeaderBytes)));
    written_ = kZFileHeaderBytes;
  }
  auto bound = CompressBound(options_.algorithm, options_.block_bytes);
  compressed_.resize(bound + kCrcBytes);
  size_t n;
  if (options_.algorithm == ZFileAlgorithm::kLz4) {
    n = static_cast<size_t>(LZ4_compress_default(
        reinterpret_cast<const char*>(data.data()), reinterpret_cast<char*>(compressed_.data()),
        static_cast<int>(data.size()), static_cast<int>(bound)));
  } else {
    int level = options_.level != 0 ? options_.level : ZSTD_CLEVEL_DEFAULT;
    n = ZSTD_compress(compressed_.data(), bound, data.data(), data.size(), level);
    if (ZSTD_isError(n) != 0) n = 0;
  }
  if (n == 0) return Error{ErrorKind::kInternal, EIO, "ZFile: cannot compress"};
  uint32_t crc = Crc32cRaw(kBlockCrcSeed, ByteSpan(compressed_).first(n));
  for (uint32_t i = 0; i < kCrcBytes; i++) compressed_[n++] = static_cast<uint8_t>(crc >> (8 * i));
  table_.U32(static_cast<uint32_t>(n));
  written_ += n;
  data_bytes_ += data.size();
  return sink_(ByteSpan(compressed_).first(n));
}

Status ZFileWriter::Update(ByteSpan data) {
  while (!data.empty()) {
    if (pending_.empty() && data.size() >= options_.block_bytes) {
      FASTOCI_CHECK_OK(WriteBlock(data.first(options_.block_bytes)));
      data = data.subspan(options_.block_bytes);
      continue;
    }
    size_t n = std::min(data.size(), options_.block_bytes - pending_.size());
    pending_.insert(pending_.end(), data.begin(), data.begin() + static_cast<ptrdiff_t>(n));
    data = data.subspan(n);
    if (pending_.size() < options_.block_bytes) return OkStatus();
    FASTOCI_CHECK_OK(WriteBlock(pending_));
    pending_.clear();
  }
  return OkStatus();
}

std::array<uint8_t, kZFileHeaderBytes> ZFileWriter::MakeHeader(bool trailer, uint64_t index_offset,
                                                               uint32_t index_crc) const {
  ByteWriter w;
  w.Append(kMagic);
  w.U32(kStructBytes);
  w.U32(0);  // digest, below
  w.U64(trailer ? kFlagData | kFlagSealed | kFlagDigest
                : kFlagHeader | kFlagData | kFlagOverwritten | kFlagDigest);
  w.U64(index_offset);
  w.U64(table_.size() / 4);
  w.U64(data_bytes_);
  w.U32(index_crc);
  w.U32(0);
  w.U32(options_.block_bytes);
  w.U8(static_cast<uint8_t>(options_.algorithm));
  w.U8(static_cast<uint8_t>(options_.level));
  w.Zeros(2 + 4 + 4);  // no dictionary
  w.U8(1);             // blocks carry a CRC
  std::array<uint8_t, kZFileHeaderBytes> header{};
  std::copy(w.bytes().begin(), w.bytes().end(), header.begin());
  uint32_t digest = HeaderDigest(header);
  for (size_t i = 0; i < 4; i++)
    header[kDigestOffset + i] = static_cast<uint8_t>(digest >> (8 * i));
  return header;
}

Result<std::array<uint8_t, kZFileHeaderBytes>> ZFileWriter::Finish() {
  if (!pending_.empty()) FASTOCI_CHECK_OK(WriteBlock(pending_));
  pending_.clear();
  if (data_bytes_ == 0) return ZError("nothing to write");
  uint64_t index_offset = written_;
  uint32_t crc = Crc32cRaw(0, table_.bytes());
  FASTOCI_CHECK_OK(sink_(table_.bytes()));
  FASTOCI_CHECK_OK(sink_(MakeHeader(true, index_offset, crc)));
  return MakeHeader(false, index_offset, crc);
}

}  // namespace fastoci
