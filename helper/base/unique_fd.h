// SPDX-License-Identifier: Apache-2.0
// UniqueFd owns a file descriptor. PreadFull() and its like transfer all bytes or fail.
#ifndef FASTOCI_BASE_UNIQUE_FD_H_
#define FASTOCI_BASE_UNIQUE_FD_H_

#include <unistd.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "base/result.h"

namespace fastoci {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& o) noexcept {
    reset(std::exchange(o.fd_, -1));
    return *this;
  }
  ~UniqueFd() { reset(); }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

// Reads exactly buf.size() bytes at offset. kInvalid if the file ends before. what: names
// the file in errors.
Status PreadFull(int fd, std::span<uint8_t> buf, uint64_t offset, const std::string& what);
Status PwriteFull(int fd, std::span<const uint8_t> buf, uint64_t offset, const std::string& what);
Status WriteFull(int fd, std::span<const uint8_t> buf, const std::string& what);
Result<std::string> ReadFile(const std::string& path, uint64_t max_bytes);
// Writes a file beside the path, syncs it and renames it. Readers see either the old file
// or the new one.
Status WriteFileAtomic(const std::string& path, std::span<const uint8_t> data, int mode = 0644);
// Makes the directory and its parents.
Status MakeDirs(const std::string& path, int mode = 0755);

}  // namespace fastoci

#endif  // FASTOCI_BASE_UNIQUE_FD_H_
