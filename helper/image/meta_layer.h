// SPDX-License-Identifier: Apache-2.0
// Meta layers: the tar.gz that the registry holds for one layer of the original
// image. Members: ext4.fs.meta or erofs.fs.meta, .turbo.ociv1 (empty), gzip.meta
// (gzip layers only), then ours: fastoci.json and fastoci.chunks. Readers of the
// format take the names they know.
//
// turboOCI cannot describe a blob of several gzip members or of zstd. The meta layer
// of such a blob has fastoci.gzip or fastoci.zstd instead of gzip.meta, and
// fastoci.ext4 or fastoci.erofs instead of the fs.meta, so that a reader of turboOCI
// finds no file system rather than one with wrong contents.
#ifndef FASTOCI_IMAGE_META_LAYER_H_
#define FASTOCI_IMAGE_META_LAYER_H_

#include <cstdint>
#include <string>

#include "base/byte_reader.h"
#include "base/digest.h"
#include "base/result.h"
#include "codec/read_at.h"
#include "image/fs_type.h"

namespace fastoci {

// Of what the convertor writes: the same version and the same input give the same
// bytes. A rebuild needs it.
inline constexpr uint64_t kConvertorFormatVersion = 3;

// What fastoci.json says; written with sorted keys, so that it has one form.
struct MetaLayerDescription {
  std::string target_digest;
  uint64_t target_bytes = 0;
  std::string target_media_type;
  uint64_t data_bytes = 0;
  uint64_t format_version = kConvertorFormatVersion;
};
std::string DescriptionJson(const MetaLayerDescription& description);
// kInvalid unless all fields are there.
Result<MetaLayerDescription> ParseDescription(const std::string& json);

struct MetaLayerFiles {
  Bytes ext4_fs_meta, erofs_fs_meta;  // as stored: bare LSMT or in a ZFile; empty: absent
  bool own_names = false;             // they are fastoci.ext4 and fastoci.erofs
  Bytes gzip_meta;                    // gzip.meta or fastoci.gzip; empty: absent
  Bytes zstd_index;                   // fastoci.zstd; empty: absent
  std::string description;            // fastoci.json; empty: absent
  Bytes chunk_digests;                // fastoci.chunks; empty: absent
};

// What the file system's metadata is called in the tar.
const char* FsMetaName(FsType type, bool own_name);

struct PackedMetaLayer {
  Bytes data;              // the tar.gz
  Sha256Digest digest{};   // of data
  Sha256Digest diff_id{};  // of the tar
};
// The same files give the same bytes, as far as zlib's version is the same.
Result<PackedMetaLayer> PackMetaLayer(const MetaLayerFiles& files);

// Reads a whole one (hostile bytes). max_bytes: of the tar. digest: of the file,
// computed on the way.
Result<MetaLayerFiles> UnpackMetaLayer(const ReadAtFile& file, uint64_t max_bytes,
                                       Sha256Digest* digest);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_META_LAYER_H_
