// SPDX-License-Identifier: Apache-2.0
// Reads ahead what the start of an image reads. What that is comes from the first of these
// that there is:
//   - the file that overlaybd's labels name, or overlaybd's trace layer of the image
//   - the file <root>/starts/<device>, which was kept before (for a workload with a name:
//     <device>.<workload>)
//   - a start trace that `fastoci record` has pushed beside the image (attach/start_artifact.h);
//     it is kept
//   - what this node learns: for a while after the device was attached, its first reads are
//     recorded, and kept for the next time. The key prefetch.learn turns this on.
//
// A device's name stands for its layers. While and after a replay its reads are watched, and
// what nobody has read by the end is counted as useless.
//
// Thread-safe. No method but Stop() waits: threads of its own do the work.
#ifndef FASTOCI_SNAPSHOTTER_STARTS_H_
#define FASTOCI_SNAPSHOTTER_STARTS_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "attach/pull.h"
#include "attach/start_record.h"
#include "attach/start_trace.h"
#include "base/result.h"
#include "http/http_client.h"
#include "snapshotter/metrics.h"

namespace fastoci {

// Where a device's trace may be.
struct StartOrigin {
  std::string image, manifest_digest;  // as containerd names it; "": not known
  std::string workload = kDefaultWorkload;
  std::string trace_file;  // in overlaybd's format or our own; "": none
  std::vector<std::string> blobs;  // the device's layers, bottom first
};

class StartTraces {
 public:
  struct Options {
    std::string dir;  // <root>/starts
    std::string control_socket;
    bool learn = false, fetch = true;
    std::chrono::seconds length{60};
    RegistryAccess access;
    std::string node_config;  // for hosts.toml; read at each fetch
  };
  // metrics outlives it.
  StartTraces(Options options, SnapshotterMetrics* metrics) : options_(std::move(options)), metrics_(*metrics) {}
  ~StartTraces() { Stop(); }

  // The device was just attached: replays what is known, or learns.
  void Attached(const std::string& device, const std::string& meta_path, const StartOrigin& origin);
  // The image was just pulled. If there is a trace to replay, calls attach, from another thread.
  void Pulled(const std::string& device, const StartOrigin& origin, const std::function<void()>& attach);
  // overlaybd's record-trace: records the device's first reads to an existing, empty file, until
  // path.lock is deleted, the device is gone or an hour is over; then makes path.ok.
  void Record(const std::string& device, const std::string& meta_path, const std::string& path);
  // The image is gone from this node.
  void Forget(const std::string& device);
  // Ends all work. Nothing begins after it.
  void Stop();

 private:
  std::string PathOf(const std::string& device, const std::string& workload) const;
  void Start(const std::function<void()>& work);
  // kNotFound: there is none on this node. kUnavailable: it cannot be read before the device is
  // attached. meta_path: "" if it is not.
  Result<StartTrace> FindHere(const std::string& device, const std::string& meta_path, const StartOrigin& origin);
  Result<StartTrace> Fetch(const std::string& device, const StartOrigin& origin);
  Result<StartTrace> FetchAndKeep(const std::string& device, const StartOrigin& origin);
  Status Learn(const std::string& device, StartRecorder* recorder, const std::string& workload);
  Status Replay(const std::string& device, const std::string& meta_path, const StartTrace& trace);
  Status RecordTo(const std::string& device, const std::string& meta_path, const std::string& path);
  void Watch(StartRecorder* recorder, std::chrono::seconds length, const std::function<bool()>& ended);
  const Options options_;
  SnapshotterMetrics& metrics_;
  std::atomic<bool> stop_{false};
  Cancellation cancel_;  // of what waits for a registry
  struct Worker {
    std::thread thread;
    std::atomic<bool> done{false};
  };
  std::mutex mutex_;
  std::list<Worker> workers_;
};

// A trace in a file of ours or overlaybd's, which is not followed if it is a link. kUnsupported:
// it is of another kind. kUnavailable: overlaybd's, and meta_path is "".
Result<StartTrace> ReadTraceFile(const std::string& path, const std::vector<std::string>& blobs,
                                 const std::string& meta_path);

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_STARTS_H_
