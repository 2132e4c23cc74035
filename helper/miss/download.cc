// SPDX-License-Identifier: Apache-2.0
#include "miss/download.h"

#include <algorithm>
#include <random>

namespace fastoci {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(100);  // work that ends wakes us sooner
constexpr auto kLookAgain = std::chrono::seconds(30);   // what was evicted meanwhile
constexpr auto kLookAtHosts = std::chrono::seconds(1);  // whether one answers again
constexpr double kMaxCreditSeconds = 1;
constexpr uint32_t kMaxPasses = 20;
constexpr size_t kKeepQueued = 96;  // spans of a prefetch, and of a download without a rate

std::chrono::seconds Delay(const DownloadConfig& c) {
  std::random_device random;
  return std::chrono::seconds(c.delay_s + (c.delay_extra_s ? random() % c.delay_extra_s : 0));
}

}  // namespace

Download::Download(Catalog* catalog, Dispatcher* dispatcher, Counters* counters,
                   DownloadConfig config)
    : catalog_(catalog), dispatcher_(dispatcher), counters_(counters), config_(config) {}

Download::~Download() { Stop(); }

void Download::Start(std::function<bool(const SpaceInfo&)> awaits_whole) {
  awaits_whole_ = std::move(awaits_whole);
  thread_ = std::thread([this] { Run(); });
}

void Download::Stop() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void Download::Wake() {
  MutexLock lock(mutex_);
  wake_ = true;
  changed_.NotifyAll();
}

void Download::Reconfigure(const DownloadConfig& config) {
  MutexLock lock(mutex_);
  config_ = config;
  for (auto& [image, state] : states_) {
    state.failures = 0;
    state.look_at = {};
  }
  wake_ = true;
  changed_.NotifyAll();
}

DownloadConfig Download::config() {
  MutexLock lock(mutex_);
  return config_;
}

void Download::OnImageAdded(uint32_t image) {
  MutexLock lock(mutex_);
  states_[image].due = Clock::now() + Delay(config_);
}

void Download::OnImageRemoved(uint32_t image) {
  MutexLock lock(mutex_);
  states_.erase(image);
}

void Download::OnEnded(uint32_t image, const Status& status) {
  MutexLock lock(mutex_);
  auto it = states_.find(image);
  if (it == states_.end()) return;
  it->second.failures = status.ok() ? 0 : it->second.failures + 1;
  it->second.error = status.ok() ? "" : status.error().message;
}

Download::Stat Download::StatOf(uint32_t image) {
  MutexLock lock(mutex_);
  auto it = states_.find(image);
  if (it == states_.end()) return {};
  return {it->second.prefetch, it->second.prefetch_error};
}

bool Download::IsDue(uint32_t image) {
  MutexLock lock(mutex_);
  auto it = states_.find(image);
  return it != states_.end() && it->second.due <= Clock::now();
}

Status Download::Prefetch(const Sha256Digest& image_id) {
  bool found = false;
  for (const Catalog::Image& image : catalog_->Images()) {
    if (image.info.image_id != image_id) continue;
    if (!image.meta) return Error{ErrorKind::kInvalid, EINVAL, image.error};
    Status fits = catalog_->Fits(image);
    if (!fits.ok() && fits.error().kind == ErrorKind::kNotFound) continue;
    FASTOCI_CHECK_OK(fits);
    MutexLock lock(mutex_);
    State& state = states_[image.info.image];
    found = state.prefetch = true;
    state.cursor = state.passes = state.failures = 0;
    state.found = state.left_out = false;
    state.look_at = {};
    state.prefetch_error.clear();
    wake_ = true;
    changed_.NotifyAll();
  }
  return found ? OkStatus() : Status(NotFoundError("no such image is attached"));
}

void Download::EndPrefetch(uint32_t image, const std::string& error) {
  MutexLock lock(mutex_);
  auto it = states_.find(image);
  if (it == states_.end()) return;
  it->second.prefetch = false;
  it->second.prefetch_error = error;
  it->second.cursor = 0;
  it->second.found = it->second.left_out = false;
}

bool Download::WantSome(const Catalog::Image& image, const std::vector<SpaceInfo>& spaces,
                        Urgency urgency, uint32_t max_spans) {
  auto cache = catalog_->CacheOf(image.info.cache);
  if (!cache) return false;
  uint64_t cursor;
  {
    MutexLock lock(mutex_);
    cursor = states_[image.info.image].cursor;
  }
  uint64_t first = 0;  // of the space
  uint32_t nr_spans = 0;
  bool full = false, left_out = false;
  for (const SpaceInfo& space : spaces) {
    const uint64_t begin = first, end = first + space.nr_chunks;
    first = end;
    if (cursor >= end) continue;
    auto index = dispatcher_->IndexOf(space.cache, space.space);
    if (!index || !dispatcher_->CanGoOn(space.cache, space.space)) {
      left_out = true;
      cursor = end;
      continue;
    }
    std::optional<uint32_t> last;
    for (; cursor < end; cursor++) {
      const auto chunk_no = static_cast<uint32_t>(cursor - begin);
      looks_++;
      auto where = cache->Find(space.space, chunk_no);
      if (where && where->use == SlotUse::kPresent) continue;
      const uint32_t span = SpanOfChunk(index->table, chunk_no, cache->info().chunk_shift);
      full = span != last && nr_spans++ == max_spans;
      if (full) break;
      last = span;
      (void)dispatcher_->Want(space.cache, space.space, chunk_no, urgency, Clock::now(),
                              image.info.image);
    }
    if (full) break;
  }
  MutexLock lock(mutex_);
  auto it = states_.find(image.info.image);
  if (it == states_.end()) return false;
  it->second.cursor = cursor;
  it->second.left_out |= left_out;
  it->second.found |= nr_spans > 0;
  return nr_spans > 0;
}

Download::Step Download::StepPrefetch(const Catalog::Image& image) {
  const uint32_t number = image.info.image;
  const auto spaces = catalog_->SpacesOf(image);
  if (spaces.empty()) return Step::kWaits;  // not known yet
  if (Status fits = catalog_->Fits(image); !fits.ok()) {
    EndPrefetch(number, fits.error().message);
    return Step::kEnded;
  }
  {
    MutexLock lock(mutex_);
    auto it = states_.find(number);
    if (it == states_.end()) return Step::kEnded;
    if (it->second.look_at > Clock::now()) return Step::kWaits;
    if (it->second.failures >= config_.tries) {
      const std::string error = it->second.error;
      lock.Unlock();
      EndPrefetch(number, error);
      return Step::kEnded;
    }
  }
  const size_t queued = dispatcher_->nr_queued_of(number, Urgency::kPrefetch);
  if (queued >= kKeepQueued / 2) return Step::kBusy;
  const bool wanted = WantSome(image, spaces, Urgency::kPrefetch,
                               static_cast<uint32_t>(kKeepQueued - queued));
  if (wanted) return Step::kWanted;
  const bool on_its_way =
      dispatcher_->nr_cached() > 0 ||
      std::any_of(spaces.begin(), spaces.end(), [&](const SpaceInfo& s) {
        return dispatcher_->HasJobs(s.cache, s.space);
      });
  MutexLock lock(mutex_);
  auto it = states_.find(number);
  if (it == states_.end() || !it->second.prefetch) return Step::kEnded;
  State& state = it->second;
  if (on_its_way && state.found) return Step::kBusy;
  if (!state.found && !state.left_out) {  // nothing was missing in the whole pass
    lock.Unlock();
    EndPrefetch(number, "");
    return Step::kEnded;
  }
  state.cursor = 0;
  const bool left_out = std::exchange(state.left_out, false);
  if (!std::exchange(state.found, false) && left_out) {
    state.look_at = Clock::now() + kLookAtHosts;
    return Step::kWaits;
  }
  if (++state.passes <= kMaxPasses) return Step::kWanted;
  lock.Unlock();
  EndPrefetch(number,
              "the cache evicts the image again while it arrives: use a larger cache");
  return Step::kEnded;
}

// True: look again at once.
bool Download::StepPrefetches() {
  bool again = false;
  for (const Catalog::Image& image : catalog_->Images()) {
    if (!image.meta || !StatOf(image.info.image).prefetching) continue;
    again |= StepPrefetch(image) == Step::kWanted;
  }
  return again;
}

Download::Step Download::StepDownload(const Catalog::Image& image, const DownloadConfig& config) {
  const auto spaces = catalog_->SpacesOf(image);
  if (!image.meta || image.meta->blobs.empty() || !catalog_->CacheOf(image.info.cache))
    return Step::kEnded;
  if (spaces.empty()) return Step::kWaits;  // not known yet
  if (!catalog_->Fits(image).ok()) return Step::kEnded;
  // The check of a whole blob brings it.
  if (std::any_of(spaces.begin(), spaces.end(), awaits_whole_)) return Step::kWaits;
  const bool unlimited = config.max_mbps == 0;
  const size_t queued = dispatcher_->nr_queued_of(image.info.image, Urgency::kBackground);
  if (queued > (unlimited ? kKeepQueued / 2 : 0)) return Step::kBusy;
  const uint64_t block = std::clamp<uint64_t>(config.block_bytes / kRawSpanBytes, 1, 8);
  if (WantSome(image, spaces, Urgency::kBackground,
               static_cast<uint32_t>(unlimited ? kKeepQueued : block)))
    return Step::kWanted;
  MutexLock lock(mutex_);
  auto it = states_.find(image.info.image);
  if (it == states_.end()) return Step::kEnded;
  State& state = it->second;
  state.cursor = 0;
  const bool left_out = std::exchange(state.left_out, false);
  // After a pass that found something missing, another pass checks whether it has come.
  if (std::exchange(state.found, false)) return Step::kBusy;
  if (!left_out) return Step::kEnded;
  state.look_at = Clock::now() + kLookAtHosts;
  return Step::kWaits;
}

// Downloads one image after the other. If an image waits for its registry, the next one goes on.
Download::Step Download::StepDownloads(const DownloadConfig& config) {
  const auto now = Clock::now();
  for (const Catalog::Image& image : catalog_->Images()) {
    const uint32_t number = image.info.image;
    bool due;
    {
      MutexLock lock(mutex_);
      auto it = states_.find(number);
      due = it != states_.end() && it->second.due <= now && it->second.look_at <= now &&
            it->second.failures < config.tries && !it->second.prefetch;
    }
    if (!due) continue;
    const Step step = StepDownload(image, config);
    if (step == Step::kWanted || step == Step::kBusy) return step;
    if (step == Step::kWaits) continue;
    MutexLock lock(mutex_);
    if (auto it = states_.find(number); it != states_.end()) it->second.look_at = now + kLookAgain;
  }
  return Step::kEnded;
}

void Download::Run() {
  double credit = 0;  // bytes that may be fetched
  uint64_t counted = counters_->bytes_background;
  auto last = Clock::now();
  for (bool again = false;;) {
    DownloadConfig config;
    {
      MutexLock lock(mutex_);
      const bool prefetch = std::any_of(states_.begin(), states_.end(),
                                        [](const auto& s) { return s.second.prefetch; });
      auto woken = [&] {
        mutex_.AssertHeld();
        return stop_ || wake_;
      };
      if (config_.enable || prefetch)
        changed_.WaitFor(mutex_, again ? std::chrono::milliseconds(0) : kPoll, woken);
      else
        changed_.Wait(mutex_, woken);
      if (stop_) return;
      wake_ = false;
      config = config_;
    }
    const double rate = static_cast<double>(config.max_mbps) * 1e6;
    const auto now = Clock::now();
    const uint64_t fetched = counters_->bytes_background;
    credit += rate * std::chrono::duration<double>(now - last).count();
    credit = std::min(credit, rate * kMaxCreditSeconds) - static_cast<double>(fetched - counted);
    counted = fetched;
    last = now;
    again = false;
    if (dispatcher_->draining()) continue;
    again = StepPrefetches();
    if (again || !config.enable) continue;
    // With a rate, it comes after all prefetches. Without one, its class is the last anyway.
    if (config.max_mbps != 0 && (credit < 0 || dispatcher_->HasQueued(Urgency::kPrefetch)))
      continue;
    (void)StepDownloads(config);
  }
}

}  // namespace fastoci
