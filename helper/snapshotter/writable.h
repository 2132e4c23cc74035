// SPDX-License-Identifier: Apache-2.0
// Private writable block devices, for the label overlaybd.writable. Each is a dm-snapshot of
// an image's device. Blocks that were never written are read from the image's device, which
// other containers share. Written blocks are in a sparse file in the snapshot's directory.
//
//   fastoci-<device> --- autoclear loop, read-only --- origin --+
//                                                              +-- snapshot: fastociw-<root>-<id>, ext4
//   <dir>/writable ----- autoclear loop -------------- cow -----+
//
// The device holds its loop devices, and these hold the image's device and the file. So
// removing the device releases all of them. The file outlives the device: after a reboot the
// device is made from it again. The file system has no journal, so it is checked first; a mark
// in the directory says that this is still to be done, also if we are killed meanwhile.
// An ext4 of its own under overlayfs was rejected, because a virtual machine cannot use that
// as a device.
//
// Thread-safe. Children with a deadline mount, unmount and read the device.
#ifndef FASTOCI_SNAPSHOTTER_WRITABLE_H_
#define FASTOCI_SNAPSHOTTER_WRITABLE_H_

#include <array>
#include <cstdint>
#include <mutex>
#include <string>

#include "base/result.h"
#include "kernel/dm_control.h"
#include "snapshotter/store.h"

namespace fastoci {

inline constexpr char kWritableLabel[] = "containerd.io/snapshot/overlaybd.writable";

// What containerd gets. kDir: the directory where the device is mounted. kDev: the device.
enum class WritableMode { kOverlay, kDir, kDev };
Result<WritableMode> WritableModeOf(const Labels& labels);

class WritableDevices {
 public:
  // root: the snapshotter's directory, which is part of the devices' names. context: SELinux
  // context of the mounts, or "".
  WritableDevices(const std::string& root, std::string context);

  struct Request {
    int64_t id = 0;
    std::string dir;     // the snapshot's
    std::string origin;  // node of the image's device
    uint64_t bytes = 0;  // how much may be written; 0: as much as the device holds
  };
  // kUnsupported: the kernel has no dm-snapshot.
  static Status Available();
  // Makes the device if it does not exist, and returns its node.
  Result<std::string> Ensure(const Request& request);
  // Also mounts it, and returns the mount point.
  Result<std::string> EnsureMounted(const Request& request);
  // Unmounts and removes the device if it exists. EBUSY in err while somebody uses it, or is
  // about to make it.
  Status Remove(int64_t id, const std::string& dir);
  // Whether the snapshot in dir has a writable device, attached or not.
  static bool Has(const std::string& dir);
  // Whether Ensure() may give a device that exists, or must make it anew. unchecked: its file
  // system was not checked yet.
  static bool IsUsable(const DmDevice& device, bool unchecked);

 private:
  std::string NameOf(int64_t id) const;
  Result<std::string> EnsureLocked(const Request& request);
  std::timed_mutex& LockOf(int64_t id) { return locks_[static_cast<size_t>(id) % locks_.size()]; }
  const std::string tag_, context_;
  std::array<std::timed_mutex, 32> locks_;  // a slow one delays few others
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_WRITABLE_H_
