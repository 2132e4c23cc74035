// SPDX-License-Identifier: Apache-2.0
// LayerConverter: one original layer, as the stream of its blob, becomes a meta
// layer, in one pass and without a copy of the blob: sha256 of the blob,
// inflate and gzip index, tar entries into the Ext4Builder, a SHA-256 per 64 KiB
// of the data space.
//
//   blob --> sha256
//       \--> GzipIndexBuilder --> tar stream --> chunk digests
//                                          \--> TarReader --> Ext4Builder
#ifndef FASTOCI_IMAGE_LAYER_CONVERTER_H_
#define FASTOCI_IMAGE_LAYER_CONVERTER_H_

#include <fastoci_meta.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/digest.h"
#include "base/result.h"
#include "codec/gzip_index.h"
#include "codec/tar_reader.h"
#include "image/ext4_builder.h"
#include "image/meta_layer.h"

namespace fastoci {

struct LayerSource {
  std::string digest;  // of the blob; checked
  uint64_t bytes = 0;  // checked
  std::string media_type;
  std::string diff_id;  // of the tar, from the image's config; checked, if given
};

// SHA-256 per 64 KiB of a stream.
class ChunkDigester {
 public:
  void Update(ByteSpan data);
  Bytes Finish();

 private:
  Sha256 hash_;
  uint64_t fill_ = 0;
  Bytes digests_;
};

class LayerConverter {
 public:
  // builder: the image's, at the layer below; one converter at a time. It is
  // used up by an error.
  static Result<std::unique_ptr<LayerConverter>> Create(const LayerSource& source,
                                                        Ext4Builder* builder);
  Status Update(ByteSpan blob);
  Result<PackedMetaLayer> Finish();

  uint64_t nr_entries() const { return tar_.nr_entries(); }

 private:
  LayerConverter(const LayerSource& source, Ext4Builder* builder)
      : source_(source), builder_(builder), tar_(builder) {}
  Status OnTar(ByteSpan data);

  LayerSource source_;
  Ext4Builder* builder_;
  TarReader tar_;
  std::unique_ptr<GzipIndexBuilder> gzip_;  // null: not compressed
  Sha256 blob_hash_, tar_hash_;
  ChunkDigester chunks_;
  uint64_t blob_bytes_ = 0, data_bytes_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_LAYER_CONVERTER_H_
