// SPDX-License-Identifier: Apache-2.0
#include "kernel/disk_use.h"

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/kernel_dev.h"
#include "kernel/dm_control.h"

namespace fastoci {
namespace {

namespace fs = std::filesystem;

std::string Line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

bool ParseDev(const std::string& text, uint32_t* major, uint32_t* minor) {
  return std::sscanf(text.c_str(), "%u:%u", major, minor) == 2;
}

}  // namespace

std::vector<DiskUse> FastociDisks(const std::string& sysfs) {
  std::vector<DiskUse> out;
  std::error_code error;
  for (fs::directory_iterator it(sysfs + "/block", error), end; !error && it != end;
       it.increment(error)) {
    const fs::path dir = it->path();
    if (dir.filename().string().rfind("dm-", 0) != 0) continue;
    const std::string uuid = Line(dir / "dm" / "uuid");
    if (uuid.rfind(kDmUuidPrefix, 0) != 0) continue;
    DiskUse disk;
    disk.name = uuid.substr(std::strlen(kDmUuidPrefix));
    if (!ParseDev(Line(dir / "dev"), &disk.major, &disk.minor)) continue;
    std::error_code ignored;
    for (fs::directory_iterator below(dir / "slaves", ignored); !ignored && below != end;
         below.increment(ignored)) {
      uint32_t major, minor;
      if (ParseDev(Line(below->path() / "dev"), &major, &minor))
        disk.below.push_back(KernelDev(major, minor));
    }
    // Documentation/block/stat.rst: reads, merges, sectors of 512 bytes, ...
    uint64_t reads = 0, merges = 0, sectors = 0;
    std::istringstream(Line(dir / "stat")) >> reads >> merges >> sectors;
    disk.read_bytes = sectors * 512;
    out.push_back(std::move(disk));
  }
  return out;
}

}  // namespace fastoci
