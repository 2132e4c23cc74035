// SPDX-License-Identifier: Apache-2.0
// A pull into containerd that does not download the layers that the snapshotter takes
// without a download. containerd 1.x's own client cannot do that. Manifest and config go to
// the content store. Each layer is offered to the snapshotter with its annotations and CRI's
// labels. containerd fetches and unpacks only the layers that the snapshotter does not take.
#ifndef FASTOCI_CONTAINERD_RPULL_H_
#define FASTOCI_CONTAINERD_RPULL_H_

#include <cstdint>
#include <string>

#include "attach/progress.h"
#include "attach/pull.h"
#include "base/result.h"
#include "containerd/client.h"
#include "image/platform.h"

namespace fastoci {

struct RpullRequest {
  std::string ref;
  std::string address = kContainerdSocket;
  std::string name_space = "default";
  std::string snapshotter = "fastoci";
  Platform platform;         // any: this machine's
  std::string workload;      // whose start trace is to be replayed; "": the default one's
  RegistryAccess access;
};

struct RpullResult {
  std::string name;    // of the image in containerd
  std::string digest;  // of its manifest or index
  std::string chain_id;  // the name of its top layer's snapshot
  size_t layers = 0, taken = 0, present = 0;  // present: unpacked before
  uint64_t fetched_bytes = 0;                 // layers that were downloaded
};

Result<RpullResult> Rpull(const RpullRequest& request, Progress* progress);

}  // namespace fastoci

#endif  // FASTOCI_CONTAINERD_RPULL_H_
