// SPDX-License-Identifier: Apache-2.0
// Manifests of FastOCI (turboOCI) and overlaybd images: reading them, comparing
// them with the original image's, and the JSON part of an assembled meta image,
// which tells the fetcher where the blobs are.
#ifndef FASTOCI_ATTACH_MANIFEST_H_
#define FASTOCI_ATTACH_MANIFEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace fastoci {

inline constexpr uint64_t kMaxMetaLayerBytes = 1ULL << 30;
inline constexpr size_t kMaxLayers = 256;

struct MetaLayer {
  std::string digest;  // of the meta layer, or of the native overlaybd layer
  uint64_t bytes = 0;
  bool native = false;        // a native overlaybd layer, which is its own target
  std::string target_digest;  // of the original layer
  std::string target_media_type;
  uint64_t target_bytes = 0;  // 0 until it was asked for
  // Of a native layer: the blob with its chunk digests, which a referrer names; or "".
  std::string digests_digest;
  uint64_t digests_bytes = 0;
  std::string repository;  // "host/repository" that has it; "": the image's
  // What lies on this node; "": nowhere. The meta layer as it is, its members (two of
  // them, or a directory that has nothing else), and the blob.
  std::string meta_path, fs_meta_path, gzip_meta_path, members_dir, blob_path;
  bool unpacked() const { return !fs_meta_path.empty() || !members_dir.empty(); }
};

struct FastociManifest {
  std::vector<MetaLayer> layers;  // bottom first; turboOCI and native ones as they come
  std::string subject;            // digest of the original manifest, or ""
  std::string acceleration_layer;  // digest of a prefetch trace, which is no layer; or ""
  std::string fs_type;            // as a native layer names it, or ""
};

// kUnsupported if it is a manifest, but of an ordinary image.
Result<FastociManifest> ParseFastociManifest(const std::string& body);

// The digests in an index of referrers that are artifacts of this type.
Result<std::vector<std::string>> ReferrersOfType(const std::string& index_body,
                                                 const std::string& artifact_type);

// Takes the chunk digests of native layers from an artifact (DigestsManifest() in
// image/oci_image.h), whose subject must be the image of that digest. Layers that have
// chunk digests already keep them.
Status TakeDigests(const std::string& artifact_body, const std::string& image_digest,
                   FastociManifest* manifest);

// A FastOCI manifest that was found through the original: its subject must be
// original_digest and its targets the original's layers, in order.
Status CheckBelongsTo(const FastociManifest& manifest, const std::string& original_digest,
                      const std::string& original_body);

// The sizes of the original layers, as the original's manifest tells them.
void TakeSizes(const std::string& original_body, FastociManifest* manifest);

struct BlobLocation {
  std::string scheme, host, repository;
  bool plain_http = false;  // http is fine for every registry
};
// The pieces of the JSON part, as AssembleInput wants them. blobs: one for each layer. A
// blob that lies on this node is read from there. A blob that has a repository of its own
// is read from that one; from another host than location's by https, unless that is a
// loopback one or plain_http says otherwise.
struct SourcesJson {
  std::string head, tail;
  std::vector<std::string> blobs;
};
SourcesJson MakeSourcesJson(const std::string& ref, const std::string& manifest_digest,
                        const FastociManifest& manifest, const BlobLocation& location);

// "demo:latest_fastoci" -> "demo-latest_fastoci", a name for an image.
std::string DefaultImageName(const std::string& repository, const std::string& identifier);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_MANIFEST_H_
