// SPDX-License-Identifier: Apache-2.0
#include "miss/checker.h"

#include <map>
#include <numeric>
#include <set>

#include "base/event.h"

namespace fastoci {
namespace {

constexpr size_t kBatch = 16;  // slots between two looks at who waits
constexpr auto kIdlePoll = std::chrono::milliseconds(50);
constexpr auto kReadPoll = std::chrono::seconds(2);

}  // namespace

Checker::Checker(Catalog* catalog, Dispatcher* dispatcher, Counters* counters, bool verify_on_read,
                 int nr_threads)
    : catalog_(catalog),
      dispatcher_(dispatcher),
      counters_(counters),
      verify_on_read_(verify_on_read),
      nr_threads_(nr_threads) {}

Checker::~Checker() { Stop(); }

void Checker::Start() {
  for (int i = 0; i < nr_threads_; i++) threads_.emplace_back([this] { ServeWanted(); });
  threads_.emplace_back([this] { CheckInBackground(); });
}

void Checker::Stop() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    wanted_.NotifyAll();
    background_.NotifyAll();
  }
  for (std::thread& t : threads_) t.join();
  threads_.clear();
}

void Checker::Wake() {
  MutexLock lock(mutex_);
  wakes_++;
  wanted_.NotifyAll();
}

void Checker::CheckSoon() {
  MutexLock lock(mutex_);
  check_ = true;
  background_.NotifyAll();
}

void Checker::Scrub() {
  MutexLock lock(mutex_);
  scrub_ = true;
  background_.NotifyAll();
}

// ---- what is wanted ----

void Checker::ServeWanted() {
  while (!stop_) {
    uint64_t seen;
    {
      MutexLock lock(mutex_);
      seen = wakes_;
    }
    if (auto work = dispatcher_->NextCached()) {
      dispatcher_->CachedDone(*work, Serve(*work));
      continue;
    }
    const auto at = dispatcher_->NextCachedAt();
    MutexLock lock(mutex_);
    auto woken = [&] {
      mutex_.AssertHeld();
      return stop_ || wakes_ != seen;
    };
    if (at)
      wanted_.WaitUntil(mutex_, *at, woken);
    else
      wanted_.Wait(mutex_, woken);
  }
}

CachedEnd Checker::Serve(const CachedWork& work) {
  Cache& cache = *work.view->cache;
  const uint32_t space = work.view->info.space, chunk_no = work.wanted.chunk_no;
  auto where = cache.Find(space, chunk_no);
  if (!where) {  // nothing is fetched for a device that takes no writes; it is asked each time
    Status s = cache.Writable();
    if (s.ok() || s.error().err != EROFS) return {CachedEnd::kAbsent};
    return {CachedEnd::kNoWrites, s.error()};
  }
  if (where->use == SlotUse::kRestored) {
    AlignedBuffer buffer(cache.chunk_bytes());
    if (!buffer.ok()) return {CachedEnd::kAbsent};
    (void)Check(&cache, *work.view, {where->slot, space, chunk_no, false}, &buffer, false);
  } else if (where->use == SlotUse::kVerifying) {
    cache.WaitForClaim(space, chunk_no);
  }
  if (cache.FillAgain(space, chunk_no)) return {CachedEnd::kServed};
  where = cache.Find(space, chunk_no);
  return {where && where->use == SlotUse::kPresent ? CachedEnd::kRefused : CachedEnd::kAbsent};
}

bool Checker::Check(Cache* cache, const SpaceView& view, const Cache::Unchecked& what,
                    AlignedBuffer* buffer, bool planted) {
  const SlotCheck check = CheckSlot(cache, *view.blob, what, buffer);
  if (check.verdict == SlotVerdict::kGood && !what.present) counters_->restored++;
  if (check.verdict != SlotVerdict::kWrong) return true;
  EventFields fields =
      catalog_->FieldsOf(planted ? "planted" : "rotten", view.image, *view.blob);
  fields.chunk = what.chunk_no;
  LogEvent(LogLevel::kError, fields,
           "%s: chunk %u in slot %u: %s; it is fetched again when it is read", fields.blob.c_str(),
           what.chunk_no, what.slot, check.why.c_str());
  (planted ? counters_->planted : counters_->rotten)++;
  return false;
}

// ---- in the background ----

// False: stop.
bool Checker::WaitForIdle() {
  while (!stop_ && (dispatcher_->draining() || dispatcher_->HasQueued(Urgency::kAhead))) {
    MutexLock lock(mutex_);
    background_.WaitFor(mutex_, kIdlePoll, [&] { return stop_.load(); });
  }
  return !stop_;
}

// Checks some slots from *cursor on; false at the end.
bool Checker::CheckSome(Cache* cache, uint32_t* cursor) {
  std::map<uint32_t, std::shared_ptr<const SpaceView>> known;
  std::set<uint32_t> numbers;
  for (auto& view : dispatcher_->Views(cache->info().cache)) {
    numbers.insert(view->info.space);
    known[view->info.space] = std::move(view);
  }
  AlignedBuffer buffer(cache->chunk_bytes());
  auto slots = cache->ToCheck(kBatch, numbers, cursor);
  for (const Cache::Unchecked& what : slots) {
    if (!buffer.ok() || stop_) return false;
    (void)Check(cache, *known.at(what.space), what, &buffer, false);
  }
  return !slots.empty();
}

// Verifies again the chunks that these slots serve. False: stop.
bool Checker::ScrubSlots(Cache* cache, const std::vector<uint32_t>& slots) {
  AlignedBuffer buffer(cache->chunk_bytes());
  if (!buffer.ok()) return false;
  for (uint32_t slot : slots) {
    if (!WaitForIdle()) return false;
    auto what = cache->PresentIn(slot);
    if (!what) continue;
    auto view = dispatcher_->ViewOf(cache->info().cache, what->space);
    if (!view) continue;
    (void)Check(cache, *view, *what, &buffer, false);
    counters_->scrubbed++;
  }
  return true;
}

std::optional<uint64_t> Checker::Compare(const std::shared_ptr<Cache>& cache,
                                         const SpaceView& view) {
  uint64_t differed = 0;
  AlignedBuffer buffer(cache->chunk_bytes());
  for (uint32_t slot = 0; slot < cache->info().nr_slots; slot++) {
    if (stop_ || !buffer.ok()) return std::nullopt;
    auto what = cache->PresentIn(slot);
    if (what && what->space == view.info.space)
      differed += !Check(cache.get(), view, *what, &buffer, true);
  }
  return differed;
}

void Checker::CheckInBackground() {
  while (!stop_) {
    bool scrub;
    {
      MutexLock lock(mutex_);
      auto wanted = [&] {
        mutex_.AssertHeld();
        return stop_ || check_ || scrub_;
      };
      if (verify_on_read_)
        background_.WaitFor(mutex_, kReadPoll, wanted);
      else
        background_.Wait(mutex_, wanted);
      scrub = std::exchange(scrub_, false);
      check_ = false;
    }
    for (auto& cache : catalog_->Caches()) {
      uint32_t cursor = 0;
      while (WaitForIdle() && CheckSome(cache.get(), &cursor)) continue;
      std::vector<uint32_t> slots;
      if (scrub) {
        cache->RetryBadSlots();
        slots.resize(cache->info().nr_slots);
        std::iota(slots.begin(), slots.end(), 0);
      } else if (verify_on_read_) {
        slots = cache->TakeRead();
      }
      const uint64_t rotten = counters_->rotten;
      if (!ScrubSlots(cache.get(), slots) || !scrub) continue;
      EventFields fields;
      fields.kind = "scrub";
      fields.count = counters_->rotten - rotten;
      LogEvent(LogLevel::kInfo, fields, "cache %u: scrubbed, %llu chunks were rotten",
               cache->info().cache, static_cast<unsigned long long>(fields.count));
    }
  }
}

}  // namespace fastoci
