// SPDX-License-Identifier: Apache-2.0
// MissService: miss -> span job -> lane -> verify -> slot -> FILL.
//
// Threads: the link's receiver queues events and acknowledges misses; the
// manager reads meta images and learns caches, images and spaces; each lane
// thread picks jobs; the keeper commits database rows. mutex_ guards all that
// is in memory and is never held over I/O or a call that waits for the kernel.
//
// Invariants:
// 1. Only bytes that match their digests are written to a slot (a space
//    without digests is private by its id; it is counted as unverified).
// 2. FILL comes after the slot's write has ended, and names a slot that no
//    other chunk was given.
// 3. Every miss ends in FILL or FAIL within miss_deadline_ms and the lanes'
//    own deadlines; a miss of a space that stays unknown, too.
#ifndef FASTOCI_BROKER_MISS_SERVICE_H_
#define FASTOCI_BROKER_MISS_SERVICE_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "broker/job_queue.h"
#include "broker/lane.h"
#include "broker/slot_pool.h"
#include "kernel/kernel_link.h"
#include "store/cache_db.h"
#include "store/cache_device.h"

namespace fastoci {

struct MissServiceOptions {
  int nr_lanes = 8;
  uint32_t fetch_deadline_ms = 30000;
  uint32_t miss_deadline_ms = 60000;
  uint32_t commit_ms = 2000;
  std::string db_path;  // empty: nothing outlives the cache
};

struct Counters {
  std::atomic<uint64_t> misses{0}, fills{0}, fails{0}, restored{0}, mismatches{0}, retries{0};
  std::atomic<uint64_t> evictions{0}, unverified{0};
  std::atomic<uint64_t> bytes_fetched{0};  // received for misses: compressed, as a source has them
  std::atomic<uint64_t> bytes_decoded{0};  // of data spaces, verified
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

  void OnMiss(uint32_t cache, std::span<const ChunkEntry> chunks) override;
  void OnEvicted(uint32_t cache, std::span<const ChunkEntry> chunks) override;
  void OnImage(const ImageInfo& image, bool added) override;
  void OnLost() override;

  struct CacheStat {
    CacheInfo info;
    std::string path;
    uint64_t nr_present = 0, nr_kept = 0, nr_durable = 0;
  };
  struct ImageStat {
    ImageInfo info;
    std::string error;  // why its misses fail, or empty
  };
  struct SpaceStat {
    SpaceInfo info;
    bool verified = false;
  };
  std::vector<CacheStat> Caches();
  std::vector<ImageStat> Images();
  std::vector<SpaceStat> Spaces();
  size_t nr_jobs();
  const Counters& counters() const { return counters_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Cache {
    CacheInfo info;
    std::unique_ptr<CacheDevice> device;
    std::unique_ptr<CacheDb> db;
    SlotPool pool;
    std::deque<std::pair<uint32_t, uint32_t>> by_age;  // (space, chunk), filled or adopted
    std::mutex evict_mutex;                            // held over an EVICT; before mutex_
  };
  struct Image {
    ImageInfo info;
    std::shared_ptr<const MetaImage> meta;  // null: could not be read
    std::string error;
  };
  struct Space {
    SpaceInfo info;
    uint32_t image = 0, blob = 0;
    std::shared_ptr<const MetaImage> meta;
    bool adopted = false;  // a helper before us filled chunks that we do not know
    std::map<uint32_t, uint32_t> present;  // chunk -> slot
    const BlobInfo& info_of_blob() const { return meta->blobs[blob]; }
  };
  struct Orphan {
    uint32_t cache;
    ChunkEntry chunk;
    Clock::time_point since;
  };
  using SpaceKey = std::pair<uint32_t, uint32_t>;  // cache, space
  struct JobContext;

  void Manage();
  void Refresh();
  void RefreshCaches(const std::vector<CacheInfo>& caches);
  void RefreshImages(const std::vector<ImageInfo>& images);
  void RefreshSpacesLocked(const std::vector<SpaceInfo>& spaces);
  std::shared_ptr<Cache> OpenCache(const CacheInfo& info);
  void AdoptOrphans();
  // False if the chunk's space or its image is not known (yet).
  bool WantLocked(uint32_t cache, const ChunkEntry& chunk);
  void Commit();
  void CommitRows(Cache* cache);
  void CommitAll();

  void RunLane(int number);
  void RunJob(std::unique_ptr<Lane>* lane, const JobQueue::Picked& picked);
  bool Prepare(const JobQueue::Picked& picked, JobContext* job);
  Status TryJob(Lane* lane, JobContext* job, uint32_t attempt);
  Status TakePiece(JobContext* job, uint64_t data_offset, ByteSpan piece);
  Status WriteChunk(JobContext* job, uint32_t chunk_no, size_t bytes);
  Status Publish(JobContext* job, const SlotRow& row);
  void ServeKept(JobContext* job);
  bool HasKeptLocked(JobContext* job);
  bool NeedsFetch(JobContext* job);
  void FillAgain(JobContext* job, uint32_t chunk_no, uint32_t slot);
  bool MatchesRow(JobContext* job, const SlotRow& row);
  Result<uint32_t> TakeSlot(Cache* cache);
  bool EvictSome(Cache* cache);
  void FailChunks(uint32_t cache, uint32_t space, const std::vector<uint32_t>& chunks, int err);

  const MissServiceOptions options_;
  LaneFactory* const lanes_;
  const Devices devices_;
  KernelLink* link_ = nullptr;
  Counters counters_;

  std::mutex mutex_;
  std::condition_variable work_;     // lanes: a job, or stop
  std::condition_variable manage_;   // manager and keeper
  std::condition_variable evicted_;  // who waits for slots
  bool stop_ = false;
  bool refresh_ = false;
  bool lost_ = false;
  uint64_t evict_events_ = 0;
  JobQueue queue_;
  std::map<uint32_t, std::shared_ptr<Cache>> caches_;
  std::map<uint32_t, Image> images_;
  std::map<SpaceKey, Space> spaces_;
  std::vector<Orphan> orphans_;
  std::vector<std::thread> threads_;
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_MISS_SERVICE_H_
