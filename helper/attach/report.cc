// SPDX-License-Identifier: Apache-2.0
// ListImages() and FindImage(): the kernel's devices joined with the state.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "attach/attach.h"
#include "attach/mounts.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

std::string Canonical(const std::string& path) {
  char* real = ::realpath(path.c_str(), nullptr);
  std::string out = real ? real : path;
  ::free(real);
  return out;
}

ImageReport ReportDevice(const AttachPaths& paths, const DmDevice& device) {
  ImageReport report;
  report.name = device.uuid.substr(std::strlen(kDmUuidPrefix));
  report.attached = true;
  report.device = DmNodePath(device.name);
  report.major = device.major;
  report.minor = device.minor;
  report.open_count = device.open_count;
  report.suspended = device.suspended;
  auto size = ReadFile("/sys/dev/block/" + std::to_string(device.major) + ":" +
                           std::to_string(device.minor) + "/size", 64);
  if (size.ok()) report.sectors = std::strtoull(size->c_str(), nullptr, 10);
  if (auto table = DmTargetTable(device.name); table.ok()) {
    std::istringstream(*table) >> report.meta_device >> report.cache_device;
  }
  if (auto line = DmTargetStatus(device.name); line.ok()) {
    if (auto status = ParseImageStatus(*line); status.ok()) report.status = *status;
  }
  if (auto dirs = MountsOf(device.major, device.minor); dirs.ok()) report.mounts = *dirs;
  if (auto state = ReadState(paths.state_dir, report.name); state.ok()) report.state = *state;
  return report;
}

}  // namespace

Result<std::vector<ImageReport>> ListImages(const AttachPaths& paths) {
  std::vector<ImageReport> reports;
  FASTOCI_TRY(auto devices, DmList(kDmUuidPrefix));
  for (const DmDevice& device : devices) reports.push_back(ReportDevice(paths, device));
  for (const std::string& name : StateNames(paths.state_dir)) {
    auto same = [&](const ImageReport& r) { return r.name == name; };
    if (std::any_of(reports.begin(), reports.end(), same)) continue;
    auto state = ReadState(paths.state_dir, name);
    if (!state.ok()) continue;
    ImageReport report;
    report.name = name;
    report.state = *state;
    reports.push_back(report);
  }
  std::sort(reports.begin(), reports.end(),
            [](const ImageReport& a, const ImageReport& b) { return a.name < b.name; });
  return reports;
}

Result<ImageReport> FindImage(const AttachPaths& paths, const std::string& what) {
  // A name is what most callers give. No other device has to be asked.
  if (IsImageName(what)) {
    auto device = DmInfo(kDmNamePrefix + what);
    if (device.ok() && device->uuid == kDmUuidPrefix + what) return ReportDevice(paths, *device);
  }
  FASTOCI_TRY(auto reports, ListImages(paths));
  std::string path = what.find('/') != std::string::npos ? Canonical(what) : "";
  const ImageReport* found = nullptr;
  for (const ImageReport& r : reports) {
    bool named = r.name == what || (!r.state.ref.empty() && r.state.ref == what) ||
                 (!r.device.empty() && (r.device == what || DmNodePath(what) == r.device)) ||
                 (!path.empty() &&
                  (std::find(r.mounts.begin(), r.mounts.end(), path) != r.mounts.end() ||
                   (!r.device.empty() && Canonical(r.device) == path)));
    if (!named) continue;
    if (r.name == what) return r;
    if (found != nullptr && found->attached == r.attached) {
      return InvalidError("several images match " + what + ": " + found->name + " and " + r.name +
                          "; give the name");
    }
    if (found == nullptr || r.attached) found = &r;
  }
  if (found != nullptr) return *found;
  return NotFoundError("no image " + what + " is attached; `fastoci list` shows what is");
}

}  // namespace fastoci
