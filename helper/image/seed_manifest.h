// SPDX-License-Identifier: Apache-2.0
// What a seed says of an image: an artifact of its own, whose subject is the FastOCI manifest. Its
// config names the image and the sizes of the original layers, and its layers are the data
// (seed_data.h), one for each data space. docs/seeds.md has the whole format. Bytes in, bytes out.
#ifndef FASTOCI_IMAGE_SEED_MANIFEST_H_
#define FASTOCI_IMAGE_SEED_MANIFEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/result.h"
#include "image/oci_image.h"

namespace fastoci {

inline constexpr char kSeedArtifact[] = "application/vnd.fastoci.seed.v1+json";
inline constexpr char kSeedConfigType[] = "application/vnd.fastoci.seed.config.v1+json";
inline constexpr char kSeedDataType[] = "application/vnd.fastoci.seed.data.v1";
inline constexpr size_t kMaxSeedConfigBytes = 1 << 20;

struct SeedConfig {
  std::string ref;  // as the image was attached: HOST/REPOSITORY:TAG
  struct Layer {
    std::string digest;  // of the original layer
    uint64_t bytes = 0;
    bool operator==(const Layer&) const = default;
  };
  std::vector<Layer> layers;  // bottom first
};
std::string SeedConfigText(const SeedConfig& config);
Result<SeedConfig> ParseSeedConfig(const std::string& text);

struct SeedManifest {
  std::string image_digest;  // of the FastOCI manifest
  Descriptor config;
  struct Data {
    Descriptor file;
    Sha256Digest space_id{};
  };
  std::vector<Data> data;
};
// created: as RFC 3339 has it, in UTC.
std::string SeedManifestText(const Descriptor& image, const Descriptor& config,
                             const std::vector<SeedManifest::Data>& data,
                             const std::string& created);
// kMismatch: it is something else, such as an image's manifest.
Result<SeedManifest> ParseSeedManifest(const std::string& body);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_SEED_MANIFEST_H_
