// SPDX-License-Identifier: Apache-2.0
// Background download: wants every chunk of the attached images, one request
// at a time, behind everything that somebody waits for. An image begins after
// its delay; its rate is bounded by what was fetched for it; after some failures
// in a row it is left alone until it is attached again. An image that does not
// fit into the cache is not downloaded: it would only evict itself.
#include <algorithm>
#include <random>

#include "base/log.h"
#include "broker/miss_service.h"

namespace fastoci {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(100);  // a run that ends wakes us sooner
constexpr auto kLookAgain = std::chrono::seconds(30);    // what was evicted meanwhile
constexpr double kMaxCreditSeconds = 1;

}  // namespace

// Wants one request's worth. False: the image has it all, or cannot have it.
bool MissService::DownloadSome(uint32_t number) {
  std::lock_guard lock(mutex_);
  const uint32_t max_spans = static_cast<uint32_t>(
      std::clamp<uint64_t>(options_.download.block_bytes / kRawSpanBytes, 1, options_.max_spans));
  auto image = images_.find(number);
  if (image == images_.end() || !image->second.meta || image->second.meta->blobs.empty())
    return false;
  const uint32_t cache_no = image->second.info.cache;
  auto cache = caches_.find(cache_no);
  if (cache == caches_.end()) return false;
  std::vector<const Space*> spaces;
  uint64_t chunks = 0;
  for (const auto& [key, space] : spaces_) {
    if (key.first != cache_no || !space.meta) continue;
    const auto& blobs = image->second.meta->blobs;
    if (std::none_of(blobs.begin(), blobs.end(),
                     [&](const BlobInfo& b) { return b.data_space_id == space.info.id; }))
      continue;
    spaces.push_back(&space);
    chunks += space.info.nr_chunks;
  }
  if (spaces.empty()) return true;  // not known yet
  if (chunks > cache->second->info().nr_slots / 10 * 9) return false;
  for (const Space* space : spaces) {
    const uint32_t shift = cache->second->info().chunk_shift;
    uint32_t last = 0;
    for (uint32_t c = 0, wanted = 0; c < space->info.nr_chunks; c++) {
      auto where = cache->second->Find(space->info.space, c);
      if (where && where->use == SlotUse::kPresent) continue;
      const uint32_t span = SpanOfChunk(space->info_of_blob(), c, shift);
      if (wanted == 0) last = span + max_spans;
      if (wanted > 0 && span >= last) return true;
      (void)WantLocked(cache_no, space->info.space, c, Urgency::kBackground, Clock::now());
      wanted++;
      if (c + 1 == space->info.nr_chunks) return true;
    }
    if (last != 0) return true;
  }
  return false;
}

void MissService::Download() {
  double credit = 0;  // bytes that may be fetched
  uint64_t counted = 0;
  auto last = Clock::now();
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (!options_.download.enable) {
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
    if (credit < 0 || draining_ || queue_.nr_queued() > 0) continue;
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
