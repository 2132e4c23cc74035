// SPDX-License-Identifier: Apache-2.0
// The snapshotter's own database: names, parents, kinds, labels, sizes, and what
// each layer is. It must stay in step with containerd's metadata, or the node is in
// trouble. So each method is one transaction, which is on the disk when the method
// returns. After a crash at any point the database is as it was before the method or
// after it.
//
// It does not handle directories, only their numbers: a snapshot's id names its directory,
// and is taken before the row exists. A directory whose id has no row is rubbish. While a
// process runs, no id is used twice. The next process may use again those that are larger
// than each row's and each directory's.
//
// Thread-safe. Errors that containerd knows have a mark in Error::err, see SnapshotMark.
#ifndef FASTOCI_SNAPSHOTTER_STORE_H_
#define FASTOCI_SNAPSHOTTER_STORE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/sqlite.h"

namespace fastoci {

// As containerd numbers them.
enum class SnapshotKind { kView = 1, kActive = 2, kCommitted = 3 };
const char* SnapshotKindName(SnapshotKind kind);

using Labels = std::map<std::string, std::string>;

struct DiskUsage {
  int64_t bytes = 0;
  int64_t inodes = 0;
};

struct Snapshot {
  int64_t id = 0;
  std::string name;
  std::string parent;  // a name; "": none
  SnapshotKind kind = SnapshotKind::kActive;
  int64_t created_ns = 0, updated_ns = 0;  // since the epoch
  Labels labels;
  DiskUsage usage;  // of a committed one; of others as it was last measured
  std::string layer;   // what it is, see layer.h; "": an ordinary one
  // Committed: the device that it and those below it make, "" if it is an ordinary
  // layer. Others: the device that they read.
  std::string device;
};

// Where a snapshot is in its chain, without what only containerd asks for.
struct ChainLink {
  int64_t id = 0;
  SnapshotKind kind = SnapshotKind::kCommitted;
  std::string name, layer, device;
};

// Stand in Error::err, and are no errno values: an errno of a device or a registry must not tell
// containerd that a snapshot is there, or is not.
enum SnapshotMark : int {
  kMarkTaken = 10001,  // the name is taken
  kMarkState,          // the snapshot's state forbids it: it has children, is not active
  kMarkMissing,        // no snapshot has that name; kNotFound
};

class SnapshotStore {
 public:
  static Result<std::unique_ptr<SnapshotStore>> Open(const std::string& path);

  // used: the largest number among the names in the directory of snapshots. Later ids are
  // larger.
  void SkipIds(int64_t used);
  int64_t NextId();

  Result<Snapshot> Get(const std::string& name);
  Result<std::vector<Snapshot>> List();
  // The named one first, its bottom layer last.
  Result<std::vector<ChainLink>> Chain(const std::string& name);
  // Takes everything from snapshot, except for the times, which are now.
  Status Create(const Snapshot& snapshot);
  // The active snapshot key becomes the committed name, with labels, usage, layer
  // and device; parent replaces its own, if it is not "".
  struct Committing {
    std::string key, name, parent;
    Labels labels;
    DiskUsage usage;
    std::string layer, device;
  };
  Status Commit(const Committing& committing);
  // Returns what it was.
  Result<Snapshot> Remove(const std::string& name);
  // Makes the labels what change() makes of them, and returns the snapshot as it is then. No
  // other change comes between. If change() fails, nothing is changed. It must not call the store.
  Result<Snapshot> UpdateLabels(const std::string& name, const std::function<Status(Labels*)>& change);
  Status SetUsage(int64_t id, const DiskUsage& usage);
  // How many snapshots that are not committed read the device, and how many committed
  // ones make it.
  struct DeviceUse {
    int64_t readers = 0, makers = 0;
  };
  Result<DeviceUse> UseOf(const std::string& device);
  Result<bool> HasId(int64_t id);

 private:
  SnapshotStore() = default;
  Result<int64_t> IdOf(const std::string& name);
  Result<Snapshot> GetLocked(const std::string& name);
  Status PutLabels(int64_t id, const Labels& labels);
  Status ReadLabels(Snapshot* snapshot);
  std::mutex mutex_;
  std::unique_ptr<SqliteDb> db_;
  int64_t next_id_ = 1;
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_STORE_H_
