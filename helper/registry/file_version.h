// SPDX-License-Identifier: Apache-2.0
// Which version of a file lies at a path, to see that it has changed: another
// version has another inode, size or time.
#ifndef FASTOCI_REGISTRY_FILE_VERSION_H_
#define FASTOCI_REGISTRY_FILE_VERSION_H_

#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <tuple>

namespace fastoci {

struct FileVersion {
  explicit FileVersion(const std::string& path) {
    struct stat st = {};
    if (::stat(path.c_str(), &st) == 0)
      value = {st.st_ino, st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_ctim.tv_nsec};
    else
      error = errno;
  }
  bool operator==(const FileVersion&) const = default;
  std::tuple<ino_t, off_t, time_t, long, long> value = {};
  int error = 0;  // of stat()
};

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_FILE_VERSION_H_
