// SPDX-License-Identifier: Apache-2.0
// The block layer's counters of FastOCI's devices, read from sysfs. Reading them waits
// neither for the I/O of a device nor for a lock of device-mapper.
#ifndef FASTOCI_KERNEL_DISK_USE_H_
#define FASTOCI_KERNEL_DISK_USE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace fastoci {

struct DiskUse {
  std::string name;            // the image's, as in its device's UUID
  uint32_t major = 0, minor = 0;
  std::vector<uint32_t> below;  // devices it lies on, as KernelDev() numbers them
  uint64_t read_bytes = 0;      // since it was made, hits and misses
};

// The devices whose UUID is FastOCI's. Devices that are removed meanwhile are left out.
std::vector<DiskUse> FastociDisks(const std::string& sysfs = "/sys");

}  // namespace fastoci

#endif  // FASTOCI_KERNEL_DISK_USE_H_
