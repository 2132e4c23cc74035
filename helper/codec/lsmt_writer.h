// SPDX-License-Identifier: Apache-2.0
// What surrounds the data of an LSMT file (see codec/lsmt.h): the header in
// front, index and trailer behind.
#ifndef FASTOCI_CODEC_LSMT_WRITER_H_
#define FASTOCI_CODEC_LSMT_WRITER_H_

#include <string>

#include "base/byte_reader.h"
#include "base/result.h"
#include "codec/lsmt.h"

namespace fastoci {

struct LsmtFileOptions {
  uint64_t virtual_bytes = 0;
  std::string uuid, parent_uuid;  // 36 characters; "": zeros
  // Native layers pad the index to a multiple of 256 entries, turboOCI's do not.
  bool pad_index = false;
};

// The first kLsmtHeaderBytes of a file that is written as a stream.
Bytes LsmtHeader(const LsmtFileOptions& options);
// What follows the data, which ends at end_of_data (a multiple of 512).
// segments: kFile ones map sectors of the file.
Result<Bytes> LsmtEnd(const LsmtSegments& segments, uint64_t end_of_data,
                      const LsmtFileOptions& options);
// An ext4.fs.meta or erofs.fs.meta.
Result<Bytes> MakeFsMeta(const LsmtContent& content, uint64_t virtual_bytes);

}  // namespace fastoci

#endif  // FASTOCI_CODEC_LSMT_WRITER_H_
