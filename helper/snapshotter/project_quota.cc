// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/project_quota.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/quota.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cctype>
#include <cstdlib>

#include "attach/mounts.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

constexpr int kProject = 2;  // PRJQUOTA
constexpr uint64_t kQuotaBlock = 1024;
// Numbers of projects that administrators choose are small.
constexpr uint32_t kFirstProject = 0x0fa57000;

uint32_t ProjectOf(int64_t id) { return kFirstProject + static_cast<uint32_t>(id); }

Status SetLimit(const std::string& device, uint32_t project, uint64_t bytes) {
  struct dqblk limits = {};
  limits.dqb_bhardlimit = limits.dqb_bsoftlimit = (bytes + kQuotaBlock - 1) / kQuotaBlock;
  limits.dqb_valid = QIF_BLIMITS;
  if (::quotactl(QCMD(Q_SETQUOTA, kProject), device.c_str(), static_cast<int>(project),
                 reinterpret_cast<char*>(&limits)) == 0)
    return OkStatus();
  return ErrnoError("set a project's quota on " + device);
}

}  // namespace

ProjectQuota ProjectQuota::Open(const std::string& root) {
  ProjectQuota quota;
  struct stat st;
  auto mounts = CurrentMounts();
  if (!mounts.ok() || ::stat(root.c_str(), &st) != 0) return quota;
  for (const MountEntry& m : *mounts) {
    if (m.major != major(st.st_dev) || m.minor != minor(st.st_dev) || m.source.rfind("/dev/", 0) != 0) continue;
    struct dqinfo info;
    if (::quotactl(QCMD(Q_GETINFO, kProject), m.source.c_str(), 0, reinterpret_cast<char*>(&info)) == 0)
      quota.device_ = m.source;
    break;
  }
  return quota;
}

Status ProjectQuota::Assign(int64_t id, const std::string& dir, uint64_t limit_bytes) const {
  if (!available()) return Error{ErrorKind::kUnsupported, ENOTSUP, "the file system has no project quotas"};
  UniqueFd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoError("open " + dir);
  struct fsxattr attributes = {};
  if (::ioctl(fd.get(), FS_IOC_FSGETXATTR, &attributes) != 0) return ErrnoError("the project of " + dir);
  attributes.fsx_projid = ProjectOf(id);
  attributes.fsx_xflags |= FS_XFLAG_PROJINHERIT;
  if (::ioctl(fd.get(), FS_IOC_FSSETXATTR, &attributes) != 0) return ErrnoError("set the project of " + dir);
  return SetLimit(device_, ProjectOf(id), limit_bytes);
}

std::optional<DiskUsage> ProjectQuota::Usage(int64_t id) const {
  struct dqblk used = {};
  if (!available() || ::quotactl(QCMD(Q_GETQUOTA, kProject), device_.c_str(), static_cast<int>(ProjectOf(id)),
                                 reinterpret_cast<char*>(&used)) != 0)
    return std::nullopt;
  return DiskUsage{static_cast<int64_t>(used.dqb_curspace), static_cast<int64_t>(used.dqb_curinodes)};
}

void ProjectQuota::Forget(int64_t id) const {
  if (available()) (void)SetLimit(device_, ProjectOf(id), 0).ok();
}

Result<uint64_t> ParseQuota(const std::string& text) {
  char* end = nullptr;
  const unsigned long long n = std::strtoull(text.c_str(), &end, 10);
  std::string unit = end;
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (unit.size() > 1 && (unit.substr(1) == "b" || unit.substr(1) == "ib")) unit.resize(1);
  const std::string units = "kmgt";
  const size_t step = unit.empty() || unit == "b" ? 0 : units.find(unit) + 1;
  const bool known = unit.empty() || unit == "b" || (unit.size() == 1 && units.find(unit) != std::string::npos);
  if (text.empty() || !std::isdigit(static_cast<unsigned char>(text[0])) || !known || n == 0 ||
      n > (uint64_t{1} << 62) >> (10 * step))
    return InvalidError("\"" + text + "\" is not a size; write one such as 10g or 512m");
  return uint64_t{n} << (10 * step);
}

}  // namespace fastoci
