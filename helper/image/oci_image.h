// SPDX-License-Identifier: Apache-2.0
// Manifests and configs of images, as far as conversion reads and writes them
// (OCI image spec and docker's v2 schema 2). Bytes in, bytes out.
#ifndef FASTOCI_IMAGE_OCI_IMAGE_H_
#define FASTOCI_IMAGE_OCI_IMAGE_H_

#include <cstdint>
#include <optional>
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

// Whether body is the manifest of an image. Its config's type must say so. If it has
// layers, at least one must have a type of images' layers, which those of attestations do
// not have.
bool IsImageManifest(const std::string& body);
// kUnsupported for what is not an image's manifest. An image may have no layers.
Result<OriginalImage> ParseOriginalManifest(const std::string& body);

// What an index names.
struct IndexEntry {
  Descriptor descriptor;
  std::string os, arch, variant;  // "" if it has no platform
  bool attestation = false;  // about an image, not one
};
// Whether a descriptor of that type may name an image or an index; "" may.
bool IsManifestType(const std::string& media_type);
// Null if body is not an index.
Result<std::optional<std::vector<IndexEntry>>> ParseIndex(const std::string& body);
// Returns body with other manifests in place of some of its own: entry i gets the digest,
// size and media type of replaced[i], unless that digest is empty. Platforms and
// everything else stay.
Result<std::string> ConvertedIndex(const std::string& body, const std::vector<Descriptor>& replaced,
                                   bool oci, const Descriptor& subject,
                                   const std::string& artifact_type);
std::string IndexMediaType(bool oci);
// body with an annotation that says why it is there twice: the same image under
// another digest.
Result<std::string> KeeperManifest(const std::string& body, const std::string& digest);
// GOARCH of this machine.
std::string HostArch();
Result<std::vector<std::string>> DiffIds(const std::string& config);
// The chain id of a layer, as the OCI image spec has it. parent: that of the layer below, or "".
std::string ChainId(const std::string& parent, const std::string& diff_id);

enum class ImageFormat { kTurboOci, kOverlaybd };

struct ConvertedLayer {
  Descriptor made;  // the meta layer or overlaybd layer; media_type is not used
  std::string diff_id;
  Descriptor target;  // the original layer
  bool base = false;  // a base layer, below what is made: native in each format, of no original
  bool beyond_turbo = false;  // a meta layer that overlaybd must not take: turboOCI cannot describe its target
};

// The original config with the new layers' diff ids; all else stays.
Result<std::string> ConvertedConfig(const std::string& config,
                                    const std::vector<ConvertedLayer>& layers);

struct ManifestOptions {
  ImageFormat format = ImageFormat::kTurboOci;
  bool oci = false;  // else docker's media types
  uint64_t vsize_gib = 64;
  bool erofs = false;
  // Descriptor of the original manifest; digest empty: no subject.
  Descriptor subject;
};
std::string ManifestMediaType(bool oci);
// The type of a referrer in that format.
std::string ArtifactType(ImageFormat format);
std::string ConvertedManifest(const ManifestOptions& options, const Descriptor& config,
                              const std::vector<ConvertedLayer>& layers);
inline constexpr char kDigestsArtifact[] = "application/vnd.fastoci.chunk-digests.v1+json";
// The artifact that holds the chunk digests of overlaybd layers, see
// docs/meta-format.md. digests[i]: those of layers[i].
std::string DigestsManifest(const Descriptor& subject, const std::vector<ConvertedLayer>& layers,
                            const std::vector<Descriptor>& digests);
// The artifact that holds an image's start trace (attach/start_trace.h), see
// docs/containerd.md. created: when it was recorded, as RFC 3339 has it, in UTC.
inline constexpr char kStartArtifact[] = "application/vnd.fastoci.start-trace.v1+json";
inline constexpr char kStartType[] = "application/vnd.fastoci.start-trace.v1";
inline constexpr char kWorkloadAnnotation[] = "org.fastoci.workload";
inline constexpr char kCreatedAnnotation[] = "org.opencontainers.image.created";
std::string StartManifest(const Descriptor& subject, const Descriptor& trace, const std::string& workload,
                          const std::string& created);
inline constexpr char kEmptyConfig[] = "{}";

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_OCI_IMAGE_H_
