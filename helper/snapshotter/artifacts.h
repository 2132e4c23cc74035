// SPDX-License-Identifier: Apache-2.0
// Finds the FastOCI artifacts of ordinary images, by their referrers. containerd offers
// the layers of an image one by one. So an image is looked up once, with all of its meta
// layers, and the answer is remembered for a while.
//
// An image is taken lazily as a whole or not at all. Before its first layer is taken, its
// device is made and mounted. If that fails, or if the node's policy of signatures lets no
// artifact in, the image is taken in the ordinary way.
//
// Nothing ties an artifact's layer to the chain id under which containerd will know it: that is
// the hash of the original's tar, which nobody has read. So whoever may push to any repository
// could offer another tree for a layer that other images have, too. While the node demands any
// signature, only artifacts that have one are taken.
#ifndef FASTOCI_SNAPSHOTTER_ARTIFACTS_H_
#define FASTOCI_SNAPSHOTTER_ARTIFACTS_H_

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "attach/pull.h"
#include "base/result.h"

namespace fastoci {

// For which images artifacts are looked up: none, those of Kubernetes, or all whose
// reference containerd passes on.
enum class ReferrerMode { kOff, kCri, kAll };
Result<ReferrerMode> ParseReferrerMode(const std::string& text);

class ArtifactSource {
 public:
  virtual ~ArtifactSource() = default;
  struct Found {
    // Has the path of each meta layer's file. The file stays for a while: link it to keep it.
    std::shared_ptr<const ResolvedImage> image;
    size_t base = 0;  // layers below the original's first one
    // Why there is no image: a word for metrics, and a sentence.
    std::string reason, why;
  };
  // trial: makes the device of the whole image. It is called once, for the first layer.
  using Trial = std::function<Status(const ResolvedImage&)>;
  virtual Found Find(const std::string& image_ref, const std::string& manifest_digest, const Trial& trial) = 0;
};

class ArtifactFinder : public ArtifactSource {
 public:
  struct Options {
    std::string dir;          // of the downloaded meta layers; emptied at first
    std::string node_config;  // for the policy of signatures
    std::string control_socket;
    RegistryAccess access;
  };
  explicit ArtifactFinder(Options options);
  Found Find(const std::string& image_ref, const std::string& manifest_digest, const Trial& trial) override;

 private:
  struct Entry {
    std::mutex mutex;
    std::chrono::steady_clock::time_point until{};
    Found found;
  };
  void Look(const std::string& image_ref, const std::string& manifest_digest, const Trial& trial, Entry* entry);
  void DropOld();
  const Options options_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;  // by manifest and repository
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_ARTIFACTS_H_
