// SPDX-License-Identifier: Apache-2.0
#include "attach/doctor.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/unique_fd.h"
#include "kernel/loop.h"

namespace fastoci {
namespace {

constexpr int64_t kHelperMs = 5000;
constexpr uint64_t kBlockBytes = 512;
constexpr unsigned kLoopMajor = 7;
constexpr uint64_t kMiB = 1 << 20;

// The first line of a small file of sysfs; "" if there is none.
std::string Line(const std::string& path) {
  auto text = ReadFile(path, 4096);
  return text.ok() ? text->substr(0, text->find('\n')) : "";
}

uint64_t Number(const std::string& path) { return std::strtoull(Line(path).c_str(), nullptr, 10); }

CacheFacts ReadCacheFacts(const std::string& device) {
  CacheFacts facts;
  facts.device = device;
  struct stat st = {};
  if (::stat(device.c_str(), &st) != 0 || !S_ISBLK(st.st_mode)) return facts;
  const std::string sys = "/sys/dev/block/" + std::to_string(major(st.st_rdev)) + ":" +
                          std::to_string(minor(st.st_rdev));
  facts.block_bytes = Number(sys + "/queue/logical_block_size");
  facts.is_loop = major(st.st_rdev) == kLoopMajor;
  if (!facts.is_loop) return facts;
  facts.direct_io = Line(sys + "/loop/dio") == "1";
  facts.backing_file = LoopBackingFile(minor(st.st_rdev));
  struct statvfs fs = {};
  struct stat file = {};
  if (::stat(facts.backing_file.c_str(), &file) == 0 &&
      ::statvfs(facts.backing_file.c_str(), &fs) == 0) {
    const uint64_t size = static_cast<uint64_t>(file.st_size);
    const uint64_t used = static_cast<uint64_t>(file.st_blocks) * kBlockBytes;
    facts.left_bytes = size > used ? size - used : 0;
    facts.free_bytes = static_cast<uint64_t>(fs.f_bavail) * fs.f_frsize;
  }
  return facts;
}

Finding CheckHelper(const AttachPaths& paths) {
  auto reply = CallHelper(paths.control_socket, {{"op", "ping"}}, kHelperMs);
  if (!reply.ok()) {
    return {Health::kBad, reply.error().message,
            "systemctl start fastoci-helperd; if it ends again: journalctl -u fastoci-helperd"};
  }
  std::string version = JsonText(*reply, "version");
  if (version.empty()) version = "?";
  if (version != FASTOCI_VERSION) {
    return {Health::kWarning, "the helper is version " + version + ", this program " FASTOCI_VERSION,
            "systemctl restart fastoci-helperd"};
  }
  return {Health::kGood, "the helper answers, version " + version, ""};
}

}  // namespace

const char* HealthName(Health health) {
  switch (health) {
    case Health::kGood: return "ok";
    case Health::kWarning: return "warning";
    case Health::kBad: return "problem";
  }
  return "?";
}

Finding CheckKernel(const std::string& release) {
  const bool tested = release.rfind("6.1.", 0) == 0 || release.rfind("6.12.", 0) == 0;
  if (tested) return {Health::kGood, "kernel " + release + " is of a tested series", ""};
  return {Health::kWarning, "kernel " + release + " is of no tested series (6.1, 6.12)",
          "boot a kernel of Debian's 6.1 or 6.12"};
}

bool SignedModulesOnly(const std::string& sig_enforce, const std::string& lockdown) {
  return sig_enforce == "Y" || lockdown.find("[integrity]") != std::string::npos ||
         lockdown.find("[confidentiality]") != std::string::npos;
}

Finding CheckModule(const std::string& loaded, const std::string& ours, bool signed_only) {
  if (loaded.empty() && signed_only) {
    return {Health::kBad,
            "the module dm-fastoci is not loaded, and this kernel takes only modules that are signed with a key it knows",
            "modprobe dm-fastoci; if it is refused: mokutil --import /var/lib/dkms/mok.pub, reboot, and enroll the key"};
  }
  if (loaded.empty()) {
    return {Health::kBad, "the module dm-fastoci is not loaded",
            "modprobe dm-fastoci; if there is none: dkms status fastoci"};
  }
  if (loaded != ours) {
    return {Health::kWarning,
            "the module dm-fastoci is version " + loaded + ", this program " + ours,
            "detach all images, then: modprobe -r dm-fastoci && modprobe dm-fastoci"};
  }
  return {Health::kGood, "the module dm-fastoci is loaded, version " + loaded, ""};
}

std::vector<Finding> CheckCache(const CacheFacts& c) {
  std::vector<Finding> all;
  if (c.block_bytes != kBlockBytes) {
    all.push_back({Health::kBad,
                   "the cache device " + c.device + " has logical blocks of " +
                       std::to_string(c.block_bytes) + " bytes, not 512",
                   "use a cache file, or a device with 512-byte logical blocks"});
  } else if (c.is_loop && !c.direct_io) {
    all.push_back({Health::kWarning,
                   "the cache device " + c.device + " runs buffered: no 512-byte direct I/O under " +
                       c.backing_file,
                   "put the cache on a disk with 512-byte logical blocks, or on a partition"});
  } else {
    all.push_back({Health::kGood, "the cache device " + c.device + " does 512-byte direct I/O", ""});
  }
  if (c.is_loop && c.free_bytes < c.left_bytes) {
    all.push_back({Health::kWarning,
                   "the cache file " + c.backing_file + " may grow by " +
                       std::to_string(c.left_bytes / kMiB) + " MiB, but its file system has " +
                       std::to_string(c.free_bytes / kMiB) + " MiB left",
                   "free space there, or make a smaller cache"});
  }
  return all;
}

std::vector<Finding> CheckImage(const ImageReport& image) {
  std::vector<Finding> all;
  if (!image.attached) {
    if (image.state.attached) {
      all.push_back({Health::kBad, image.name + " was attached, but its device is gone",
                     "fastoci restore, or: fastoci detach " + image.name});
    }
    return all;
  }
  if (image.suspended) {
    all.push_back({Health::kBad, image.name + " is suspended: its reads wait",
                   "dmsetup resume " + image.device});
  }
  if (!image.status) {
    all.push_back({Health::kBad, image.name + " has no status: its device is not dm-fastoci's",
                   "dmsetup table " + image.device});
    return all;
  }
  const ImageStatus& s = *image.status;
  if (s.pending > 0 && s.helper != "ready") {
    all.push_back({Health::kBad,
                   image.name + ": " + std::to_string(s.pending) + " reads wait, helper: " + s.helper,
                   "start the helper, or let them fail: fastoci fail " + image.name});
  }
  if (s.errors > 0) {
    all.push_back({Health::kWarning,
                   image.name + ": " + std::to_string(s.errors) + " reads failed since it was attached",
                   "journalctl -u fastoci-helperd tells why"});
  }
  if (all.empty()) all.push_back({Health::kGood, image.name + " is attached and serves reads", ""});
  return all;
}

std::vector<Finding> Examine(const AttachPaths& paths) {
  std::vector<Finding> all;
  auto add = [&](const std::vector<Finding>& more) {
    all.insert(all.end(), more.begin(), more.end());
  };
  if (::geteuid() != 0) all.push_back({Health::kBad, "not run as root", "sudo fastoci doctor"});
  struct utsname system = {};
  (void)::uname(&system);
  all.push_back(CheckKernel(system.release));
  all.push_back(CheckModule(Line("/sys/module/dm_fastoci/version"), FASTOCI_VERSION,
                            SignedModulesOnly(Line("/sys/module/module/parameters/sig_enforce"),
                                              Line("/sys/kernel/security/lockdown"))));
  all.push_back(CheckHelper(paths));
  if (auto cache = HelperCacheDevice(paths.control_socket, kHelperMs); cache.ok()) {
    add(CheckCache(ReadCacheFacts(*cache)));
  }
  auto images = ListImages(paths);
  if (!images.ok()) {
    all.push_back({Health::kBad, images.error().message, "modprobe dm-mod"});
    return all;
  }
  for (const ImageReport& image : *images) add(CheckImage(image));
  return all;
}

}  // namespace fastoci
