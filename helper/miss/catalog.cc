// SPDX-License-Identifier: Apache-2.0
// Caches and images; catalog_spaces.cc has spaces, pins and orphans.
#include "miss/catalog.h"

#include <algorithm>

#include "kernel/disk_use.h"
#include "miss/chunk_builder.h"

namespace fastoci {
namespace {

constexpr uint64_t kMaxRatio = 16;  // of a small layer's data to the limit of its blob
constexpr auto kNever = std::chrono::hours(24 * 365);
constexpr std::chrono::milliseconds kMinRefreshPause(200), kMaxRefreshPause(30000);
constexpr auto kOrphanRetry = std::chrono::milliseconds(200);
constexpr uint32_t kMinOpenBackoffMs = 50, kMaxOpenBackoffMs = 10000;
// A device gets its name some time after its table was loaded. A device that still has no
// name after this time was not made by us.
constexpr auto kNamelessFor = std::chrono::seconds(3);

}  // namespace

Catalog::Catalog(CatalogOptions options, Devices devices, Dispatcher* dispatcher,
                 FetchStage* fetch, Counters* counters)
    : options_(std::move(options)),
      devices_(std::move(devices)),
      dispatcher_(dispatcher),
      fetch_(fetch),
      counters_(counters) {
  auto writes = Committer::Start([] {}, kNever);
  if (writes.ok())
    db_writes_ = std::move(*writes);
  else
    Log(LogLevel::kError, "%s", writes.error().message.c_str());
}

Catalog::~Catalog() { Stop(); }

void Catalog::Start() {
  {
    MutexLock lock(mutex_);
    refresh_ = true;
  }
  thread_ = std::thread([this] { Run(); });
}

void Catalog::Stop() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  for (auto& cache : Caches()) cache->Interrupt();
  if (thread_.joinable()) thread_.join();
  if (db_writes_) db_writes_->Stop();
}

void Catalog::EndCaches() {
  std::map<uint32_t, CacheEntry> caches;
  {
    MutexLock lock(mutex_);
    caches = caches_;
  }
  for (auto& [no, entry] : caches) {
    entry.writer->Stop();
    entry.cache->StopCommits();  // the link to the kernel may go now
    entry.cache->Commit();
  }
}

void Catalog::CommitAll() {
  for (auto& cache : Caches()) cache->Commit();
}

void Catalog::Reconfigure(bool keep_cache, const CacheLimits& limits) {
  MutexLock lock(mutex_);
  options_.keep_cache = keep_cache;
  options_.limits = limits;
}

void Catalog::RefreshSoon(bool lost_events) {
  MutexLock lock(mutex_);
  refresh_ = true;
  lost_ |= lost_events;
  changed_.NotifyAll();
}

std::vector<std::shared_ptr<Cache>> Catalog::Caches() {
  MutexLock lock(mutex_);
  std::vector<std::shared_ptr<Cache>> out;
  for (auto& [no, entry] : caches_) out.push_back(entry.cache);
  return out;
}

std::shared_ptr<Cache> Catalog::CacheOf(uint32_t number) {
  MutexLock lock(mutex_);
  auto it = caches_.find(number);
  return it == caches_.end() ? nullptr : it->second.cache;
}

std::vector<Catalog::Image> Catalog::Images() {
  MutexLock lock(mutex_);
  std::vector<Image> out;
  for (auto& [no, image] : images_) out.push_back(image);
  return out;
}

// ---- the thread ----

void Catalog::Run() {
  auto next_housekeeping = Clock::now();
  auto refresh_at = Clock::time_point::max();  // again
  auto refresh_pause = kMinRefreshPause;
  for (;;) {
    bool refresh, lost;
    {
      MutexLock lock(mutex_);
      auto until = next_housekeeping;
      if (!orphans_.empty()) until = std::min(until, Clock::now() + kOrphanRetry);
      until = std::min(until, refresh_at);
      for (const auto& [no, image] : images_)
        if ((image.meta && !image.opened) || image.unread) until = std::min(until, image.open_at);
      changed_.WaitUntil(mutex_, until, [&] {
        mutex_.AssertHeld();
        return stop_ || refresh_;
      });
      if (stop_) return;
      refresh = std::exchange(refresh_, false) || refresh_at <= Clock::now();
      lost = std::exchange(lost_, false);
    }
    if (refresh) {
      refresh_at = Clock::time_point::max();
      const bool all = Refresh();
      if (!all) refresh_at = Clock::now() + refresh_pause;
      refresh_pause = all ? kMinRefreshPause : std::min(refresh_pause * 2, kMaxRefreshPause);
    }
    OpenImages();
    if (lost) {
      for (auto& cache : Caches()) cache->Resync();
      Status s = link_->GetPending();
      if (!s.ok()) Log(LogLevel::kError, "%s", s.error().message.c_str());
    }
    AdoptOrphans();
    if (Clock::now() < next_housekeeping) continue;
    Housekeep();
    next_housekeeping = Clock::now() + std::chrono::milliseconds(options_.commit_ms);
  }
}

void Catalog::Housekeep() {
  CacheLimits limits;
  {
    MutexLock lock(mutex_);
    limits = options_.limits;
  }
  const bool may_grow = limits.MayGrow();
  bool missed = false;
  for (auto& cache : Caches()) {
    cache->SetMayGrow(may_grow);
    missed |= cache->TakeMissedRows();
  }
  if (missed) hooks_.spaces_changed();
  AnnounceImages();
  // There are many evictions, so one event has their number.
  const uint64_t now = counters_->evictions;
  const uint64_t before = std::exchange(told_evictions_, now);
  if (now == before) return;
  EventFields f;
  f.kind = "evict";
  f.count = now - before;
  LogEvent(LogLevel::kDebug, f, "%llu chunks were evicted",
           static_cast<unsigned long long>(f.count));
}

bool Catalog::Refresh() {
  auto caches = link_->GetCaches();
  auto images = link_->GetImages();
  if (!caches.ok() || !images.ok()) {
    const Error& e = caches.ok() ? images.error() : caches.error();
    Log(LogLevel::kError, "%s", e.message.c_str());
    return false;
  }
  const bool all = RefreshCaches(*caches);
  RefreshImages(*images);
  AnnounceImages();
  auto spaces = link_->GetSpaces();  // a new cache may have restored some
  if (spaces.ok())
    RefreshSpaces(*spaces);
  else
    Log(LogLevel::kError, "%s", spaces.error().message.c_str());
  RefreshPins();
  return all && spaces.ok();
}

// ---- caches ----

bool Catalog::AddCache(const CacheInfo& info) {
  std::unique_ptr<CacheDb> db;
  std::string no_db;
  if (!options_.db_path.empty()) {
    auto opened = CacheDb::Open(options_.db_path, info.uuid);
    if (opened.ok())
      db = std::move(*opened);
    else
      no_db = opened.error().message;
  }
  auto device = devices_.open_cache(info.dev);
  auto cache = device.ok() ? Cache::Open(link_, info, std::move(*device), std::move(db),
                                         counters_, no_db)
                           : Result<std::shared_ptr<Cache>>(device.error());
  if (!cache.ok()) {
    Log(LogLevel::kError, "cache %u: %s", info.cache, cache.error().message.c_str());
    return false;
  }
  CacheLimits limits;
  {
    MutexLock lock(mutex_);
    limits = options_.limits;
  }
  (*cache)->SetMayGrow(limits.MayGrow());
  Status commits = (*cache)->StartCommits(std::chrono::milliseconds(options_.commit_ms));
  auto writer = ChunkWriter::Start(
      *cache, ChunkWriterOptions(), [d = dispatcher_](std::vector<VerifiedChunk> chunks) {
        OnChunksWritten(d, std::move(chunks));
      });
  if (!commits.ok() || !writer.ok()) {
    const Error& e = commits.ok() ? writer.error() : commits.error();
    Log(LogLevel::kError, "cache %u: %s", info.cache, e.message.c_str());
    return false;
  }
  CacheEntry entry;
  entry.writer = std::move(*writer);
  entry.cache = std::move(*cache);
  PinList pins = entry.cache->db() ? entry.cache->db()->Pins() : PinList();
  MutexLock lock(mutex_);
  pins_[info.cache] = std::move(pins);
  caches_[info.cache] = std::move(entry);
  return true;
}

void Catalog::EndCache(CacheEntry entry, bool keep) {
  entry.cache->End();
  entry.writer->Stop();
  entry.cache->StopCommits();
  entry.cache->Commit();
  if (!keep) entry.cache->Discard();
}

bool Catalog::RefreshCaches(const std::vector<CacheInfo>& caches) {
  std::vector<CacheInfo> added;
  std::vector<CacheEntry> gone;
  std::vector<std::pair<uint32_t, uint32_t>> gone_spaces;
  bool keep;
  {
    MutexLock lock(mutex_);
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
      for (const auto& [key, space] : spaces_)
        if (key.first == no) gone_spaces.push_back(key);
      std::erase_if(spaces_, [&](const auto& s) { return s.first.first == no; });
      pins_.erase(no);
      gone.push_back(std::move(it->second));
      it = caches_.erase(it);
    }
  }
  for (const auto& [cache, space] : gone_spaces) (void)dispatcher_->RemoveSpace(cache, space);
  for (CacheEntry& entry : gone) EndCache(std::move(entry), keep);
  bool all = true;
  for (const CacheInfo& c : added) all &= AddCache(c);
  if (!added.empty()) hooks_.spaces_changed();
  return all;
}

// ---- images ----

// What an earlier whole check recorded for blobs whose meta layer has no digests.
void Catalog::ApplyRecorded(Cache* cache, MetaImage* meta) {
  if (!cache || !cache->db()) return;
  for (BlobInfo& blob : meta->blobs) {
    if (!blob.unproven()) continue;
    auto digests = cache->db()->Digests(blob.data_space_id);
    if (!digests.ok() || digests->size() != (blob.data_bytes + kDigestBytes - 1) / kDigestBytes)
      continue;
    blob.digests = std::move(*digests);
    blob.whole = true;
  }
}

Catalog::Image Catalog::ReadImage(const ImageInfo& info, uint32_t backoff_ms) {
  Image image;
  image.info = info;
  image.open_backoff_ms = backoff_ms;
  image.json_bytes = std::make_shared<const Bytes>();
  auto read = devices_.read_meta(info.meta_dev);
  Status status = read.ok() ? OkStatus() : Status(read.error());
  if (status.ok() && read->image_id != info.image_id)
    status = MismatchError("the meta image is not the kernel's");
  if (status.ok()) {
    image.json_bytes = std::make_shared<const Bytes>(std::move(read->json));
    ApplyRecorded(CacheOf(info.cache).get(), &*read);
    for (BlobInfo& blob : read->blobs) {
      // Spans are only the places where decoding may begin. If there is one span, the
      // first miss fetches and caches all of the blob by one request.
      if (IsSmall(blob) && blob.data_bytes <= kMaxRatio * options_.whole_layer_bytes)
        blob.spans.resize(1);
      auto index = indexes_.Take(&blob);
      if (!index.ok()) {
        status = index.error();
        break;
      }
      image.indexes.push_back(std::move(*index));
    }
  }
  if (status.ok())
    image.meta = std::make_shared<const MetaImage>(std::move(*read));
  else
    image.error = status.error().message;
  // Wrong it is for good; what fails for another reason may succeed later.
  image.unread = !status.ok() && status.error().kind != ErrorKind::kInvalid &&
                 status.error().kind != ErrorKind::kMismatch &&
                 status.error().kind != ErrorKind::kUnsupported;
  if (image.unread) PutOff(&image);
  return image;
}

// Another try to read or to open the image, later.
void Catalog::PutOff(Image* image) {
  image->open_backoff_ms =
      std::clamp(image->open_backoff_ms * 2, kMinOpenBackoffMs, kMaxOpenBackoffMs);
  image->open_at = Clock::now() + std::chrono::milliseconds(image->open_backoff_ms);
  LogEvent(LogLevel::kWarning, FieldsOf("open_failed", *image),
           "image %u: %s: tried again in %u ms", image->info.image,
           (image->unread ? image->error : image->open_error).c_str(), image->open_backoff_ms);
}

void Catalog::RefreshImages(const std::vector<ImageInfo>& images) {
  std::vector<ImageInfo> added;
  std::vector<Image> removed;
  {
    MutexLock lock(mutex_);
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
    fetch_->CloseImage(image.info.image);
    hooks_.image_removed(image);
    LogEvent(LogLevel::kInfo, FieldsOf("detach", image), "image %u (%.12s) %s: gone",
             image.info.image, HexEncode(image.info.image_id).c_str(), image.name.c_str());
  }
  for (const ImageInfo& info : added) {
    Image image = ReadImage(info);
    const uint64_t before = Forgotten();
    if (image.meta) OpenImage(&image);
    hooks_.image_added(image);
    MutexLock lock(mutex_);
    if (forgotten_ != before) {  // it was opened before that
      image.opened = false;
      refresh_ = true;
    }
    images_[info.image] = std::move(image);
  }
}

// If the fetcher refuses the image, it is not opened again, unless it was open before. If the
// fetcher is gone or does not answer, it is.
void Catalog::OpenImage(Image* image) {
  auto opened = fetch_->OpenImage(image->info.image, HexEncode(image->info.image_id), image->json());
  if (opened.ok()) {
    image->opened = true;
    image->open_error.clear();
    image->open_backoff_ms = 0;
    image->at = std::move(*opened);
    image->at.locations.resize(image->meta->blobs.size());
    return;
  }
  image->open_error = opened.error().message;
  if (opened.error().kind == ErrorKind::kInvalid && image->at.locations.empty()) {
    image->error = opened.error().message;
    image->meta = nullptr;
    return;
  }
  PutOff(image);
}

uint64_t Catalog::Forgotten() {
  MutexLock lock(mutex_);
  return forgotten_;
}

void Catalog::ForgetLocations() {
  MutexLock lock(mutex_);
  forgotten_++;
  for (auto& [no, image] : images_) {
    image.opened = false;
    image.at = {};
    image.open_at = {};
  }
  refresh_ = true;
  changed_.NotifyAll();
}

void Catalog::ReopenImages() {
  MutexLock lock(mutex_);
  forgotten_++;  // what is being opened just now may be told what was before
  for (auto& [no, image] : images_) {
    image.opened = false;
    image.open_at = {};
  }
  refresh_ = true;
  changed_.NotifyAll();
}

// Opens the images that are not open and whose time has come; reads before what could not be
// read.
void Catalog::OpenImages() {
  bool any = false;
  for (Image& image : Images()) {
    if ((!image.meta && !image.unread) || image.opened || image.open_at > Clock::now()) continue;
    const uint64_t before = Forgotten();
    const bool was_unread = image.unread;
    if (was_unread) image = ReadImage(image.info, image.open_backoff_ms);
    if (image.meta) OpenImage(&image);
    any = true;
    MutexLock lock(mutex_);
    auto it = images_.find(image.info.image);
    if (it == images_.end()) continue;
    if (forgotten_ != before) image.opened = false;  // before that
    if (was_unread) {
      it->second = std::move(image);
      continue;
    }
    it->second.opened = image.opened;
    it->second.open_error = image.open_error;
    it->second.open_backoff_ms = image.open_backoff_ms;
    it->second.open_at = image.open_at;
    it->second.at = image.at;
    if (image.error.empty()) continue;
    it->second.error = image.error;
    it->second.meta = nullptr;
  }
  if (any) PutSpaces();
}

EventFields Catalog::FieldsOf(const char* kind, const Image& image) {
  EventFields f;
  f.kind = kind;
  f.image_id = HexEncode(image.info.image_id);
  f.image = image.name.empty() ? f.image_id.substr(0, 12) : image.name;
  return f;
}

EventFields Catalog::FieldsOf(const char* kind, uint32_t image, const BlobInfo& blob) {
  MutexLock lock(mutex_);
  auto it = images_.find(image);
  EventFields f = it == images_.end() ? EventFields{} : FieldsOf(kind, it->second);
  f.kind = kind;
  f.blob = DigestString(blob.blob_digest);
  return f;
}

// Finds names for images that are new, and tells of them.
void Catalog::AnnounceImages() {
  const std::vector<Image> images = Images();
  if (std::all_of(images.begin(), images.end(), [](const Image& i) { return i.announced; }))
    return;
  const auto disks = FastociDisks();
  std::vector<Image> found;
  {
    MutexLock lock(mutex_);
    for (auto& [no, image] : images_) {
      if (image.announced) continue;
      for (const DiskUse& disk : disks)
        if (std::count(disk.below.begin(), disk.below.end(), image.info.meta_dev))
          image.name = disk.name;
      if (image.name.empty() && image.error.empty() && Clock::now() - image.since < kNamelessFor)
        continue;
      image.announced = true;
      found.push_back(image);
    }
  }
  for (const Image& image : found) {
    if (image.meta)
      LogEvent(LogLevel::kInfo, FieldsOf("attach", image), "image %u (%.12s) %s: %zu blobs",
               image.info.image, HexEncode(image.info.image_id).c_str(), image.name.c_str(),
               image.meta->blobs.size());
    else
      LogEvent(LogLevel::kError, FieldsOf("attach", image), "image %u (%.12s) %s: %s",
               image.info.image, HexEncode(image.info.image_id).c_str(), image.name.c_str(),
               image.error.c_str());
  }
}

}  // namespace fastoci
