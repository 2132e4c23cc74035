// SPDX-License-Identifier: Apache-2.0
// DeviceMapper calls through libdevmapper: our devices have one target, a
// read-only table, a name "fastoci-<image>" and a UUID "FASTOCI-<image>".
//
// If udev runs, it is told to leave the devices alone (disk and other rules off). If it
// does not run, libdevmapper makes the nodes. Each wait for udev has a limit. Every
// suspend is without flushing, because a flushing one would wait for reads that only a
// helper can end. The functions are thread-safe. libdevmapper is not, so one thread at a
// time calls it.
#ifndef FASTOCI_KERNEL_DM_CONTROL_H_
#define FASTOCI_KERNEL_DM_CONTROL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace fastoci {

inline constexpr char kDmTarget[] = "fastoci";
inline constexpr char kDmNamePrefix[] = "fastoci-";
inline constexpr char kDmUuidPrefix[] = "FASTOCI-";

struct DmDevice {
  std::string name;
  std::string uuid;
  uint32_t major = 0, minor = 0;
  int open_count = 0;
  bool suspended = false;
  bool has_table = false;
  bool read_only = false;
};

struct DmTable {
  std::string target = kDmTarget;
  uint64_t sectors = 0;
  std::string params;
  bool read_only = true;
};

// kUnsupported if the kernel has no such target; tries to load dm-<target>.
Status DmRequireTarget(const std::string& target);
// Creates a device, loads its table and resumes it. If that fails, no device is left.
// EEXIST in err if the name or the UUID is taken. The message quotes the kernel log's
// reason.
Status DmCreate(const std::string& name, const std::string& uuid, const DmTable& table);
Result<DmDevice> DmInfo(const std::string& name);  // kNotFound
// All devices whose UUID begins with uuid_prefix.
Result<std::vector<DmDevice>> DmList(const std::string& uuid_prefix);
// The target's own part of the status and of the table line.
Result<std::string> DmTargetStatus(const std::string& name);
Result<std::string> DmTargetTable(const std::string& name);
Status DmMessage(const std::string& name, const std::string& text);
Status DmSuspend(const std::string& name);  // no flush, no freeze of the file system
Status DmResume(const std::string& name);
// Removes the device. While it is open, tries again for timeout_ms, then returns EBUSY in
// err. kNotFound if there is no such device.
Status DmRemove(const std::string& name, int64_t timeout_ms);

std::string DmNodePath(const std::string& name);  // /dev/mapper/<name>

// Our image names: 1 to 100 of [A-Za-z0-9._-], not beginning with '.' or '-'.
bool IsImageName(const std::string& name);

// dm-fastoci's status line.
struct ImageStatus {
  std::string image_id;  // 64 hex digits
  uint64_t extents = 0;
  uint64_t chunks_cached = 0, chunks_total = 0;
  uint64_t hits = 0, misses = 0, pending = 0, errors = 0;
  std::string helper;  // "none", "ready", "stalled"
  std::string policy;  // "hold", "fail_after_ms:<n>"
};
// Fields that a newer module appends are ignored.
Result<ImageStatus> ParseImageStatus(const std::string& params);
// The message that sets a policy as the status line names it.
Result<std::string> PolicyMessage(const std::string& policy);

}  // namespace fastoci

#endif  // FASTOCI_KERNEL_DM_CONTROL_H_
