// SPDX-License-Identifier: Apache-2.0
// OverlaybdWriter: a native overlaybd layer, as the registry holds it: a tar with
// one member, a ZFile (lz4) of an LSMT file. Made in one pass into an unnamed
// file: file contents in the order of the layer's tar, then the file system's
// metadata, then the index. What maps tar sectors in the turboOCI layer maps the
// same bytes here, so both formats come from one build.
#ifndef FASTOCI_IMAGE_OVERLAYBD_WRITER_H_
#define FASTOCI_IMAGE_OVERLAYBD_WRITER_H_

#include <memory>
#include <optional>
#include <string>

#include "base/digest.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "codec/lsmt_writer.h"
#include "codec/zfile.h"
#include "image/chunk_digester.h"

namespace fastoci {

struct PackedOverlaybdLayer {
  UniqueFd file;
  uint64_t bytes = 0;
  Sha256Digest digest{};  // of the file; also its diff id
  Bytes chunk_digests;    // per 64 KiB of the uncompressed LSMT file
};

class OverlaybdWriter {
 public:
  // directory: where the file gets its space.
  static Result<std::unique_ptr<OverlaybdWriter>> Create(const std::string& directory,
                                                         const LsmtFileOptions& options);
  // Begins content that starts at this sector of the tar; the sectors ascend. What
  // Append() gets continues it until Begin() is called again.
  Status Begin(uint64_t tar_sector);
  Status Append(ByteSpan data);
  // The writer is used up.
  Result<PackedOverlaybdLayer> Finish(const LsmtContent& content);

 private:
  struct Run {
    uint64_t tar_sector, nr_sectors, file_sector;
  };
  explicit OverlaybdWriter(const LsmtFileOptions& options) : options_(options) {}
  Status Write(ByteSpan data);  // of the LSMT file
  Status EndRun();
  Result<LsmtSegments> Translate(const LsmtContent& content) const;
  Status WriteWrapper(uint64_t payload_bytes);

  LsmtFileOptions options_;
  UniqueFd file_;
  std::optional<ZFileWriter> zfile_;
  ChunkDigester chunks_;
  uint64_t payload_bytes_ = 0, lsmt_bytes_ = 0;
  std::vector<Run> runs_;
  bool in_run_ = false;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_OVERLAYBD_WRITER_H_
