// SPDX-License-Identifier: Apache-2.0
// The node's policy of signatures ("signatures" in its configuration), asked of each lazy
// layer that containerd offers or has unpacked.
//
// containerd names a layer by its chain id, and offers a chain id once: the next image that
// has it gets what is there. So a signature of the image is not enough. The layer must be the
// one that the signed manifest has at this chain id, and its annotations must be that
// manifest's.
#ifndef FASTOCI_SNAPSHOTTER_POLICY_H_
#define FASTOCI_SNAPSHOTTER_POLICY_H_

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "attach/pull.h"
#include "base/result.h"
#include "registry/reference.h"
#include "snapshotter/layer.h"

namespace fastoci {

class ImagePolicy {
 public:
  struct Options {
    std::string node_config;  // read at each call
    RegistryAccess access;    // its node_hosts_dir comes from that file
  };
  explicit ImagePolicy(Options options) : options_(std::move(options)) {}

  // Whether the layer may become part of a device. chain_id: under which containerd will know
  // it; "": it has none. kDenied: the policy refuses it, the message says why. kUnavailable:
  // the registry does not answer, so nobody knows. Thread-safe.
  Status Check(const Layer& layer, const std::string& chain_id);

 private:
  // The layers of an image that a key has signed, by chain id.
  struct SignedImage {
    std::chrono::steady_clock::time_point until;
    std::map<std::string, Layer> layers;
  };
  using SignedImagePtr = std::shared_ptr<const SignedImage>;
  Result<SignedImagePtr> SignedImageOf(const RegistryAccess& access, const Reference& ref,
                                       const std::string& manifest_digest, const std::string& key_file);
  static Result<SignedImagePtr> AskRegistry(const RegistryAccess& access, const Reference& ref,
                                            const std::string& manifest_digest, const std::string& key_file);

  const Options options_;
  std::mutex mutex_;
  std::map<std::string, SignedImagePtr> signed_;  // by manifest, repository and keys
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_POLICY_H_
