// SPDX-License-Identifier: Apache-2.0
// The image for one platform in an index. An index may name other indexes, as
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

// The architecture (GOARCH) in "arm64", "linux/arm64" or "linux/arm64/v8"; "" for "" and "all".
// A variant is taken and not compared. kInvalid: another system, or no architecture.
Result<std::string> ParsePlatform(const std::string& text);

// Gives take top itself if it is the manifest of an image. Of an index, gives it each image for
// arch on Linux; arch "": for any. take returns whether it wants more.
using TakeImage = std::function<Result<bool>(const Manifest& image)>;
Status ForEachImage(const Manifest& top, const std::string& arch, const ManifestReader& reader, const TakeImage& take);

// Returns top itself if it is the manifest of an image. Otherwise looks in the index for
// arch (GOARCH) on Linux. kNotFound if there is no such image.
Result<Manifest> ManifestOfPlatform(const Manifest& top, const std::string& arch,
                                    const ManifestReader& reader);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_PLATFORM_H_
