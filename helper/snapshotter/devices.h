// SPDX-License-Identifier: Apache-2.0
// The devices of chains of lazy layers. A device is made once and mounted once, read-only,
// at <root>/mounts/<device>. All snapshots that stand on it share it. Its assembled meta
// image is kept while a committed snapshot makes the device. So attaching it again, even
// after a reboot, needs no registry.
//
// Only the database says who uses a device. A snapshot's row is written before Ensure() is
// called for it, and is deleted before Release() is called. The two exclude each other for
// one device; calls for other devices do not wait.
//
// helper/attach does everything that touches a device or its file system, in child
// processes that have a deadline. Nothing here waits for a registry, except Ensure() for a
// device that was never assembled.
#ifndef FASTOCI_SNAPSHOTTER_DEVICES_H_
#define FASTOCI_SNAPSHOTTER_DEVICES_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "attach/attach.h"
#include "base/result.h"
#include "snapshotter/layer.h"
#include "snapshotter/metrics.h"
#include "snapshotter/starts.h"
#include "snapshotter/store.h"

namespace fastoci {

struct DeviceOptions {
  std::string root;
  std::string control_socket = kDefaultControlSocket;
  std::string node_config;
  std::string cache_device;     // "": the helper's
  std::string policy = "hold";  // as AttachRequest has it
  std::string context;          // of SELinux, for the mounts; "": none
  bool learn = false, fetch_traces = true;  // what starts read, see starts.h
  uint64_t learn_s = 60;
  RegistryAccess access;
  std::chrono::milliseconds retry{5000};  // of removing a device that is in use
};

// helper/attach; tests put something else in its place.
struct DeviceTools {
  std::function<Result<AttachResult>(const AttachPaths&, const AttachRequest&, Progress*)> attach = AttachImage;
  std::function<Status(const AttachPaths&, const ImageReport&, const std::string&, const MountRequest&, Progress*)>
      mount = MountImage;
  std::function<Status(const AttachPaths&, const std::string&, const DetachRequest&, Progress*)> detach = DetachImage;
};

class ChainDevices {
 public:
  // store and metrics outlive it.
  ChainDevices(DeviceOptions options, SnapshotStore* store, SnapshotterMetrics* metrics, DeviceTools tools = {});
  ~ChainDevices();

  // Attaches and mounts the device, and returns the mount point. describe: called for the
  // layers that make the device if its meta image is not there. origin: where to look for its
  // start trace, which is replayed if the device was not attached.
  using Describe = std::function<Result<LayerStack>()>;
  Result<std::string> Ensure(const std::string& device, const Describe& describe, const StartOrigin& origin = {});
  // The image was pulled whose top layer makes the device. If it has a start trace, another thread
  // attaches the device for a while, and so replays it.
  void Pulled(const std::string& device, const Describe& describe, const StartOrigin& origin);
  // overlaybd's record-trace, see starts.h. The device is attached.
  void Record(const std::string& device, const std::string& path);
  // Makes another thread check, after that time, whether the device is still needed. If it is
  // not, the thread unmounts and removes it, and tries again while it is busy. It leaves alone
  // what others mounted or read of it. Only if a child of ours hung on the device, its reads are
  // made to fail, as nothing else ends such a child.
  void Release(const std::string& device, std::chrono::seconds after = std::chrono::seconds(0));
  // The same for all that the node has of ours.
  void ReleaseAll();
  // Waits until all that was released was looked at once, but no longer than limit.
  void Settle(std::chrono::milliseconds limit = std::chrono::seconds(10));

  std::string MountPoint(const std::string& device) const;
  // The name of the device of a lazy layer, which another root's never has.
  std::string NameFor(const std::string& parent_device, const Layer& layer) const;

 private:
  struct Entry {
    std::mutex mutex;
    bool hangs = false;  // under mutex: a child of ours was left behind
  };
  std::shared_ptr<Entry> EntryOf(const std::string& device);
  Status Attach(const std::string& device, const Describe& describe, const StartOrigin& origin);
  enum class Reaped { kDone, kInUse, kBeingAttached };
  // told: why it stays was said before. *why: kInUse: the same, if it was not.
  Reaped Reap(const std::string& device, bool told, std::string* why);
  void RunReaper();

  const DeviceOptions options_;
  const DeviceTools tools_;
  const std::string tag_;
  SnapshotStore& store_;
  SnapshotterMetrics& metrics_;
  AttachPaths paths_;
  StartTraces starts_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;
  struct Waiting {
    std::chrono::steady_clock::time_point due;
    bool told = false, seen = false;
  };
  std::map<std::string, Waiting> released_;
  bool stop_ = false, busy_ = false;
  std::thread reaper_;
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_DEVICES_H_
