// SPDX-License-Identifier: Apache-2.0
// A kernel for a helper that was started with --kernel-socket: caches, slots, chunk
// maps and pending misses as dm-fastoci keeps them, without devices. Readers ask for
// chunks; what is not there is a miss, sent to the helper, and they wait for it.
//
// One lock for all: what is measured is the helper.
#ifndef FASTOCI_BENCH_STAND_IN_KERNEL_H_
#define FASTOCI_BENCH_STAND_IN_KERNEL_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.h"
#include "kernel/kernel_link.h"
#include "kernel/socket_wire.h"

namespace fastoci {

class StandInKernel {
 public:
  using Clock = std::chrono::steady_clock;
  struct SpaceSpec {
    Sha256Digest id{};
    uint64_t data_bytes = 0;
  };

  // One helper at a time may connect to path.
  static Result<std::unique_ptr<StandInKernel>> Listen(const std::string& path);
  ~StandInKernel();

  // dev: the cache's block device, as KernelDev() numbers it. All slots are free. Returns
  // the cache's number.
  uint32_t AddCache(uint32_t dev, const CacheUuid& uuid, uint32_t chunk_shift, uint32_t nr_slots);
  // Spaces that another image of the cache has, too, are shared. Returns their
  // numbers, in the order of the specs.
  std::vector<uint32_t> AddImage(uint32_t cache, uint32_t meta_dev, const Sha256Digest& image_id,
                                 const std::vector<SpaceSpec>& spaces);
  bool registered() const { return registered_; }

  // Asks for chunks without waiting; those that are present are passed over.
  void Ask(uint32_t space, std::span<const uint32_t> chunks, uint8_t miss_class);
  // Until the chunk is there (0), was failed (its errno) or the time is over (ETIMEDOUT).
  int Wait(uint32_t space, uint32_t chunk, Clock::time_point end);
  size_t CountPresent(uint32_t space);
  // Until all of the space's chunks are there. False: the time is over.
  bool WaitForAll(uint32_t space, Clock::time_point end);

 private:
  struct Cache {
    CacheInfo info;
    std::vector<uint32_t> free;
    std::unordered_map<uint32_t, SlotInfo> slots;  // those that are not free
  };
  struct Space {
    SpaceInfo info;
    std::unordered_map<uint32_t, uint32_t> map;     // chunk -> slot
    std::unordered_map<uint32_t, uint8_t> pending;  // chunk -> class
    std::unordered_map<uint32_t, uint32_t> failed;  // chunk -> errno
  };

  StandInKernel() = default;
  void Serve();
  void ServeHelper(int socket);
  void Answer(int socket, const LinkPacket& request);
  static void FreeReserved(Cache* cache);
  int32_t DoLocked(const LinkPacket& request, std::vector<uint32_t>* slots);
  int32_t FillLocked(Cache* cache, const ChunkEntry& c);
  int32_t RestoreLocked(Cache* cache, const LinkHeader& h, const ChunkEntry& c);
  void Evict(int socket, const LinkPacket& request);
  void SendMisses(uint32_t cache, std::span<const ChunkEntry> chunks);
  void DropHelper();

  UniqueFd listener_;
  std::thread server_;
  std::mutex send_mutex_;  // of the socket; after mutex_
  std::mutex mutex_;
  std::condition_variable changed_;
  int helper_ = -1;  // its socket
  std::atomic<bool> registered_ = false;
  std::atomic<bool> stopping_ = false;
  std::map<uint32_t, Cache> caches_;
  std::map<uint32_t, Space> spaces_;
  std::vector<ImageInfo> images_;
};

}  // namespace fastoci

#endif  // FASTOCI_BENCH_STAND_IN_KERNEL_H_
