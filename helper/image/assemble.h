// SPDX-License-Identifier: Apache-2.0
// Assembly: the layers of one image become the node's assembled meta image
// (include/uapi/fastoci_meta.h). A layer is a turboOCI meta layer, which is read
// whole, or a native overlaybd layer, of which a few ranges are read; an image
// may have both. Parses hostile bytes: outside of tests it runs in the decoder's
// sandbox, see assemble_sandbox.h. The result depends on the input alone.
//
// Bytes after a file's end: if a run of file data ends inside a 4 KiB block, and its
// layer maps nothing to the rest of the block, the rest becomes zeros. So no bytes of a
// lower layer show after a file's end.
#ifndef FASTOCI_IMAGE_ASSEMBLE_H_
#define FASTOCI_IMAGE_ASSEMBLE_H_

#include <fastoci_meta.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/digest.h"
#include "base/result.h"
#include "codec/read_at.h"

namespace fastoci {

inline constexpr size_t kMaxAssembleLayers = FASTOCI_MAX_BLOBS;

struct AssembleLayer {
  int fd = -1;  // the file below, or a memfd with it, read with pread(2); its offset moves
  // turboOCI: of the meta layer (tar.gz); checked. Native: not used.
  Sha256Digest meta_digest{};
  // The blob: the original layer, or the native layer itself.
  Sha256Digest target_digest{};
  uint64_t target_bytes = 0;  // its size, as the registry tells it
  // turboOCI: RAW, GZIP or ZSTD, by the media type: CodecOfMediaType(). Native: always
  // ZFILE, even if the layer has no ZFile.
  fastoci_codec codec = FASTOCI_CODEC_GZIP;
  // Instead of fd: where a native layer of target_bytes is read from.
  const ReadAtFile* file = nullptr;
  // For a check of its content: the whole blob of a turboOCI layer.
  int blob_fd = -1;
  // A native layer's chunk digests, from a referrer; -1: it has none.
  int digests_fd = -1;
  std::string json = {};  // where its blob is: an element of the JSON part's "blobs"

  bool native() const { return codec == FASTOCI_CODEC_ZFILE; }
};

struct AssembleInput {
  std::vector<AssembleLayer> layers;  // bottom first
  Sha256Digest image_id{};            // sha256 of the manifest
  // The JSON part is json_head, the layers' elements with commas between them, and
  // json_tail. A layer that holds no data is neither in it nor in the blob table.
  std::string json_head, json_tail;
};

struct AssembleOptions {
  // Limits; what is above is refused.
  uint64_t max_layer_bytes = 1ULL << 30;   // one meta layer, uncompressed; what is read of a native one
  uint64_t max_output_bytes = 2ULL << 30;  // the assembled meta image
};

// Writes the image to out_fd from offset 0 on (pwrite(2), ftruncate(2)); the
// caller syncs and renames it.
Status Assemble(const AssembleInput& input, const AssembleOptions& options, int out_fd);

// Reads the chunk digests of a native layer from layer.digests_fd, which must be a
// descriptor. data_bytes: size of the layer's data.
Result<Bytes> ReadNativeDigests(const AssembleLayer& layer, uint64_t data_bytes);

// tar gives RAW; tar+gzip and tar.gzip give GZIP; tar+zstd and tar.zstd give ZSTD. These
// are the types of OCI and docker, also those for layers that may not be distributed.
// kUnsupported for any other type.
Result<fastoci_codec> CodecOfMediaType(const std::string& media_type);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_ASSEMBLE_H_
