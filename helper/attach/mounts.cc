// SPDX-License-Identifier: Apache-2.0
#include "attach/mounts.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <sstream>

#include "attach/bounded.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

constexpr uint64_t kMaxMountInfoBytes = 64 << 20;

// mountinfo writes space, tab, newline and backslash as \ooo.
std::string Unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    auto digit = [&](size_t k) { return k < text.size() && text[k] >= '0' && text[k] <= '7'; };
    if (text[i] == '\\' && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      out.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                      (text[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

Status FromErrno(const Result<int>& code, const std::string& what) {
  if (!code.ok()) return code.error();
  if (*code == 0) return OkStatus();
  Error error = ErrnoError(what, *code);
  if (*code == EPERM || *code == EACCES) error.kind = ErrorKind::kDenied;
  return error;
}

}  // namespace

std::vector<MountEntry> ParseMountInfo(const std::string& text) {
  std::vector<MountEntry> entries;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    // 36 35 98:0 /root /dir options [optional fields] - type source super-options
    std::istringstream in(line);
    std::string id, parent, root, dir, options, word, type, source;
    MountEntry entry;
    char colon = 0;
    if (!(in >> id >> parent >> entry.major >> colon >> entry.minor >> root >> dir >> options)) {
      continue;
    }
    while (in >> word && word != "-") {
    }
    if (word != "-" || !(in >> type >> source) || colon != ':') continue;
    entry.dir = Unescape(dir);
    entry.fs_type = type;
    entry.source = Unescape(source);
    entries.push_back(entry);
  }
  return entries;
}

Result<std::vector<MountEntry>> CurrentMounts() {
  FASTOCI_TRY(std::string text, ReadFile("/proc/self/mountinfo", kMaxMountInfoBytes));
  return ParseMountInfo(text);
}

Result<std::vector<std::string>> MountsOf(uint32_t major, uint32_t minor) {
  FASTOCI_TRY(auto mounts, CurrentMounts());
  std::vector<std::string> dirs;
  for (const MountEntry& m : mounts) {
    if (m.major == major && m.minor == minor) dirs.push_back(m.dir);
  }
  return dirs;
}

bool IsMountPoint(const std::string& path) {
  struct statx stx = {};
  return ::statx(AT_FDCWD, path.c_str(), AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_TYPE, &stx) == 0 &&
         (stx.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

Status MountReadOnly(FsType type, const std::string& device, const std::string& dir,
                     const std::string& context, int64_t timeout_ms) {
  std::string options = type == FsType::kExt4 ? "noload,errors=continue" : "";
  if (!context.empty()) options += std::string(options.empty() ? "" : ",") + "context=\"" + context + "\"";
  auto code = RunBounded("mount", timeout_ms, {}, [&] {
    int result = ::mount(device.c_str(), dir.c_str(), FsTypeName(type), MS_RDONLY, options.c_str());
    return result == 0 ? 0 : errno;
  });
  return FromErrno(code, "mount " + device + " at " + dir);
}

Status Unmount(const std::string& dir, int64_t timeout_ms) {
  auto code = RunBounded("umount", timeout_ms, {}, [&] {
    return ::umount2(dir.c_str(), UMOUNT_NOFOLLOW) == 0 ? 0 : errno;
  });
  return FromErrno(code, "unmount " + dir);
}

}  // namespace fastoci
