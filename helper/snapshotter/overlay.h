// SPDX-License-Identifier: Apache-2.0
// What containerd is told to mount for a snapshot; pure.
#ifndef FASTOCI_SNAPSHOTTER_OVERLAY_H_
#define FASTOCI_SNAPSHOTTER_OVERLAY_H_

#include <string>
#include <vector>

#include "snapshotter/store.h"

namespace fastoci {

struct MountSpec {
  std::string type, source;
  std::vector<std::string> options;
};

struct OverlayInput {
  SnapshotKind kind = SnapshotKind::kActive;
  std::string upper, work;          // its own directories
  std::vector<std::string> lowers;  // topmost first
  bool index_off = false;           // the kernel knows the option
  std::string uid_map, gid_map;     // of a user namespace, "container:host:length"; or ""
};

// A bind mount of the one directory that there is, else an overlay.
std::vector<MountSpec> OverlayMounts(const OverlayInput& input);
MountSpec BindMount(const std::string& dir, bool writable);

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_OVERLAY_H_
