// SPDX-License-Identifier: Apache-2.0
// MountImage(), UnmountImage() and DetachImage().
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <dirent.h>
#include <memory>
#include <thread>

#include "attach/attach.h"
#include "attach/mounts.h"
#include "base/unique_fd.h"
#include "kernel/loop.h"

namespace fastoci {
namespace {

constexpr int64_t kLockMs = 10000;
constexpr int64_t kUmountMs = 1000;
constexpr int64_t kPollMs = 50;
constexpr int64_t kLoopMs = 2000;
constexpr size_t kMaxHoldersNamed = 5;

using Clock = std::chrono::steady_clock;

Clock::time_point In(int64_t ms) { return Clock::now() + std::chrono::milliseconds(ms); }
void Pause() { std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs)); }

bool IsBusy(const Status& s) {
  return !s.ok() && (s.error().err == EBUSY || s.error().err == ETIMEDOUT);
}

// Lets reads fail while it lives, then sets the policy back if the device is
// still there.
class FailingReads {
 public:
  explicit FailingReads(const ImageReport& image)
      : dm_name_(image.device.substr(image.device.rfind('/') + 1)) {
    if (image.status) policy_ = image.status->policy;
  }
  ~FailingReads() {
    auto message = PolicyMessage(policy_);
    if (active_ && message.ok()) (void)DmMessage(dm_name_, *message).ok();
  }
  // Again and again: readers may come to a new miss.
  void Fail() {
    active_ = true;
    (void)DmMessage(dm_name_, "fail_after_ms 0").ok();
    (void)DmMessage(dm_name_, "fail_pending").ok();
  }
  void Gone() { active_ = false; }
  uint64_t Pending() const {
    auto line = DmTargetStatus(dm_name_);
    auto status = line.ok() ? ParseImageStatus(*line) : Result<ImageStatus>(line.error());
    return status.ok() ? status->pending : 0;
  }
  const std::string& dm_name() const { return dm_name_; }

 private:
  std::string dm_name_;
  std::string policy_;
  bool active_ = false;
};

// Processes whose mount namespace has the device mounted, for the error text.
std::string Holders(uint32_t major, uint32_t minor) {
  std::string text;
  size_t named = 0;
  std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), ::closedir);
  for (struct dirent* e; proc && named < kMaxHoldersNamed && (e = ::readdir(proc.get()));) {
    std::string pid = e->d_name;
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    if (pid == std::to_string(::getpid())) continue;
    auto info = ReadFile("/proc/" + pid + "/mountinfo", 16 << 20);
    if (!info.ok()) continue;
    for (const MountEntry& m : ParseMountInfo(*info)) {
      if (m.major != major || m.minor != minor) continue;
      auto comm = ReadFile("/proc/" + pid + "/comm", 64);
      std::string name = comm.ok() ? comm->substr(0, comm->find('\n')) : "?";
      text += (text.empty() ? "" : ", ") + pid + " (" + name + ") has it mounted at " + m.dir;
      named++;
      break;
    }
  }
  return text;
}

// look: for who uses it, at each process of the machine.
Error BusyError(const ImageReport& image, const Error& cause, bool look = true) {
  std::string message = image.name + " is in use: " + cause.message;
  std::string holders = look ? Holders(image.major, image.minor) : "";
  if (!holders.empty()) message += "; process " + holders;
  message += ". Stop what uses it (fuser -vm " + image.device + "), then try again";
  return {ErrorKind::kIo, EBUSY, message};
}

// One round: unmounts what is still mounted, then removes the device.
Status TryRemove(const ImageReport& image, const std::string& dm_name) {
  FASTOCI_TRY(auto dirs, MountsOf(image.major, image.minor));
  // The last mount at a place is on top.
  for (auto dir = dirs.rbegin(); dir != dirs.rend(); ++dir) {
    FASTOCI_CHECK_OK(Unmount(*dir, kUmountMs));
  }
  return DmRemove(dm_name, 0);
}

Status RemoveDevice(const ImageReport& image, const DetachRequest& request) {
  FailingReads reads(image);
  if (image.suspended) (void)DmResume(reads.dm_name()).ok();
  auto end = In(request.timeout_ms);
  for (;;) {
    Status status = request.gently ? DmRemove(reads.dm_name(), 0) : TryRemove(image, reads.dm_name());
    if (status.ok()) {
      reads.Gone();
      return status;
    }
    if (!IsBusy(status)) return status;
    if (!request.gently && (reads.Pending() > 0 || request.force)) reads.Fail();
    if (Clock::now() > end) return BusyError(image, status.error(), request.name_holders);
    Pause();
  }
}

// The loop device goes when the device-mapper lets go of it, a moment later.
void AwaitLoopRelease(const ImageReport& image, Progress* progress) {
  unsigned major = 0, minor = 0;
  if (std::sscanf(image.meta_device.c_str(), "%u:%u", &major, &minor) != 2 || major != 7) return;
  std::string file = LoopBackingFile(minor);
  if (file.empty() || file != image.state.meta_path) return;
  auto end = In(kLoopMs);
  while (LoopBackingFile(minor) == file) {
    if (Clock::now() > end) {
      progress->Warn("/dev/loop" + std::to_string(minor) +
                     " still uses the meta image: another process has this loop device open");
      return;
    }
    Pause();
  }
}

Status CheckOnce(const AttachPaths& paths, const ImageReport& image, FsType type,
                 const MountRequest& request, Progress* progress) {
  if (request.skip_fsck) return OkStatus();
  const std::string& sha = image.state.meta_sha256;
  if (!sha.empty() && image.state.fsck_sha256 == sha) return OkStatus();
  progress->Step("checking the file system");
  FASTOCI_CHECK_OK(RunFsck(type, image.major, image.minor, request.fsck_timeout_ms));
  if (sha.empty()) return OkStatus();  // attached by hand: checked each time
  return UpdateState(paths.state_dir, image.name, kLockMs,
                     [&](ImageState* state) { state->fsck_sha256 = sha; });
}

Error Changed(const std::string& name) {
  return {ErrorKind::kUnavailable, EBUSY,
          "another fastoci command has just replaced " + name + "; look at `fastoci list`, then try again"};
}

std::string Resolve(const std::string& path) {
  char* real = ::realpath(path.c_str(), nullptr);
  std::string out = real ? real : path;
  ::free(real);
  return out;
}

}  // namespace

Status MountImage(const AttachPaths& paths, const ImageReport& image, const std::string& dir,
                  const MountRequest& request, Progress* progress) {
  if (!image.attached) {
    return NotFoundError(image.name + " is not attached; attach it first: fastoci attach");
  }
  FASTOCI_CHECK_OK(MakeDirs(dir));
  std::string target = Resolve(dir);
  if (std::find(image.mounts.begin(), image.mounts.end(), target) != image.mounts.end()) {
    return OkStatus();
  }
  // Open until it is mounted: nobody can put another device in its place meanwhile.
  UniqueFd fd(::open(image.device.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoError("open " + image.device);
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return ErrnoError("stat " + image.device);
  if (st.st_rdev != makedev(image.major, image.minor)) return Changed(image.name);
  FASTOCI_TRY(FsType type, CheckDeviceSuperblock(fd.get(), image.device, request.mount_timeout_ms));
  FASTOCI_CHECK_OK(CheckOnce(paths, image, type, request, progress));
  FASTOCI_CHECK_OK(MountReadOnly(type, image.device, target, request.context, request.mount_timeout_ms));
  return UpdateState(paths.state_dir, image.name, kLockMs, [&](ImageState* state) {
    std::erase(state->mounts, target);
    state->mounts.push_back(target);
  });
}

Status UnmountImage(const AttachPaths& paths, const std::string& what, bool force,
                    int64_t timeout_ms) {
  FASTOCI_TRY(ImageReport image, FindImage(paths, what));
  if (image.mounts.empty()) return NotFoundError(image.name + " is not mounted here");
  std::vector<std::string> dirs = image.mounts;
  std::string path = Resolve(what);
  if (std::find(dirs.begin(), dirs.end(), path) != dirs.end()) dirs = {path};
  FailingReads reads(image);
  Status status = OkStatus();
  auto end = In(timeout_ms);
  for (auto dir = dirs.rbegin(); dir != dirs.rend(); ++dir) {
    for (;;) {
      status = Unmount(*dir, kUmountMs);
      if (!IsBusy(status)) break;
      if (force) reads.Fail();
      if (Clock::now() > end) return BusyError(image, status.error());
      Pause();
    }
    if (!status.ok()) return status;
    status = UpdateState(paths.state_dir, image.name, kLockMs,
                         [&](ImageState* state) { std::erase(state->mounts, *dir); });
  }
  return status;
}

Status DetachImage(const AttachPaths& paths, const std::string& what,
                   const DetachRequest& request, Progress* progress) {
  FASTOCI_TRY(const ImageReport before, FindImage(paths, what));
  FASTOCI_TRY(StateDir dir, StateDir::Open(paths.state_dir, before.name, kLockMs));
  // What was seen before the lock was had may have been detached since, and attached
  // as another device: only what is seen now counts.
  auto now = FindImage(paths, what);
  if (!now.ok() && now.error().kind == ErrorKind::kNotFound) ::rmdir(dir.path().c_str());
  if (!now.ok()) return now.error();
  const ImageReport& image = *now;
  if (image.name != before.name) return Changed(before.name);
  if (image.attached) {
    FASTOCI_CHECK_OK(RemoveDevice(image, request));
    AwaitLoopRelease(image, progress);
  }
  auto state = dir.Load();
  // A seeded image goes by a second detach: no registry may be there to bring it again.
  const bool seeded = image.attached && state.ok() && state->seeded;
  if (!request.keep && !(seeded && request.keep_seeded)) return dir.Remove();
  if (!state.ok()) return dir.Remove();  // attached by hand: there is nothing to keep
  state->attached = false;
  state->mounts.clear();
  return dir.Save(*state);
}

}  // namespace fastoci
