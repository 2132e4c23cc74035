// SPDX-License-Identifier: Apache-2.0
#include "image/seed_data.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "base/open_file.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

constexpr char kMagic[] = "FASTOCIs";
constexpr size_t kReadBytes = 1 << 20;
static_assert(kSeedPieceBytes == 1 << FASTOCI_DIGEST_SHIFT);

uint64_t NrPieces(uint64_t data_bytes) {
  return (data_bytes + kSeedPieceBytes - 1) / kSeedPieceBytes;
}

}  // namespace

uint64_t SeedTable::BytesOf(const SeedRun& run) const {
  const uint64_t begin = run.first * kSeedPieceBytes;
  return std::min(begin + run.count * kSeedPieceBytes, data_bytes) - begin;
}

uint64_t SeedTable::piece_bytes() const {
  uint64_t bytes = 0;
  for (const SeedRun& run : runs) bytes += BytesOf(run);
  return bytes;
}

Bytes EncodeSeedTable(const SeedTable& table) {
  ByteWriter w;
  for (const SeedRun& run : table.runs) {
    w.U32(run.first);
    w.U32(run.count);
  }
  w.Append(table.space_id);
  w.U64(table.data_bytes);
  w.U32(static_cast<uint32_t>(table.runs.size()));
  w.U32(kSeedDataVersion);
  w.U64(0);
  w.Append(AsBytes(kMagic));
  return std::move(w.bytes());
}

Result<uint32_t> ParseSeedTrailer(ByteSpan trailer, uint64_t file_bytes) {
  ByteReader reader(trailer);
  reader.Skip(32 + 8);
  const uint32_t nr_runs = reader.U32(), version = reader.U32();
  const uint64_t reserved = reader.U64();
  const ByteSpan magic = reader.Take(8);
  if (!reader.ok() || !std::equal(magic.begin(), magic.end(), kMagic))
    return InvalidError("it does not end as the data of a seed does: it is cut short, or something else");
  if (version != kSeedDataVersion)
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP,
                 "it is of version " + std::to_string(version) + ", and this is version " +
                     std::to_string(kSeedDataVersion)};
  // So a table has one form only, and a digest that is computed from it is the file's.
  if (reserved != 0) return InvalidError("the reserved bytes at its end are not 0");
  // A run has a byte at least, so this bounds the table by the file's size.
  if (file_bytes < kSeedTrailerBytes ||
      nr_runs > (file_bytes - kSeedTrailerBytes) / (kSeedRunBytes + 1) ||
      nr_runs > FASTOCI_MAX_IMAGE_CHUNKS / 2)
    return InvalidError("its table of " + std::to_string(nr_runs) + " runs does not fit into it");
  return nr_runs;
}

Result<SeedTable> ParseSeedTable(ByteSpan end, uint64_t file_bytes) {
  if (end.size() < kSeedTrailerBytes) return InvalidError("it is cut short");
  const ByteSpan trailer = end.last(kSeedTrailerBytes);
  FASTOCI_TRY(const uint32_t nr_runs, ParseSeedTrailer(trailer, file_bytes));
  const uint64_t table_bytes = nr_runs * uint64_t{kSeedRunBytes};
  if (end.size() != table_bytes + kSeedTrailerBytes) return InvalidError("its table is cut short");
  ByteReader tail(trailer);
  SeedTable table;
  const ByteSpan id = tail.Take(table.space_id.size());
  std::copy(id.begin(), id.end(), table.space_id.begin());
  table.data_bytes = tail.U64();
  if (table.data_bytes == 0 || table.data_bytes > FASTOCI_MAX_DATA_BYTES ||
      NrPieces(table.data_bytes) > FASTOCI_MAX_IMAGE_CHUNKS)
    return InvalidError("its data space has " + std::to_string(table.data_bytes) + " bytes");
  const uint64_t nr_pieces = NrPieces(table.data_bytes);
  ByteReader reader(end);
  table.runs.reserve(nr_runs);
  uint64_t next = 0;  // the first piece that may come
  for (uint32_t i = 0; i < nr_runs; i++) {
    const SeedRun run = {reader.U32(), reader.U32()};
    if (run.count == 0 || run.first < next || run.first >= nr_pieces ||
        run.count > nr_pieces - run.first)
      return InvalidError("run " + std::to_string(i) + " of its table (" +
                          std::to_string(run.first) + "+" + std::to_string(run.count) +
                          ") is out of order or out of the data space");
    next = uint64_t{run.first} + run.count + 1;
    table.runs.push_back(run);
  }
  const uint64_t wanted = table.piece_bytes() + end.size();
  if (wanted != file_bytes)
    return InvalidError("it has " + std::to_string(file_bytes) + " bytes, and its table needs " +
                        std::to_string(wanted));
  return table;
}

Status SeedDataWriter::Add(uint32_t piece_no, ByteSpan piece) {
  FASTOCI_CHECK_OK(WriteFull(fd_, piece, "the seed's data"));
  hash_.Update(piece);
  nr_bytes_ += piece.size();
  if (!runs_.empty() && runs_.back().first + runs_.back().count == piece_no)
    runs_.back().count++;
  else
    runs_.push_back({piece_no, 1});
  return OkStatus();
}

Result<SeedDataWriter::Written> SeedDataWriter::Finish(const Sha256Digest& space_id,
                                                       uint64_t data_bytes) {
  const Bytes end = EncodeSeedTable({space_id, data_bytes, std::move(runs_)});
  FASTOCI_CHECK_OK(WriteFull(fd_, end, "the seed's data"));
  hash_.Update(end);
  return Written{DigestString(hash_.Finish()), nr_bytes_ + end.size()};
}

Result<SeedDataFile> SeedDataFile::Open(const std::string& path) {
  SeedDataFile file;
  file.path_ = path;
  FASTOCI_TRY(file.fd_, OpenToRead(path, O_NOFOLLOW | O_NONBLOCK));
  struct stat st;
  if (::fstat(file.fd_.get(), &st) != 0) return ErrnoError(path);
  if (!S_ISREG(st.st_mode)) return InvalidError(path + " is not a regular file");
  file.file_bytes_ = static_cast<uint64_t>(st.st_size);
  if (file.file_bytes_ < kSeedTrailerBytes)
    return InvalidError(path + ": it has " + std::to_string(file.file_bytes_) +
                        " bytes only: it is cut short, or something else");
  Bytes trailer(kSeedTrailerBytes);
  FASTOCI_CHECK_OK(PreadFull(file.fd_.get(), trailer, file.file_bytes_ - trailer.size(), path));
  auto nr_runs = ParseSeedTrailer(trailer, file.file_bytes_);
  if (!nr_runs.ok()) return nr_runs.error().Wrap(path);
  Bytes end(*nr_runs * kSeedRunBytes + kSeedTrailerBytes);
  FASTOCI_CHECK_OK(PreadFull(file.fd_.get(), end, file.file_bytes_ - end.size(), path));
  auto table = ParseSeedTable(end, file.file_bytes_);
  if (!table.ok()) return table.error().Wrap(path);
  file.table_ = std::move(*table);
  return file;
}

Status SeedDataFile::Read(uint64_t offset, std::span<uint8_t> out) const {
  return PreadFull(fd_.get(), out, offset, path_);
}

// Each byte of the pieces is read once, for both.
Status SeedDataFile::CheckPieces(const BlobInfo& blob, Sha256* hash,
                                 const std::function<void(uint64_t bytes)>& told) const {
  Bytes buffer(kReadBytes);
  uint64_t at = 0;  // in the file
  for (const SeedRun& run : table_.runs) {
    uint64_t data = run.first * kSeedPieceBytes;
    for (uint64_t left = table_.BytesOf(run); left > 0;) {
      const std::span<uint8_t> part = std::span(buffer).first(std::min<uint64_t>(left, kReadBytes));
      FASTOCI_CHECK_OK(Read(at, part));
      hash->Update(part);
      for (size_t i = 0; i < part.size(); i += kSeedPieceBytes) {
        const ByteSpan piece = part.subspan(i, std::min<size_t>(kSeedPieceBytes, part.size() - i));
        if (Sha256::Of(piece) != blob.digests[(data + i) / kSeedPieceBytes])
          return MismatchError(path_ + ": data bytes " + std::to_string(data + i) + "+" +
                               std::to_string(piece.size()) + " of the layer " +
                               DigestString(blob.blob_digest) +
                               " (at " + std::to_string(at + i) +
                               " in the file) are not what the meta image says");
      }
      at += part.size();
      data += part.size();
      left -= part.size();
      told(part.size());
    }
  }
  return OkStatus();
}

Status SeedDataFile::Check(const BlobInfo& blob, const std::string& digest,
                           const std::function<void(uint64_t bytes)>& told) const {
  if (table_.space_id != blob.data_space_id || table_.data_bytes != blob.data_bytes ||
      blob.digests.size() != NrPieces(blob.data_bytes))
    return MismatchError(path_ + ": it is not of the layer's data space, or the layer has no chunk digests");
  Sha256 hash;
  FASTOCI_CHECK_OK(CheckPieces(blob, &hash, told));
  hash.Update(EncodeSeedTable(table_));
  if (DigestString(hash.Finish()) != digest)
    return MismatchError(path_ + ": its digest is not " + digest);
  return OkStatus();
}

}  // namespace fastoci
