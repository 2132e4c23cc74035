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
  bool native = false;        // it is its own target
  std::string target_digest;  // of the original layer
  std::string target_media_type;
  uint64_t target_bytes = 0;  // 0 until it was asked for
  // Of a native layer: the blob with its chunk digests, which a referrer names; or "".
  std::string digests_digest;
  uint64_t digests_bytes = 0;
  // What lies on this node; "": nowhere. The meta layer's members, and the blob.
  std::string fs_meta_path, gzip_meta_path, blob_path;
};

struct FastociManifest {
  std::vector<MetaLayer> layers;  // bottom first; turboOCI and native ones as they come
  std::string subject;            // digest of the original manifest, or ""
  std::string acceleration_layer;  // digest of a prefetch trace, which is no layer; or ""
  std::string fs_type;            // as a native layer names it, or ""
};

// kUnsupported if it is a manifest, but of an ordinary image.
Result<FastociManifest> ParseFastociManifest(const std::string& body);

// The manifest of this machine's platform in an index or manifest list; "" if
// body is a manifest itself. kNotFound if the index has none.
Result<std::string> PickPlatform(const std::string& body);

// The digests in an index of referrers that are artifacts of this type.
Result<std::vector<std::string>> ReferrersOfType(const std::string& index_body,
                                                 const std::string& artifact_type);

// Takes the chunk digests of native layers from an artifact (DigestsManifest() in
// image/oci_image.h), which must be about the image of that digest. Layers that
// have some keep them.
Status TakeDigests(const std::string& artifact_body, const std::string& image_digest,
                   FastociManifest* manifest);

// A FastOCI manifest that was found through the original: its subject must be
// original_digest and its targets the original's layers, in order.
Status CheckBelongsTo(const FastociManifest& manifest, const std::string& original_digest,
                      const std::string& original_body);

struct BlobLocation {
  std::string scheme, host, repository;
};
// A blob that lies here is read from here.
std::string SourcesJson(const std::string& ref, const std::string& manifest_digest,
                        const FastociManifest& manifest, const BlobLocation& location);

// "demo:latest_fastoci" -> "demo-latest_fastoci", a name for an image.
std::string DefaultImageName(const std::string& repository, const std::string& identifier);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_MANIFEST_H_
