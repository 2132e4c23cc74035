// SPDX-License-Identifier: Apache-2.0
// The image for one platform in an index, and the platform of an image. An index may name other indexes, as
// BuildKit's do; then the platform stands in the inner one. An entry without a
// platform is looked at: its config may name one.
#ifndef FASTOCI_IMAGE_PLATFORM_H_
#define FASTOCI_IMAGE_PLATFORM_H_

#include <functional>
#include <string>

#include "base/result.h"
#include "image/image_store.h"
#include "registry/client.h"

namespace fastoci {

inline constexpr int kMaxIndexDepth = 4;
inline constexpr uint64_t kMaxImageConfigBytes = 8 << 20;

// Where manifests and configs come from; both by digest.
struct ManifestReader {
  std::function<Result<Manifest>(const std::string& digest)> manifest;
  std::function<Result<std::string>(const std::string& digest)> config;
};
// Of a store, which must outlive it.
ManifestReader ReaderOf(ImageStore* store);

// One that is wanted (arch "": any with Linux), or one that an image names, as far as it does.
struct Platform {
  std::string os, arch, variant;  // as Go names them; "": any, or not known
  bool any() const { return arch.empty(); }
  std::string Text() const;  // "linux/arm/v7"
  // Whether an image for that one is wanted. What it does not name is not compared.
  bool Takes(const Platform& image) const;
  bool operator==(const Platform&) const = default;
};
Platform HostPlatform();

// "arm64", "linux/arm64" or "linux/arm/v7"; "" and "all" are any. kInvalid: another system, or
// no architecture.
Result<Platform> ParsePlatform(const std::string& text);

// The one that an image's config names. An index has none.
Platform PlatformOfConfig(const std::string& config);
Result<Platform> PlatformOf(const Manifest& image, const ManifestReader& reader);

// Gives take top itself if it is the manifest of an image, whatever its platform. Of an index,
// gives it each image that is wanted. take returns whether it wants more.
using TakeImage = std::function<Result<bool>(const Manifest& image)>;
Status ForEachImage(const Manifest& top, const Platform& wanted, const ManifestReader& reader, const TakeImage& take);

// The first of those. kNotFound if there is none in the index.
Result<Manifest> ManifestOfPlatform(const Manifest& top, const Platform& wanted,
                                    const ManifestReader& reader);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_PLATFORM_H_
