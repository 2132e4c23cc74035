// SPDX-License-Identifier: Apache-2.0
// MissService: the parts that serve misses, made, connected, started and ended in the right order.
//
//   kernel -> OnMiss -> Dispatcher -> FetchStage -> DecodeStage -> ChunkWriter -> FILL
//                           |-> Checker (what the cache has already)
//   Catalog: caches, images, spaces      Download, WholeCheck: what nobody waits for
//
// Each part has its own lock; the order is Catalog, WholeCheck, Download; Dispatcher; Cache.
//
// Invariants:
// 1. Only bytes that match their digests are written to a slot (a space without digests is private
//    by its id; it is counted as unverified until its blob was checked as a whole).
// 2. FILL comes after the slot's write has ended.
// 3. Every miss ends in FILL or FAIL, or is held. dispatcher.h says which failures fail a read. A
//    miss of a space that stays unknown fails within miss_deadline_ms.
#ifndef FASTOCI_MISS_MISS_SERVICE_H_
#define FASTOCI_MISS_MISS_SERVICE_H_

#include <memory>
#include <string>
#include <vector>

#include "config/config.h"
#include "miss/seed_intake.h"
#include "miss/whole_check.h"

namespace fastoci {

struct MissServiceOptions {
  CatalogOptions catalog;
  DispatcherOptions dispatcher;
  DecodeOptions decode;
  FetchStageOptions fetch;
  uint64_t arena_bytes = kArenaBytes;
  DownloadConfig download;
  WholePolicy whole = WholePolicy::kFail;
  bool verify_on_read = false;  // chunks that were read from the cache are verified soon after
  int check_threads = 2;
};

class MissService : public KernelEvents {
 public:
  using Clock = std::chrono::steady_clock;
  static Result<std::unique_ptr<MissService>> Make(MissServiceOptions options,
                                                   FetchStage::Spawn spawn_fetcher,
                                                   Catalog::Devices devices);
  ~MissService() override;  // Stop()
  // Registers, then starts the threads. On an error (EBUSY: another helper)
  // it may be called again. The link must outlive Stop().
  Status Start(KernelLink* link, bool takeover);
  // Ends running work at its next step; commits what is queued.
  void Stop();
  // Begins no more work, waits up to timeout_ms for the work that runs, then commits. For
  // a hand-over: the next helper serves what is missed from now on.
  void Drain(int timeout_ms);
  // From now on. Images that the download had given up are tried again; delays
  // hold for images that are attached later.
  void Reconfigure(bool keep_cache, const CacheLimits& limits, const DownloadConfig& download,
                   uint64_t readahead_bytes);
  // What attach, hosts.toml or the node say of registries has changed.
  void ReopenImages();
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

  // Why readers of an image wait: a host that last failed, or that has not answered for seconds.
  struct WaitsFor {
    std::string host;  // its name; empty: the image is not open at the fetcher
    std::string cause;
    std::chrono::milliseconds since{0};    // ago
    std::chrono::milliseconds next_try{0};  // from now
  };
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
    std::vector<WaitsFor> waits_for = {};
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
  // Cache::Refuses() of the cache on that device; "" if no image uses it.
  std::string CacheRefuses(uint32_t dev);
  std::vector<ImageStat> Images();
  // The images with what the kernel counts now; asks it, so it may wait a little.
  Result<std::vector<ImageInfo>> ReadCounts();
  std::vector<SpaceStat> Spaces();
  std::vector<HostState> Hosts() { return dispatcher_.Hosts(); }
  size_t nr_jobs() { return dispatcher_.nr_jobs(); }
  uint64_t download_looks() const { return download_->looks(); }
  const Counters& counters() const { return counters_; }
  MissTracer* tracer() { return &tracer_; }

  // pin: never evicts what the attached image uses, also after a restart and after a
  // detach. Otherwise it may be evicted again.
  Status Pin(const Sha256Digest& image_id, bool pin) { return catalog_->Pin(image_id, pin); }
  // Evicts the chunks that neither an attached nor a pinned image uses. Returns their number.
  size_t CollectGarbage() { return catalog_->CollectGarbage(); }
  // Begins to fetch all of an attached image, ahead of the background download and
  // whether or not that is enabled; ImageStat tells how it goes on. An image that
  // does not fit into the cache is refused.
  Status Prefetch(const Sha256Digest& image_id) { return download_->Prefetch(image_id); }
  // Takes data of this node for an attached image, see SeedIntake::Begin().
  Status BeginSeed(const Sha256Digest& image_id, UniqueFd socket, UniqueFd memory) {
    return seeds_->Begin(image_id, std::move(socket), std::move(memory));
  }
  // Which chunks of an attached image's data space have a slot, whether or not they were verified
  // yet: some, from chunk `from` on. next is where to go on, and nr_chunks at the end.
  struct Cached {
    struct Run {
      uint32_t chunk_no = 0, slot = 0, count = 0;
    };
    std::string device;  // of the cache
    uint32_t nr_chunks = 0, next = 0;
    std::vector<Run> runs;
  };
  Result<Cached> CachedChunks(const Sha256Digest& image_id, const Sha256Digest& space_id, uint64_t from);
  // Reads all that is cached and compares: runs in the background.
  void Scrub() { checker_->Scrub(); }
  // Tries the hosts at once that would be asked again only after a pause.
  Status Retry() { return fetch_->OpenGate(kAllHosts); }

 private:
  MissService(MissServiceOptions options, FetchStage::Spawn spawn_fetcher,
              Catalog::Devices devices, std::shared_ptr<Arena> arena);
  void SetHooks();
  std::vector<WaitsFor> WaitsOf(const Dispatcher::Waiting& waiting,
                                const std::map<uint32_t, HostState>& hosts);

  const MissServiceOptions options_;
  KernelLink* link_ = nullptr;
  Ends ends_;
  Counters counters_;
  MissTracer tracer_;
  const std::shared_ptr<Arena> arena_;
  Dispatcher dispatcher_;
  std::unique_ptr<DecodeStage> decode_;
  std::unique_ptr<FetchStage> fetch_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Checker> checker_;
  std::unique_ptr<Download> download_;
  std::unique_ptr<WholeCheck> whole_;
  std::unique_ptr<SeedIntake> seeds_;
  bool started_ = false;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_MISS_SERVICE_H_
