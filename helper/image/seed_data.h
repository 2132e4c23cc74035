// SPDX-License-Identifier: Apache-2.0
// The data of one data space in a seed (docs/seeds.md): some of its pieces of 64 KiB, and which
// ones they are.
//
//   0     the pieces, in order, without gaps. Only the last piece of a data space may be short
//   ...   nr_runs times: le32 first piece, le32 number of pieces
//   -64   trailer: data space id (32 bytes), le64 data_bytes, le32 nr_runs, le32 version, le64 0,
//         "FASTOCIs"
//
// The table follows the pieces, so that a writer needs one pass: it knows a piece only after it has
// compared it. Runs are in order, and have at least one missing piece between them. So equal pieces
// of a data space make equal files, and layouts store such a file once.
//
// A file is untrusted. Opening it checks that table and size agree. What the pieces are worth, only
// the digests of a meta image tell.
#ifndef FASTOCI_IMAGE_SEED_DATA_H_
#define FASTOCI_IMAGE_SEED_DATA_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/digest.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "image/meta_image.h"

namespace fastoci {

inline constexpr uint32_t kSeedDataVersion = 1;
inline constexpr uint64_t kSeedPieceBytes = 1 << 16;  // what a digest of a meta image covers
inline constexpr size_t kSeedRunBytes = 8;
inline constexpr size_t kSeedTrailerBytes = 64;

struct SeedRun {
  uint32_t first = 0, count = 0;  // pieces
  bool operator==(const SeedRun&) const = default;
};

struct SeedTable {
  Sha256Digest space_id{};
  uint64_t data_bytes = 0;  // of the whole data space
  std::vector<SeedRun> runs;

  uint64_t BytesOf(const SeedRun& run) const;
  uint64_t piece_bytes() const;  // of all runs
};

// Table and trailer, which follow the pieces.
Bytes EncodeSeedTable(const SeedTable& table);
// trailer: the file's last kSeedTrailerBytes. Returns the number of runs.
Result<uint32_t> ParseSeedTrailer(ByteSpan trailer, uint64_t file_bytes);
// end: the file's last bytes, the table and the trailer.
Result<SeedTable> ParseSeedTable(ByteSpan end, uint64_t file_bytes);

// Writes such a file to fd, which stays the caller's.
class SeedDataWriter {
 public:
  explicit SeedDataWriter(int fd) : fd_(fd) {}
  // Pieces in order. A piece that was left out cannot be added later.
  Status Add(uint32_t piece_no, ByteSpan piece);
  uint64_t nr_bytes() const { return nr_bytes_; }  // of pieces, so far
  struct Written {
    std::string digest;  // of the file
    uint64_t bytes = 0;
  };
  Result<Written> Finish(const Sha256Digest& space_id, uint64_t data_bytes);

 private:
  const int fd_;
  Sha256 hash_;
  std::vector<SeedRun> runs_;
  uint64_t nr_bytes_ = 0;
};

class SeedDataFile {
 public:
  // Errors name the path.
  static Result<SeedDataFile> Open(const std::string& path);
  const SeedTable& table() const { return table_; }
  uint64_t file_bytes() const { return file_bytes_; }
  const std::string& path() const { return path_; }
  // Bytes of the pieces as they lie in the file.
  Status Read(uint64_t offset, std::span<uint8_t> out) const;
  // Compares the file with the digest that names it, and each piece with the blob's. kMismatch: the
  // message says where. told: gets the bytes that were read, as it goes on.
  Status Check(const BlobInfo& blob, const std::string& digest,
               const std::function<void(uint64_t bytes)>& told) const;

 private:
  SeedDataFile() = default;
  Status CheckPieces(const BlobInfo& blob, Sha256* hash,
                     const std::function<void(uint64_t bytes)>& told) const;
  std::string path_;
  UniqueFd fd_;
  uint64_t file_bytes_ = 0;
  SeedTable table_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_SEED_DATA_H_
