// SPDX-License-Identifier: Apache-2.0
// Attaching, mounting and detaching images; what `fastoci` and others offer.
//
// attach: assembled meta image -> autoclear loop device -> read-only dm device
//   fastoci-<name>. Each later thing holds the one before it in the kernel, so
//   removing the dm device releases all. A second attach of the same image
//   changes nothing and says so.
// detach: unmounts and removes. Readers of a held miss sleep uninterruptibly,
//   so that only we can wake them: the policy is set to fail and what is parked
//   is failed, again and again, until the device is gone or the time is over;
//   then the policy is put back.
#ifndef FASTOCI_ATTACH_ATTACH_H_
#define FASTOCI_ATTACH_ATTACH_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attach/control_client.h"
#include "attach/progress.h"
#include "attach/pull.h"
#include "attach/state.h"
#include "base/result.h"
#include "kernel/dm_control.h"

namespace fastoci {

struct AttachPaths {
  std::string state_dir = kDefaultStateDir;
  std::string control_socket = kDefaultControlSocket;
  std::string config;  // the node's, for its policy; empty: where the helper looks
};

struct AttachRequest {
  std::string ref;         // an image in a registry, or ...
  std::string config;      // ... overlaybd's config.v1.json, or ...
  std::string meta_image;  // ... a file made by AssembleImage(), or ...
  bool kept = false;       // ... what is kept under name, without a registry
  std::string name;        // empty: made from ref
  std::string cache_device;  // empty: the helper's
  std::string policy = "hold";  // or "fail_after_ms <n>"
  RegistryAccess access;
};

struct ImageReport {
  std::string name;
  ImageState state;  // what is known of it; empty if it was attached by hand
  bool attached = false;
  std::string device;  // /dev/mapper/...
  uint32_t major = 0, minor = 0;
  uint64_t sectors = 0;
  int open_count = 0;
  bool suspended = false;
  std::string meta_device;  // "7:0"
  std::string cache_device;
  std::optional<ImageStatus> status;
  std::vector<std::string> mounts;
};

struct AttachResult {
  ImageReport image;
  bool already = false;  // it was attached before
};

Result<AttachResult> AttachImage(const AttachPaths& paths, const AttachRequest& request,
                                 Progress* progress);
// Makes a meta image file only.
Status AssembleImage(const std::string& ref, const RegistryAccess& access,
                     const std::string& output, Progress* progress);

// What is in an image's layers: a JSON array, see image/inspect.h.
Result<std::string> InspectImage(const std::string& ref, const RegistryAccess& access,
                                 Progress* progress);

// The same, and each layer compared with its whole blob, one after the other.
Result<std::vector<std::string>> CheckImage(const std::string& ref, const RegistryAccess& access,
                                            Progress* progress);

// Attached ones, and those whose state was kept.
Result<std::vector<ImageReport>> ListImages(const AttachPaths& paths);
// By name, by reference as it was attached, by device or by mount point.
Result<ImageReport> FindImage(const AttachPaths& paths, const std::string& what);

// What a device does with a read that misses while no helper serves it: "hold"
// or "fail_after_ms <n>"; 0 fails what waits now, too. Kept for the next boot.
Status SetImagePolicy(const AttachPaths& paths, const std::string& what,
                      const std::string& policy);

struct MountRequest {
  bool skip_fsck = false;  // for images that this machine made
  int64_t fsck_timeout_ms = 120000;
  int64_t mount_timeout_ms = 60000;
};
// Checks the file system first (see fs_check.h), then mounts it read-only at
// dir, which is made if need be. Mounted there already: success.
Status MountImage(const AttachPaths& paths, const ImageReport& image, const std::string& dir,
                  const MountRequest& request, Progress* progress);

// Unmounts one directory; readers that wait for a miss of that image are failed
// only if force is given.
Status UnmountImage(const AttachPaths& paths, const std::string& dir, bool force,
                    int64_t timeout_ms);

struct DetachRequest {
  bool keep = false;   // keep meta.img and state.json for the next attach
  bool force = false;  // fail reads even where nobody waits for a miss
  int64_t timeout_ms = 5000;
};
Status DetachImage(const AttachPaths& paths, const std::string& what,
                   const DetachRequest& request, Progress* progress);

// Attaches and mounts again what was before a reboot; what is there already
// stays as it is. Uses the kept meta images, and the registry only for those that
// are damaged. An image that fails does not stop the others: it is told as a
// warning and counted. Returns how many are attached now, by this call or before.
struct RestoreResult {
  size_t attached = 0;
  size_t failed = 0;
};
RestoreResult RestoreImages(const AttachPaths& paths, Progress* progress);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_ATTACH_H_
