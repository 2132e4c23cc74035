// SPDX-License-Identifier: Apache-2.0
// The kernel's own number of a block device, as the netlink protocol carries it: 12 bits of
// major and 20 of minor. stat() gives a dev_t, which has another layout.
#ifndef FASTOCI_BASE_KERNEL_DEV_H_
#define FASTOCI_BASE_KERNEL_DEV_H_

#include <sys/sysmacros.h>
#include <sys/types.h>

#include <cstdint>
#include <string>

namespace fastoci {

inline uint32_t KernelDev(unsigned major_no, unsigned minor_no) { return major_no << 20 | minor_no; }
inline uint32_t KernelDev(dev_t dev) { return KernelDev(major(dev), minor(dev)); }
inline dev_t UserDev(uint32_t kernel_dev) { return makedev(kernel_dev >> 20, kernel_dev & 0xfffff); }
// "7:3", as sysfs and dmsetup name it.
inline std::string DevName(uint32_t kernel_dev) {
  return std::to_string(kernel_dev >> 20) + ":" + std::to_string(kernel_dev & 0xfffff);
}

}  // namespace fastoci

#endif  // FASTOCI_BASE_KERNEL_DEV_H_
