// SPDX-License-Identifier: Apache-2.0
// Spaces, their sources, and hosts.
#include <algorithm>

#include "base/event.h"
#include "base/monotonic.h"
#include "miss/dispatcher.h"

namespace fastoci {

// What can be asked within this time is waited for.
constexpr int64_t kSoonMs = 1000;

uint64_t Dispatcher::Space::BytesOf(uint32_t span) const {
  const BlobInfo& table = source.primary()->table;
  const uint64_t end =
      span + 1 < table.spans.size() ? table.spans[span + 1].blob_offset : table.blob_bytes;
  return std::max<uint64_t>(end - table.spans[span].blob_offset, 1);
}

Dispatcher::Space* Dispatcher::SpaceOf(uint32_t cache, uint32_t space) {
  auto it = spaces_.find({cache, space});
  return it == spaces_.end() ? nullptr : it->second.get();
}

Dispatcher::Space* Dispatcher::SpaceOf(uint32_t number) {
  auto it = by_number_.find(number);
  return it == by_number_.end() ? nullptr : it->second;
}

// All that a run decodes is cached. In a small cache it must not evict more than a sixteenth.
static uint32_t MaxSpans(const Cache& cache, uint32_t max_spans) {
  const uint64_t bytes = static_cast<uint64_t>(cache.info().nr_slots)
                         << cache.info().chunk_shift;
  return static_cast<uint32_t>(
      std::clamp<uint64_t>(bytes / 16 / kRawSpanBytes, 1, std::max(max_spans, 1U)));
}

void Dispatcher::PutSpace(SpaceView view, const std::vector<User>& users) {
  After after;
  MutexLock lock(mutex_);
  const SpaceKey key{view.info.cache, view.info.space};
  auto& slot = spaces_[key];
  if (!slot) {
    slot = std::make_unique<Space>(options_.gone_retry_ms);
    slot->number = next_number_++;
    by_number_[slot->number] = slot.get();
  }
  Space* space = slot.get();
  const bool is_new = space->view == nullptr;
  space->view = std::make_shared<const SpaceView>(std::move(view));
  if (auto r = refused_.find({key.first, space->view->info.id}); r != refused_.end())
    space->refused = r->second;
  std::set<uint32_t> now;
  for (const User& u : users) {
    now.insert(u.image);
    if (!space->source.images().count(u.image)) space->source.AddImage(u.image, u.index);
    if (u.fetcher == fetcher_) space->source.SetLocations(u.image, u.locations);
  }
  const std::set<uint32_t> before = space->source.images();
  for (uint32_t image : before)
    if (!now.count(image)) space->source.RemoveImage(image);
  if (is_new)
    scheduler_.AddSpace(
        space->number, [space](uint32_t span) { return space->BytesOf(span); },
        MaxSpans(*space->view->cache, options_.max_spans));
  UpdateSourcesLocked(space, MonotonicMs());
  after.calls.push_back(hooks_.fetch);
}

std::vector<Scheduler::Wanted> Dispatcher::RemoveSpace(uint32_t cache, uint32_t space_no) {
  MutexLock lock(mutex_);
  auto it = spaces_.find({cache, space_no});
  if (it == spaces_.end()) return {};
  const uint32_t number = it->second->number;
  auto wanted = scheduler_.RemoveSpace(number);
  for (const CachedWork& c : cached_.Take([&](const CachedWork& c) { return c.space == number; }))
    wanted.push_back(c.wanted);
  std::erase_if(wanted, [](const Scheduler::Wanted& w) { return !IsRead(w.urgency); });
  by_number_.erase(number);
  spaces_.erase(it);
  return wanted;
}

void Dispatcher::Refuse(uint32_t cache, uint32_t space_no, const std::string& why) {
  std::vector<Scheduler::Wanted> wanted;
  {
    MutexLock lock(mutex_);
    Space* space = SpaceOf(cache, space_no);
    if (space == nullptr) return;
    space->refused = why;
    refused_[{cache, space->view->info.id}] = why;
    wanted = scheduler_.DropQueued(space->number);
    for (const CachedWork& c :
         cached_.Take([&](const CachedWork& c) { return c.space == space->number; }))
      wanted.push_back(c.wanted);
  }
  FailChunks(cache, space_no, wanted, ErrorKind::kMismatch);
}

void Dispatcher::UpdateSourcesLocked(Space* space, int64_t now) {
  scheduler_.SetSources(space->number, space->source.Usable(now));
  if (auto next = space->source.NextChange(now))
    timer_ = std::min(timer_.value_or(*next), *next);
}

void Dispatcher::ReleaseHeldLocked(int64_t now) {
  if (!timer_ || *timer_ > now) return;
  timer_ = std::nullopt;
  for (auto& [key, space] : spaces_) UpdateSourcesLocked(space.get(), now);
}

std::optional<Dispatcher::Clock::time_point> Dispatcher::NextTimer() {
  MutexLock lock(mutex_);
  if (!timer_) return std::nullopt;
  return Clock::time_point(std::chrono::milliseconds(*timer_));
}

Dispatcher::Taken Dispatcher::TakeLocation(uint32_t cache, uint32_t space_no,
                                           const FetchChoice& choice) {
  MutexLock lock(mutex_);
  Space* space = SpaceOf(cache, space_no);
  if (space == nullptr)
    return {std::nullopt, Error{ErrorKind::kUnavailable, ECANCELED, "the image is gone"}};
  if (choice.fetcher != 0 && choice.fetcher != fetcher_)
    return {std::nullopt, Error{ErrorKind::kUnavailable, ESTALE, "the fetcher was replaced"}};
  if (draining_) return {};
  const int64_t now = MonotonicMs();
  ReleaseHeldLocked(now);
  std::vector<FetchLocation> usable;
  for (const Scheduler::Source& s : space->source.Usable(now)) {
    const FetchLocation location = space->source.Find(s.id)->location;
    if (choice.not_these.count(location.location)) continue;
    const bool first = location.location == choice.first;
    usable.insert(first ? usable.begin() : usable.end(), location);
  }
  for (const FetchLocation& l : usable)
    if (scheduler_.TakeRequest(l.host, Urgency::kBackground)) return {l};
  bool soon = false;
  std::string why;
  for (const FetchLocation& l : space->source.Locations()) {
    if (choice.not_these.count(l.location)) continue;
    if (why.empty()) why = space->source.TroubleOf(l.location);
    auto host = hosts_.find(l.host);
    const int64_t gated =
        host != hosts_.end() && host->second.gate == HostGate::kGated ? host->second.gated_until_ms
                                                                      : 0;
    soon |= std::max(gated, space->source.HeldUntil(l.location)) <= now + kSoonMs;
  }
  if (soon) return {};
  return {std::nullopt,
          Error{ErrorKind::kUnavailable, EAGAIN,
                why.empty() ? "no location can be asked now" : why}};
}

// ---- hosts ----

void Dispatcher::SetHost(const HostState& host) {
  After after;
  MutexLock lock(mutex_);
  auto [it, is_new] = hosts_.try_emplace(host.host);
  const HostState before = std::exchange(it->second, host);
  scheduler_.SetHost(host.host, host.gate == HostGate::kGated ? 0 : std::max(host.window, 1U),
                     host.gate == HostGate::kOpen);
  const bool was_open = is_new || before.gate == HostGate::kOpen;
  const bool is_open = host.gate == HostGate::kOpen;
  if ((!is_new && before.openings != host.openings) || (!was_open && is_open))
    for (auto& [key, space] : spaces_) {
      space->source.ReleaseHost(host.host);
      UpdateSourcesLocked(space.get(), MonotonicMs());
    }
  after.calls.push_back(hooks_.fetch);
  if (was_open == is_open) return;
  after.calls.push_back([host, is_open] {
    if (is_open) {
      LogEvent(LogLevel::kInfo, {.kind = "host_open"}, "%s: answers again", host.name.c_str());
    } else {
      LogEvent(LogLevel::kWarning, {.kind = "host_gated"},
               "%s: %s: reads that need this host wait; the next try is in %lld ms",
               host.name.c_str(), host.cause.c_str(),
               static_cast<long long>(std::max<int64_t>(host.gated_until_ms - MonotonicMs(), 0)));
    }
  });
}

void Dispatcher::RemoveHost(uint32_t host) {
  MutexLock lock(mutex_);
  hosts_.erase(host);
  scheduler_.RemoveHost(host);
}

uint64_t Dispatcher::ForgetHosts() {
  MutexLock lock(mutex_);
  hosts_.clear();
  scheduler_.RemoveHosts();
  for (auto& [key, space] : spaces_) {
    space->source.ForgetLocations();
    UpdateSourcesLocked(space.get(), MonotonicMs());
  }
  return ++fetcher_;
}

std::vector<HostState> Dispatcher::Hosts() {
  MutexLock lock(mutex_);
  std::vector<HostState> out;
  for (const auto& [number, host] : hosts_) out.push_back(host);
  return out;
}

void Dispatcher::CountBytes(uint32_t image, uint64_t bytes, Urgency urgency) {
  counters_->bytes_fetched += bytes;
  if (urgency == Urgency::kBackground) counters_->bytes_background += bytes;
  MutexLock lock(mutex_);
  bytes_[image] += bytes;
}

void Dispatcher::ForgetImage(uint32_t image) {
  MutexLock lock(mutex_);
  bytes_.erase(image);
}

// ---- looks ----

void Dispatcher::Drain() {
  MutexLock lock(mutex_);
  draining_ = true;
}

bool Dispatcher::draining() {
  MutexLock lock(mutex_);
  return draining_;
}

size_t Dispatcher::nr_jobs() {
  MutexLock lock(mutex_);
  return std::max(scheduler_.nr_jobs(), nr_fetching_) + cached_.size() + nr_checking_;
}

size_t Dispatcher::nr_running() {
  MutexLock lock(mutex_);
  return nr_fetching_ + nr_checking_;
}

bool Dispatcher::HasQueued(Urgency at_least) {
  MutexLock lock(mutex_);
  return scheduler_.HasQueued(at_least) || cached_.ready();
}

bool Dispatcher::CanGoOn(uint32_t cache, uint32_t space) {
  MutexLock lock(mutex_);
  Space* s = SpaceOf(cache, space);
  return s != nullptr && scheduler_.CanGoOn(s->number);
}

bool Dispatcher::HasJobs(uint32_t cache, uint32_t space) {
  MutexLock lock(mutex_);
  Space* s = SpaceOf(cache, space);
  return s != nullptr && scheduler_.CanGoOn(s->number) && scheduler_.HasJobs(s->number);
}

size_t Dispatcher::nr_queued_of(uint32_t image, Urgency urgency) {
  MutexLock lock(mutex_);
  return scheduler_.nr_queued_of(image, urgency);
}

size_t Dispatcher::nr_cached() {
  MutexLock lock(mutex_);
  return cached_.size() + nr_checking_;
}

uint64_t Dispatcher::bytes_of(uint32_t image) {
  MutexLock lock(mutex_);
  auto it = bytes_.find(image);
  return it == bytes_.end() ? 0 : it->second;
}

std::map<std::pair<uint32_t, uint32_t>, Dispatcher::Waiting> Dispatcher::WaitingBySpace() {
  MutexLock lock(mutex_);
  std::map<SpaceKey, Waiting> out;
  const int64_t now = MonotonicMs();
  for (const auto& [number, w] : scheduler_.WaitingBySpace()) {
    Space* space = SpaceOf(number);
    if (space == nullptr) continue;
    Waiting& waiting = out[{space->view->info.cache, space->view->info.space}];
    waiting.chunks = w.chunks;
    waiting.oldest = Clock::time_point(Clock::duration(w.oldest));
    for (const FetchLocation& l : space->source.Locations()) {
      waiting.locations.push_back({l.host, space->source.TroubleOf(l.location)});
      auto host = hosts_.find(l.host);
      waiting.can_go_on |= waiting.locations.back().trouble.empty() &&
                           (host == hosts_.end() || host->second.gate == HostGate::kOpen);
    }
    waiting.next_try_ms = space->source.NextChange(now).value_or(0);
  }
  cached_.ForEach([&](const CachedWork& c) {
    if (!IsRead(c.wanted.urgency)) return;
    const auto since = Clock::time_point(Clock::duration(c.wanted.since));
    Waiting& waiting = out[{c.view->info.cache, c.view->info.space}];
    waiting.oldest = waiting.chunks++ ? std::min(waiting.oldest, since) : since;
    waiting.can_go_on = true;
  });
  return out;
}

std::shared_ptr<const SpaceView> Dispatcher::ViewOf(uint32_t cache, uint32_t space) {
  MutexLock lock(mutex_);
  Space* s = SpaceOf(cache, space);
  return s ? s->view : nullptr;
}

std::vector<std::shared_ptr<const SpaceView>> Dispatcher::Views(uint32_t cache) {
  MutexLock lock(mutex_);
  std::vector<std::shared_ptr<const SpaceView>> out;
  for (auto it = spaces_.lower_bound({cache, 0}); it != spaces_.end() && it->first.first == cache;
       ++it)
    out.push_back(it->second->view);
  return out;
}

std::shared_ptr<const SpanIndex> Dispatcher::IndexOf(uint32_t cache, uint32_t space) {
  MutexLock lock(mutex_);
  Space* s = SpaceOf(cache, space);
  return s ? s->source.primary() : nullptr;
}

uint32_t Dispatcher::NumberOf(uint32_t cache, uint32_t space) {
  MutexLock lock(mutex_);
  Space* s = SpaceOf(cache, space);
  return s ? s->number : 0;
}

Dispatcher::Ways Dispatcher::WaysOf(uint32_t cache, uint32_t space) {
  MutexLock lock(mutex_);
  Space* s = SpaceOf(cache, space);
  return s ? Ways{s->source.pairs(), fetcher_} : Ways{};
}

}  // namespace fastoci
