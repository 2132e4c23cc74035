// SPDX-License-Identifier: Apache-2.0
// SetImagePolicy() and RestoreImages(): what is kept beyond a reboot.
#include "attach/attach.h"

namespace fastoci {
namespace {

constexpr int64_t kLockMs = 10000;

Status RestoreImage(const AttachPaths& paths, const std::string& name, const ImageState& state,
                    Progress* progress) {
  AttachRequest request;
  request.name = name;
  request.kept = true;
  if (!state.policy.empty()) request.policy = state.policy;
  request.cache_device = state.cache_device;
  auto result = AttachImage(paths, request, progress);
  if (!result.ok() && !state.ref.empty() &&
      (result.error().kind == ErrorKind::kMismatch || result.error().kind == ErrorKind::kNotFound)) {
    progress->Warn(result.error().message + "; getting it from the registry");
    request.kept = false;
    request.ref = state.ref;
    // With the access that attach was given. What cannot be read stays: this attach would replace it.
    std::vector<UniqueFd> files;
    auto access = ReadAccess(paths.state_dir, name);
    if (!access.ok() && access.error().kind != ErrorKind::kNotFound)
      return access.error().Wrap("how it is read from the registry is not known; attach it anew");
    if (access.ok()) {
      FASTOCI_CHECK_OK(UseAccess(*access, &request.access, &files));
      request.keep_access = true;
    }
    result = AttachImage(paths, request, progress);
  }
  if (!result.ok()) return result.error();
  for (const std::string& dir : state.mounts) {
    FASTOCI_CHECK_OK(MountImage(paths, result->image, dir, MountRequest(), progress));
  }
  return OkStatus();
}

}  // namespace

Status SetImagePolicy(const AttachPaths& paths, const std::string& what,
                      const std::string& policy) {
  FASTOCI_TRY(ImageReport image, FindImage(paths, what));
  if (!image.attached) return NotFoundError(image.name + " is not attached; attach it first: fastoci attach");
  const std::string dm_name = image.device.substr(image.device.rfind('/') + 1);
  FASTOCI_CHECK_OK(DmMessage(dm_name, policy));
  if (policy == "fail_after_ms 0") FASTOCI_CHECK_OK(DmMessage(dm_name, "fail_pending"));
  return UpdateState(paths.state_dir, image.name, kLockMs,
                     [&](ImageState* state) { state->policy = policy; });
}

RestoreResult RestoreImages(const AttachPaths& paths, Progress* progress) {
  RestoreResult result;
  for (const std::string& name : StateNames(paths.state_dir)) {
    auto state = ReadState(paths.state_dir, name);
    if (state.ok() && !state->attached) continue;
    Status status =
        state.ok() ? RestoreImage(paths, name, *state, progress) : Status(state.error());
    (status.ok() ? result.attached : result.failed)++;
    if (!status.ok()) progress->Warn(name + ": " + status.error().message);
  }
  return result;
}

}  // namespace fastoci
