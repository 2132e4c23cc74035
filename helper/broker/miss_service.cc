// SPDX-License-Identifier: Apache-2.0
// Events, the manager and the state that lanes work on; see miss_jobs.cc for
// the lanes' part.
#include "broker/miss_service.h"

#include <algorithm>
#include <random>

#include "base/log.h"
#include "broker/span_plan.h"

namespace fastoci {
namespace {

constexpr uint64_t kMaxRatio = 16;  // of a small layer's data to the limit of its blob
constexpr auto kOrphanRetry = std::chrono::milliseconds(200);

std::chrono::seconds DownloadDelay(const DownloadConfig& c) {
  std::random_device random;
  return std::chrono::seconds(c.delay_s + (c.delay_extra_s ? random() % c.delay_extra_s : 0));
}

std::string Hex(const Sha256Digest& d) { return HexEncode(d).substr(0, 12); }

}  // namespace

MissService::MissService(MissServiceOptions options, LaneFactory* lanes, Devices devices)
    : options_(std::move(options)), lanes_(lanes), devices_(std::move(devices)) {}

MissService::~MissService() { Stop(); }

Status MissService::Start(KernelLink* link, bool takeover) {
  link_ = link;  // before the first event, which follows the registration
  FASTOCI_CHECK_OK(link->Register(takeover));
  {
    std::lock_guard lock(mutex_);
    refresh_ = true;
  }
  threads_.emplace_back([this] { Manage(); });
  threads_.emplace_back([this] { Commit(); });
  threads_.emplace_back([this] { Check(); });
  if (options_.whole != WholePolicy::kOff) threads_.emplace_back([this] { CheckWhole(); });
  threads_.emplace_back([this] { Download(); });
  for (int i = 0; i < options_.nr_lanes; i++) threads_.emplace_back([this, i] { RunLane(i); });
  return OkStatus();
}

void MissService::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  manage_.notify_all();
  idle_.notify_all();
  for (auto& cache : AllCaches()) cache->Interrupt();
  if (threads_.empty()) return;
  lanes_->Interrupt();
  for (std::thread& t : threads_) t.join();
  threads_.clear();
  CommitAll();
}

void MissService::Drain(int timeout_ms) {
  {
    std::unique_lock lock(mutex_);
    draining_ = true;
    idle_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] { return nr_running_ == 0; });
  }
  CommitAll();
}

void MissService::Reconfigure(bool keep_cache, const CacheLimits& limits,
                              const DownloadConfig& download) {
  std::lock_guard lock(mutex_);
  options_.keep_cache = keep_cache;
  options_.limits = limits;
  options_.download = download;
  for (auto& [no, image] : images_) image.download_failures = 0;
  idle_.notify_all();
}

bool MissService::stopping() {
  std::lock_guard lock(mutex_);
  return stop_;
}

std::vector<std::shared_ptr<Cache>> MissService::AllCaches() {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Cache>> caches;
  for (auto& [no, cache] : caches_) caches.push_back(cache);
  return caches;
}

std::shared_ptr<Cache> MissService::CacheOf(uint32_t number) {
  std::lock_guard lock(mutex_);
  auto it = caches_.find(number);
  return it == caches_.end() ? nullptr : it->second;
}

// ---- events, on the link's thread ----

void MissService::OnMiss(uint32_t cache, std::span<const ChunkEntry> chunks) {
  link_->Ack(cache, static_cast<uint32_t>(chunks.size()));
  counters_.misses += chunks.size();
  const auto now = Clock::now();
  std::lock_guard lock(mutex_);
  for (const ChunkEntry& c : chunks) {
    if (WantLocked(cache, c.space, c.chunk_no, UrgencyOfMiss(c.miss_class), now)) continue;
    orphans_.push_back({cache, c, now});
    refresh_ = true;
    manage_.notify_all();
  }
}

void MissService::OnEvicted(uint32_t number, std::span<const ChunkEntry> chunks) {
  if (auto cache = CacheOf(number)) cache->OnEvicted(chunks);
}

void MissService::OnSlotBad(uint32_t number, std::span<const ChunkEntry> chunks) {
  if (auto cache = CacheOf(number)) cache->OnSlotBad(chunks);
}

void MissService::OnReplaced() {
  if (ends_.replaced) ends_.replaced();
}

void MissService::OnBroken() {
  if (ends_.broken) ends_.broken();
}

void MissService::OnImage(const ImageInfo&, bool) { RefreshSoon(); }

void MissService::OnCacheRemoved(uint32_t) { RefreshSoon(); }

void MissService::RefreshSoon() {
  std::lock_guard lock(mutex_);
  refresh_ = true;
  manage_.notify_all();
}

void MissService::OnLost() {
  std::lock_guard lock(mutex_);
  refresh_ = lost_ = true;
  manage_.notify_all();
}

bool MissService::WantLocked(uint32_t cache, uint32_t space_no, uint32_t chunk_no,
                             Urgency urgency, Clock::time_point since) {
  auto it = spaces_.find({cache, space_no});
  auto c = caches_.find(cache);
  if (it == spaces_.end() || c == caches_.end() || !it->second.meta) return false;
  const Space& space = it->second;
  if (chunk_no >= space.info.nr_chunks) return true;  // the kernel would not ask
  const uint32_t span = SpanOfChunk(space.info_of_blob(), chunk_no, c->second->info().chunk_shift);
  queue_.Want({cache, space_no, span}, chunk_no, urgency, since.time_since_epoch().count());
  work_.notify_all();  // not every lane takes every job
  return true;
}

// ---- manager ----

void MissService::Manage() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (!refresh_ && orphans_.empty())
      manage_.wait(lock);
    else if (!refresh_)
      manage_.wait_for(lock, kOrphanRetry);
    if (stop_) return;
    if (!refresh_ && orphans_.empty()) continue;
    const bool lost = std::exchange(lost_, false);
    refresh_ = false;
    lock.unlock();
    Refresh();
    if (lost) {
      for (auto& cache : AllCaches()) cache->Resync();
      Status s = link_->GetPending();
      if (!s.ok()) Log(LogLevel::kError, "%s", s.error().message.c_str());
    }
    AdoptOrphans();
    lock.lock();
  }
}

void MissService::Refresh() {
  auto caches = link_->GetCaches();
  auto images = link_->GetImages();
  if (!caches.ok() || !images.ok()) {
    const Error& e = caches.ok() ? images.error() : caches.error();
    Log(LogLevel::kError, "%s", e.message.c_str());
    return;
  }
  RefreshCaches(*caches);
  RefreshImages(*images);
  AnnounceImages();
  auto spaces = link_->GetSpaces();  // a new cache may have restored some
  if (spaces.ok()) RefreshSpaces(*spaces);
  RefreshPins();
}

Result<std::shared_ptr<Cache>> MissService::OpenCache(const CacheInfo& info) {
  FASTOCI_TRY(auto device, devices_.open_cache(info.dev));
  std::unique_ptr<CacheDb> db;
  std::string no_db;
  if (!options_.db_path.empty()) {
    auto opened = CacheDb::Open(options_.db_path, info.uuid);
    if (opened.ok())
      db = std::move(*opened);
    else
      no_db = opened.error().message;
  }
  return Cache::Open(link_, info, std::move(device), std::move(db), &counters_, no_db);
}

void MissService::RefreshCaches(const std::vector<CacheInfo>& caches) {
  std::vector<CacheInfo> added;
  std::vector<std::shared_ptr<Cache>> gone;
  bool keep;
  {
    std::lock_guard lock(mutex_);
    keep = options_.keep_cache;
    for (const CacheInfo& c : caches)
      if (!caches_.count(c.cache)) added.push_back(c);
    for (auto it = caches_.begin(); it != caches_.end();) {
      const uint32_t no = it->first;
      if (std::any_of(caches.begin(), caches.end(),
                      [&](const CacheInfo& c) { return c.cache == no; })) {
        ++it;
        continue;
      }
      Log(LogLevel::kInfo, "cache %u: gone", no);
      std::erase_if(spaces_, [&](const auto& s) { return s.first.first == no; });
      gone.push_back(std::move(it->second));
      it = caches_.erase(it);
    }
  }
  for (auto& cache : gone) {
    cache->End();
    cache->Commit();
    if (!keep) cache->Discard();
  }
  for (const CacheInfo& c : added) {
    auto cache = OpenCache(c);
    if (!cache.ok()) {
      Log(LogLevel::kError, "cache %u: %s", c.cache, cache.error().message.c_str());
      continue;
    }
    (*cache)->SetMayGrow(MayGrow());
    auto pins = (*cache)->db() ? (*cache)->db()->Pins() : PinList();
    std::lock_guard lock(mutex_);
    caches_[c.cache] = std::move(*cache);
    if (pins.ok()) pins_[c.cache] = std::move(*pins);
    check_ = true;
    manage_.notify_all();
  }
}

void MissService::RefreshImages(const std::vector<ImageInfo>& images) {
  std::vector<ImageInfo> added;
  std::vector<Image> removed;
  {
    std::lock_guard lock(mutex_);
    for (const ImageInfo& i : images)
      if (!images_.count(i.image)) added.push_back(i);
    for (auto it = images_.begin(); it != images_.end();) {
      const uint32_t no = it->first;
      if (std::any_of(images.begin(), images.end(),
                      [&](const ImageInfo& i) { return i.image == no; })) {
        ++it;
        continue;
      }
      removed.push_back(std::move(it->second));
      it = images_.erase(it);
    }
  }
  for (const Image& image : removed) {
    lanes_->CloseImage(image.info.image);
    LogEvent(LogLevel::kInfo, FieldsOf("detach", image), "image %u (%s) %s: gone",
             image.info.image, Hex(image.info.image_id).c_str(), image.name.c_str());
  }
  for (const ImageInfo& info : added) {
    Image image;
    image.info = info;
    auto meta = devices_.read_meta(info.meta_dev);
    Status opened = meta.ok() ? lanes_->OpenImage(info.image, meta->json) : Status(meta.error());
    if (opened.ok() && meta->image_id != info.image_id)
      opened = MismatchError("the meta image is not the kernel's");
    if (opened.ok()) {
      meta->json = Bytes();
      ApplyRecorded(info.cache, &*meta);
      // Spans are only where decoding may begin: of one span the first miss fetches
      // and caches all, by one request.
      for (BlobInfo& blob : meta->blobs)
        if (IsSmall(blob) && blob.data_bytes <= kMaxRatio * options_.whole_layer_bytes)
          blob.spans.resize(1);
      image.meta = std::make_shared<const MetaImage>(std::move(*meta));
    } else {
      image.error = opened.error().message;
    }
    std::lock_guard lock(mutex_);
    image.download_at = Clock::now() + DownloadDelay(options_.download);
    images_[info.image] = std::move(image);
  }
}

void MissService::RefreshSpaces(const std::vector<SpaceInfo>& spaces) {
  std::map<uint32_t, std::set<uint32_t>> before, now;
  std::map<uint32_t, std::shared_ptr<Cache>> caches;
  {
    std::lock_guard lock(mutex_);
    before = UnusedSpacesLocked();
    std::erase_if(spaces_, [&](const auto& s) {
      return std::none_of(spaces.begin(), spaces.end(), [&](const SpaceInfo& i) {
        return i.cache == s.first.first && i.space == s.first.second;
      });
    });
    for (const SpaceInfo& info : spaces) {
      Space& space = spaces_[{info.cache, info.space}];
      space.info = info;
      if (space.meta && images_.count(space.image)) continue;
      space.meta = nullptr;
      for (const auto& [no, image] : images_) {
        if (!image.meta || image.info.cache != info.cache) continue;
        for (uint32_t b = 0; b < image.meta->blobs.size() && !space.meta; b++) {
          const BlobInfo& blob = image.meta->blobs[b];
          if (blob.data_space_id != info.id || blob.data_bytes != info.data_bytes) continue;
          space.image = no;
          space.blob = b;
          space.meta = image.meta;
        }
      }
    }
    now = UnusedSpacesLocked();
    caches = caches_;
    check_ = true;  // what a new image's digests can verify
    manage_.notify_all();
  }
  for (auto& [no, unused] : now) {
    for (uint32_t space : before[no]) unused.erase(space);
    if (auto c = caches.find(no); c != caches.end() && !unused.empty()) c->second->Demote(unused);
  }
}

std::map<uint32_t, std::set<uint32_t>> MissService::UnusedSpacesLocked() {
  std::map<uint32_t, std::set<uint32_t>> unused;
  for (const auto& [key, space] : spaces_) {
    const auto& pins = pins_[key.first];
    const bool pinned = std::any_of(pins.begin(), pins.end(),
                                    [&](const auto& p) { return p.second == space.info.id; });
    if (!space.meta && !pinned) unused[key.first].insert(key.second);
  }
  return unused;
}

void MissService::RefreshPins() {
  std::vector<std::pair<std::shared_ptr<Cache>, std::set<uint32_t>>> pinned;
  {
    std::lock_guard lock(mutex_);
    for (auto& [no, cache] : caches_) {
      std::set<uint32_t> numbers;
      for (const auto& [image, id] : pins_[no])
        for (const auto& [key, space] : spaces_)
          if (key.first == no && space.info.id == id) numbers.insert(key.second);
      pinned.emplace_back(cache, std::move(numbers));
    }
  }
  for (auto& [cache, numbers] : pinned) cache->SetPinned(std::move(numbers));
}

Status MissService::Pin(const Sha256Digest& image_id, bool pin) {
  std::shared_ptr<Cache> cache;
  std::vector<Sha256Digest> ids;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [no, image] : images_) {
      if (image.info.image_id != image_id || !image.meta) continue;
      for (const BlobInfo& blob : image.meta->blobs) ids.push_back(blob.data_space_id);
      if (auto c = caches_.find(image.info.cache); c != caches_.end()) cache = c->second;
      break;
    }
    if (!cache && !pin)
      for (auto& [no, pins] : pins_)
        if (std::any_of(pins.begin(), pins.end(),
                        [&](const auto& p) { return p.first == image_id; }))
          cache = caches_[no];
  }
  if (!cache) return NotFoundError("no such image is attached");
  if (!cache->db()) return ErrnoError("the cache has no database", EROFS);
  FASTOCI_CHECK_OK(pin ? cache->db()->Pin(image_id, ids) : cache->db()->Unpin(image_id));
  FASTOCI_TRY(auto pins, cache->db()->Pins());
  {
    std::lock_guard lock(mutex_);
    pins_[cache->info().cache] = std::move(pins);
  }
  RefreshPins();
  return OkStatus();
}

size_t MissService::CollectGarbage() {
  std::map<uint32_t, std::set<uint32_t>> unused;
  std::map<uint32_t, std::shared_ptr<Cache>> caches;
  {
    std::lock_guard lock(mutex_);
    unused = UnusedSpacesLocked();
    caches = caches_;
  }
  size_t n = 0;
  for (auto& [no, spaces] : unused)
    if (auto c = caches.find(no); c != caches.end()) n += c->second->EvictSpaces(spaces);
  return n;
}

void MissService::AdoptOrphans() {
  std::vector<Orphan> late;
  {
    std::lock_guard lock(mutex_);
    std::vector<Orphan> rest;
    for (Orphan& o : orphans_) {
      if (WantLocked(o.cache, o.chunk.space, o.chunk.chunk_no, UrgencyOfMiss(o.chunk.miss_class),
                     o.since))
        continue;
      const bool expired =
          Clock::now() - o.since > std::chrono::milliseconds(options_.miss_deadline_ms);
      (expired ? late : rest).push_back(o);
    }
    orphans_ = std::move(rest);
  }
  for (const Orphan& o : late)
    FailChunks(o.cache, o.chunk.space, {{o.chunk.chunk_no, Urgency::kDemand, o.since.time_since_epoch().count()}},
               ErrorKind::kNotFound);
}

// ---- keeping rows ----

bool MissService::MayGrow() {
  CacheLimits limits;
  {
    std::lock_guard lock(mutex_);
    limits = options_.limits;
  }
  return limits.MayGrow();
}

void MissService::CommitAll() {
  const bool may_grow = MayGrow();
  for (auto& cache : AllCaches()) {
    cache->SetMayGrow(may_grow);
    cache->Commit();
  }
}

void MissService::Commit() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    manage_.wait_for(lock, std::chrono::milliseconds(options_.commit_ms), [&] { return stop_; });
    lock.unlock();
    CommitAll();
    AnnounceImages();
    TellEvictions();
    lock.lock();
  }
}

// ---- for the control socket ----

std::vector<Cache::Stat> MissService::Caches() {
  std::vector<Cache::Stat> out;
  for (auto& cache : AllCaches()) out.push_back(cache->GetStat());
  return out;
}

std::vector<MissService::ImageStat> MissService::Images() {
  std::lock_guard lock(mutex_);
  std::vector<ImageStat> out;
  const auto waiting = queue_.WaitingBySpace();
  for (auto& [no, image] : images_) {
    ImageStat s{.info = image.info, .error = image.error, .bytes_fetched = image.bytes_fetched};
    auto cache = caches_.find(image.info.cache);
    for (const auto& [i, id] : pins_[image.info.cache]) s.pinned |= i == image.info.image_id;
    s.prefetching = image.prefetch;
    s.prefetch_error = image.prefetch_error;
    for (const Space* space : SpacesOfLocked(image)) {
      if (cache == caches_.end()) continue;
      s.chunks += space->info.nr_chunks;
      s.present += cache->second->CountPresent(space->info.space);
      const SpaceKey key{image.info.cache, space->info.space};
      if (auto w = waiting.find(key); w != waiting.end()) {
        s.in_flight += w->second.chunks;
        s.oldest = std::max(s.oldest, std::chrono::duration_cast<std::chrono::milliseconds>(
                                          Clock::now() - TimeOfStamp(w->second.oldest)));
      }
    }
    out.push_back(std::move(s));
  }
  return out;
}

Result<std::vector<ImageInfo>> MissService::ReadCounts() {
  if (!link_) return std::vector<ImageInfo>();
  return link_->GetImages();
}

std::vector<MissService::SpaceStat> MissService::Spaces() {
  std::lock_guard lock(mutex_);
  std::vector<SpaceStat> out;
  for (auto& [key, space] : spaces_) {
    SpaceStat s = StatOfLocked(space);
    auto cache = caches_.find(key.first);
    s.info.nr_present = cache == caches_.end() ? 0 : cache->second->CountPresent(key.second);
    out.push_back(s);
  }
  return out;
}

size_t MissService::nr_jobs() {
  std::lock_guard lock(mutex_);
  return queue_.nr_jobs();
}

}  // namespace fastoci
