// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/overlay.h"

namespace fastoci {

MountSpec BindMount(const std::string& dir, bool writable) {
  return {"bind", dir, {writable ? "rw" : "ro", "rbind"}};
}

std::vector<MountSpec> OverlayMounts(const OverlayInput& in) {
  const bool active = in.kind == SnapshotKind::kActive;
  if (in.lowers.empty()) return {BindMount(in.upper, active)};
  if (!active && in.lowers.size() == 1) return {BindMount(in.lowers[0], false)};
  MountSpec mount = {"overlay", "overlay", {}};
  // Names of the lower file systems' files may come back with another device later.
  if (in.index_off) mount.options.push_back("index=off");
  if (!in.uid_map.empty()) mount.options.push_back("uidmap=" + in.uid_map);
  if (!in.gid_map.empty()) mount.options.push_back("gidmap=" + in.gid_map);
  if (active) {
    mount.options.push_back("workdir=" + in.work);
    mount.options.push_back("upperdir=" + in.upper);
  }
  std::string lowers;
  for (const std::string& lower : in.lowers) lowers += (lowers.empty() ? "" : ":") + lower;
  mount.options.push_back("lowerdir=" + lowers);
  return {mount};
}

}  // namespace fastoci
