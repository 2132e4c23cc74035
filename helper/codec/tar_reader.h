// SPDX-License-Identifier: Apache-2.0
// TarReader: a push parser for the uncompressed stream of a layer (hostile
// bytes). v7, ustar, star, GNU (long names, old sparse, base-256 numbers) and
// PAX (local records, sparse 0.0, 0.1 and 1.0). It refuses what it does not understand;
// the error names the offset of the entry in the stream. So a layer is converted as a
// whole or not at all.
//
// It reads a tar as container engines do, which use Go's archive/tar. Only regular files
// carry data. The records of global PAX headers are ignored. A stream may end right after
// the last file's data: the padding, the end marker or half of it may be missing. Bytes
// after the end marker are ignored.
#ifndef FASTOCI_CODEC_TAR_READER_H_
#define FASTOCI_CODEC_TAR_READER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"

namespace fastoci {

inline constexpr uint64_t kTarBlockBytes = 512;
// Limits; what is above is refused.
inline constexpr size_t kMaxTarPathBytes = 4095;
inline constexpr size_t kMaxTarNameBytes = 255;         // one component
inline constexpr uint64_t kMaxTarPaxBytes = 1 << 20;    // one PAX header
inline constexpr uint64_t kMaxTarSparseRuns = 1 << 20;  // one file
inline constexpr uint64_t kMaxTarFileBytes = 1ULL << 44;
inline constexpr uint64_t kMaxTarXattrs = 1024;  // one entry

enum class TarType { kFile, kHardLink, kSymlink, kCharDevice, kBlockDevice, kDirectory, kFifo };

// Part of a sparse file that has data.
struct TarRun {
  uint64_t file_offset = 0;
  uint64_t bytes = 0;
};

struct TarEntry {
  TarType type = TarType::kFile;
  // Components joined by '/', none of them empty, "." or "..", no '/' at either
  // end; "" is the root directory itself.
  std::string path;
  std::string link;   // of a hard link: like path; of a symlink: as it is, not empty
  uint32_t mode = 0;  // permission bits, 07777
  uint32_t uid = 0, gid = 0;
  int64_t mtime_sec = 0;
  uint32_t mtime_nsec = 0;
  uint32_t dev_major = 0, dev_minor = 0;
  uint64_t size = 0;  // of the file as seen by readers
  std::map<std::string, std::string> xattrs;
  bool sparse = false;
  std::vector<TarRun> runs;    // sparse files: sorted, not empty, not overlapping
  uint64_t header_offset = 0;  // of the first header that belongs to the entry
  uint64_t data_offset = 0;    // of the stored data; a multiple of 512
  uint64_t data_bytes = 0;     // stored; == size, or the sum of the runs
};

class TarSink {
 public:
  virtual ~TarSink() = default;
  virtual Status OnEntry(const TarEntry& entry) = 0;
  // Stored data of the last entry; offset: in its stored data.
  virtual Status OnData(uint64_t offset, ByteSpan data) = 0;
  // The entry's data has ended. zero_padding: the rest of its last block is zeros, or the
  // stream ends before it.
  virtual Status OnEntryEnd(bool zero_padding) = 0;
};

// Numbers of PAX records and headers, and their keys; shared by tar_*.cc.
struct PaxRecords {
  std::map<std::string, std::string> values;
  std::map<std::string, std::string> xattrs, libarchive_xattrs;
  std::vector<std::string> sparse_numbers;  // PAX sparse 0.0: offset, numbytes, ...
};
Status ParsePax(ByteSpan body, PaxRecords* records);

class TarReader {
 public:
  explicit TarReader(TarSink* sink) : sink_(sink) {}
  // Errors name the entry's offset. After an error the reader must not be used any more.
  Status Update(ByteSpan data);
  Status Finish();
  uint64_t offset() const { return offset_; }
  uint64_t nr_entries() const { return nr_entries_; }

 private:
  enum class State { kHeader, kBody, kSparseHeader, kSparseMap, kData, kPadding, kEnded };
  enum class Body { kPaxLocal, kPaxGlobal, kLongName, kLongLink };

  Status Step(ByteSpan* data);
  Status OnBlock();
  Status OnHeader();
  Status ParseHeader(char type);
  Status ApplyPax(std::string* name, std::string* link, uint64_t* size);
  Status SetNames(const std::string& name, const std::string& link);
  Status OnBody();
  Status OnOldSparse(bool first);
  Status SetPaxSparse();
  Status ReadSparseMap();
  Status AddRun(uint64_t offset, uint64_t bytes);
  Status EmitEntry();
  Status EndEntry();
  Error Refuse(const std::string& why) const;

  TarSink* sink_;
  State state_ = State::kHeader;
  uint64_t offset_ = 0;
  uint64_t nr_entries_ = 0;
  uint8_t block_[kTarBlockBytes];
  size_t block_fill_ = 0;
  int zero_blocks_ = 0;
  bool in_entry_ = false;  // an extension header was seen
  TarEntry entry_;
  Body body_kind_ = Body::kPaxLocal;
  Bytes body_;
  uint64_t left_ = 0;  // of the body, the data or the padding
  PaxRecords local_;
  std::string long_name_, long_link_;
  bool zero_padding_ = true;
  std::string map_line_;         // PAX sparse 1.0: the number being read
  std::vector<uint64_t> map_;    // the numbers so far
};

}  // namespace fastoci

#endif  // FASTOCI_CODEC_TAR_READER_H_
