// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/writable.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>

#include "attach/bounded.h"
#include "attach/mounts.h"
#include "base/unique_fd.h"
#include "kernel/dm_control.h"
#include "kernel/loop.h"
#include "snapshotter/layer.h"

namespace fastoci {
namespace {

constexpr char kTarget[] = "snapshot";
constexpr char kFile[] = "/writable", kMountPoint[] = "/mountpoint";
constexpr char kUnchecked[] = "/writable.unchecked";  // while a file that was written before is not checked
constexpr uint64_t kSector = 512;
constexpr uint64_t kChunkSectors = 8;       // what is copied at a time: a block of ext4
constexpr uint64_t kExceptionsPerBlock = 256;  // dm-snapshot's metadata: 16 of 4096 bytes each
constexpr uint64_t kMinBytes = 16 << 20;
constexpr int64_t kMountMs = 60000, kFsckMs = 120000, kRemoveMs = 2000;
constexpr int kFsckRepaired = 2;  // the highest status of e2fsck -p that is no failure

Result<uint64_t> DeviceBytes(const std::string& node) {
  UniqueFd fd(::open(node.c_str(), O_RDONLY | O_CLOEXEC));
  uint64_t bytes = 0;
  if (!fd.valid() || ::ioctl(fd.get(), BLKGETSIZE64, &bytes) != 0) return ErrnoError("size of " + node);
  return bytes;
}

// Sparse; true: it is new. One that is not keeps its size.
Result<bool> MakeFile(const std::string& path, uint64_t bytes) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  struct stat st;
  if (!fd.valid() || ::fstat(fd.get(), &st) != 0) return ErrnoError("make " + path);
  if (st.st_size > 0) return false;
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0 || ::fsync(fd.get()) != 0) return ErrnoError("size " + path);
  return true;
}

Status Repair(const std::string& node) {
  BoundedProgram fsck;
  fsck.what = "e2fsck of " + node;
  fsck.argv = {"/sbin/e2fsck", "-p", node};
  fsck.timeout_ms = kFsckMs;
  std::string said;
  FASTOCI_TRY(int code, RunBoundedProgram(fsck, &said));
  if (code <= kFsckRepaired) return OkStatus();
  return Error{ErrorKind::kIo, EUCLEAN, "e2fsck -p cannot repair the file system of " + node + " (status " +
                                            std::to_string(code) + "): " + said};
}

}  // namespace

Result<WritableMode> WritableModeOf(const Labels& labels) {
  auto it = labels.find(kWritableLabel);
  if (it == labels.end() || it->second.empty() || it->second == "overlayfs") return WritableMode::kOverlay;
  if (it->second == "dir") return WritableMode::kDir;
  if (it->second == "dev") return WritableMode::kDev;
  return InvalidError("label " + std::string(kWritableLabel) + " is \"" + it->second + "\": it must be dir or dev");
}

WritableDevices::WritableDevices(const std::string& root, std::string context)
    : tag_(RootTag(root)), context_(std::move(context)) {}

std::string WritableDevices::NameOf(int64_t id) const { return "fastociw-" + tag_ + "-" + std::to_string(id); }

Result<std::string> WritableDevices::EnsureLocked(const Request& r) {
  const std::string name = NameOf(r.id), node = DmNodePath(name), file = r.dir + kFile, mark = r.dir + kUnchecked;
  if (auto device = DmInfo(name); device.ok()) {
    if (IsUsable(*device, ::access(mark.c_str(), F_OK) == 0)) return node;
    // While the check of a snapshotter that was killed goes on, the device is in use.
    if (Status removed = DmRemove(name, kRemoveMs); !removed.ok())
      return removed.error().Wrap("a half-made device must be made anew");
  }
  FASTOCI_CHECK_OK(DmRequireTarget(kTarget));
  // The image's mount has claimed its device for itself. A loop device reads it nevertheless.
  FASTOCI_TRY(auto origin, AutoclearLoop::Open(r.origin));
  FASTOCI_TRY(const uint64_t bytes, DeviceBytes(origin.device()));
  uint64_t room = r.bytes > 0 ? std::max(r.bytes, kMinBytes) : bytes;
  room += room / kExceptionsPerBlock + kMinBytes;
  FASTOCI_TRY(const bool fresh, MakeFile(file, room));
  FASTOCI_TRY(auto cow, AutoclearLoop::OpenWritable(file));
  DmTable table;
  table.target = kTarget;
  table.sectors = bytes / kSector;
  table.params = origin.device() + " " + cow.device() + " P " + std::to_string(kChunkSectors);
  table.read_only = false;
  // It outlives a kill, but need not outlive a power cut, as the device does not either.
  if (!fresh && !UniqueFd(::open(mark.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)).valid())
    return ErrnoError("make " + mark);
  FASTOCI_CHECK_OK(DmCreate(name, "FASTOCIW-" + tag_ + "-" + std::to_string(r.id), table));
  Status status = fresh ? OkStatus() : Repair(node);
  if (status.ok() && ::unlink(mark.c_str()) != 0 && errno != ENOENT) status = ErrnoError("remove " + mark);
  if (status.ok()) return node;
  (void)DmRemove(name, kRemoveMs).ok();
  return status.error();
}

Result<std::string> WritableDevices::Ensure(const Request& request) {
  std::lock_guard lock(LockOf(request.id));
  return EnsureLocked(request);
}

Result<std::string> WritableDevices::EnsureMounted(const Request& request) {
  std::lock_guard lock(LockOf(request.id));
  const std::string dir = request.dir + kMountPoint;
  if (IsMountPoint(dir)) return dir;
  FASTOCI_TRY(std::string node, EnsureLocked(request));
  if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make " + dir);
  std::string options = "errors=remount-ro";
  if (!context_.empty()) options += ",context=\"" + context_ + "\"";
  FASTOCI_TRY(int code, RunBounded("mount", kMountMs, {}, [&] {
    return ::mount(node.c_str(), dir.c_str(), "ext4", 0, options.c_str()) == 0 ? 0 : errno;
  }));
  if (code != 0) return ErrnoError("mount " + node + " at " + dir, code);
  return dir;
}

Status WritableDevices::Available() { return DmRequireTarget(kTarget); }

bool WritableDevices::IsUsable(const DmDevice& device, bool unchecked) {
  return device.has_table && !device.suspended && !unchecked;
}

bool WritableDevices::Has(const std::string& dir) { return ::access((dir + kFile).c_str(), F_OK) == 0; }

Status WritableDevices::Remove(int64_t id, const std::string& dir) {
  if (!Has(dir)) return OkStatus();
  std::unique_lock lock(LockOf(id), std::chrono::milliseconds(kRemoveMs));
  if (!lock.owns_lock()) return Error{ErrorKind::kIo, EBUSY, NameOf(id) + " is being made or removed"};
  const std::string mounted = dir + kMountPoint;
  if (IsMountPoint(mounted)) FASTOCI_CHECK_OK(Unmount(mounted, kRemoveMs));
  Status removed = DmRemove(NameOf(id), kRemoveMs);
  if (!removed.ok() && removed.error().kind != ErrorKind::kNotFound) return removed;
  return OkStatus();
}

}  // namespace fastoci
