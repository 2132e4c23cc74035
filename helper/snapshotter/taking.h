// SPDX-License-Identifier: Apache-2.0
// Takes layers without their download, so that containerd does not fetch them: overlaybd's
// native layers, and layers of ordinary images that have a FastOCI artifact.
//
// What is taken gets the name that containerd asks for: the layer's chain id. From then on
// containerd takes it for that layer in every image, and downloads nothing that could show
// a mistake. So:
//  1. A native layer is taken only if the chain id follows from its digest, which is its diff
//     id, and from the chain id below it. What the image's config says does not count.
//  2. An artifact's layer cannot be checked like that, see artifacts.h.
//  3. What is there already is offered only if it is what would be taken now.
//
// overlaybd's trace layers are not taken: they are small, and what they say is wanted here.
#ifndef FASTOCI_SNAPSHOTTER_TAKING_H_
#define FASTOCI_SNAPSHOTTER_TAKING_H_

#include <string>

#include "base/result.h"
#include "snapshotter/artifacts.h"
#include "snapshotter/devices.h"
#include "snapshotter/directories.h"
#include "snapshotter/disk_sync.h"
#include "snapshotter/layer.h"
#include "snapshotter/lowers.h"
#include "snapshotter/metrics.h"
#include "snapshotter/policy.h"
#include "snapshotter/store.h"

namespace fastoci {

// The chain id of a committed snapshot, from its name: containerd's are
// NAMESPACE/NUMBER/CHAIN-ID, Take()'s begin with it. "": it has none.
std::string ChainIdIn(const std::string& name);

// Counts and logs that something is handled in the ordinary way.
void ReportFallback(SnapshotterMetrics* metrics, const std::string& reason, const Layer& layer, const std::string& why);

// Thread-safe.
class LayerTaker {
 public:
  struct Parts {  // all outlive it
    SnapshotStore* store;
    SnapshotDirectories* directories;
    const LowerLayers* lowers;
    ChainDevices* devices;
    ArtifactSource* artifacts;
    ImagePolicy* policy;
    DiskSync* disk;
    SnapshotterMetrics* metrics;
  };
  LayerTaker(const Parts& parts, ReferrerMode referrers) : p_(parts), referrers_(referrers) {}

  // Of Prepare() with a label kRefLabel. True: a committed snapshot with that label and that
  // parent is there, taken now or before. False: containerd must unpack the layer. kDenied: the
  // policy of signatures refuses it.
  Result<bool> Take(const std::string& key, const std::string& parent, const Labels& labels);

  // The lazy layer that the labels are about was committed under that name. If it is its image's
  // topmost one, the start trace of the image is looked for, and replayed (starts.h).
  void Committed(const std::string& name, const Labels& labels);

 private:
  // If the image has an artifact, replaces *layer by what the artifact says, and sets
  // *meta_file to the file that is to be linked into the layer's directory.
  Status AskArtifact(const std::string& key, const Labels& labels, const Lowers& lowers, Layer* layer,
                     std::string* meta_file);
  Status TryImage(const Lowers& lowers, const ResolvedImage& image, const std::string& workload);
  // Whether the layer may be taken as it is; if not, says why.
  bool Fits(const Layer& layer, const Lowers& lowers, const std::string& parent, const std::string& ref);
  Result<bool> Put(const std::string& key, Snapshot snapshot, const Layer& layer, const std::string& meta_file);
  enum class Standing { kFree, kThere, kOther };
  // What has the snapshot's name. If it has another parent, finds another name.
  Result<Standing> Look(const std::string& key, const Layer& layer, Snapshot* snapshot);
  void FallBack(const std::string& reason, const Layer& layer, const std::string& why) {
    ReportFallback(p_.metrics, reason, layer, why);
  }

  const Parts p_;
  const ReferrerMode referrers_;
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_TAKING_H_
