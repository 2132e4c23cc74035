// SPDX-License-Identifier: Apache-2.0
#include "bench/stand_in_kernel.h"

#include <sys/un.h>

#include <algorithm>

namespace fastoci {
namespace {

template <typename T>
void Reply(int socket, uint32_t number, std::span<const T> items) {
  do {
    const size_t n = std::min(items.size(), MaxLinkItems<T>());
    const bool more = n < items.size();
    if (!SendLink(socket, {.op = LinkOp::kReply, .number = number, .limit = more}, items.first(n)).ok())
      return;
    items = items.subspan(n);
  } while (!items.empty());
}

}  // namespace

Result<std::unique_ptr<StandInKernel>> StandInKernel::Listen(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return InvalidError(path + ": too long a path");
  std::copy(path.begin(), path.end(), address.sun_path);
  ::unlink(path.c_str());
  std::unique_ptr<StandInKernel> k(new StandInKernel);
  k->listener_.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!k->listener_.valid() ||
      ::bind(k->listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(k->listener_.get(), 1) != 0)
    return ErrnoError(path);
  k->server_ = std::thread([p = k.get()] { p->Serve(); });
  return k;
}

StandInKernel::~StandInKernel() {
  stopping_ = true;
  ::shutdown(listener_.get(), SHUT_RDWR);
  {
    std::lock_guard lock(mutex_);
    if (helper_ >= 0) ::shutdown(helper_, SHUT_RDWR);
  }
  server_.join();
}

void StandInKernel::Serve() {
  while (!stopping_) {
    UniqueFd helper(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!helper.valid()) {
      if (errno == EINTR) continue;
      return;
    }
    {
      std::lock_guard lock(mutex_);
      helper_ = helper.get();
    }
    ServeHelper(helper.get());
    DropHelper();
  }
}

// Its reserved slots are free again; what was filled stays.
void StandInKernel::DropHelper() {
  std::scoped_lock lock(mutex_, send_mutex_);
  helper_ = -1;
  registered_ = false;
  for (auto& [number, cache] : caches_) FreeReserved(&cache);
}

void StandInKernel::FreeReserved(Cache* cache) {
  std::erase_if(cache->slots, [cache](const auto& s) {
    const bool reserved = s.second.state == FASTOCI_SLOT_RESERVED;
    if (reserved) cache->free.push_back(s.first);
    return reserved;
  });
}

void StandInKernel::ServeHelper(int socket) {
  for (;;) {
    auto request = ReceiveLink(socket);
    if (!request.ok()) return;
    Answer(socket, *request);
  }
}

uint32_t StandInKernel::AddCache(uint32_t dev, const CacheUuid& uuid, uint32_t chunk_shift,
                                 uint32_t nr_slots) {
  std::lock_guard lock(mutex_);
  const uint32_t number = static_cast<uint32_t>(caches_.size()) + 1;
  Cache& c = caches_[number];
  c.info.cache = number;
  c.info.uuid = uuid;
  c.info.dev = dev;
  c.info.chunk_shift = chunk_shift;
  c.info.nr_slots = nr_slots;
  for (uint32_t slot = nr_slots; slot > 0; slot--) c.free.push_back(slot - 1);
  return number;
}

std::vector<uint32_t> StandInKernel::AddImage(uint32_t cache, uint32_t meta_dev,
                                              const Sha256Digest& image_id,
                                              const std::vector<SpaceSpec>& specs) {
  std::lock_guard lock(mutex_);
  const CacheInfo& c = caches_.at(cache).info;
  std::vector<uint32_t> numbers;
  for (const SpaceSpec& spec : specs) {
    auto same = std::find_if(spaces_.begin(), spaces_.end(), [&](const auto& s) {
      return s.second.info.cache == cache && s.second.info.id == spec.id;
    });
    if (same != spaces_.end()) {
      numbers.push_back(same->first);
      continue;
    }
    const uint32_t number = static_cast<uint32_t>(spaces_.size()) + 1;
    SpaceInfo& s = spaces_[number].info;
    s.cache = cache;
    s.space = number;
    s.id = spec.id;
    s.data_bytes = spec.data_bytes;
    s.nr_chunks = static_cast<uint32_t>((spec.data_bytes - 1) >> c.chunk_shift) + 1;
    numbers.push_back(number);
  }
  ImageInfo image;
  image.image = static_cast<uint32_t>(images_.size()) + 1;
  image.cache = cache;
  image.meta_dev = meta_dev;
  image.cache_dev = c.dev;
  image.image_id = image_id;
  images_.push_back(image);
  if (helper_ >= 0) {
    std::lock_guard send(send_mutex_);
    (void)SendLink(helper_, {.op = LinkOp::kImage, .cache = cache, .limit = 1},
                   std::span<const ImageInfo>(&image, 1)).ok();
  }
  return numbers;
}

int32_t StandInKernel::FillLocked(Cache* cache, const ChunkEntry& c) {
  auto space = spaces_.find(c.space);
  auto slot = cache->slots.find(c.slot);
  if (space == spaces_.end() || slot == cache->slots.end()) return EINVAL;
  SlotInfo& s = slot->second;
  const bool restored = s.state == FASTOCI_SLOT_RESTORED && s.space == c.space && s.chunk_no == c.chunk_no;
  if (s.state != FASTOCI_SLOT_RESERVED && !restored) return EPERM;
  if (auto [it, fresh] = space->second.map.emplace(c.chunk_no, c.slot); !fresh) {
    cache->free.push_back(c.slot);  // it is present elsewhere
    cache->slots.erase(slot);
  } else {
    s.state = FASTOCI_SLOT_PRESENT;
    s.space = c.space;
    s.chunk_no = c.chunk_no;
    s.accessed = true;
  }
  space->second.pending.erase(c.chunk_no);
  return 0;
}

int32_t StandInKernel::RestoreLocked(Cache* cache, const LinkHeader& h, const ChunkEntry& c) {
  for (auto& [number, space] : spaces_) {
    if (space.info.cache != cache->info.cache || space.info.id != h.id) continue;
    auto it = std::find(cache->free.begin(), cache->free.end(), c.slot);
    if (it == cache->free.end()) return EEXIST;
    cache->free.erase(it);
    cache->slots[c.slot] = {.slot = c.slot, .state = FASTOCI_SLOT_RESTORED, .space = number,
                            .chunk_no = c.chunk_no};
    return 0;
  }
  return 0;  // of an image that is not here
}

int32_t StandInKernel::DoLocked(const LinkPacket& request, std::vector<uint32_t>* slots) {
  const LinkHeader& h = request.header;
  auto it = caches_.find(h.cache);
  if (it == caches_.end()) return ENOENT;
  Cache& cache = it->second;
  int32_t err = 0;
  switch (h.op) {
    case LinkOp::kAlloc:
      while (slots->size() < std::min<size_t>(h.limit, FASTOCI_MAX_BATCH) && !cache.free.empty()) {
        const uint32_t slot = cache.free.back();
        cache.free.pop_back();
        cache.slots[slot] = {.slot = slot, .state = FASTOCI_SLOT_RESERVED};
        slots->push_back(slot);
      }
      return slots->empty() ? ENOSPC : 0;
    case LinkOp::kReturn:
      for (uint32_t slot : request.Items<uint32_t>()) {
        if (cache.slots.erase(slot) == 0) return EINVAL;
        cache.free.push_back(slot);
      }
      return 0;
    case LinkOp::kReturnAll:
      FreeReserved(&cache);
      return 0;
    case LinkOp::kFill:
      for (const ChunkEntry& c : request.Items<ChunkEntry>())
        if ((err = FillLocked(&cache, c)) != 0) return err;
      return 0;
    case LinkOp::kFail:
      for (const ChunkEntry& c : request.Items<ChunkEntry>()) {
        auto space = spaces_.find(c.space);
        if (space == spaces_.end()) return EINVAL;
        if (space->second.pending.erase(c.chunk_no) != 0) space->second.failed[c.chunk_no] = c.err;
      }
      return 0;
    case LinkOp::kRestore:
      for (const ChunkEntry& c : request.Items<ChunkEntry>())
        if ((err = RestoreLocked(&cache, h, c)) != 0) return err;
      return 0;
    default:
      return EINVAL;
  }
}

// No reader holds a slot here: they are all free of readers at once.
void StandInKernel::Evict(int socket, const LinkPacket& request) {
  std::vector<ChunkEntry> gone;
  {
    std::lock_guard lock(mutex_);
    Cache& cache = caches_.at(request.header.cache);
    for (const ChunkEntry& c : request.Items<ChunkEntry>()) {
      auto space = spaces_.find(c.space);
      if (space == spaces_.end()) continue;
      auto it = space->second.map.find(c.chunk_no);
      if (it == space->second.map.end()) continue;
      gone.push_back({.space = c.space, .chunk_no = c.chunk_no, .slot = it->second});
      cache.slots[it->second] = {.slot = it->second, .state = FASTOCI_SLOT_RESERVED};
      space->second.map.erase(it);
    }
  }
  std::lock_guard lock(send_mutex_);
  (void)SendLink(socket, {.op = LinkOp::kReply, .number = request.header.number},
                 std::span<const uint32_t>{}).ok();
  if (!gone.empty())
    (void)SendLink(socket, {.op = LinkOp::kEvicted, .cache = request.header.cache},
                   std::span<const ChunkEntry>(gone)).ok();
}

void StandInKernel::Answer(int socket, const LinkPacket& request) {
  const LinkHeader& h = request.header;
  if (h.op == LinkOp::kAck) return;
  if (h.op == LinkOp::kEvict) return Evict(socket, request);
  std::vector<uint32_t> slots;
  std::vector<SlotInfo> used;
  std::vector<CacheInfo> caches;
  std::vector<ImageInfo> images;
  std::vector<SpaceInfo> spaces;
  std::map<uint32_t, std::vector<ChunkEntry>> again;
  int32_t err = 0;
  {
    std::lock_guard lock(mutex_);
    switch (h.op) {
      case LinkOp::kGetCaches:
        for (auto& [number, c] : caches_) {
          caches.push_back(c.info);
          caches.back().nr_free = static_cast<uint32_t>(c.free.size());
        }
        break;
      case LinkOp::kGetImages: images = images_; break;
      case LinkOp::kGetSpaces:
        for (auto& [number, s] : spaces_) {
          spaces.push_back(s.info);
          spaces.back().nr_present = static_cast<uint32_t>(s.map.size());
        }
        break;
      case LinkOp::kGetSlots:
        if (auto it = caches_.find(h.cache); it != caches_.end()) {
          for (auto& [slot, info] : it->second.slots) {
            used.push_back(info);
            if (h.limit != 0) info.accessed = false;
          }
        }
        break;
      case LinkOp::kRegister:  // a helper that comes is told what waits, as by the module
        registered_ = true;
        [[fallthrough]];
      case LinkOp::kGetPending:
        for (auto& [number, s] : spaces_)
          for (auto [chunk, miss_class] : s.pending)
            again[s.info.cache].push_back({.space = number, .chunk_no = chunk, .miss_class = miss_class});
        break;
      default:
        err = DoLocked(request, &slots);
        changed_.notify_all();
    }
  }
  {
    std::lock_guard lock(send_mutex_);
    if (err != 0 || slots.size() + used.size() + caches.size() + images.size() + spaces.size() == 0)
      (void)SendLink(socket, {.op = LinkOp::kReply, .number = h.number, .err = err},
                     std::span<const uint32_t>{}).ok();
    else if (!slots.empty()) Reply<uint32_t>(socket, h.number, slots);
    else if (!used.empty()) Reply<SlotInfo>(socket, h.number, used);
    else if (!caches.empty()) Reply<CacheInfo>(socket, h.number, caches);
    else if (!images.empty()) Reply<ImageInfo>(socket, h.number, images);
    else Reply<SpaceInfo>(socket, h.number, spaces);
  }
  for (const auto& [cache, chunks] : again) SendMisses(cache, chunks);
}

void StandInKernel::SendMisses(uint32_t cache, std::span<const ChunkEntry> chunks) {
  std::lock_guard lock(send_mutex_);
  while (!chunks.empty() && registered_) {
    const size_t n = std::min<size_t>(chunks.size(), 64);  // as many as the module sends at once
    if (!SendLink(helper_, {.op = LinkOp::kMiss, .cache = cache}, chunks.first(n)).ok()) return;
    chunks = chunks.subspan(n);
  }
}

void StandInKernel::Ask(uint32_t space, std::span<const uint32_t> chunks, uint8_t miss_class) {
  std::vector<ChunkEntry> misses;
  uint32_t cache;
  {
    std::lock_guard lock(mutex_);
    Space& s = spaces_.at(space);
    cache = s.info.cache;
    for (uint32_t chunk : chunks) {
      if (s.map.contains(chunk)) continue;
      s.failed.erase(chunk);
      auto [it, fresh] = s.pending.emplace(chunk, miss_class);
      if (!fresh && it->second >= miss_class) continue;  // a plain read raises the class
      it->second = miss_class;
      misses.push_back({.space = space, .chunk_no = chunk, .miss_class = miss_class});
    }
  }
  SendMisses(cache, misses);
}

int StandInKernel::Wait(uint32_t space, uint32_t chunk, Clock::time_point end) {
  std::unique_lock lock(mutex_);
  Space& s = spaces_.at(space);
  const bool ended = changed_.wait_until(
      lock, end, [&] { return s.map.contains(chunk) || s.failed.contains(chunk); });
  if (!ended) return ETIMEDOUT;
  return s.map.contains(chunk) ? 0 : static_cast<int>(s.failed[chunk]);
}

size_t StandInKernel::CountPresent(uint32_t space) {
  std::lock_guard lock(mutex_);
  return spaces_.at(space).map.size();
}

bool StandInKernel::WaitForAll(uint32_t space, Clock::time_point end) {
  std::unique_lock lock(mutex_);
  Space& s = spaces_.at(space);
  return changed_.wait_until(lock, end, [&] { return s.map.size() >= s.info.nr_chunks; });
}

}  // namespace fastoci
