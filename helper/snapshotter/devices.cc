// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/devices.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "attach/mounts.h"
#include "base/event.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kRetry = std::chrono::seconds(5);
constexpr int64_t kDetachMs = 2000;
constexpr int64_t kUmountMs = 2000;

class LogProgress : public Progress {
 public:
  explicit LogProgress(const std::string& device) : device_(device) {}
  void Step(const std::string& what) override { Log(LogLevel::kDebug, "%s: %s", device_.c_str(), what.c_str()); }
  void Warn(const std::string& what) override {
    LogEvent(LogLevel::kWarning, {.kind = "attach_warning", .image = device_}, "%s: %s", device_.c_str(), what.c_str());
  }
  void Bytes(uint64_t, uint64_t) override {}

 private:
  const std::string& device_;
};

// Asks only the kernel, and reads no device.
bool IsMountPoint(const std::string& path) {
  struct statx stx = {};
  return ::statx(AT_FDCWD, path.c_str(), AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_TYPE, &stx) == 0 &&
         (stx.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

}  // namespace

ChainDevices::ChainDevices(DeviceOptions options, SnapshotStore* store, SnapshotterMetrics* metrics)
    : options_(std::move(options)),
      store_(*store),
      metrics_(*metrics),
      starts_({options_.root + "/starts", options_.control_socket, options_.learn, std::chrono::seconds(options_.learn_s)}) {
  paths_.state_dir = options_.root + "/devices";
  paths_.control_socket = options_.control_socket;
  paths_.config = options_.node_config;
  reaper_ = std::thread([this] { RunReaper(); });
}

ChainDevices::~ChainDevices() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  reaper_.join();
}

std::string ChainDevices::MountPoint(const std::string& device) const {
  return options_.root + "/mounts/" + device;
}

std::shared_ptr<ChainDevices::Entry> ChainDevices::EntryOf(const std::string& device) {
  std::lock_guard lock(mutex_);
  auto& entry = entries_[device];
  if (!entry) entry = std::make_shared<Entry>();
  return entry;
}

Result<std::string> ChainDevices::Ensure(const std::string& device, const Describe& describe) {
  const std::string dir = MountPoint(device);
  auto entry = EntryOf(device);
  std::lock_guard lock(entry->mutex);
  if (IsMountPoint(dir)) return dir;
  const auto begin = Clock::now();
  Status status = Attach(device, describe);
  metrics_.Attached(status.ok(), Clock::now() - begin);
  if (!status.ok()) {
    LogEvent(LogLevel::kError, {.kind = "attach_failed", .image = device}, "%s cannot be attached: %s", device.c_str(),
             status.error().message.c_str());
    return status.error();
  }
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin).count();
  LogEvent(LogLevel::kInfo, {.kind = "attach", .image = device}, "%s is attached, in %lld ms", device.c_str(),
           static_cast<long long>(ms));
  return dir;
}

Status ChainDevices::Attach(const std::string& device, const Describe& describe) {
  LogProgress progress(device);
  AttachRequest request;
  request.name = device;
  request.kept = true;
  request.cache_device = options_.cache_device;
  request.policy = options_.policy;
  request.access = options_.access;
  auto attached = AttachImage(paths_, request, &progress);
  if (!attached.ok() && (attached.error().kind == ErrorKind::kMismatch || attached.error().kind == ErrorKind::kNotFound)) {
    request.kept = false;
    FASTOCI_TRY(request.stack, describe());
    attached = AttachImage(paths_, request, &progress);
  }
  if (!attached.ok()) return attached.error();
  MountRequest mount;
  mount.context = options_.context;
  FASTOCI_CHECK_OK(MountImage(paths_, attached->image, MountPoint(device), mount, &progress));
  if (attached->image.status) starts_.Attached(device, attached->image.status->image_id);
  return OkStatus();
}

void ChainDevices::Release(const std::string& device, std::chrono::seconds after) {
  if (device.empty()) return;
  {
    std::lock_guard lock(mutex_);
    released_[device] = {Clock::now() + after, false, after.count() > 0};
  }
  wake_.notify_all();
}

void ChainDevices::ReleaseAll() {
  for (const std::string& name : StateNames(paths_.state_dir)) Release(name);
}

bool ChainDevices::Reap(const std::string& device) {
  auto entry = EntryOf(device);
  std::lock_guard lock(entry->mutex);
  auto use = store_.UseOf(device);
  if (!use.ok() || use->readers > 0) return use.ok();
  LogProgress progress(device);
  const std::string dir = MountPoint(device);
  if (IsMountPoint(dir) && !Unmount(dir, kUmountMs).ok()) return false;
  DetachRequest request;
  request.keep = use->makers > 0;
  request.timeout_ms = kDetachMs;
  Status status = DetachImage(paths_, device, request, &progress);
  if (!status.ok() && status.error().kind != ErrorKind::kNotFound) return false;
  ::rmdir(dir.c_str());
  if (!request.keep) starts_.Forget(device);
  return true;
}

void ChainDevices::RunReaper() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    auto first = std::min_element(released_.begin(), released_.end(),
                                  [](const auto& a, const auto& b) { return a.second.due < b.second.due; });
    if (first == released_.end()) {
      wake_.wait(lock);
      continue;
    }
    if (first->second.due > Clock::now()) {
      wake_.wait_until(lock, first->second.due);
      continue;
    }
    const std::string device = first->first;
    const auto due = first->second.due;
    busy_ = true;
    lock.unlock();
    const bool done = Reap(device);
    lock.lock();
    busy_ = false;
    if (auto it = released_.find(device); it != released_.end()) {
      if (done && it->second.due == due) {  // nobody released it meanwhile
        released_.erase(it);
      } else if (!done) {
        if (!it->second.told)
          LogEvent(LogLevel::kWarning, {.kind = "detach_waits", .image = device},
                   "%s has no known user, but is in use; detaching it is tried again", device.c_str());
        it->second.told = it->second.seen = true;
        it->second.due = Clock::now() + kRetry;
      }
    }
    wake_.notify_all();
  }
}

void ChainDevices::Settle() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [&] {
    return stop_ || (!busy_ && std::all_of(released_.begin(), released_.end(),
                                           [](const auto& r) { return r.second.seen; }));
  });
}

}  // namespace fastoci
