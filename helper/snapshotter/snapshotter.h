// SPDX-License-Identifier: Apache-2.0
// What containerd asks a snapshotter for, on this node: ordinary layers as directories
// and overlayfs, lazy ones as devices (devices.h) below them.
//
//   chain of a snapshot, topmost first:
//     ordinary, ordinary, ... | lazy, lazy, ...
//     one directory each        one device for all of them
//
// An ordinary layer may lie over lazy ones. A lazy layer lies only over lazy ones, because
// its file-system metadata continue theirs.
//
// Thread-safe. A method that needs a device waits for that device only. Errors are those of
// store.h; kUnavailable: a device cannot be attached now; kDenied: a policy refuses a layer.
#ifndef FASTOCI_SNAPSHOTTER_SNAPSHOTTER_H_
#define FASTOCI_SNAPSHOTTER_SNAPSHOTTER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "snapshotter/artifacts.h"
#include "snapshotter/devices.h"
#include "snapshotter/directories.h"
#include "snapshotter/disk_sync.h"
#include "snapshotter/layer.h"
#include "snapshotter/lowers.h"
#include "snapshotter/metrics.h"
#include "snapshotter/overlay.h"
#include "snapshotter/policy.h"
#include "snapshotter/project_quota.h"
#include "snapshotter/store.h"
#include "snapshotter/taking.h"
#include "snapshotter/usage_sampler.h"
#include "snapshotter/writable.h"

namespace fastoci {

struct SnapshotterOptions {
  DeviceOptions device;  // its root is that of all
  ReferrerMode referrers = ReferrerMode::kCri;
  std::function<Status()> sync;  // in place of a syncfs() of the root; for tests
};

class Snapshotter {
 public:
  // Opens the database and makes the directories. This does not take long.
  static Result<std::unique_ptr<Snapshotter>> Open(const SnapshotterOptions& options, SnapshotterMetrics* metrics);
  ~Snapshotter();

  // Attaches what snapshots need and removes what a crash left, in threads of its own. Call
  // it once, when requests are served already.
  void Recover();

  // kMarkTaken: the layer that the labels name exists already, under the name that List() has.
  Result<std::vector<MountSpec>> Prepare(const std::string& key, const std::string& parent, const Labels& labels);
  Result<std::vector<MountSpec>> View(const std::string& key, const std::string& parent, const Labels& labels);
  Result<std::vector<MountSpec>> Mounts(const std::string& key);
  Status Commit(const std::string& name, const std::string& key, const std::string& parent, const Labels& labels);
  Status Remove(const std::string& key);
  Result<Snapshot> Stat(const std::string& key);
  // paths: "labels" or "labels.<key>"; none: all labels.
  Result<Snapshot> Update(const std::string& name, const Labels& labels, const std::vector<std::string>& paths);
  Result<std::vector<Snapshot>> List(const std::vector<std::string>& filters);
  Result<DiskUsage> Usage(const std::string& key);
  Status Cleanup();

  // Prometheus' lines about what there is now.
  std::string Gauges();

 private:
  Snapshotter(const SnapshotterOptions& options, SnapshotterMetrics* metrics)
      : options_(options), metrics_(*metrics) {}
  Result<std::vector<MountSpec>> Create(SnapshotKind kind, const std::string& key, const std::string& parent,
                                        const Labels& labels);
  // why: null for a snapshot that exists already. For a new one, says why it does not get the
  // writable device that its labels ask for; unchanged if it gets it.
  Result<std::vector<MountSpec>> Compose(const Snapshot& snapshot, const Lowers& lowers, std::string* why);
  // Also kOverlay if these lowers do not allow what the label asks for; *why says so.
  WritableMode ModeOf(const Snapshot& snapshot, const Lowers& lowers, std::string* why) const;
  Result<std::vector<MountSpec>> ComposeWritable(const Snapshot& snapshot, const std::string& device, WritableMode mode);
  void RecordIfAsked(const Snapshot& snapshot);
  Status ChownUpper(const Snapshot& snapshot, const std::vector<MountSpec>& lower_mounts);

  const SnapshotterOptions options_;
  SnapshotterMetrics& metrics_;
  bool index_off_ = false;
  ProjectQuota quota_;
  std::unique_ptr<SnapshotStore> store_;
  std::unique_ptr<WritableDevices> writable_;
  std::unique_ptr<SnapshotDirectories> directories_;
  std::unique_ptr<LowerLayers> lowers_;
  std::unique_ptr<ChainDevices> devices_;
  std::unique_ptr<UsageSampler> sampler_;
  std::unique_ptr<ArtifactFinder> artifacts_;
  std::unique_ptr<ImagePolicy> policy_;
  std::unique_ptr<DiskSync> disk_;
  std::unique_ptr<LayerTaker> taker_;
  std::thread recovery_;
  std::atomic<bool> stop_{false};
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_SNAPSHOTTER_H_
