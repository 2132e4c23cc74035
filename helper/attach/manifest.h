// SPDX-License-Identifier: Apache-2.0
// FastOCI (turboOCI) manifests: reading them, comparing them with the original
// image's, and the JSON part of an assembled meta image, which tells the fetcher
// where the blobs are.
#ifndef FASTOCI_ATTACH_MANIFEST_H_
#define FASTOCI_ATTACH_MANIFEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace fastoci {

inline constexpr uint64_t kMaxMetaLayerBytes = 1ULL << 30;
inline constexpr size_t kMaxLayers = 255;

struct MetaLayer {
  std::string digest;  // of the meta layer
  uint64_t bytes = 0;
  std::string target_digest;  // of the original layer
  std::string target_media_type;
  uint64_t target_bytes = 0;  // 0 until it was asked for
};

struct FastociManifest {
  std::vector<MetaLayer> layers;  // bottom first
  std::string subject;            // digest of the original manifest, or ""
};

// kUnsupported if it is a manifest but not of a FastOCI image; the message says
// what it is instead.
Result<FastociManifest> ParseFastociManifest(const std::string& body);

// The manifest of this machine's platform in an index or manifest list; "" if
// body is a manifest itself. kNotFound if the index has none.
Result<std::string> PickPlatform(const std::string& body);

// The digests in an index of referrers that are FastOCI images.
Result<std::vector<std::string>> FastociReferrers(const std::string& index_body);

// A FastOCI manifest that was found through the original: its subject must be
// original_digest and its targets the original's layers, in order.
Status CheckBelongsTo(const FastociManifest& manifest, const std::string& original_digest,
                      const std::string& original_body);

struct BlobLocation {
  std::string scheme, host, repository;
};
std::string SourcesJson(const std::string& ref, const std::string& manifest_digest,
                        const FastociManifest& manifest, const BlobLocation& location);

// "demo:latest_fastoci" -> "demo-latest_fastoci", a name for an image.
std::string DefaultImageName(const std::string& repository, const std::string& identifier);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_MANIFEST_H_
