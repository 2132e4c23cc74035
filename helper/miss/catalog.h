// SPDX-License-Identifier: Apache-2.0
// Catalog: the caches, images and data spaces that the kernel has. One thread follows the kernel,
// and tells the dispatcher which spaces there are and which locations have their bytes.
//
// An image is known once its meta image was read. It is then opened at the fetcher. That is tried
// until it succeeds, and done again at each new fetcher. Until then the image's misses wait. Misses
// of a space that no known image has are orphans. They wait for an image for miss_deadline_ms.
//
// Locking: mutex_ guards all that is in memory. It comes before the dispatcher's and a Cache's,
// and is never held over I/O or a call of the kernel or of the fetcher.
#ifndef FASTOCI_MISS_CATALOG_H_
#define FASTOCI_MISS_CATALOG_H_

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/event.h"
#include "base/mutex.h"
#include "cache/committer.h"
#include "cache/limits.h"
#include "miss/fetch_stage.h"

namespace fastoci {

struct CatalogOptions {
  uint32_t miss_deadline_ms = 60000;  // of a miss whose image is not known
  uint32_t commit_ms = 2000;
  std::string db_path;     // empty: nothing outlives the cache
  bool keep_cache = true;  // false: emptied when its last image goes
  CacheLimits limits;
  // A layer whose blob is no larger is fetched as a whole with its first miss.
  uint64_t whole_layer_bytes = 0;
};

class Catalog {
 public:
  using Clock = std::chrono::steady_clock;
  // Opens what the numbers of block devices name; tests have their own.
  struct Devices {
    std::function<Result<std::unique_ptr<CacheDevice>>(uint32_t dev)> open_cache;
    std::function<Result<MetaImage>(uint32_t dev)> read_meta;
  };
  struct Image {
    ImageInfo info;
    std::shared_ptr<const MetaImage> meta;  // null: could not be read, or is refused
    std::vector<std::shared_ptr<const SpanIndex>> indexes;  // by blob
    std::string error;                      // why, or empty
    bool unread = false;                    // it is read again at open_at
    std::string name = {};                  // of its device, once it is known
    Clock::time_point since = Clock::now();
    bool announced = false;
    bool opened = false;  // at the fetcher that runs
    std::string open_error = {};  // of the last try
    FetchStage::Opened at = {};
    ByteSpan json() const { return *json_bytes; }
    std::shared_ptr<const Bytes> json_bytes;
    uint32_t open_backoff_ms = 0;
    Clock::time_point open_at = {};
  };
  struct Hooks {
    std::function<void()> spaces_changed;  // there may be something to verify
    std::function<void(const Image&)> image_added, image_removed;
  };

  Catalog(CatalogOptions options, Devices devices, Dispatcher* dispatcher, FetchStage* fetch,
          Counters* counters);
  ~Catalog();  // Stop()
  void SetHooks(Hooks hooks) { hooks_ = std::move(hooks); }  // before Start()
  void SetLink(KernelLink* link) { link_ = link; }           // likewise
  void Start();
  // Ends all waiting for slots, then the thread.
  void Stop() EXCLUDES(mutex_);
  // Ends the writers, commits what is queued, and ends the committing threads: the link is not
  // used after this. Call it after everything else has stopped.
  void EndCaches() EXCLUDES(mutex_);
  void CommitAll() EXCLUDES(mutex_);
  void Reconfigure(bool keep_cache, const CacheLimits& limits) EXCLUDES(mutex_);

  // Any thread: something has changed.
  void RefreshSoon(bool lost_events = false) EXCLUDES(mutex_);
  void ForgetLocations() EXCLUDES(mutex_);  // the fetcher is gone: images are to be opened again
  // Asks the fetcher again where the images' blobs are. Until it answers, and if it cannot,
  // they are where they were.
  void ReopenImages() EXCLUDES(mutex_);
  void AddOrphan(uint32_t cache, const ChunkEntry& chunk, Clock::time_point since)
      EXCLUDES(mutex_);

  std::vector<std::shared_ptr<Cache>> Caches() EXCLUDES(mutex_);
  std::shared_ptr<Cache> CacheOf(uint32_t number) EXCLUDES(mutex_);  // null: not known
  std::vector<Image> Images() EXCLUDES(mutex_);
  std::vector<SpaceInfo> Spaces() EXCLUDES(mutex_);
  // Those of an image that the kernel has.
  std::vector<SpaceInfo> SpacesOf(const Image& image) EXCLUDES(mutex_);
  // Whether all of an image can be in its cache beside others.
  Status Fits(const Image& image) EXCLUDES(mutex_);
  bool IsPinned(uint32_t cache, const Sha256Digest& image_id) EXCLUDES(mutex_);
  // Waits for the database for some seconds at most. ETIMEDOUT in Error::err: the pin is recorded
  // later.
  Status Pin(const Sha256Digest& image_id, bool pin) EXCLUDES(mutex_);
  // Evicts the chunks that neither an attached nor a pinned image uses. Returns their number.
  size_t CollectGarbage() EXCLUDES(mutex_);
  bool IsSmall(const BlobInfo& blob) const { return blob.blob_bytes <= options_.whole_layer_bytes; }

  // Changes one blob in all images of a cache that have it. The function that it returns tells
  // whether the work with the former blob has ended. `own`: a view of it that the caller still has,
  // which does not count.
  std::function<bool()> ReplaceBlob(const std::shared_ptr<const SpaceView>& own,
                                    const std::function<void(BlobInfo*)>& change)
      EXCLUDES(mutex_);

  static EventFields FieldsOf(const char* kind, const Image& image);
  EventFields FieldsOf(const char* kind, uint32_t image, const BlobInfo& blob) EXCLUDES(mutex_);

 private:
  uint64_t Forgotten() EXCLUDES(mutex_);
  struct CacheEntry {
    std::shared_ptr<Cache> cache;
    std::shared_ptr<ChunkWriter> writer;
  };
  struct Orphan {
    uint32_t cache;
    ChunkEntry chunk;
    Clock::time_point since;
  };
  using PinList = std::vector<std::pair<Sha256Digest, Sha256Digest>>;  // (image, space)

  void Run();
  bool Refresh();  // false: not all is known, try again
  bool RefreshCaches(const std::vector<CacheInfo>& caches);
  bool AddCache(const CacheInfo& info);
  void EndCache(CacheEntry entry, bool keep);
  void RefreshImages(const std::vector<ImageInfo>& images);
  // backoff_ms: since the last try, if this is not the first.
  Image ReadImage(const ImageInfo& info, uint32_t backoff_ms = 0);
  void OpenImages();
  void OpenImage(Image* image);
  void PutOff(Image* image);
  void RefreshSpaces(const std::vector<SpaceInfo>& spaces);
  void PutSpaces();
  void RefreshPins();
  void AnnounceImages();
  void AdoptOrphans();
  void Housekeep();
  // Waits for the database as Pin() does. False: it was pinned nowhere.
  Result<bool> UnpinEverywhere(const Sha256Digest& image_id);
  void ApplyRecorded(Cache* cache, MetaImage* meta);
  std::vector<Dispatcher::User> UsersOfLocked(const SpaceInfo& info,
                                              std::shared_ptr<const BlobInfo>* blob)
      REQUIRES(mutex_);
  std::map<uint32_t, std::set<uint32_t>> UnusedSpacesLocked() REQUIRES(mutex_);
  bool IsPinnedLocked(uint32_t cache, const Sha256Digest& image_id) REQUIRES(mutex_);
  bool IsUsedLocked(const SpaceInfo& info) REQUIRES(mutex_);

  CatalogOptions options_;  // keep_cache and limits GUARDED_BY(mutex_)
  const Devices devices_;
  Dispatcher* const dispatcher_;
  FetchStage* const fetch_;
  Counters* const counters_;
  KernelLink* link_ = nullptr;
  Hooks hooks_;

  Mutex put_mutex_;  // while spaces are told; mutex_ and the dispatcher's lock are taken with it
  Mutex mutex_;
  CondVar changed_;
  bool stop_ GUARDED_BY(mutex_) = false;
  bool refresh_ GUARDED_BY(mutex_) = false;
  // How often ForgetLocations() or ReopenImages() was called.
  uint64_t forgotten_ GUARDED_BY(mutex_) = 0;
  bool lost_ GUARDED_BY(mutex_) = false;
  std::map<uint32_t, CacheEntry> caches_ GUARDED_BY(mutex_);
  std::map<uint32_t, Image> images_ GUARDED_BY(mutex_);
  std::map<std::pair<uint32_t, uint32_t>, SpaceInfo> spaces_ GUARDED_BY(mutex_);
  std::map<uint32_t, PinList> pins_ GUARDED_BY(mutex_);  // by cache
  std::vector<Orphan> orphans_ GUARDED_BY(mutex_);
  uint64_t told_evictions_ = 0;  // the thread's
  SpanIndexes indexes_;          // likewise
  std::thread thread_;
  // Writes to the database that belong to no cache which is open. Null: no thread was to be had.
  std::unique_ptr<Committer> db_writes_;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_CATALOG_H_
