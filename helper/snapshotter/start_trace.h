// SPDX-License-Identifier: Apache-2.0
// Learns on this node what the start of an image reads, and reads it ahead the next time.
// The key prefetch.learn of the configuration turns this on. It needs no registry.
//
// Learning: for a while after a device was attached, the kernel's tracepoint tells what is
// read (attach/trace.h). The file <root>/starts/<device> keeps the first reads of each place,
// in their order, as runs of the device's sectors. A device's name stands for its layers. The
// file also names the assembled meta image.
//
// Replaying: when the device is attached again, a child process reads those runs ahead. The
// kernel marks such reads, so the helper serves them after reads that somebody waits for.
#ifndef FASTOCI_SNAPSHOTTER_START_TRACE_H_
#define FASTOCI_SNAPSHOTTER_START_TRACE_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <list>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "attach/trace.h"
#include "base/result.h"

namespace fastoci {

struct SectorRun {
  uint64_t sector = 0, nr_sectors = 0;
  bool operator==(const SectorRun&) const = default;
};
// The first reads of each place, in order. A read within kJoinSectors of the run before it
// joins that run. At most kMaxStartSectors in all. Reads of the meta image and of zeros are left
// out, because they cost nothing.
inline constexpr uint64_t kJoinSectors = 128, kMaxStartSectors = 128 << 11;
std::vector<SectorRun> FirstTouches(const std::vector<TraceRead>& reads);
std::string StartToText(const std::string& image_id, const std::vector<SectorRun>& runs);
// kMismatch: the text is about another image. kInvalid: it is damaged.
Result<std::vector<SectorRun>> StartFromText(const std::string& text, const std::string& image_id);

class StartTraces {
 public:
  struct Options {
    std::string dir;  // <root>/starts
    std::string control_socket;
    bool learn = false;
    std::chrono::seconds length{60};
  };
  explicit StartTraces(Options options) : options_(std::move(options)) {}
  ~StartTraces();

  // The device was just attached: replays what is known, or learns. Returns at once.
  void Attached(const std::string& device, const std::string& image_id);
  // The image is gone from this node.
  void Forget(const std::string& device);

 private:
  std::string PathOf(const std::string& device) const { return options_.dir + "/" + device; }
  void Run(const std::string& device, const std::string& image_id);
  Status Learn(const std::string& device, const std::string& image_id);
  Status Replay(const std::string& device, const std::vector<SectorRun>& runs);
  const Options options_;
  std::atomic<bool> stop_{false};
  struct Worker {
    std::thread thread;
    std::atomic<bool> done{false};
  };
  std::mutex mutex_;
  std::list<Worker> workers_;
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_START_TRACE_H_
