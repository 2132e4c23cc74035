// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "miss/catalog.h"

namespace fastoci {
namespace {

constexpr auto kDbWait = std::chrono::seconds(5);

bool IsOf(const BlobInfo& blob, const SpaceInfo& info) {
  return blob.data_space_id == info.id && blob.data_bytes == info.data_bytes;
}

}  // namespace

// Returns the images that have a space; *blob gets the blob of the first of them. An image whose
// blob has other digests is left out, because an id stands for one list of digests.
std::vector<Dispatcher::User> Catalog::UsersOfLocked(const SpaceInfo& info,
                                                     std::shared_ptr<const BlobInfo>* blob) {
  std::vector<Dispatcher::User> users;
  for (const auto& [no, image] : images_) {
    if (!image.meta || image.info.cache != info.cache) continue;
    for (size_t b = 0; b < image.meta->blobs.size(); b++) {
      const BlobInfo& mine = image.meta->blobs[b];
      if (!IsOf(mine, info)) continue;
      if (!*blob) *blob = std::shared_ptr<const BlobInfo>(image.meta, &mine);
      if ((*blob)->digests != mine.digests) break;
      Dispatcher::User user{no, image.indexes[b], {}, image.at.fetcher};
      if (b < image.at.locations.size()) user.locations = image.at.locations[b];
      users.push_back(std::move(user));
      break;
    }
  }
  return users;
}

void Catalog::RefreshSpaces(const std::vector<SpaceInfo>& spaces) {
  std::map<uint32_t, std::set<uint32_t>> before, now;
  std::map<uint32_t, CacheEntry> caches;
  std::vector<std::pair<uint32_t, uint32_t>> gone;
  {
    MutexLock lock(mutex_);
    before = UnusedSpacesLocked();
    for (const auto& [key, info] : spaces_)
      if (std::none_of(spaces.begin(), spaces.end(), [&, k = key](const SpaceInfo& i) {
            return i.cache == k.first && i.space == k.second;
          }))
        gone.push_back(key);
    for (const auto& key : gone) spaces_.erase(key);
    for (const SpaceInfo& info : spaces) spaces_[{info.cache, info.space}] = info;
    now = UnusedSpacesLocked();
    caches = caches_;
  }
  for (const auto& [cache, space] : gone) (void)dispatcher_->RemoveSpace(cache, space);
  PutSpaces();
  hooks_.spaces_changed();  // what a new image's digests can verify
  for (auto& [no, unused] : now) {
    if (auto b = before.find(no); b != before.end())
      for (uint32_t space : b->second) unused.erase(space);
    if (auto c = caches.find(no); c != caches.end() && !unused.empty())
      c->second.cache->Demote(unused);
  }
}

// Tells the dispatcher of spaces, their images and locations as they are now.
void Catalog::PutSpaces() {
  struct Put {
    SpaceView view;
    std::vector<Dispatcher::User> users;
  };
  std::vector<Put> puts;
  std::vector<std::pair<uint32_t, uint32_t>> unused;
  MutexLock put_lock(put_mutex_);
  {
    MutexLock lock(mutex_);
    for (const auto& [key, info] : spaces_) {
      auto cache = caches_.find(key.first);
      if (cache == caches_.end()) continue;
      Put put;
      put.users = UsersOfLocked(info, &put.view.blob);
      if (put.users.empty()) {
        unused.push_back(key);
        continue;
      }
      put.view.info = info;
      put.view.cache = cache->second.cache;
      put.view.writer = cache->second.writer;
      put.view.image = put.users[0].image;
      puts.push_back(std::move(put));
    }
  }
  for (Put& put : puts) dispatcher_->PutSpace(std::move(put.view), put.users);
  for (const auto& [cache, space] : unused) {
    auto wanted = dispatcher_->RemoveSpace(cache, space);
    for (const Scheduler::Wanted& w : wanted)  // failed in time, unless an image comes for it
      AddOrphan(cache, {.space = space, .chunk_no = w.chunk_no, .miss_class = MissClassOf(w.urgency)},
                Clock::now());
  }
}

std::vector<SpaceInfo> Catalog::Spaces() {
  MutexLock lock(mutex_);
  std::vector<SpaceInfo> out;
  for (const auto& [key, info] : spaces_) out.push_back(info);
  return out;
}

std::vector<SpaceInfo> Catalog::SpacesOf(const Image& image) {
  std::vector<SpaceInfo> out;
  if (!image.meta) return out;
  MutexLock lock(mutex_);
  for (const auto& [key, info] : spaces_)
    if (key.first == image.info.cache &&
        std::any_of(image.meta->blobs.begin(), image.meta->blobs.end(),
                    [&, &i = info](const BlobInfo& b) { return IsOf(b, i); }))
      out.push_back(info);
  return out;
}

Status Catalog::Fits(const Image& image) {
  uint64_t chunks = 0;
  for (const SpaceInfo& space : SpacesOf(image)) chunks += space.nr_chunks;
  auto cache = CacheOf(image.info.cache);
  if (!cache) return NotFoundError("the image's cache is not known yet: try again in a moment");
  const uint64_t room = cache->info().nr_slots / 10 * 9;
  if (chunks <= room) return OkStatus();
  return Error{ErrorKind::kInvalid, ENOSPC,
               "the image has " + std::to_string(chunks) + " chunks, but one image may fill only " +
                   std::to_string(room) +
                   " of the cache: use a larger cache"};
}

bool Catalog::IsUsedLocked(const SpaceInfo& info) {
  return std::any_of(images_.begin(), images_.end(), [&](const auto& i) {
    const Image& image = i.second;
    return image.meta && image.info.cache == info.cache &&
           std::any_of(image.meta->blobs.begin(), image.meta->blobs.end(),
                       [&](const BlobInfo& b) { return IsOf(b, info); });
  });
}

// ---- pins ----

std::map<uint32_t, std::set<uint32_t>> Catalog::UnusedSpacesLocked() {
  std::map<uint32_t, std::set<uint32_t>> unused;
  for (const auto& [key, info] : spaces_) {
    const auto pins = pins_.find(key.first);
    const Sha256Digest& id = info.id;
    const bool pinned = pins != pins_.end() &&
                        std::any_of(pins->second.begin(), pins->second.end(),
                                    [&](const auto& p) { return p.second == id; });
    if (!pinned && !IsUsedLocked(info)) unused[key.first].insert(key.second);
  }
  return unused;
}

void Catalog::RefreshPins() {
  std::vector<std::pair<std::shared_ptr<Cache>, std::set<uint32_t>>> pinned;
  {
    MutexLock lock(mutex_);
    for (auto& [no, entry] : caches_) {
      std::set<uint32_t> numbers;
      if (auto pins = pins_.find(no); pins != pins_.end())
        for (const auto& [image, id] : pins->second)
          for (const auto& [key, info] : spaces_)
            if (key.first == no && info.id == id) numbers.insert(key.second);
      pinned.emplace_back(entry.cache, std::move(numbers));
    }
  }
  for (auto& [cache, numbers] : pinned) cache->SetPinned(std::move(numbers));
}

bool Catalog::IsPinnedLocked(uint32_t cache, const Sha256Digest& image_id) {
  auto pins = pins_.find(cache);
  return pins != pins_.end() &&
         std::any_of(pins->second.begin(), pins->second.end(),
                     [&](const auto& p) { return p.first == image_id; });
}

bool Catalog::IsPinned(uint32_t cache, const Sha256Digest& image_id) {
  MutexLock lock(mutex_);
  return IsPinnedLocked(cache, image_id);
}

Status Catalog::Pin(const Sha256Digest& image_id, bool pin) {
  std::shared_ptr<Cache> cache;
  std::vector<Sha256Digest> ids;
  {
    MutexLock lock(mutex_);
    for (const auto& [no, image] : images_) {
      if (image.info.image_id != image_id || !image.meta) continue;
      for (const BlobInfo& blob : image.meta->blobs) ids.push_back(blob.data_space_id);
      if (auto c = caches_.find(image.info.cache); c != caches_.end()) cache = c->second.cache;
      break;
    }
    if (!cache && !pin)
      for (auto& [no, c] : caches_)
        if (IsPinnedLocked(no, image_id)) cache = c.cache;
  }
  if (!cache && !pin && !options_.db_path.empty()) {  // its cache went with its last image
    FASTOCI_TRY(bool was_pinned, UnpinEverywhere(image_id));
    if (was_pinned) return OkStatus();
  }
  if (!cache)
    return NotFoundError(pin ? "no such image is attached"
                             : "no such image is attached or pinned");
  FASTOCI_CHECK_OK(cache->RecordPin(image_id, pin, ids));
  auto pins = cache->db()->Pins();
  {
    MutexLock lock(mutex_);
    if (caches_.count(cache->info().cache)) pins_[cache->info().cache] = std::move(pins);
  }
  RefreshPins();
  return OkStatus();
}

Result<bool> Catalog::UnpinEverywhere(const Sha256Digest& image_id) {
  auto was_pinned = std::make_shared<bool>(false);
  auto unpin = [path = options_.db_path, image_id, was_pinned]() -> Status {
    FASTOCI_TRY(*was_pinned, CacheDb::UnpinEverywhere(path, image_id));
    return OkStatus();
  };
  Status s = db_writes_ ? db_writes_->Run(unpin, kDbWait) : unpin();
  if (!s.ok() && s.error().err == ETIMEDOUT)
    return s.error().Wrap("the cache database is slow; it records the unpin when the disk answers");
  FASTOCI_CHECK_OK(s);
  return *was_pinned;
}

size_t Catalog::CollectGarbage() {
  std::map<uint32_t, std::set<uint32_t>> unused;
  std::map<uint32_t, CacheEntry> caches;
  {
    MutexLock lock(mutex_);
    unused = UnusedSpacesLocked();
    caches = caches_;
  }
  size_t n = 0;
  for (auto& [no, spaces] : unused)
    if (auto c = caches.find(no); c != caches.end()) n += c->second.cache->EvictSpaces(spaces);
  return n;
}

// ---- orphans ----

void Catalog::AddOrphan(uint32_t cache, const ChunkEntry& chunk, Clock::time_point since) {
  MutexLock lock(mutex_);
  orphans_.push_back({cache, chunk, since});
  refresh_ = true;
  changed_.NotifyAll();
}

void Catalog::AdoptOrphans() {
  std::vector<Orphan> orphans, left;
  {
    MutexLock lock(mutex_);
    orphans.swap(orphans_);
  }
  const auto deadline = std::chrono::milliseconds(options_.miss_deadline_ms);
  for (const Orphan& o : orphans) {
    if (dispatcher_->Want(o.cache, o.chunk.space, o.chunk.chunk_no,
                          UrgencyOfMiss(o.chunk.miss_class), o.since))
      continue;
    if (Clock::now() - o.since <= deadline)
      left.push_back(o);
    else
      dispatcher_->FailChunks(
          o.cache, o.chunk.space,
          {{o.chunk.chunk_no, Urgency::kDemand, o.since.time_since_epoch().count(), 0}},
          ErrorKind::kNotFound);
  }
  MutexLock lock(mutex_);
  orphans_.insert(orphans_.end(), left.begin(), left.end());
}

// ---- whole blobs ----

std::function<bool()> Catalog::ReplaceBlob(const std::shared_ptr<const SpaceView>& own,
                                           const std::function<void(BlobInfo*)>& change) {
  std::vector<std::weak_ptr<const MetaImage>> old;
  {
    MutexLock lock(mutex_);
    for (auto& [no, image] : images_) {
      if (!image.meta || image.info.cache != own->info.cache) continue;
      auto copy = std::make_shared<MetaImage>(*image.meta);
      bool any = false;
      for (BlobInfo& b : copy->blobs) {
        if (!IsOf(b, own->info)) continue;
        change(&b);
        any = true;
      }
      if (any) old.push_back(std::exchange(image.meta, std::move(copy)));
    }
  }
  PutSpaces();
  // The caller's own view counts as one, so nobody else may share that object.
  return [old = std::move(old), own = std::weak_ptr<const BlobInfo>(own->blob)] {
    return std::none_of(old.begin(), old.end(), [&](const auto& o) {
      return o.use_count() > (!own.owner_before(o) && !o.owner_before(own) ? 1 : 0);
    });
  };
}

}  // namespace fastoci
