// SPDX-License-Identifier: Apache-2.0
// Manifests and what is made of them.
#include "attach/manifest.h"
#include "base/digest.h"
#include "fuzz/fuzz.h"
#include "image/oci_image.h"
#include "image/platform.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  std::string body(reinterpret_cast<const char*>(data), size);
  const Manifest manifest_of_index{.media_type = "", .digest = "", .body = body};
  const ManifestReader nothing{[](const std::string&) { return Result<Manifest>(NotFoundError("none")); },
                               [](const std::string&) { return Result<std::string>(NotFoundError("none")); }};
  (void)ManifestOfPlatform(manifest_of_index, {"linux", "amd64", ""}, nothing).ok();
  (void)ReferrersOfType(body, kDigestsArtifact).ok();
  auto manifest = ParseFastociManifest(body);
  if (!manifest.ok()) return 0;
  Require(!manifest->layers.empty() && manifest->layers.size() <= kMaxLayers);
  for (const MetaLayer& layer : manifest->layers)
    Require(ParseDigest(layer.digest).ok() && ParseDigest(layer.target_digest).ok() && layer.bytes > 0);
  (void)TakeDigests(body, manifest->subject, &*manifest).ok();
  (void)CheckBelongsTo(*manifest, manifest->subject, body).ok();
  (void)MakeSourcesJson("host/image:tag", "sha256:0", *manifest, {"https", "host", "image"});
  return 0;
}
