// SPDX-License-Identifier: Apache-2.0
// Background download: wants every chunk of the attached images, one request
// at a time, behind everything that somebody waits for. An image begins after
// its delay; its rate is bounded by what was fetched for it; after some failures
// in a row it is left alone until it is attached again. An image that does not
// fit into the cache is not downloaded: it would only evict itself.
//
// A prefetch, which somebody asked for, is ahead of that, and its rate is not
// bounded.
#include <algorithm>
#include <random>

#include "base/log.h"
#include "broker/miss_service.h"

namespace fastoci {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(100);  // a run that ends wakes us sooner
constexpr auto kLookAgain = std::chrono::seconds(30);    // what was evicted meanwhile
constexpr double kMaxCreditSeconds = 1;
constexpr auto kNextPass = std::chrono::milliseconds(500);
constexpr uint32_t kMaxPasses = 20;

}  // namespace

std::vector<const MissService::Space*> MissService::SpacesOfLocked(const Image& image) const {
  std::vector<const Space*> spaces;
  if (!image.meta) return spaces;
  for (const auto& [key, space] : spaces_) {
    if (key.first != image.info.cache || !space.meta) continue;
    const auto& blobs = image.meta->blobs;
    if (std::any_of(blobs.begin(), blobs.end(),
                    [&](const BlobInfo& b) { return b.data_space_id == space.info.id; }))
      spaces.push_back(&space);
  }
  return spaces;
}

Status MissService::FitsLocked(const Image& image, const std::vector<const Space*>& spaces) const {
  uint64_t chunks = 0;
  for (const Space* space : spaces) chunks += space->info.nr_chunks;
  const uint64_t room = caches_.at(image.info.cache)->info().nr_slots / 10 * 9;
  if (chunks <= room) return OkStatus();
  return Error{ErrorKind::kInvalid, ENOSPC,
               "the image has " + std::to_string(chunks) + " chunks, more than the " +
                   std::to_string(room) + " that the cache has room for beside others: it needs a larger cache"};
}

bool MissService::WantSomeLocked(const Image& image, const std::vector<const Space*>& spaces,
                                 Urgency urgency, uint64_t* from) {
  const auto& cache = caches_.at(image.info.cache);
  const uint32_t shift = cache->info().chunk_shift;
  const uint32_t max_spans = static_cast<uint32_t>(
      std::clamp<uint64_t>(options_.download.block_bytes / kRawSpanBytes, 1, options_.max_spans));
  uint64_t first = 0;  // of the space
  for (const Space* space : spaces) {
    uint32_t last_span = 0;
    bool wanted = false;
    for (uint32_t c = static_cast<uint32_t>(std::min<uint64_t>(
             *from > first ? *from - first : 0, space->info.nr_chunks));
         c < space->info.nr_chunks; c++) {
      auto where = cache->Find(space->info.space, c);
      if (where && where->use == SlotUse::kPresent) continue;
      const uint32_t span = SpanOfChunk(space->info_of_blob(), c, shift);
      if (!wanted) last_span = span + max_spans;
      if (span >= last_span) break;
      (void)WantLocked(image.info.cache, space->info.space, c, urgency, Clock::now());
      wanted = true;
      *from = first + c + 1;
    }
    if (wanted) return true;
    first += space->info.nr_chunks;
  }
  return false;
}

// False: the image has it all, or cannot have it.
bool MissService::DownloadSome(uint32_t number) {
  std::lock_guard lock(mutex_);
  auto image = images_.find(number);
  if (image == images_.end() || !image->second.meta || image->second.meta->blobs.empty() ||
      !caches_.count(image->second.info.cache))
    return false;
  const auto spaces = SpacesOfLocked(image->second);
  if (spaces.empty()) return true;  // not known yet
  if (!FitsLocked(image->second, spaces).ok()) return false;
  // The check of a whole blob brings it.
  if (std::any_of(spaces.begin(), spaces.end(),
                  [&](const Space* s) { return AwaitsWholeLocked(*s) && !s->whole_unread; }))
    return true;
  uint64_t from = 0;
  return WantSomeLocked(image->second, spaces, Urgency::kBackground, &from);
}

Status MissService::Prefetch(const Sha256Digest& image_id) {
  std::lock_guard lock(mutex_);
  bool found = false;
  for (auto& [no, image] : images_) {
    if (image.info.image_id != image_id) continue;
    if (!image.meta) return Error{ErrorKind::kInvalid, EINVAL, image.error};
    if (!caches_.count(image.info.cache)) continue;
    FASTOCI_CHECK_OK(FitsLocked(image, SpacesOfLocked(image)));
    found = image.prefetch = true;
    image.prefetch_from = image.prefetch_passes = image.download_failures = 0;
    image.prefetch_at = {};
    image.prefetch_error.clear();
  }
  if (!found) return NotFoundError("no such image is attached");
  idle_.notify_all();
  return OkStatus();
}

bool MissService::PrefetchSomeLocked(Image* image) {
  if (Clock::now() < image->prefetch_at || !caches_.count(image->info.cache)) return false;
  const auto spaces = SpacesOfLocked(*image);
  if (spaces.empty()) return false;  // not known yet
  if (Status fits = FitsLocked(*image, spaces); !fits.ok()) {  // nor when it was asked for
    image->prefetch = false;
    image->prefetch_error = fits.error().message;
    return false;
  }
  if (image->download_failures >= options_.download.tries) {
    image->prefetch = false;
    image->prefetch_error = image->download_error;
    return false;
  }
  if (WantSomeLocked(*image, spaces, Urgency::kPrefetch, &image->prefetch_from)) return true;
  if (image->prefetch_from == 0) {  // nothing was missing in the whole pass
    image->prefetch = false;
  } else if (++image->prefetch_passes > kMaxPasses) {
    image->prefetch = false;
    image->prefetch_error = "what comes is evicted again: the cache is too small for all that is read";
  } else {
    image->prefetch_from = 0;
    image->prefetch_at = Clock::now() + kNextPass;  // the last ones are on their way
  }
  return false;
}

void MissService::Download() {
  double credit = 0;  // bytes that may be fetched
  uint64_t counted = 0;
  auto last = Clock::now();
  std::unique_lock lock(mutex_);
  while (!stop_) {
    const bool prefetch = std::any_of(images_.begin(), images_.end(),
                                      [](const auto& i) { return i.second.prefetch; });
    if (!options_.download.enable && !prefetch) {
      idle_.wait(lock);
      counted = counters_.bytes_background;
      last = Clock::now();
      continue;
    }
    idle_.wait_for(lock, kPoll);
    if (stop_) return;
    const double rate = static_cast<double>(options_.download.max_mbps) * 1e6;
    const auto now = Clock::now();
    const uint64_t fetched = counters_.bytes_background;
    credit += rate * std::chrono::duration<double>(now - last).count();
    credit = std::min(credit, rate * kMaxCreditSeconds) - static_cast<double>(fetched - counted);
    counted = fetched;
    last = now;
    if (draining_ || queue_.nr_queued() > 0) continue;
    if (std::any_of(images_.begin(), images_.end(), [&](auto& i) {
          return i.second.prefetch && PrefetchSomeLocked(&i.second);
        }))
      continue;
    if (credit < 0 || !options_.download.enable) continue;
    std::vector<uint32_t> due;
    for (const auto& [no, image] : images_)
      if (image.download_at <= now && image.download_failures < options_.download.tries)
        due.push_back(no);
    for (uint32_t no : due) {
      lock.unlock();
      const bool more = DownloadSome(no);
      lock.lock();
      if (more) break;
      if (auto image = images_.find(no); image != images_.end())
        image->second.download_at = now + kLookAgain;
    }
  }
}

}  // namespace fastoci
