// SPDX-License-Identifier: Apache-2.0
#include "base/unique_fd.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/durable.h"

namespace fastoci {

Status PreadFull(int fd, std::span<uint8_t> buf, uint64_t offset, const std::string& what) {
  size_t done = 0;
  while (done < buf.size()) {
    ssize_t n = ::pread(fd, buf.data() + done, buf.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError(what + ": read at " + std::to_string(offset + done));
    if (n == 0) return InvalidError(what + ": ends at byte " + std::to_string(offset + done));
    done += static_cast<size_t>(n);
  }
  return OkStatus();
}

Status PwriteFull(int fd, std::span<const uint8_t> buf, uint64_t offset, const std::string& what) {
  size_t done = 0;
  while (done < buf.size()) {
    ssize_t n = ::pwrite(fd, buf.data() + done, buf.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError(what + ": write at " + std::to_string(offset + done));
    done += static_cast<size_t>(n);
  }
  return OkStatus();
}

Status WriteFull(int fd, std::span<const uint8_t> buf, const std::string& what) {
  size_t done = 0;
  while (done < buf.size()) {
    ssize_t n = ::write(fd, buf.data() + done, buf.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError(what + ": write");
    done += static_cast<size_t>(n);
  }
  return OkStatus();
}

Result<std::string> ReadFile(const std::string& path, uint64_t max_bytes) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    Error e = ErrnoError(path);
    if (e.err == ENOENT) e.kind = ErrorKind::kNotFound;
    return e;
  }
  std::string out;
  char buf[65536];
  for (;;) {
    ssize_t n = ::read(fd.get(), buf, sizeof(buf));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError(path + ": read");
    if (n == 0) return out;
    if (out.size() + static_cast<size_t>(n) > max_bytes)
      return InvalidError(path + ": larger than " + std::to_string(max_bytes) + " bytes");
    out.append(buf, static_cast<size_t>(n));
  }
}

Status WriteFileAtomic(const std::string& path, std::span<const uint8_t> data, int mode) {
  std::string made;
  FASTOCI_TRY(UniqueFd fd, CreateBeside(path, mode, &made));
  Status s = WriteFull(fd.get(), data, made);
  if (s.ok()) return Publish(fd, made, path);
  ::unlink(made.c_str());
  return s;
}

Status MakeDirs(const std::string& path, int mode) {
  for (size_t i = 1; i <= path.size(); i++) {
    if (i < path.size() && path[i] != '/') continue;
    std::string p = path.substr(0, i);
    if (::mkdir(p.c_str(), static_cast<mode_t>(mode)) != 0 && errno != EEXIST) return ErrnoError(p);
  }
  return OkStatus();
}

}  // namespace fastoci
