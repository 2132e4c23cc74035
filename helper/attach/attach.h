// SPDX-License-Identifier: Apache-2.0
// Attaching, mounting and detaching images; what `fastoci` and others offer.
//
// attach: assembled meta image -> autoclear loop device -> read-only dm device
//   fastoci-<name>. In the kernel each of these holds the one before it, so
//   removing the dm device releases all. A second attach of the same image
//   changes nothing and says so.
// detach: unmounts and removes, unless it is told to do so gently. Readers of a held miss sleep uninterruptibly, and
//   only we can wake them. So detach sets the policy to fail, and fails the parked
//   reads again and again, until the device is gone or the time is over. In the
//   latter case it puts the policy back.
#ifndef FASTOCI_ATTACH_ATTACH_H_
#define FASTOCI_ATTACH_ATTACH_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attach/progress.h"
#include "attach/pull.h"
#include "attach/state.h"
#include "base/result.h"
#include "control/client.h"
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
  std::optional<LayerStack> stack;  // ... layers that the caller knows, or ...
  std::string meta_image;  // ... a file made by AssembleImage(), or ...
  bool kept = false;       // ... what is kept under name, without a registry
  std::string name;        // empty: made from ref
  std::string cache_device;  // empty: the helper's
  std::string policy = "hold";  // or "fail_after_ms <n>"
  RegistryAccess access;
  bool keep_access = false;  // leave the access that is kept for the helper as it is
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

// The images that are attached, and those whose state was kept.
Result<std::vector<ImageReport>> ListImages(const AttachPaths& paths);
// By name, by reference as it was attached, by device or by mount point.
Result<ImageReport> FindImage(const AttachPaths& paths, const std::string& what);

// Sets what a device does with a read that misses while no helper serves it: "hold" or
// "fail_after_ms <n>". With n = 0, reads that wait now fail, too. Kept for the next boot.
Status SetImagePolicy(const AttachPaths& paths, const std::string& what,
                      const std::string& policy);

// Asks the kernel to read ahead what a start trace of an attached image names, which `fastoci
// record` has pushed for that workload. Does not wait for the data. Returns how many bytes it asked
// for. kNotFound: there is no trace.
Result<uint64_t> PrefetchStart(const ImageReport& image, const RegistryAccess& access, const std::string& workload,
                               Progress* progress);

// What the helper says of the prefetch of an attached image, and of what is cached of it.
struct PrefetchState {
  bool running = false;
  std::string error;  // why the last one was given up
  uint64_t chunks = 0, present = 0, chunk_bytes = 0;
};
// Begins to fetch all of an attached image. With wait, until all is there; kUnavailable if it does
// not come.
Result<PrefetchState> PrefetchImage(const AttachPaths& paths, const ImageReport& image, bool wait,
                                    Progress* progress);

struct MountRequest {
  bool skip_fsck = false;  // for images that this machine made
  int64_t fsck_timeout_ms = 120000;
  int64_t mount_timeout_ms = 60000;
  std::string context;  // SELinux's, of all files; "": none
};
// Checks the file system (see fs_check.h), then mounts it read-only at dir. Makes dir if
// need be. Succeeds if the image is mounted there already.
Status MountImage(const AttachPaths& paths, const ImageReport& image, const std::string& dir,
                  const MountRequest& request, Progress* progress);

// Unmounts one directory. With force, fails the reads of that image that wait for a miss.
Status UnmountImage(const AttachPaths& paths, const std::string& dir, bool force,
                    int64_t timeout_ms);

struct DetachRequest {
  bool keep = false;   // keep meta.img and state.json for the next attach
  bool keep_seeded = true;  // the same of a seeded image that is attached
  bool force = false;  // fail reads even if none waits for a miss
  // Leave mounts and reads as they are: only a device that nobody uses is detached. EBUSY in
  // err if somebody does.
  bool gently = false;
  bool name_holders = true;  // in that error, which takes a look at each process
  int64_t timeout_ms = 5000;
};
Status DetachImage(const AttachPaths& paths, const std::string& what,
                   const DetachRequest& request, Progress* progress);

// Attaches and mounts again the images that were attached and mounted before a reboot.
// Images that are attached already stay as they are. Uses the kept meta images, and the
// registry only for those that are damaged. An image that fails does not stop the others:
// it gives a warning and is counted. Returns how many are attached now, by this call or
// before, and how many failed.
struct RestoreResult {
  size_t attached = 0;
  size_t failed = 0;
};
RestoreResult RestoreImages(const AttachPaths& paths, Progress* progress);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_ATTACH_H_
