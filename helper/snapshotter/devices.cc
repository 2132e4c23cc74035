// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/devices.h"

#include <unistd.h>

#include <algorithm>

#include "attach/mounts.h"
#include "base/event.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kDetachMs = 2000;
constexpr int64_t kUmountMs = 2000;
constexpr auto kKeepPulled = std::chrono::seconds(120);  // a device that nobody uses yet

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

}  // namespace

ChainDevices::ChainDevices(DeviceOptions options, SnapshotStore* store, SnapshotterMetrics* metrics, DeviceTools tools)
    : options_(std::move(options)),
      tools_(std::move(tools)),
      tag_(RootTag(options_.root)),
      store_(*store),
      metrics_(*metrics),
      starts_({options_.root + "/starts", options_.control_socket, options_.learn, options_.fetch_traces,
               std::chrono::seconds(options_.learn_s), options_.access, options_.node_config},
              metrics) {
  paths_.state_dir = options_.root + "/devices";
  paths_.control_socket = options_.control_socket;
  paths_.config = options_.node_config;
  reaper_ = std::thread([this] { RunReaper(); });
}

ChainDevices::~ChainDevices() {
  starts_.Stop();
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

std::string ChainDevices::NameFor(const std::string& parent_device, const Layer& layer) const {
  return layer.kind == LayerKind::kTrace ? parent_device : DeviceName(parent_device, layer) + "-" + tag_;
}

std::shared_ptr<ChainDevices::Entry> ChainDevices::EntryOf(const std::string& device) {
  std::lock_guard lock(mutex_);
  auto& entry = entries_[device];
  if (!entry) entry = std::make_shared<Entry>();
  return entry;
}

Result<std::string> ChainDevices::Ensure(const std::string& device, const Describe& describe,
                                         const StartOrigin& origin) {
  const std::string dir = MountPoint(device);
  auto entry = EntryOf(device);
  std::lock_guard lock(entry->mutex);
  if (IsMountPoint(dir)) return dir;
  const auto begin = Clock::now();
  Status status = Attach(device, describe, origin);
  entry->hangs = !status.ok() && status.error().err == ETIMEDOUT;
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

void ChainDevices::Pulled(const std::string& device, const Describe& describe, const StartOrigin& origin) {
  starts_.Pulled(device, origin, [=, this] {
    (void)Ensure(device, describe, origin).ok();
    Release(device, kKeepPulled);
  });
}

void ChainDevices::Record(const std::string& device, const std::string& path) {
  auto state = ReadState(paths_.state_dir, device);
  if (state.ok()) starts_.Record(device, state->meta_path, path);
}

Status ChainDevices::Attach(const std::string& device, const Describe& describe, const StartOrigin& origin) {
  LogProgress progress(device);
  AttachRequest request;
  request.name = device;
  request.kept = true;
  request.cache_device = options_.cache_device;
  request.policy = options_.policy;
  request.access = options_.access;
  auto attached = tools_.attach(paths_, request, &progress);
  if (!attached.ok() && (attached.error().kind == ErrorKind::kMismatch || attached.error().kind == ErrorKind::kNotFound)) {
    request.kept = false;
    FASTOCI_TRY(request.stack, describe());
    attached = tools_.attach(paths_, request, &progress);
  }
  if (!attached.ok()) return attached.error();
  MountRequest mount;
  mount.context = options_.context;
  FASTOCI_CHECK_OK(tools_.mount(paths_, attached->image, MountPoint(device), mount, &progress));
  if (attached->image.status) starts_.Attached(device, attached->image.state.meta_path, origin);
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

ChainDevices::Reaped ChainDevices::Reap(const std::string& device, bool told, std::string* why) {
  auto entry = EntryOf(device);
  // Somebody attaches it, which may take long. The other devices must not wait for that.
  std::unique_lock lock(entry->mutex, std::try_to_lock);
  if (!lock.owns_lock()) return Reaped::kBeingAttached;
  auto use = store_.UseOf(device);
  if (!use.ok()) *why = use.error().message;
  if (!use.ok() || use->readers > 0) return use.ok() ? Reaped::kDone : Reaped::kInUse;
  LogProgress progress(device);
  const std::string dir = MountPoint(device);
  DetachRequest request;
  request.keep = use->makers > 0;
  request.gently = !entry->hangs;
  request.name_holders = !told;
  request.timeout_ms = told ? 0 : kDetachMs;
  Status status = IsMountPoint(dir) ? Unmount(dir, kUmountMs) : OkStatus();
  if (status.ok()) status = tools_.detach(paths_, device, request, &progress);
  if (!status.ok() && status.error().kind != ErrorKind::kNotFound) {
    if (status.error().err == ETIMEDOUT) entry->hangs = true;
    *why = status.error().message;
    return Reaped::kInUse;
  }
  entry->hangs = false;
  ::rmdir(dir.c_str());
  if (!request.keep) starts_.Forget(device);
  return Reaped::kDone;
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
    const bool told = first->second.told;
    std::string why;
    busy_ = true;
    lock.unlock();
    const Reaped reaped = Reap(device, told, &why);
    lock.lock();
    busy_ = false;
    auto it = released_.find(device);
    if (it->second.due == due && reaped == Reaped::kDone) {  // nobody released it meanwhile
      released_.erase(it);
    } else if (it->second.due == due) {
      it->second.seen = true;
      it->second.due = Clock::now() + options_.retry;
      if (reaped == Reaped::kInUse && !told) {
        it->second.told = true;
        LogEvent(LogLevel::kWarning, {.kind = "detach_waits", .image = device},
                 "%s has no known user, but cannot be detached yet; this is tried again: %s", device.c_str(), why.c_str());
      }
    }
    wake_.notify_all();
  }
}

void ChainDevices::Settle(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  (void)wake_.wait_for(lock, limit, [&] {
    return stop_ || (!busy_ && std::all_of(released_.begin(), released_.end(),
                                           [](const auto& r) { return r.second.seen; }));
  });
}

}  // namespace fastoci
