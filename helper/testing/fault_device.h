// SPDX-License-Identifier: Apache-2.0
// A cache device whose transfers a test can watch, hold up and refuse.
#ifndef FASTOCI_TESTING_FAULT_DEVICE_H_
#define FASTOCI_TESTING_FAULT_DEVICE_H_

#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cache/cache_device.h"

namespace fastoci {

class FaultDevice : public CacheDevice {
 public:
  struct Hooks {
    std::function<Status()> flush = nullptr;                           // before the device's own
    std::function<void(std::span<const SlotWrite>)> writes = nullptr;  // before a call of WriteSlots()
    std::function<Status(uint32_t slot)> write = nullptr;              // instead of OK for a slot
    std::function<Status()> superblock = nullptr;                      // before the device's own
  };
  FaultDevice(std::unique_ptr<CacheDevice> opened, Hooks hooks)
      : CacheDevice(std::move(*opened)), hooks_(std::move(hooks)) {}

  void WriteSlots(std::span<SlotWrite> writes) override {
    if (hooks_.writes) hooks_.writes(writes);
    CacheDevice::WriteSlots(writes);
    if (!hooks_.write) return;
    for (SlotWrite& w : writes)
      if (w.result.ok()) w.result = hooks_.write(w.slot);
  }
  Status RewriteSuperblock() override {
    if (hooks_.superblock) FASTOCI_CHECK_OK(hooks_.superblock());
    return CacheDevice::RewriteSuperblock();
  }
  Status Flush() override {
    if (hooks_.flush) FASTOCI_CHECK_OK(hooks_.flush());
    return CacheDevice::Flush();
  }

 private:
  const Hooks hooks_;
};

}  // namespace fastoci

#endif  // FASTOCI_TESTING_FAULT_DEVICE_H_
