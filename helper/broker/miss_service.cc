// SPDX-License-Identifier: Apache-2.0
// Events, the manager and the state that lanes work on; see miss_jobs.cc for
// the lanes' part.
#include "broker/miss_service.h"

#include <algorithm>

#include "base/log.h"
#include "broker/span_plan.h"

namespace fastoci {
namespace {

constexpr auto kOrphanRetry = std::chrono::milliseconds(200);
constexpr uint32_t kAllocBatch = 256;
constexpr size_t kMaxReserved = 4 << 20;       // slots of one cache; more stay with the kernel
constexpr uint32_t kMaxAdoptedChunks = 1 << 20;  // of one space

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
  evicted_.notify_all();
  if (threads_.empty()) return;
  lanes_->Interrupt();
  for (std::thread& t : threads_) t.join();
  threads_.clear();
  CommitAll();
}

// ---- events, on the link's thread ----

void MissService::OnMiss(uint32_t cache, std::span<const ChunkEntry> chunks) {
  link_->Ack(cache, static_cast<uint32_t>(chunks.size()));
  counters_.misses += chunks.size();
  std::lock_guard lock(mutex_);
  for (const ChunkEntry& c : chunks) {
    if (WantLocked(cache, c)) continue;
    orphans_.push_back({cache, c, Clock::now()});
    refresh_ = true;
    manage_.notify_all();
  }
}

void MissService::OnEvicted(uint32_t, std::span<const ChunkEntry>) {
  // The slots are free in the kernel now; who needs them asks there.
  std::lock_guard lock(mutex_);
  evict_events_++;
  evicted_.notify_all();
}

void MissService::OnImage(const ImageInfo&, bool) {
  std::lock_guard lock(mutex_);
  refresh_ = true;
  manage_.notify_all();
}

void MissService::OnLost() {
  std::lock_guard lock(mutex_);
  refresh_ = lost_ = true;
  manage_.notify_all();
}

bool MissService::WantLocked(uint32_t cache, const ChunkEntry& chunk) {
  auto it = spaces_.find({cache, chunk.space});
  auto c = caches_.find(cache);
  if (it == spaces_.end() || c == caches_.end() || !it->second.meta || !images_.count(it->second.image)) return false;
  const Space& space = it->second;
  if (chunk.chunk_no >= space.info.nr_chunks) return true;  // the kernel would not ask
  const uint32_t span = SpanOfChunk(space.info_of_blob(), chunk.chunk_no, c->second->info.chunk_shift);
  queue_.Want({cache, chunk.space, span}, chunk.chunk_no, chunk.miss_class);
  work_.notify_one();
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
  auto spaces = link_->GetSpaces();
  if (!caches.ok() || !images.ok() || !spaces.ok()) {
    const Error& e = !caches.ok() ? caches.error() : !images.ok() ? images.error() : spaces.error();
    Log(LogLevel::kError, "%s", e.message.c_str());
    return;
  }
  RefreshCaches(*caches);
  RefreshImages(*images);
  std::lock_guard lock(mutex_);
  RefreshSpacesLocked(*spaces);
}

std::shared_ptr<MissService::Cache> MissService::OpenCache(const CacheInfo& info) {
  auto cache = std::make_shared<Cache>();
  cache->info = info;
  auto device = devices_.open_cache(info.dev);
  if (!device.ok()) {
    Log(LogLevel::kError, "cache %u: %s", info.cache, device.error().message.c_str());
    return nullptr;
  }
  const CacheGeometry& g = (*device)->geometry();
  if (g.uuid != info.uuid || g.nr_slots != info.nr_slots || g.chunk_shift != info.chunk_shift) {
    Log(LogLevel::kError, "cache %u: %s is not the kernel's cache", info.cache, (*device)->path().c_str());
    return nullptr;
  }
  cache->device = std::move(*device);
  std::vector<SlotRow> rows;
  if (!options_.db_path.empty()) {
    auto db = CacheDb::Open(options_.db_path, info.uuid);
    if (db.ok()) {
      cache->db = std::move(*db);
      auto loaded = cache->db->Load();
      if (loaded.ok()) rows = std::move(*loaded);
    } else {
      Log(LogLevel::kError, "%s: the cache will not outlive a restart", db.error().message.c_str());
    }
  }
  // All that are free; a slot that the kernel serves is not among them.
  while (cache->pool.nr_free() < kMaxReserved) {
    auto slots = link_->Alloc(info.cache, kAllocBatch);
    if (!slots.ok()) break;  // ENOSPC: that was all
    cache->pool.Add(*slots);
  }
  for (const SlotRow& row : rows) cache->pool.Keep(row);
  Log(LogLevel::kInfo, "cache %u: %s, %u slots of %llu KiB, %zu free, %zu known by the database", info.cache,
      cache->device->path().c_str(), info.nr_slots, 1ULL << info.chunk_shift >> 10, cache->pool.nr_free(),
      cache->pool.nr_kept());
  return cache;
}

void MissService::RefreshCaches(const std::vector<CacheInfo>& caches) {
  std::vector<CacheInfo> added;
  std::vector<std::shared_ptr<Cache>> gone;
  {
    std::lock_guard lock(mutex_);
    for (const CacheInfo& c : caches)
      if (!caches_.count(c.cache)) added.push_back(c);
    for (auto it = caches_.begin(); it != caches_.end();) {
      const uint32_t no = it->first;
      if (std::any_of(caches.begin(), caches.end(), [&](const CacheInfo& c) { return c.cache == no; })) {
        ++it;
        continue;
      }
      Log(LogLevel::kInfo, "cache %u: gone", no);
      std::erase_if(spaces_, [&](const auto& s) { return s.first.first == no; });
      gone.push_back(std::move(it->second));
      it = caches_.erase(it);
    }
  }
  for (auto& cache : gone) CommitRows(cache.get());
  for (const CacheInfo& c : added) {
    auto cache = OpenCache(c);
    if (!cache) continue;
    std::lock_guard lock(mutex_);
    caches_[c.cache] = std::move(cache);
  }
}

void MissService::RefreshImages(const std::vector<ImageInfo>& images) {
  std::vector<ImageInfo> added;
  std::vector<uint32_t> removed;
  {
    std::lock_guard lock(mutex_);
    for (const ImageInfo& i : images)
      if (!images_.count(i.image)) added.push_back(i);
    for (auto it = images_.begin(); it != images_.end();) {
      const uint32_t no = it->first;
      if (std::any_of(images.begin(), images.end(), [&](const ImageInfo& i) { return i.image == no; })) {
        ++it;
        continue;
      }
      removed.push_back(no);
      it = images_.erase(it);
    }
  }
  for (uint32_t no : removed) lanes_->CloseImage(no);
  for (const ImageInfo& info : added) {
    Image image;
    image.info = info;
    auto meta = devices_.read_meta(info.meta_dev);
    Status opened = meta.ok() ? lanes_->OpenImage(info.image, meta->json) : Status(meta.error());
    if (opened.ok() && meta->image_id != info.image_id) opened = MismatchError("the meta image is not the kernel's");
    if (opened.ok()) {
      meta->json = Bytes();
      image.meta = std::make_shared<const MetaImage>(std::move(*meta));
      Log(LogLevel::kInfo, "image %u (%s): %zu blobs", info.image, Hex(info.image_id).c_str(), image.meta->blobs.size());
    } else {
      image.error = opened.error().message;
      Log(LogLevel::kError, "image %u (%s): %s", info.image, Hex(info.image_id).c_str(), image.error.c_str());
    }
    std::lock_guard lock(mutex_);
    images_[info.image] = std::move(image);
  }
}

void MissService::RefreshSpacesLocked(const std::vector<SpaceInfo>& spaces) {
  for (const SpaceInfo& info : spaces) {
    auto [it, is_new] = spaces_.try_emplace({info.cache, info.space});
    Space& space = it->second;
    space.info = info;
    auto cache = caches_.find(info.cache);
    if (is_new && info.nr_present > 0 && cache != caches_.end()) {
      space.adopted = true;
      for (uint32_t c = 0; c < std::min(info.nr_chunks, kMaxAdoptedChunks); c++)
        cache->second->by_age.emplace_back(info.space, c);
    }
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
}

void MissService::AdoptOrphans() {
  std::vector<Orphan> late;
  {
    std::lock_guard lock(mutex_);
    std::vector<Orphan> rest;
    for (Orphan& o : orphans_) {
      if (WantLocked(o.cache, o.chunk)) continue;
      const bool expired = Clock::now() - o.since > std::chrono::milliseconds(options_.miss_deadline_ms);
      (expired ? late : rest).push_back(o);
    }
    orphans_ = std::move(rest);
  }
  for (const Orphan& o : late) FailChunks(o.cache, o.chunk.space, {o.chunk.chunk_no}, EIO);
}

// ---- keeping rows ----

void MissService::CommitRows(Cache* cache) {
  if (!cache->db) return;
  Status s = cache->db->Commit([&] { return cache->device->Flush(); });
  if (!s.ok()) Log(LogLevel::kError, "cache %u: %s", cache->info.cache, s.error().message.c_str());
}

void MissService::CommitAll() {
  std::vector<std::shared_ptr<Cache>> caches;
  {
    std::lock_guard lock(mutex_);
    for (auto& [no, cache] : caches_) caches.push_back(cache);
  }
  for (auto& cache : caches) CommitRows(cache.get());
}

void MissService::Commit() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    manage_.wait_for(lock, std::chrono::milliseconds(options_.commit_ms), [&] { return stop_; });
    lock.unlock();
    CommitAll();
    lock.lock();
  }
}

// ---- for the control socket ----

std::vector<MissService::CacheStat> MissService::Caches() {
  std::vector<std::pair<CacheStat, std::shared_ptr<Cache>>> found;
  {
    std::lock_guard lock(mutex_);
    for (auto& [no, cache] : caches_) {
      CacheStat s;
      s.info = cache->info;
      s.path = cache->device->path();
      s.nr_kept = cache->pool.nr_kept();
      for (auto& [key, space] : spaces_)
        if (key.first == no) s.nr_present += space.present.size();
      found.emplace_back(s, cache);
    }
  }
  std::vector<CacheStat> out;
  for (auto& [s, cache] : found) {
    if (cache->db)
      if (auto count = cache->db->Count(); count.ok()) s.nr_durable = *count;
    out.push_back(s);
  }
  return out;
}

std::vector<MissService::ImageStat> MissService::Images() {
  std::lock_guard lock(mutex_);
  std::vector<ImageStat> out;
  for (auto& [no, image] : images_) out.push_back({image.info, image.error});
  return out;
}

std::vector<MissService::SpaceStat> MissService::Spaces() {
  std::lock_guard lock(mutex_);
  std::vector<SpaceStat> out;
  for (auto& [key, space] : spaces_) {
    SpaceStat s{space.info, space.meta && !space.info_of_blob().digests.empty()};
    s.info.nr_present = static_cast<uint32_t>(space.present.size());
    out.push_back(s);
  }
  return out;
}

size_t MissService::nr_jobs() {
  std::lock_guard lock(mutex_);
  return queue_.nr_jobs();
}

}  // namespace fastoci
