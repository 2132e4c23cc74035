// SPDX-License-Identifier: Apache-2.0
// ZFile: overlaybd's block-compressed container. It has a header, blocks, a table of the
// blocks' stored lengths, and a trailer. All blocks but the last have the same uncompressed
// size. Each is compressed on its own, and its CRC follows it.
//
// ZFileIndex knows where each block is and decodes it; it can be cut out of the
// file (Serialize) for a decoder that gets the blocks' bytes from elsewhere.
// ZFileReader reads the uncompressed bytes, ZFileWriter makes a file.
#ifndef FASTOCI_CODEC_ZFILE_H_
#define FASTOCI_CODEC_ZFILE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "codec/read_at.h"

namespace fastoci {

inline constexpr size_t kZFileHeaderBytes = 512;
inline constexpr uint32_t kMinZFileBlockBytes = 512;
inline constexpr uint32_t kMaxZFileBlockBytes = 65536;
inline constexpr uint64_t kMaxZFileBlocks = 1ULL << 25;
// Most that Serialize() makes: magic, payload offset, header, lengths.
inline constexpr uint64_t kMaxZFileIndexBytes = 16 + kZFileHeaderBytes + 4 * kMaxZFileBlocks;

enum class ZFileAlgorithm : uint8_t { kLz4 = 1, kZstd = 2 };

class ZFileIndex {
 public:
  // file: just the ZFile, without a wrapper.
  static Result<ZFileIndex> Read(const ReadAtFile& file);
  // Whether a file that begins with these bytes is one.
  static bool HasMagic(ByteSpan begin);

  // What a decoder needs; payload_offset: of the ZFile in the blob.
  Bytes Serialize(uint64_t payload_offset) const;
  static Result<ZFileIndex> Parse(ByteSpan serialized);

  uint64_t data_bytes() const { return data_bytes_; }
  uint32_t block_bytes() const { return block_bytes_; }
  uint64_t payload_offset() const { return payload_offset_; }  // 0 after Read()
  size_t nr_blocks() const { return ends_.size() - 1; }
  // Of block i in the ZFile; block_offset(nr_blocks()) is the last one's end.
  uint64_t block_offset(size_t i) const { return ends_[i]; }
  // Uncompressed length of block i.
  uint32_t data_bytes_of(size_t i) const;
  // stored: the bytes of block i; out: data_bytes_of(i) bytes.
  Status DecodeBlock(size_t i, ByteSpan stored, std::span<uint8_t> out) const;

 private:
  struct Header;
  static Result<Header> ParseHeader(ByteSpan bytes);
  Status Build(const Header& header, ByteSpan table);

  std::array<uint8_t, kZFileHeaderBytes> header_{};
  uint64_t data_bytes_ = 0;
  uint64_t payload_offset_ = 0;
  uint32_t block_bytes_ = 0;
  ZFileAlgorithm algorithm_ = ZFileAlgorithm::kLz4;
  bool verify_ = false;
  std::vector<uint64_t> ends_;  // [0] is the begin of block 0
};

// Keeps the block that was read last; one thread.
class ZFileReader : public ReadAtFile {
 public:
  // file must outlive the reader.
  static Result<ZFileReader> Open(const ReadAtFile* file);
  const ZFileIndex& index() const { return index_; }
  uint64_t size() const override { return index_.data_bytes(); }
  Status ReadAt(uint64_t offset, std::span<uint8_t> out) const override;

 private:
  ZFileReader(const ReadAtFile* file, ZFileIndex index)
      : file_(file), index_(std::move(index)), cached_block_(SIZE_MAX) {}
  Status LoadBlock(size_t i) const;

  const ReadAtFile* file_;
  ZFileIndex index_;
  mutable Bytes stored_, data_;
  mutable size_t cached_block_;
};

struct ZFileOptions {
  ZFileAlgorithm algorithm = ZFileAlgorithm::kLz4;
  int level = 0;  // zstd only; 0: its default
  uint32_t block_bytes = 4096;
};

// Streams a ZFile: the sink gets the file's bytes in order, with zeros in place
// of the header, which Finish() returns to be written over the first 512 bytes.
class ZFileWriter {
 public:
  using Sink = std::function<Status(ByteSpan)>;
  static Result<ZFileWriter> Create(const ZFileOptions& options, Sink sink);
  Status Update(ByteSpan data);
  Result<std::array<uint8_t, kZFileHeaderBytes>> Finish();

 private:
  ZFileWriter(const ZFileOptions& options, Sink sink)
      : options_(options), sink_(std::move(sink)) {}
  Status WriteBlock(ByteSpan data);
  std::array<uint8_t, kZFileHeaderBytes> MakeHeader(bool trailer, uint64_t index_offset,
                                                    uint32_t index_crc) const;

  ZFileOptions options_;
  Sink sink_;
  Bytes pending_;     // less than a block
  Bytes compressed_;  // of one block
  ByteWriter table_;
  uint64_t data_bytes_ = 0;
  uint64_t written_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_CODEC_ZFILE_H_
