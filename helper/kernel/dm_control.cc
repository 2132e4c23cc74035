// SPDX-License-Identifier: Apache-2.0
#include "kernel/dm_control.h"

#include <fcntl.h>
#include <libdevmapper.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <charconv>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <mutex>
#include <sstream>
#include <thread>

#include "base/process.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

constexpr int64_t kUdevWaitMs = 5000;
constexpr int64_t kPollMs = 20;
constexpr int kModprobeMs = 60000;
constexpr size_t kMaxListBytes = 1 << 20;

using Clock = std::chrono::steady_clock;
using TaskPtr = std::unique_ptr<struct dm_task, decltype(&dm_task_destroy)>;

// libdevmapper has a state of its own: one call at a time. Recursive, as calls here use
// each other; never held over a pause between two tries.
std::recursive_mutex library_mutex;
using LibraryLock = std::lock_guard<std::recursive_mutex>;

// libdevmapper's last complaint; it logs from the calling thread, which holds the mutex.
std::string last_log;

void KeepLog(int level, const char*, int, int, const char* format, ...) {
  if ((level & 0x7) > 4) return;  // _LOG_FATAL 2, _LOG_ERR 3, _LOG_WARN 4
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  last_log = text;
}

void InitLibrary() {
  static bool done = false;
  if (done) return;
  done = true;
  dm_log_with_errno_init(KeepLog);
  dm_set_name_mangling_mode(DM_STRING_MANGLING_NONE);  // names are checked by us
}

TaskPtr NewTask(int type) {
  InitLibrary();
  last_log.clear();
  return TaskPtr(dm_task_create(type), &dm_task_destroy);
}

// libdevmapper opens its control device first, and the kernel loads dm-mod for
// that if it can: what is not there after a call is not to be had.
bool HasDeviceMapper() {
  auto misc = ReadFile("/proc/misc", kMaxListBytes);
  return !misc.ok() || misc->find("device-mapper") != std::string::npos;
}

Error TaskError(struct dm_task* task, const std::string& what) {
  int err = task ? dm_task_get_errno(task) : ENOMEM;
  std::string message = what;
  if (::geteuid() == 0 && !HasDeviceMapper()) {
    // What libdevmapper says then is of versions that nobody can compare.
    return {ErrorKind::kUnsupported, ENODEV,
            what + ": the running kernel has no device-mapper; load it with `modprobe dm-mod`, or "
                   "boot a kernel that has it"};
  }
  if (!last_log.empty()) message += ": " + last_log;
  if (err == ENXIO || err == ENOENT) return {ErrorKind::kNotFound, err, message};
  if (err == EPERM || err == EACCES || ::geteuid() != 0) {
    return {ErrorKind::kDenied, err ? err : EPERM, message + " (device-mapper needs root)"};
  }
  return {ErrorKind::kIo, err ? err : EIO, message};
}

Result<TaskPtr> NamedTask(int type, const std::string& name) {
  TaskPtr task = NewTask(type);
  if (!task || !dm_task_set_name(task.get(), name.c_str())) {
    return TaskError(task.get(), "device-mapper task for " + name);
  }
  return task;
}

// Waits for udev as long as kUdevWaitMs, then goes on without it.
void WaitForUdev(uint32_t cookie) {
  if (cookie == 0) return;  // there is no udev to wait for
  auto end = Clock::now() + std::chrono::milliseconds(kUdevWaitMs);
  int ready = 0;
  while (dm_udev_wait_immediate(cookie, &ready) && !ready) {
    if (Clock::now() > end) {
      dm_udev_complete(cookie);
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs));
  }
}

// Runs a task that udev hears of.
bool RunWithUdev(struct dm_task* task) {
  uint32_t cookie = 0;
  uint16_t flags = DM_UDEV_DISABLE_DISK_RULES_FLAG | DM_UDEV_DISABLE_OTHER_RULES_FLAG;
  if (!dm_task_set_cookie(task, &cookie, flags)) return false;
  bool ok = dm_task_run(task) != 0;
  std::string log = last_log;
  WaitForUdev(cookie);
  dm_task_update_nodes();
  last_log = log;
  return ok;
}

// The kernel gives its reason for refusing a table only to its log.
class KernelLogTail {
 public:
  KernelLogTail() : fd_(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
    if (fd_.valid()) ::lseek(fd_.get(), 0, SEEK_END);
  }
  // The messages since then that name word, joined by "; ".
  std::string Since(const std::string& word) {
    std::string all;
    char record[8192];
    for (int i = 0; fd_.valid() && i < 1000; i++) {
      ssize_t n = ::read(fd_.get(), record, sizeof(record));
      if (n < 0 && errno == EPIPE) continue;  // overwritten, go on with the next
      if (n <= 0) break;
      std::string text(record, static_cast<size_t>(n));
      size_t begin = text.find(';');
      if (begin == std::string::npos) continue;
      text = text.substr(begin + 1, text.find('\n', begin) - begin - 1);
      if (text.find(word) == std::string::npos) continue;
      all += (all.empty() ? "" : "; ") + text;
    }
    return all;
  }

 private:
  UniqueFd fd_;
};

Status Modprobe(const std::string& module) {
  Error failed{ErrorKind::kUnsupported, ENOENT, "modprobe " + module + " failed"};
  for (const char* program : {"/usr/sbin/modprobe", "/sbin/modprobe"}) {
    auto pid = StartProgram(program, {.args = {"-q", module}, .quiet = true});
    if (!pid.ok()) continue;
    auto status = WaitForChild(*pid, kModprobeMs);
    return status.ok() && *status == 0 ? OkStatus() : Status(failed);
  }
  return failed;
}

bool HasTarget(const std::string& target) {
  LibraryLock lock(library_mutex);
  TaskPtr task = NewTask(DM_DEVICE_LIST_VERSIONS);
  if (!task || !dm_task_run(task.get())) return false;
  const struct dm_versions* v = dm_task_get_versions(task.get());
  for (size_t done = 0; v != nullptr && done < kMaxListBytes; done += v->next) {
    if (target == v->name) return true;
    if (v->next == 0) break;
    v = reinterpret_cast<const struct dm_versions*>(reinterpret_cast<const char*>(v) + v->next);
  }
  return false;
}

Result<std::string> TargetLine(int type, const std::string& name) {
  LibraryLock lock(library_mutex);
  FASTOCI_TRY(TaskPtr task, NamedTask(type, name));
  dm_task_no_flush(task.get());
  dm_task_no_open_count(task.get());
  if (!dm_task_run(task.get())) return TaskError(task.get(), "status of " + name);
  struct dm_info info = {};
  if (!dm_task_get_info(task.get(), &info) || !info.exists) {
    return NotFoundError("no device " + name);
  }
  uint64_t start = 0, length = 0;
  char *kind = nullptr, *params = nullptr;
  dm_get_next_target(task.get(), nullptr, &start, &length, &kind, &params);
  if (params == nullptr) return NotFoundError("device " + name + " has no table");
  return std::string(params);
}

Status SimpleTask(int type, const std::string& name, const std::string& what) {
  LibraryLock lock(library_mutex);
  FASTOCI_TRY(TaskPtr task, NamedTask(type, name));
  if (type == DM_DEVICE_SUSPEND) {
    dm_task_no_flush(task.get());
    dm_task_skip_lockfs(task.get());
  }
  bool ok = type == DM_DEVICE_SUSPEND ? dm_task_run(task.get()) != 0 : RunWithUdev(task.get());
  if (!ok) return TaskError(task.get(), what + " " + name);
  return OkStatus();
}

}  // namespace

Status DmRequireTarget(const std::string& target) {
  if (::geteuid() != 0) {
    return Error{ErrorKind::kDenied, EPERM, "device-mapper needs root: try sudo"};
  }
  if (HasTarget(target)) return OkStatus();
  (void)Modprobe("dm-mod").ok();
  if (!HasTarget(target)) (void)Modprobe("dm-" + target).ok();
  if (HasTarget(target)) return OkStatus();
  return Error{ErrorKind::kUnsupported, ENOENT,
               "the kernel has no device-mapper target \"" + target + "\" and `modprobe dm-" +
                   target + "` did not bring it"};
}

Status DmCreate(const std::string& name, const std::string& uuid, const DmTable& table) {
  LibraryLock lock(library_mutex);
  FASTOCI_TRY(TaskPtr task, NamedTask(DM_DEVICE_CREATE, name));
  if (!dm_task_set_uuid(task.get(), uuid.c_str()) ||
      (table.read_only && !dm_task_set_ro(task.get())) ||
      !dm_task_add_target(task.get(), 0, table.sectors, table.target.c_str(),
                          table.params.c_str())) {
    return TaskError(task.get(), "prepare " + name);
  }
  auto before = DmInfo(name);
  if (before.ok()) return Error{ErrorKind::kIo, EEXIST, "device " + name + " exists already"};
  KernelLogTail log;
  if (RunWithUdev(task.get())) return OkStatus();
  Error error = TaskError(task.get(), "create " + name);
  // The kernel's own words say more than an errno.
  std::string reason = log.Since(table.target);
  if (reason.empty()) reason = log.Since("device-mapper");
  if (!reason.empty()) error.message += " (kernel: " + reason + ")";
  return error;
}

Result<DmDevice> DmInfo(const std::string& name) {
  LibraryLock lock(library_mutex);
  FASTOCI_TRY(TaskPtr task, NamedTask(DM_DEVICE_INFO, name));
  if (!dm_task_run(task.get())) return TaskError(task.get(), "look for " + name);
  struct dm_info info = {};
  if (!dm_task_get_info(task.get(), &info)) return TaskError(task.get(), "look for " + name);
  if (!info.exists) return NotFoundError("no device " + name);
  DmDevice device;
  device.name = name;
  const char* uuid = dm_task_get_uuid(task.get());
  device.uuid = uuid ? uuid : "";
  device.major = info.major;
  device.minor = info.minor;
  device.open_count = info.open_count;
  device.suspended = info.suspended != 0;
  device.has_table = info.live_table != 0;
  device.read_only = info.read_only != 0;
  return device;
}

Result<std::vector<DmDevice>> DmList(const std::string& uuid_prefix) {
  LibraryLock lock(library_mutex);
  TaskPtr task = NewTask(DM_DEVICE_LIST);
  if (!task || !dm_task_run(task.get())) return TaskError(task.get(), "list the devices");
  std::vector<DmDevice> found;
  const struct dm_names* names = dm_task_get_names(task.get());
  if (names == nullptr || names->dev == 0) return found;
  std::vector<std::string> all;
  for (size_t done = 0; done < kMaxListBytes; done += names->next) {
    all.emplace_back(names->name);
    if (names->next == 0) break;
    names = reinterpret_cast<const struct dm_names*>(reinterpret_cast<const char*>(names) +
                                                     names->next);
  }
  for (const std::string& name : all) {
    auto device = DmInfo(name);
    if (!device.ok()) continue;  // gone meanwhile
    if (device->uuid.compare(0, uuid_prefix.size(), uuid_prefix) == 0) found.push_back(*device);
  }
  return found;
}

Result<std::string> DmTargetStatus(const std::string& name) {
  return TargetLine(DM_DEVICE_STATUS, name);
}

Result<std::string> DmTargetTable(const std::string& name) {
  return TargetLine(DM_DEVICE_TABLE, name);
}

Status DmMessage(const std::string& name, const std::string& text) {
  LibraryLock lock(library_mutex);
  FASTOCI_TRY(TaskPtr task, NamedTask(DM_DEVICE_TARGET_MSG, name));
  if (!dm_task_set_sector(task.get(), 0) || !dm_task_set_message(task.get(), text.c_str()) ||
      !dm_task_run(task.get())) {
    return TaskError(task.get(), "message \"" + text + "\" to " + name);
  }
  return OkStatus();
}

Status DmSuspend(const std::string& name) {
  return SimpleTask(DM_DEVICE_SUSPEND, name, "suspend");
}

Status DmResume(const std::string& name) { return SimpleTask(DM_DEVICE_RESUME, name, "resume"); }

Status DmRemove(const std::string& name, int64_t timeout_ms) {
  auto end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  for (;;) {
    FASTOCI_TRY(DmDevice device, DmInfo(name));
    Status status = device.open_count > 0
                        ? Status(Error{ErrorKind::kIo, EBUSY,
                                       "device " + name + " is open (" +
                                           std::to_string(device.open_count) + " times)"})
                        : SimpleTask(DM_DEVICE_REMOVE, name, "remove");
    if (status.ok()) return status;
    if (status.error().err != EBUSY || Clock::now() > end) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs));
  }
}

std::string DmNodePath(const std::string& name) { return "/dev/mapper/" + name; }

bool IsImageName(const std::string& name) {
  if (name.empty() || name.size() > 100 || name[0] == '.' || name[0] == '-') return false;
  for (char c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-') {
      return false;
    }
  }
  return true;
}

Result<ImageStatus> ParseImageStatus(const std::string& params) {
  Error bad = InvalidError("not a status line of dm-fastoci: " + params);
  std::istringstream in(params);
  ImageStatus s;
  std::string chunks;
  if (!(in >> s.image_id >> s.extents >> chunks >> s.hits >> s.misses >> s.pending >> s.errors >>
        s.helper >> s.policy)) {
    return bad;
  }
  const char* end = chunks.data() + chunks.size();
  auto cached = std::from_chars(chunks.data(), end, s.chunks_cached);
  if (cached.ec != std::errc() || cached.ptr == end || *cached.ptr != '/') return bad;
  auto total = std::from_chars(cached.ptr + 1, end, s.chunks_total);
  if (total.ec != std::errc() || total.ptr != end || s.image_id.size() != 64) return bad;
  return s;
}

Result<std::string> PolicyMessage(const std::string& policy) {
  const std::string prefix = "fail_after_ms:";
  if (policy == "hold") return policy;
  if (policy.compare(0, prefix.size(), prefix) == 0) {
    return "fail_after_ms " + policy.substr(prefix.size());
  }
  return InvalidError("unknown policy " + policy);
}

}  // namespace fastoci
