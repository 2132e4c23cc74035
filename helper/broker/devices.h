// SPDX-License-Identifier: Apache-2.0
// Block devices by number, without udev: a node in a private directory.
#ifndef FASTOCI_BROKER_DEVICES_H_
#define FASTOCI_BROKER_DEVICES_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "cache/cache_device.h"
#include "image/meta_image.h"

namespace fastoci {

class DeviceNodes {
 public:
  // dir is made, mode 0700.
  static Result<DeviceNodes> Open(const std::string& dir);
  // dev: as KernelDev() numbers it.
  Result<std::string> Path(uint32_t dev) const;
  Result<std::unique_ptr<CacheDevice>> OpenCache(uint32_t dev) const;
  Result<MetaImage> ReadMeta(uint32_t dev) const;

 private:
  std::string dir_;
};

struct CacheOptions {
  std::string device;  // if empty: a loop device over dir/cache.img
  std::string dir;
  uint64_t size_bytes = 0;
  uint32_t chunk_bytes = 65536;
};
// Returns the path of a device with a superblock. Formats a device that is blank. If the
// superblock of a cache file cannot be used, and no table uses the file, makes it anew.
Result<std::string> PrepareCache(const CacheOptions& options);

}  // namespace fastoci

#endif  // FASTOCI_BROKER_DEVICES_H_
