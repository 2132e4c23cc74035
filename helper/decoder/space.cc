// SPDX-License-Identifier: Apache-2.0
#include "decoder/space.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "fastoci_meta.h"

namespace fastoci {
namespace {

class RawStream : public DataStream {
 public:
  Result<Progress> Decode(ByteSpan in, std::span<uint8_t> out) override {
    size_t n = std::min(in.size(), out.size());
    std::copy_n(in.begin(), n, out.begin());
    return Progress{n, n, false};
  }
};

// Decodes from an entry on, over the ends of members. When a member ends, the entry of the
// next one tells where its data begins in the blob.
class GzipDataStream : public DataStream {
 public:
  static Result<std::unique_ptr<DataStream>> Open(const GzipIndex* index, size_t entry) {
    auto s = std::unique_ptr<GzipDataStream>(new GzipDataStream(index));
    FASTOCI_CHECK_OK(s->Enter(entry));
    s->blob_offset_ = index->entries()[entry].blob_offset();
    return std::unique_ptr<DataStream>(std::move(s));
  }
  Result<Progress> Decode(ByteSpan in, std::span<uint8_t> out) override {
    size_t skipped = std::min<uint64_t>(skip_, in.size());
    skip_ -= skipped;
    blob_offset_ += skipped;
    if (skip_ != 0) return Progress{skipped, 0, false};
    FASTOCI_TRY(Progress p, stream_->Decode(in.subspan(skipped), out));
    blob_offset_ += p.consumed;
    p.consumed += skipped;
    data_offset_ += p.produced;
    if (!p.ended || data_offset_ >= index_->uncompressed_bytes()) return p;
    size_t next = index_->FindEntry(data_offset_);
    const GzipIndexEntry& entry = index_->entries()[next];
    if (entry.data_offset != data_offset_ || entry.blob_offset() < blob_offset_) return p;
    FASTOCI_CHECK_OK(Enter(next));
    skip_ = entry.blob_offset() - blob_offset_;
    p.ended = false;
    return p;
  }

 private:
  explicit GzipDataStream(const GzipIndex* index) : index_(index) {}
  Status Enter(size_t entry) {
    data_offset_ = index_->entries()[entry].data_offset;
    FASTOCI_TRY(GzipStream stream, GzipStream::Open(*index_, entry));
    stream_.emplace(std::move(stream));
    return OkStatus();
  }
  const GzipIndex* index_;
  std::optional<GzipStream> stream_;
  uint64_t data_offset_ = 0, blob_offset_ = 0;
  uint64_t skip_ = 0;  // of the input, up to the next member's data
};

// From a frame on, over the ends of frames.
class ZstdDataStream : public DataStream {
 public:
  explicit ZstdDataStream(ZstdStream stream) : stream_(std::move(stream)) {}
  Result<Progress> Decode(ByteSpan in, std::span<uint8_t> out) override {
    FASTOCI_TRY(ZstdStream::Progress p, stream_.Decode(in, out));
    return Progress{p.consumed, p.produced, false};
  }

 private:
  ZstdStream stream_;
};

// Collects a block's stored bytes, decodes it, gives it out.
class ZFileStream : public DataStream {
 public:
  ZFileStream(const ZFileIndex* index, size_t block) : index_(index), block_(block) {}
  Result<Progress> Decode(ByteSpan in, std::span<uint8_t> out) override {
    Progress p;
    for (;;) {
      size_t n = std::min(data_.size() - given_, out.size() - p.produced);
      std::copy_n(data_.begin() + static_cast<ptrdiff_t>(given_), n,
                  out.begin() + static_cast<ptrdiff_t>(p.produced));
      given_ += n;
      p.produced += n;
      bool given_out = given_ == data_.size();
      p.ended = given_out && block_ == index_->nr_blocks();
      if (p.ended || !given_out || p.produced == out.size()) return p;
      uint64_t stored = index_->block_offset(block_ + 1) - index_->block_offset(block_);
      ByteSpan part = in.subspan(p.consumed);
      part = part.first(std::min<uint64_t>(part.size(), stored - stored_.size()));
      stored_.insert(stored_.end(), part.begin(), part.end());
      p.consumed += part.size();
      if (stored_.size() < stored) return p;
      data_.resize(index_->data_bytes_of(block_));
      given_ = 0;
      FASTOCI_CHECK_OK(index_->DecodeBlock(block_, stored_, data_));
      stored_.clear();
      block_++;
    }
  }

 private:
  const ZFileIndex* index_;
  size_t block_;        // the next one to decode
  Bytes stored_;        // what came in of it
  Bytes data_;          // of the block before it
  size_t given_ = 0;    // of data_
};

}  // namespace

Mapping::~Mapping() {
  if (!data_.empty()) munmap(data_.data(), data_.size());
}

Result<Mapping> Mapping::Open(int fd, bool writable, uint64_t min_bytes, uint64_t max_bytes) {
  // lseek and not fstat: glibc makes the latter a call that takes paths.
  off_t size = lseek(fd, 0, SEEK_END);
  if (size < 0) return ErrnoError("memfd: size");
  auto bytes = static_cast<uint64_t>(size);
  if (bytes < min_bytes || bytes > max_bytes)
    return InvalidError("memfd: its size is out of range");
  Mapping m;
  if (bytes == 0) return m;
  void* p = mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) return ErrnoError("memfd: mmap");
  m.data_ = {static_cast<uint8_t*>(p), bytes};
  return m;
}

Result<std::shared_ptr<Space>> Space::Open(const DecodeMessage& message, const UniqueFd& index) {
  auto space = std::make_shared<Space>();
  space->codec_ = message.codec;
  space->data_bytes_ = message.data_bytes;
  space->blob_bytes_ = message.blob_bytes;
  if (message.data_bytes == 0 || message.data_bytes > FASTOCI_MAX_DATA_BYTES ||
      message.blob_bytes > FASTOCI_MAX_DATA_BYTES)
    return InvalidError("the size of the data space is out of range");
  switch (message.codec) {
    case FASTOCI_CODEC_RAW:
      if (message.data_bytes != message.blob_bytes)
        return InvalidError("the raw blob and its data space differ in size");
      break;
    case FASTOCI_CODEC_GZIP: {
      FASTOCI_TRY(space->mapping_, Mapping::Open(index.get(), false, 1, kMaxGzipIndexBytes));
      FASTOCI_TRY(space->gzip_, GzipIndex::Parse(space->mapping_.data()));
      if (space->gzip_->uncompressed_bytes() != message.data_bytes)
        return InvalidError("gzip index: its uncompressed size is not the data space's");
      if (space->gzip_->gzip_bytes() > message.blob_bytes)
        return InvalidError("gzip index: it describes more bytes than the blob has");
      break;
    }
    case FASTOCI_CODEC_ZFILE: {
      FASTOCI_TRY(Mapping file, Mapping::Open(index.get(), false, 1, kMaxZFileIndexBytes));
      FASTOCI_TRY(space->zfile_, ZFileIndex::Parse(file.data()));
      const ZFileIndex& z = *space->zfile_;
      if (z.data_bytes() != message.data_bytes)
        return InvalidError("ZFile: its uncompressed size is not the data space's");
      if (z.payload_offset() + z.block_offset(z.nr_blocks()) > message.blob_bytes)
        return InvalidError("ZFile: it describes more bytes than the blob has");
      break;
    }
    case FASTOCI_CODEC_ZSTD: {
      FASTOCI_TRY(Mapping file, Mapping::Open(index.get(), false, 1, kMaxZstdIndexBytes));
      FASTOCI_TRY(space->zstd_, ZstdIndex::Parse(file.data()));
      if (space->zstd_->data_bytes() != message.data_bytes ||
          space->zstd_->blob_bytes() != message.blob_bytes)
        return InvalidError("zstd index: its sizes are not the data space's");
      break;
    }
    default:
      return Error{ErrorKind::kUnsupported, EOPNOTSUPP,
                   "codec " + std::to_string(message.codec) + " is not supported"};
  }
  return space;
}

Result<Space::Start> Space::StartAt(uint64_t data_offset) const {
  if (zfile_) {
    if (data_offset % zfile_->block_bytes() != 0 || data_offset >= data_bytes_)
      return InvalidError("ZFile: no block begins at the span's offset");
    size_t block = data_offset / zfile_->block_bytes();
    return Start{std::make_unique<ZFileStream>(&*zfile_, block),
                 zfile_->payload_offset() + zfile_->block_offset(block)};
  }
  if (zstd_) {
    size_t entry;
    if (!zstd_->Find(data_offset, &entry))
      return InvalidError("zstd index: no frame begins at the span's offset");
    FASTOCI_TRY(ZstdStream stream, ZstdStream::Open());
    return Start{std::make_unique<ZstdDataStream>(std::move(stream)),
                 zstd_->entries()[entry].blob_offset};
  }
  if (!gzip_) return Start{std::make_unique<RawStream>(), data_offset};
  size_t i = gzip_->FindEntry(data_offset);
  const GzipIndexEntry& entry = gzip_->entries()[i];
  if (entry.data_offset != data_offset)
    return InvalidError("gzip index: no checkpoint at the span's offset");
  FASTOCI_TRY(auto stream, GzipDataStream::Open(&*gzip_, i));
  return Start{std::move(stream), entry.blob_offset()};
}

void SpaceTable::Insert(uint64_t key, Entry entry) {
  if (auto it = by_key_.find(key); it != by_key_.end()) {
    order_.erase(it->second);
    by_key_.erase(it);
  }
  if (order_.size() == kMaxSpaces) {
    by_key_.erase(order_.back().first);
    order_.pop_back();
  }
  order_.emplace_front(key, std::move(entry));
  by_key_[key] = order_.begin();
}

SpaceTable::Entry SpaceTable::Find(uint64_t key) {
  auto it = by_key_.find(key);
  if (it == by_key_.end()) return Error{ErrorKind::kNotFound, ESTALE, "the data space is not open"};
  order_.splice(order_.begin(), order_, it->second);
  return it->second->second;
}

}  // namespace fastoci
