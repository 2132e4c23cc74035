// SPDX-License-Identifier: Apache-2.0
// What is kept about an attached image: <state dir>/<name>/ holds meta.img (the
// assembled meta image), state.json and, if need be, access.json. The kernel's devices are the truth
// about what is attached; the state only adds what the kernel does not know.
#ifndef FASTOCI_ATTACH_STATE_H_
#define FASTOCI_ATTACH_STATE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "registry/access.h"

namespace fastoci {

inline constexpr char kDefaultStateDir[] = "/var/lib/fastoci/images";

struct ImageState {
  std::string name;
  std::string ref;              // as the user named it; "" for a local meta image
  std::string manifest_digest;  // of the FastOCI manifest
  std::string meta_path;        // the assembled meta image
  std::string meta_sha256;      // of that file
  std::string fsck_sha256;      // meta_sha256 that passed the file-system check
  bool seeded = false;          // it came by a seed: attached without a registry, kept after a detach
  std::string seed_keys;        // SeedKeysOf() at the import
  // What RestoreImages() brings back after a reboot:
  bool attached = false;
  std::string policy;               // as AttachRequest has it
  std::string cache_device;         // as it was named; "": the helper's
  std::vector<std::string> mounts;  // made by MountImage(), in this order
};

// Exclusive use of one image's directory. Open() makes the directory if need be. It waits
// up to timeout_ms while another process uses it, then returns kUnavailable with EBUSY.
class StateDir {
 public:
  static Result<StateDir> Open(const std::string& root, const std::string& name,
                               int64_t timeout_ms);
  const std::string& path() const { return path_; }
  std::string MetaPath() const { return path_ + "/meta.img"; }
  Result<ImageState> Load() const;  // kNotFound
  Status Save(const ImageState& state) const;
  // Keeps how the image's registry is accessed, in a file of its own (access.json, mode
  // 0600). If there is nothing to keep (access.empty()), removes the file.
  Status SaveAccess(const Access& access) const;
  // Deletes the directory's files and the directory.
  Status Remove();
  // Unlocks by name: a child that hangs may have inherited the descriptor.
  ~StateDir();
  StateDir(StateDir&&) noexcept = default;
  StateDir& operator=(StateDir&&) noexcept = default;

 private:
  StateDir() = default;
  std::string path_;
  UniqueFd lock_;
};

// Without a lock, for reports. kNotFound; kInvalid if the file is damaged.
Result<ImageState> ReadState(const std::string& root, const std::string& name);
// What SaveAccess() kept. kNotFound: nothing.
Result<Access> ReadAccess(const std::string& root, const std::string& name);
// Changes the state that is kept of an image, under its lock. Waits up to timeout_ms for
// the lock. If no state is kept, succeeds and does not call change.
Status UpdateState(const std::string& root, const std::string& name, int64_t timeout_ms,
                   const std::function<void(ImageState*)>& change);
// Names of the directories there; none if root does not exist.
std::vector<std::string> StateNames(const std::string& root);

std::string StateToJson(const ImageState& state);
Result<ImageState> StateFromJson(const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_STATE_H_
