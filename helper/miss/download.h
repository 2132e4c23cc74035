// SPDX-License-Identifier: Apache-2.0
// Download wants every chunk of the attached images, after everything that a reader waits for.
//
// The background download of an image begins after a delay and has a limited rate, which counts
// the bytes that were fetched for it. A prefetch is a download that somebody asked for. It comes
// before the background downloads and has no limited rate: it keeps enough queued to fill the
// window of every host and every decoder. Each image
// has a cursor: a pass looks at each chunk once. Passes follow each other until one finds nothing
// missing. A pass leaves out data spaces none of whose hosts answers: a registry that is down holds
// up what comes from it, and nothing else. After some failures in a row an image is left alone until
// it is attached again, or Reconfigure(). An image that does not fit into the cache is not
// downloaded: it would only evict itself.
#ifndef FASTOCI_MISS_DOWNLOAD_H_
#define FASTOCI_MISS_DOWNLOAD_H_

#include <atomic>
#include <map>
#include <string>
#include <thread>

#include "base/mutex.h"
#include "config/config.h"
#include "miss/catalog.h"

namespace fastoci {

class Download {
 public:
  using Clock = std::chrono::steady_clock;
  Download(Catalog* catalog, Dispatcher* dispatcher, Counters* counters, DownloadConfig config);
  ~Download();  // Stop()
  // awaits_whole: a check of the space's whole blob will bring it.
  void Start(std::function<bool(const SpaceInfo&)> awaits_whole);
  void Stop() EXCLUDES(mutex_);
  // Images that the download had given up are tried again; delays hold for images that are
  // attached later.
  void Reconfigure(const DownloadConfig& config) EXCLUDES(mutex_);
  DownloadConfig config() EXCLUDES(mutex_);
  void Wake() EXCLUDES(mutex_);  // work ended; any thread
  // Begins to fetch all of an attached image. One that does not fit into the cache is refused.
  Status Prefetch(const Sha256Digest& image_id) EXCLUDES(mutex_);

  void OnImageAdded(uint32_t image) EXCLUDES(mutex_);
  void OnImageRemoved(uint32_t image) EXCLUDES(mutex_);
  // What work for an image came to.
  void OnEnded(uint32_t image, const Status& status) EXCLUDES(mutex_);

  struct Stat {
    bool prefetching = false;
    std::string error;  // why the last prefetch was given up
  };
  Stat StatOf(uint32_t image) EXCLUDES(mutex_);
  // Its delay is over.
  bool IsDue(uint32_t image) EXCLUDES(mutex_);
  // Chunks that were looked at so far: what it costs.
  uint64_t looks() const { return looks_; }

 private:
  struct State {
    Clock::time_point due;  // of the background download
    uint32_t failures = 0;  // in a row
    std::string error;      // of the last of them
    uint64_t cursor = 0;    // chunks before it were looked at in this pass
    Clock::time_point look_at;  // not before
    bool prefetch = false;
    bool found = false;     // something was missing in this pass
    bool left_out = false;  // a space was, in this pass
    uint32_t passes = 0;
    std::string prefetch_error;
  };
  enum class Step {
    kWanted,
    kBusy,   // what it wanted is on its way
    kWaits,  // for something else than its turn
    kEnded,  // it has it all, or cannot have it
  };

  void Run();
  bool StepPrefetches();
  Step StepPrefetch(const Catalog::Image& image);
  Step StepDownload(const Catalog::Image& image, const DownloadConfig& config);
  Step StepDownloads(const DownloadConfig& config);
  // Wants what is missing from the cursor on, up to max_spans, and moves the cursor behind it.
  // False: nothing was missing up to the end.
  bool WantSome(const Catalog::Image& image, const std::vector<SpaceInfo>& spaces,
                Urgency urgency, uint32_t max_spans) EXCLUDES(mutex_);
  void EndPrefetch(uint32_t image, const std::string& error) EXCLUDES(mutex_);

  Catalog* const catalog_;
  Dispatcher* const dispatcher_;
  Counters* const counters_;
  std::function<bool(const SpaceInfo&)> awaits_whole_;
  Mutex mutex_;
  CondVar changed_;
  bool stop_ GUARDED_BY(mutex_) = false;
  bool wake_ GUARDED_BY(mutex_) = false;
  DownloadConfig config_ GUARDED_BY(mutex_);
  std::map<uint32_t, State> states_ GUARDED_BY(mutex_);  // by image
  std::atomic<uint64_t> looks_{0};
  std::thread thread_;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_DOWNLOAD_H_
