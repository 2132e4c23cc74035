// SPDX-License-Identifier: Apache-2.0
// What lies below a snapshot, from the database.
#ifndef FASTOCI_SNAPSHOTTER_LOWERS_H_
#define FASTOCI_SNAPSHOTTER_LOWERS_H_

#include <string>
#include <vector>

#include "attach/pull.h"
#include "base/result.h"
#include "snapshotter/directories.h"
#include "snapshotter/starts.h"
#include "snapshotter/store.h"

namespace fastoci {

// The file that overlaybd's labels name for a trace; "": none. Neither an image nor a pod can
// name one: the snapshotter would write there as root. (A layer's labels come from the image.)
std::string RecordPath(const std::string& key, const Labels& labels);

// What the parent of a snapshot gives it.
struct Lowers {
  std::vector<std::string> dirs;  // of the ordinary layers, topmost first
  std::string device;             // below them, or ""
  std::vector<ChainLink> lazy;    // topmost first
};

class LowerLayers {
 public:
  // Both outlive it.
  LowerLayers(SnapshotStore* store, const SnapshotDirectories* directories)
      : store_(*store), directories_(*directories) {}
  // Of the snapshot of that name, itself included if it is committed. Nothing for "".
  Result<Lowers> Of(const std::string& name) const;
  // What the device of these lazy layers, topmost first, is made of.
  Result<LayerStack> Describe(const std::vector<ChainLink>& lazy) const;
  // Where the start trace of that device may be. key, labels: of the container's snapshot, or of
  // the topmost layer's.
  StartOrigin OriginOf(const std::vector<ChainLink>& lazy, const std::string& key, const Labels& labels) const;

 private:
  SnapshotStore& store_;
  const SnapshotDirectories& directories_;
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_LOWERS_H_
