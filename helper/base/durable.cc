// SPDX-License-Identifier: Apache-2.0
#include "base/durable.h"

#include <fcntl.h>
#include <sys/random.h>

#include <cstdint>
#include <cstdio>

namespace fastoci {
namespace {

Status SyncDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some file systems cannot sync a directory.
  if (!fd.valid() || (::fsync(fd.get()) != 0 && errno != EINVAL)) return ErrnoError("sync " + directory);
  return OkStatus();
}

}  // namespace

Result<UniqueFd> CreateBeside(const std::string& path, int mode, std::string* made) {
  for (;;) {
    uint64_t number = 0;
    if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) return ErrnoError("getrandom");
    char digits[2 * sizeof(number) + 1];
    std::snprintf(digits, sizeof(digits), "%016llx", static_cast<unsigned long long>(number));
    *made = path + ".tmp." + digits;
    UniqueFd fd(::open(made->c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (fd.valid()) return fd;
    if (errno != EEXIST) return ErrnoError(*made);
  }
}

Status Publish(const UniqueFd& file, const std::string& made, const std::string& path) {
  Status s = OkStatus();
  if (::fsync(file.get()) != 0) s = ErrnoError(made + ": fsync");
  if (s.ok() && ::rename(made.c_str(), path.c_str()) != 0) s = ErrnoError(path + ": rename");
  if (!s.ok()) {
    ::unlink(made.c_str());
    return s;
  }
  return SyncDirectoryOf(path);
}

}  // namespace fastoci
