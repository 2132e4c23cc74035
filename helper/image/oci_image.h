// SPDX-License-Identifier: Apache-2.0
// Manifests and configs of images, as far as conversion reads and writes them
// (OCI image spec and docker's v2 schema 2). Bytes in, bytes out.
#ifndef FASTOCI_IMAGE_OCI_IMAGE_H_
#define FASTOCI_IMAGE_OCI_IMAGE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace fastoci {

struct Descriptor {
  std::string media_type, digest;
  uint64_t bytes = 0;
};

struct OriginalImage {
  Descriptor config;
  std::vector<Descriptor> layers;  // bottom first
};

// kUnsupported for what is not an image's manifest.
Result<OriginalImage> ParseOriginalManifest(const std::string& body);
// The manifest of linux/arch in an index; "" if body is not an index.
Result<std::string> PickManifest(const std::string& body, const std::string& arch);
// GOARCH of this machine.
std::string HostArch();
Result<std::vector<std::string>> DiffIds(const std::string& config);

struct ConvertedLayer {
  Descriptor meta;     // media_type is not used
  std::string diff_id;
  Descriptor target;   // the original layer
};

// The original config with the meta layers' diff ids; all else stays.
Result<std::string> ConvertedConfig(const std::string& config,
                                    const std::vector<ConvertedLayer>& layers);

struct ManifestOptions {
  bool oci = false;  // else docker's media types
  // Descriptor of the original manifest; digest empty: no subject.
  Descriptor subject;
};
std::string ManifestMediaType(const ManifestOptions& options);
std::string ConvertedManifest(const ManifestOptions& options, const Descriptor& config,
                              const std::vector<ConvertedLayer>& layers);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_OCI_IMAGE_H_
