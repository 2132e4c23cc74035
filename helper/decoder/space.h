// SPDX-License-Identifier: Apache-2.0
// The data spaces that a decoder knows. Each has a codec and an index, which is mapped
// from the memfd that the broker sent. If there are too many, the least recently used one
// is forgotten; the broker opens it again when it needs it.
#ifndef FASTOCI_DECODER_SPACE_H_
#define FASTOCI_DECODER_SPACE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/byte_reader.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "codec/gzip_index.h"
#include "codec/zfile.h"
#include "codec/zstd_index.h"
#include "decoder/protocol.h"

namespace fastoci {

inline constexpr size_t kMaxSpaces = 64;

// A mapping of a whole memfd; empty for an empty one.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& o) noexcept : data_(std::exchange(o.data_, {})) {}
  Mapping& operator=(Mapping&& o) noexcept {
    std::swap(data_, o.data_);
    return *this;
  }
  ~Mapping();
  // min_bytes, max_bytes: bounds on the size of the file.
  static Result<Mapping> Open(int fd, bool writable, uint64_t min_bytes, uint64_t max_bytes);
  std::span<uint8_t> data() const { return data_; }

 private:
  std::span<uint8_t> data_;
};

// Decodes one job's input in order.
class DataStream {
 public:
  using Progress = GzipStream::Progress;
  virtual ~DataStream() = default;
  virtual Result<Progress> Decode(ByteSpan in, std::span<uint8_t> out) = 0;
};

class Space {
 public:
  static Result<std::shared_ptr<Space>> Open(const DecodeMessage& message, const UniqueFd& index);
  uint64_t data_bytes() const { return data_bytes_; }
  uint64_t blob_bytes() const { return blob_bytes_; }
  // Whether the input must be copied first, because the decoder may read a byte twice and
  // must not see two values.
  bool copies_input() const { return zfile_ || zstd_; }
  struct Start {
    std::unique_ptr<DataStream> stream;
    uint64_t blob_offset;  // of the first byte that the stream wants
  };
  // data_offset: where a span begins.
  Result<Start> StartAt(uint64_t data_offset) const;

 private:
  uint32_t codec_ = 0;
  uint64_t data_bytes_ = 0;
  uint64_t blob_bytes_ = 0;
  Mapping mapping_;
  std::optional<GzipIndex> gzip_;  // views mapping_
  std::optional<ZFileIndex> zfile_;
  std::optional<ZstdIndex> zstd_;
};

// A space that failed to open is kept too: its error answers each Decode.
class SpaceTable {
 public:
  using Entry = Result<std::shared_ptr<Space>>;
  void Insert(uint64_t key, Entry entry);
  // ESTALE for an unknown key.
  Entry Find(uint64_t key);
  size_t size() const { return order_.size(); }

 private:
  std::list<std::pair<uint64_t, Entry>> order_;  // most recently used first
  std::unordered_map<uint64_t, std::list<std::pair<uint64_t, Entry>>::iterator> by_key_;
};

}  // namespace fastoci

#endif  // FASTOCI_DECODER_SPACE_H_
