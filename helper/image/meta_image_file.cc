// SPDX-License-Identifier: Apache-2.0
#include "image/meta_image_file.h"

#include <sys/stat.h>

#include "base/open_file.h"

namespace fastoci {

Result<MetaImage> ReadMetaImageFile(const std::string& path) {
  FASTOCI_TRY(const UniqueFd fd, OpenToRead(path));
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return ErrnoError(path);
  auto meta = ReadMetaImage(fd.get(), static_cast<uint64_t>(st.st_size));
  if (!meta.ok()) return meta.error().Wrap(path);
  return meta;
}

}  // namespace fastoci
