// SPDX-License-Identifier: Apache-2.0
// ReadAtFile: random reads from something that has a size. The codecs read from it, and
// never from a URL.
#ifndef FASTOCI_CODEC_READ_AT_H_
#define FASTOCI_CODEC_READ_AT_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

struct ByteRun {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

class ReadAtFile {
 public:
  virtual ~ReadAtFile() = default;
  virtual uint64_t size() const = 0;
  // Fills all of `out`; kInvalid if the range reaches past size().
  virtual Status ReadAt(uint64_t offset, std::span<uint8_t> out) const = 0;
  // The runs that are not holes, in order. kUnsupported if holes are not known.
  virtual Result<std::vector<ByteRun>> DataRuns() const {
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP, "holes are known of local files only"};
  }

 protected:
  Status CheckRange(uint64_t offset, size_t bytes) const {
    if (offset > size() || bytes > size() - offset) return InvalidError("read past the end");
    return OkStatus();
  }
};

// Does not own the bytes.
class MemoryFile : public ReadAtFile {
 public:
  explicit MemoryFile(ByteSpan data) : data_(data) {}
  uint64_t size() const override { return data_.size(); }
  Status ReadAt(uint64_t offset, std::span<uint8_t> out) const override {
    FASTOCI_CHECK_OK(CheckRange(offset, out.size()));
    std::copy_n(data_.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
    return OkStatus();
  }

 private:
  ByteSpan data_;
};

// Does not own the descriptor. size: as found by the caller.
class FdFile : public ReadAtFile {
 public:
  FdFile(int fd, uint64_t size) : fd_(fd), size_(size) {}
  uint64_t size() const override { return size_; }
  Status ReadAt(uint64_t offset, std::span<uint8_t> out) const override {
    FASTOCI_CHECK_OK(CheckRange(offset, out.size()));
    return PreadFull(fd_, out, offset, "file");
  }
  Result<std::vector<ByteRun>> DataRuns() const override {
    std::vector<ByteRun> runs;
    for (off_t at = 0;;) {
      off_t begin = ::lseek(fd_, at, SEEK_DATA);
      if (begin < 0 && errno == ENXIO) return runs;
      if (begin < 0) return ErrnoError("look for data");
      at = ::lseek(fd_, begin, SEEK_HOLE);
      if (at < 0) return ErrnoError("look for holes");
      runs.push_back({static_cast<uint64_t>(begin), static_cast<uint64_t>(at - begin)});
    }
  }

 private:
  int fd_;
  uint64_t size_;
};

// A range of another file, which it does not own. The range is cut at the file's end.
class SubFile : public ReadAtFile {
 public:
  SubFile(const ReadAtFile* file, uint64_t offset, uint64_t bytes)
      : file_(file),
        offset_(std::min(offset, file->size())),
        size_(std::min(bytes, file->size() - offset_)) {}
  uint64_t size() const override { return size_; }
  Status ReadAt(uint64_t offset, std::span<uint8_t> out) const override {
    FASTOCI_CHECK_OK(CheckRange(offset, out.size()));
    return file_->ReadAt(offset_ + offset, out);
  }

 private:
  const ReadAtFile* file_;
  uint64_t offset_, size_;
};

}  // namespace fastoci

#endif  // FASTOCI_CODEC_READ_AT_H_
