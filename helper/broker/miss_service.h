// SPDX-License-Identifier: Apache-2.0
// MissService: miss -> job -> lane -> verify -> slot -> FILL.
//
// Threads: the link's receiver queues events and acknowledges misses; the
// manager reads meta images and learns caches, images and spaces; each lane
// thread picks jobs; the keeper commits database rows; the checker verifies
// what the database restored; the downloader wants what is missing; another one reads
// blobs as a whole whose chunks have no digests. mutex_ guards all that is in
// memory and is never held over I/O or a call that waits for the kernel; it comes
// before a Cache's.
//
// Invariants:
// 1. Only bytes that match their digests are written to a slot (a space
//    without digests is private by its id; it is counted as unverified until
//    its blob was checked as a whole: whole_check.cc).
// 2. FILL comes after the slot's write has ended.
// 3. Every miss ends in FILL or FAIL within the lanes' deadlines; a miss of a
//    space that stays unknown within miss_deadline_ms.
#ifndef FASTOCI_BROKER_MISS_SERVICE_H_
#define FASTOCI_BROKER_MISS_SERVICE_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/event.h"
#include "broker/cache.h"
#include "broker/limits.h"
#include "broker/job_queue.h"
#include "broker/lane.h"
#include "broker/miss_tracer.h"
#include "config/config.h"
#include "kernel/kernel_link.h"

namespace fastoci {

struct MissServiceOptions {
  int nr_lanes = 8;
  uint32_t max_spans = 8;  // that one request may cover
  uint32_t fetch_deadline_ms = 30000;  // of one of the tries of a run, per 64 MiB
  uint32_t miss_deadline_ms = 60000;   // of a miss whose image is not known
  uint32_t commit_ms = 2000;
  std::string db_path;  // empty: nothing outlives the cache
  bool keep_cache = true;  // false: emptied when its last image goes, and at boot
  CacheLimits limits;
  DownloadConfig download;
  WholePolicy whole = WholePolicy::kFail;
  // A layer whose blob is no larger is fetched as a whole with its first miss.
  uint64_t whole_layer_bytes = 0;
  bool verify_on_read = false;  // what was read from the cache is compared soon after
};

class MissService : public KernelEvents {
 public:
  // Opens what the numbers of block devices name; tests have their own.
  struct Devices {
    std::function<Result<std::unique_ptr<CacheDevice>>(uint32_t dev)> open_cache;
    std::function<Result<MetaImage>(uint32_t dev)> read_meta;
  };

  MissService(MissServiceOptions options, LaneFactory* lanes, Devices devices);
  ~MissService() override;
  // Registers, then starts the threads. On an error (EBUSY: another helper)
  // it may be called again. The link must outlive Stop().
  Status Start(KernelLink* link, bool takeover);
  // Ends running jobs' waits at their next step; commits what is queued.
  void Stop();
  // No job begins any more; waits up to timeout_ms for those that run, then
  // commits. For a hand-over: what is missed from now on is the next helper's.
  void Drain(int timeout_ms);
  // From now on. Images that the download had given up are tried again; delays
  // hold for images that are attached later.
  void Reconfigure(bool keep_cache, const CacheLimits& limits, const DownloadConfig& download);
  // Called from any thread, perhaps more than once; set before Start().
  struct Ends {
    std::function<void()> replaced;  // another helper took over
    std::function<void()> broken;    // the kernel is not heard any more
  };
  void SetOnEnd(Ends ends) { ends_ = std::move(ends); }

  void OnMiss(uint32_t cache, std::span<const ChunkEntry> chunks) override;
  void OnEvicted(uint32_t cache, std::span<const ChunkEntry> chunks) override;
  void OnSlotBad(uint32_t cache, std::span<const ChunkEntry> chunks) override;
  void OnImage(const ImageInfo& image, bool added) override;
  void OnCacheRemoved(uint32_t cache) override;
  void OnLost() override;
  void OnReplaced() override;
  void OnBroken() override;

  struct ImageStat {
    ImageInfo info;
    std::string error = {};  // why its misses fail, or empty
    bool pinned = false;
    bool prefetching = false;
    std::string prefetch_error = {};  // why the last prefetch was given up
    uint64_t chunks = 0, present = 0;  // of its data spaces
    uint64_t bytes_fetched = 0;
    // What readers of these data spaces wait for: how many chunks, since when.
    uint64_t in_flight = 0;
    std::chrono::milliseconds oldest{0};
  };
  enum class Verified { kNo, kByChunk, kWhole };
  struct SpaceStat {
    SpaceInfo info;
    bool used = false;  // by an image that is attached
    Sha256Digest blob{};  // if used
    Verified verified = Verified::kNo;
    std::string why;  // not, or not more than by a referrer's digests
  };
  std::vector<Cache::Stat> Caches();
  std::vector<ImageStat> Images();
  // The images with what the kernel counts now; asks it, so it may wait a little.
  Result<std::vector<ImageInfo>> ReadCounts();
  std::vector<SpaceStat> Spaces();
  size_t nr_jobs();
  const Counters& counters() const { return counters_; }
  MissTracer* tracer() { return &tracer_; }

  // Never evicts what the attached image uses, or does so again; also after a
  // restart and after a detach.
  Status Pin(const Sha256Digest& image_id, bool pin);
  // Evicts the chunks that no attached and no pinned image uses: their number.
  size_t CollectGarbage();
  // Begins to fetch all of an attached image, ahead of the background download and
  // whether or not that is enabled; ImageStat tells how it goes on. An image that
  // does not fit into the cache is refused.
  Status Prefetch(const Sha256Digest& image_id);
  // Reads all that is cached and compares: runs in the background.
  void Scrub();

 private:
  using Clock = std::chrono::steady_clock;
  struct Image {
    ImageInfo info;
    std::shared_ptr<const MetaImage> meta;  // null: could not be read
    std::string error;
    std::string name = {};  // of its device, once it is known
    Clock::time_point since = Clock::now();
    bool announced = false;
    uint64_t bytes_fetched = 0;
    Clock::time_point download_at = {};
    uint32_t download_failures = 0;  // in a row
    std::string download_error = {};  // of the last of them
    // One pass over all chunks after the other, until one finds nothing missing.
    bool prefetch = false;
    uint64_t prefetch_from = 0;  // of this pass: chunks before were looked at
    uint32_t prefetch_passes = 0;
    Clock::time_point prefetch_at = {};
    std::string prefetch_error = {};  // why it was given up
  };
  struct Space {
    SpaceInfo info;
    uint32_t image = 0, blob = 0;
    std::shared_ptr<const MetaImage> meta;  // null: no attached image has it
    // whole_check.cc:
    std::string why;              // it is not verified yet
    std::string refused;          // why nothing of it is served, or empty
    bool whole_ended = false;     // with a mismatch
    bool whole_unread = false;    // at least once: its download does not wait any more
    Clock::time_point whole_at;   // not before
    const BlobInfo& info_of_blob() const { return meta->blobs[blob]; }
  };
  struct Orphan {
    uint32_t cache;
    ChunkEntry chunk;
    Clock::time_point since;
  };
  using SpaceKey = std::pair<uint32_t, uint32_t>;  // cache, space
  using PinList = std::vector<std::pair<Sha256Digest, Sha256Digest>>;  // (image, space)
  struct JobContext;
  // The queue's stamps are of Clock.
  static Clock::time_point TimeOfStamp(int64_t stamp) {
    return Clock::time_point(Clock::duration(stamp));
  }

  void Manage();
  void RefreshSoon();  // by the manager
  void Refresh();
  void RefreshCaches(const std::vector<CacheInfo>& caches);
  void RefreshImages(const std::vector<ImageInfo>& images);
  void RefreshSpaces(const std::vector<SpaceInfo>& spaces);
  void RefreshPins();
  Result<std::shared_ptr<Cache>> OpenCache(const CacheInfo& info);
  std::vector<std::shared_ptr<Cache>> AllCaches();
  std::shared_ptr<Cache> CacheOf(uint32_t number);  // null: not known
  std::map<uint32_t, std::set<uint32_t>> UnusedSpacesLocked();
  void AdoptOrphans();
  // False if the chunk's space or its image is not known (yet).
  bool WantLocked(uint32_t cache, uint32_t space, uint32_t chunk_no, Urgency urgency,
                  Clock::time_point since);
  void Commit();
  void CommitAll();
  bool MayGrow();
  // background download: download.cc
  void Download();
  std::vector<const Space*> SpacesOfLocked(const Image& image) const;
  Status FitsLocked(const Image& image, const std::vector<const Space*>& spaces) const;
  // Wants one request's worth of what is missing from chunk *from on, counted over
  // spaces, those of the image, and moves *from behind it. False: nothing is missing.
  bool WantSomeLocked(const Image& image, const std::vector<const Space*>& spaces,
                      Urgency urgency, uint64_t* from);
  bool DownloadSome(uint32_t image);
  bool PrefetchSomeLocked(Image* image);  // whether it wanted something
  bool stopping();
  // whole blobs: whole_check.cc
  void CheckWhole();
  std::optional<SpaceKey> NextWholeLocked();
  void CheckWholeBlob(const std::shared_ptr<Cache>& cache, const Space& space);
  Result<std::vector<Sha256Digest>> ReadWhole(const Space& space, uint32_t attempt);
  Status Pace(Clock::time_point begin, uint64_t bytes);
  void SetWhy(const Space& space, const std::string& why, bool unread = false);
  bool AwaitsWholeLocked(const Space& space) const;
  bool DownloadsWhole(const Space& space);  // its check is its download, too
  void AdoptWhole(const std::shared_ptr<Cache>& cache, const Space& space,
                  const std::vector<Sha256Digest>& digests);
  void ReplaceMeta(const Space& space, const std::function<void(BlobInfo*)>& change);
  void ApplyRecorded(uint32_t cache_no, MetaImage* meta);
  bool IsSmall(const BlobInfo& blob) const { return blob.blob_bytes <= options_.whole_layer_bytes; }
  SpaceStat StatOfLocked(const Space& space);

  // events: miss_events.cc
  static EventFields FieldsOf(const char* kind, const Image& image);
  EventFields FieldsOf(const char* kind, uint32_t image, const BlobInfo& blob);
  void AnnounceImages();
  void TellEvictions();

  // lanes: miss_jobs.cc
  void RunLane(int number);
  Urgency LeastUrgency(int number) const;
  uint32_t MaxSpansLocked() const;
  void RunJob(Lane* lane, const JobQueue::Run& run);
  Status Prepare(const JobQueue::Run& run, JobContext* job);
  void Abandon(const JobQueue::Run& run);
  void FinishRun(JobContext* job, const Status& status);
  Status TryRun(Lane* lane, JobContext* job, uint32_t attempt);
  void CountBytes(uint64_t fetched, bool background);
  void CountRequests(const Lane& lane);  // of its last Run
  Status TakePiece(JobContext* job, uint64_t data_offset, ByteSpan piece);
  Status KeepPiece(JobContext* job, uint64_t data_offset, ByteSpan piece,
                   const Sha256Digest& digest);
  Status WriteChunk(JobContext* job, uint32_t chunk_no, size_t bytes);
  Result<uint32_t> WriteSlot(JobContext* job);
  void Resolve(JobContext* job, uint32_t chunk_no);
  bool NeedsFetch(JobContext* job);
  bool ServeCached(JobContext* job);
  void Trace(const JobContext& job, const JobQueue::Wanted& chunk, bool ok);
  void FailChunks(uint32_t cache, uint32_t space, const std::vector<JobQueue::Wanted>& chunks,
                  ErrorKind cause);

  // background verification: miss_check.cc
  void Check();
  bool CheckSome(Cache* cache, uint32_t* cursor);
  bool WaitForIdle();
  bool CheckSlot(Cache* cache, const Space& space, const Cache::Unchecked& what,
                 AlignedBuffer* buffer, Counters::Count* bad);
  bool ScrubSlots(Cache* cache, const std::vector<uint32_t>& slots);

  MissServiceOptions options_;  // mutex_ guards what Reconfigure() changes
  LaneFactory* const lanes_;
  const Devices devices_;
  KernelLink* link_ = nullptr;
  Ends ends_;
  Counters counters_;
  MissTracer tracer_;

  std::mutex mutex_;
  std::condition_variable work_;    // lanes: a job, or stop
  std::condition_variable manage_;  // manager, keeper and checker
  std::condition_variable idle_;    // a run ended
  bool stop_ = false;
  bool draining_ = false;
  bool refresh_ = false;
  bool lost_ = false;
  bool check_ = false;  // for the checker: something to verify may be there
  bool scrub_ = false;
  int nr_running_ = 0;
  JobQueue queue_;
  std::map<uint32_t, std::shared_ptr<Cache>> caches_;
  std::map<uint32_t, Image> images_;
  std::map<SpaceKey, Space> spaces_;
  std::map<uint32_t, PinList> pins_;  // by cache
  std::vector<Orphan> orphans_;
  uint64_t told_evictions_ = 0;  // the keeper's
  std::vector<std::thread> threads_;
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_MISS_SERVICE_H_
