// SPDX-License-Identifier: Apache-2.0
// The gzip index ("gzip.meta", turboOCI's format, see docs): checkpoints at
// deflate block ends from which a reader can start in the middle of a gzip
// blob. GzipIndexBuilder makes one in a single streaming pass, GzipIndex reads
// one (hostile bytes), GzipStream inflates from a checkpoint on.
//
// Windows are stored sparse: bytes that no later back-reference reaches are zeroed
// before the window is compressed. It is enough to look at the first 32 KiB of output
// after the checkpoint, across following checkpoints if need be. A back-reference reaches
// 32 KiB at most. If bytes are copied through a chain of back-references, each step put
// them out within that distance. So every window byte that any later output derives from
// is put out at least once among those first 32 KiB.
//
// A blob of several gzip members gets an index of our own, version 2: the same
// file, with an entry where each member begins that is not empty. What lies
// between two entries is of one member, so decoding is the same.
#ifndef FASTOCI_CODEC_GZIP_INDEX_H_
#define FASTOCI_CODEC_GZIP_INDEX_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"

namespace fastoci {

inline constexpr size_t kGzipWindowBytes = 32768;
// Limits on what Parse() takes.
inline constexpr uint64_t kMaxGzipIndexBytes = 256ULL << 20;
inline constexpr uint64_t kMaxGzipIndexEntries = 1ULL << 20;

using GzipWindow = std::array<uint8_t, kGzipWindowBytes>;

struct GzipIndexEntry {
  uint64_t data_offset;        // in the uncompressed stream
  uint64_t compressed_offset;  // first byte of the blob that is wholly behind the checkpoint
  uint64_t window_offset;      // of the stored window in the index file
  uint32_t window_bytes;       // its stored length
  uint8_t bits;                // 0..7 bits of the byte before belong to the stream

  // First byte of the blob that decoding needs.
  uint64_t blob_offset() const { return compressed_offset - (bits != 0 ? 1 : 0); }
};

class GzipIndex {
 public:
  // Checks the whole file, except for the windows, which are inflated on demand. `file`
  // is not copied and must outlive the index.
  static Result<GzipIndex> Parse(ByteSpan file);

  uint64_t uncompressed_bytes() const { return uncompressed_bytes_; }
  uint64_t gzip_bytes() const { return gzip_bytes_; }
  // At least one entry. The first one has data_offset 0. Data offsets grow from entry to
  // entry; those after the first are below uncompressed_bytes(). Blob offsets never
  // decrease and are below gzip_bytes().
  const std::vector<GzipIndexEntry>& entries() const { return entries_; }
  // Number of the last entry at or before data_offset.
  size_t FindEntry(uint64_t data_offset) const;
  Status ReadWindow(size_t entry, GzipWindow* window) const;

 private:
  ByteSpan file_;
  uint64_t uncompressed_bytes_ = 0;
  uint64_t gzip_bytes_ = 0;
  bool windows_compressed_ = true;
  std::vector<GzipIndexEntry> entries_;
};

// Whether an index is one of several members (version 2).
bool IsMembersIndex(ByteSpan file);

// ISA-L is twice as fast in pieces of 64 KiB; zlib serves as its oracle in tests.
enum class GzipEngine { kIsal, kZlib };

// Inflates from one checkpoint to the end of the member, in one stream across
// later checkpoints. Fed with the blob's bytes from entry.blob_offset() on.
class GzipStream {
 public:
  struct Progress {
    size_t consumed = 0;  // of `in`
    size_t produced = 0;  // of `out`
    bool ended = false;   // the deflate stream is complete
  };
  static Result<GzipStream> Open(const GzipIndex& index, size_t entry,
                                 GzipEngine engine = GzipEngine::kIsal);
  GzipStream(GzipStream&&) noexcept;
  GzipStream& operator=(GzipStream&&) noexcept;
  ~GzipStream();

  // Goes on until `in` is empty, `out` is full or the stream has ended.
  Result<Progress> Decode(ByteSpan in, std::span<uint8_t> out);

 private:
  class Inflater;
  class ZlibInflater;
  class IsalInflater;
  GzipStream(std::unique_ptr<Inflater> inflater, uint8_t bits);
  std::unique_ptr<Inflater> inflater_;
  uint8_t bits_to_prime_;  // 0: the shared byte was taken, or there is none
  bool ended_ = false;
};

struct GzipIndexOptions {
  uint32_t span_bytes = 1 << 20;  // least distance between checkpoints of a member
  int level = 6;                  // zlib level of windows and entry table
  bool sparse_windows = true;
  bool threaded = false;  // windows are compressed on a thread of their own
};

// Makes the index in one pass over a gzip blob: members, perhaps with zeros between and
// after them. The result depends only on the blob and the options, not on how the blob is
// cut into Update() calls.
class GzipIndexBuilder {
 public:
  using Sink = std::function<Status(ByteSpan)>;
  // sink receives the uncompressed bytes in order; its error ends Update().
  static Result<GzipIndexBuilder> Create(const GzipIndexOptions& options, Sink sink);
  GzipIndexBuilder(GzipIndexBuilder&&) noexcept;
  GzipIndexBuilder& operator=(GzipIndexBuilder&&) noexcept;
  ~GzipIndexBuilder();

  // kInvalid for a corrupt stream, and for bytes after a member that are neither a member
  // nor zeros.
  Status Update(ByteSpan compressed);
  // The file's content, version 2 if there is more than one member; kInvalid if
  // the last one is not complete.
  Result<Bytes> Finish();

  uint64_t uncompressed_bytes() const;
  uint64_t nr_members() const;

 private:
  struct State;
  explicit GzipIndexBuilder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace fastoci

#endif  // FASTOCI_CODEC_GZIP_INDEX_H_
