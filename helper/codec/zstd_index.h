// SPDX-License-Identifier: Apache-2.0
// The zstd index ("fastoci.zstd", ours, see docs/meta-format.md): the frames of a
// zstd blob at which a reader can start. Frames are independent, so nothing but
// places is kept. A blob of one frame has one entry: readers decode it from its
// beginning.
#ifndef FASTOCI_CODEC_ZSTD_INDEX_H_
#define FASTOCI_CODEC_ZSTD_INDEX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"

namespace fastoci {

inline constexpr uint64_t kMaxZstdIndexEntries = 1ULL << 20;
inline constexpr uint64_t kMaxZstdIndexBytes = kMaxZstdIndexEntries * 16 + 4096;
// What a decoder may have to keep of a frame's output; frames that want more are
// refused. zstd itself has this limit unless told otherwise.
inline constexpr int kMaxZstdWindowLog = 27;
// The most data of one block. A block is decoded as a whole, so a reader may need up to
// so many bytes of the blob after those that it wants.
inline constexpr uint64_t kZstdBlockBytes = 128 << 10;

struct ZstdIndexEntry {
  uint64_t data_offset;  // in the uncompressed stream
  uint64_t blob_offset;  // where a frame begins
  bool operator==(const ZstdIndexEntry&) const = default;
};

class ZstdIndex {
 public:
  // Checks everything (hostile bytes).
  static Result<ZstdIndex> Parse(ByteSpan file);
  uint64_t data_bytes() const { return data_bytes_; }
  uint64_t blob_bytes() const { return blob_bytes_; }
  // At least one; the first has data_offset 0; both offsets grow strictly and are
  // below the sizes.
  const std::vector<ZstdIndexEntry>& entries() const { return entries_; }
  // Whether an entry stands at data_offset; tells its number.
  bool Find(uint64_t data_offset, size_t* entry) const;

 private:
  uint64_t data_bytes_ = 0, blob_bytes_ = 0;
  std::vector<ZstdIndexEntry> entries_;
};

// Decodes from the beginning of a frame on, over the ends of frames.
class ZstdStream {
 public:
  struct Progress {
    size_t consumed = 0;  // of `in`
    size_t produced = 0;  // of `out`
    bool frame_ended = false;  // the input so far ends a frame, and all of its output is out
  };
  static Result<ZstdStream> Open();
  ZstdStream(ZstdStream&&) noexcept;
  ZstdStream& operator=(ZstdStream&&) noexcept;
  ~ZstdStream();

  // Goes on until `in` is empty, `out` is full or a frame has ended.
  Result<Progress> Decode(ByteSpan in, std::span<uint8_t> out);

 private:
  struct Context;
  explicit ZstdStream(std::unique_ptr<Context> context);
  std::unique_ptr<Context> context_;
};

struct ZstdIndexOptions {
  uint64_t span_bytes = 256 << 10;  // least distance between entries
};

// One pass over a zstd blob. The result depends on the blob and the options
// alone, not on how the blob is cut into Update() calls.
class ZstdIndexBuilder {
 public:
  using Sink = std::function<Status(ByteSpan)>;
  // sink receives the uncompressed bytes in order; its error ends Update().
  static Result<ZstdIndexBuilder> Create(const ZstdIndexOptions& options, Sink sink);

  // kInvalid for a corrupt stream, and for bytes after a frame that are not a frame.
  Status Update(ByteSpan compressed);
  // The file's content; empty if no frame holds anything. kInvalid if the last frame
  // is not complete.
  Result<Bytes> Finish();
  uint64_t data_bytes() const { return data_offset_; }

 private:
  ZstdIndexBuilder(const ZstdIndexOptions& options, Sink sink, ZstdStream stream)
      : options_(options), sink_(std::move(sink)), stream_(std::move(stream)) {}
  Status Take(ByteSpan data);
  ZstdIndexOptions options_;
  Sink sink_;
  ZstdStream stream_;
  Bytes out_;
  uint64_t data_offset_ = 0, blob_offset_ = 0;
  uint64_t frame_at_ = 0;    // where the last frame began
  bool in_frame_ = false;    // something of it came
  bool has_output_ = false;  // of that frame
  std::vector<ZstdIndexEntry> entries_;
};

}  // namespace fastoci

#endif  // FASTOCI_CODEC_ZSTD_INDEX_H_
