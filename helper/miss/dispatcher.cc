// SPDX-License-Identifier: Apache-2.0
// Jobs: what is wanted, what is picked, how it ended. dispatcher_spaces.cc has spaces and hosts.
#include "miss/dispatcher.h"

#include <algorithm>

#include "base/event.h"
#include "base/monotonic.h"

namespace fastoci {
namespace {

constexpr uint32_t kMaxFruitless = 4;      // runs of a job that bring nothing of what is wanted
constexpr int64_t kShortHoldMs = 20;       // of a location whose refusal names no time
constexpr int64_t kRefusedHoldMs = 1000;   // of one that the fetcher does not know
constexpr uint64_t kCacheShare = 32;       // input that is read ahead: one part in so many of a cache
constexpr uint64_t kRangeBytes = 7 << 19;  // with its tail, one request

Dispatcher::Clock::time_point TimeOfStamp(int64_t stamp) {
  return Dispatcher::Clock::time_point(Dispatcher::Clock::duration(stamp));
}

}  // namespace

Dispatcher::Dispatcher(DispatcherOptions options, Counters* counters, MissTracer* tracer)
    : options_(options),
      counters_(counters),
      tracer_(tracer),
      readahead_bytes_(options.readahead_bytes),
      scheduler_({.range_bytes = kRangeBytes}) {}

std::string Dispatcher::NameOf(const SpanJob& job) {
  return DigestString(job.view->blob->blob_digest) + ", span " + std::to_string(job.first) +
         (job.nr_spans > 1 ? " and " + std::to_string(job.nr_spans - 1) + " more" : "");
}

// ---- wants ----

bool Dispatcher::Want(uint32_t cache, uint32_t space_no, uint32_t chunk_no, Urgency urgency,
                      Clock::time_point since, uint32_t image) {
  After after;
  MutexLock lock(mutex_);
  Space* space = SpaceOf(cache, space_no);
  if (space == nullptr) return false;
  if (chunk_no >= space->view->info.nr_chunks) return true;  // the kernel would not ask
  const int64_t stamp = since.time_since_epoch().count();
  if (!space->refused.empty()) {  // not from here: the kernel's answers come by this thread
    to_fail_.push_back({space->view, space->number, {chunk_no, urgency, stamp, 0}});
    after.calls.push_back(hooks_.cached);
    return true;
  }
  WantLocked(space, chunk_no, urgency, stamp, image ? image : space->view->image);
  if (urgency >= Urgency::kMaybe) ReadaheadLocked(space, chunk_no, stamp);
  after.calls.push_back(hooks_.fetch);
  if (!cached_.empty()) after.calls.push_back(hooks_.cached);
  return true;
}

void Dispatcher::WantLocked(Space* space, uint32_t chunk_no, Urgency urgency, int64_t stamp,
                            uint32_t image) {
  auto where = space->view->cache->Find(space->view->info.space, chunk_no);
  if (!where) {
    scheduler_.Want(space->number, space->SpanOf(chunk_no), chunk_no, urgency, image, stamp);
    return;
  }
  if (where->use == SlotUse::kPresent && !IsRead(urgency)) return;
  if (urgency == Urgency::kReadahead) return;  // the checker comes to it
  LookUpLocked(space, {chunk_no, urgency, stamp, 0});
}

void Dispatcher::LookUpLocked(Space* space, const Scheduler::Wanted& wanted) {
  cached_.Push({space->view, space->number, wanted});
}

void Dispatcher::ReadaheadLocked(Space* space, uint32_t chunk_no, int64_t stamp) {
  const BlobInfo& table = space->source.primary()->table;
  const auto nr_spans = static_cast<uint32_t>(table.spans.size());
  const uint32_t shift = space->view->chunk_shift(), span = space->SpanOf(chunk_no);
  const uint64_t data_offset = static_cast<uint64_t>(chunk_no) << shift;
  const bool at_start = data_offset == OutputOfRun(table, span, 1, shift).out_begin;
  // In a small cache it must not evict what readers need.
  const CacheInfo& cache = space->view->cache->info();
  const uint64_t max_bytes =
      std::min(readahead_bytes_, (static_cast<uint64_t>(cache.nr_slots) << shift) / kCacheShare);
  const auto ahead = space->readahead.OnDemand({span, data_offset, at_start}, nr_spans, max_bytes,
                                               [&](uint32_t s) { return space->BytesOf(s); });
  for (uint32_t s = ahead.first; s < ahead.end; s++) {
    const JobRange out = OutputOfRun(table, s, 1, space->view->chunk_shift());
    for (uint64_t at = out.out_begin; at < out.out_end; at += 1ULL << space->view->chunk_shift())
      WantLocked(space, static_cast<uint32_t>(at >> space->view->chunk_shift()),
                 Urgency::kReadahead, stamp, space->view->image);
  }
}

void Dispatcher::SetReadahead(uint64_t bytes) {
  MutexLock lock(mutex_);
  readahead_bytes_ = bytes;
}

// ---- picking ----

std::optional<FetchWork> Dispatcher::NextFetch(const Scheduler::Room& room) {
  After after;
  MutexLock lock(mutex_);
  ReleaseHeldLocked(MonotonicMs());
  while (!draining_) {
    auto range = scheduler_.Pick(room);
    if (!range) break;
    Space* space = SpaceOf(range->space);
    auto work = PlanLocked(space, *range, &after);
    if (!cached_.empty()) after.calls.push_back(hooks_.cached);
    if (work) return work;
    scheduler_.RequestEnded(range->source.host);
  }
  return std::nullopt;
}

// Chunks that came into the cache since they were wanted need no fetch.
bool Dispatcher::TakeCachedLocked(Space* space, uint32_t span) {
  bool left = false;
  for (const Scheduler::Wanted& w : scheduler_.WantedOf(space->number, span)) {
    if (space->view->cache->Find(space->view->info.space, w.chunk_no)) {
      (void)scheduler_.Resolve(space->number, span, w.chunk_no);
      LookUpLocked(space, w);
    } else {
      left = true;
    }
  }
  if (!left) (void)scheduler_.Finish(space->number, span, kMaxFruitless);
  return left;
}

std::optional<FetchWork> Dispatcher::PlanLocked(Space* space, const Scheduler::Range& range,
                                                After* after) {
  const bool refused = !space->refused.empty();  // since it was wanted
  if (refused || !space->view->cache->TakesWrites()) {
    for (uint32_t span = range.first; span < range.first + range.nr_spans; span++)
      for (const Scheduler::Wanted& w : scheduler_.Drop(space->number, span)) {
        if (refused)
          to_fail_.push_back({space->view, space->number, w});
        else
          LookUpLocked(space, w);
      }
    after->calls.push_back(hooks_.cached);
    Ended(after);
    return std::nullopt;
  }
  const BlobSource::Pair* pair = space->source.Find(range.source.id);
  Scheduler::Range left = range;
  left.nr_spans = 0;
  for (uint32_t span = range.first; span < range.first + range.nr_spans; span++) {
    if (!TakeCachedLocked(space, span)) continue;
    if (left.nr_spans == 0) left.first = span;
    left.nr_spans = span + 1 - left.first;
  }
  if (pair == nullptr) {
    for (uint32_t i = 0; i < left.nr_spans; i++) scheduler_.Requeue(space->number, left.first + i);
    left.nr_spans = 0;
  }
  if (left.nr_spans == 0) {
    Ended(after);
    return std::nullopt;
  }
  FetchWork work;
  work.urgency = range.urgency;
  work.image = range.image;
  work.location = pair->location;
  AddJobsLocked(space, left, *pair, &work);
  if (work.jobs.empty()) {
    Ended(after);
    return std::nullopt;
  }
  for (const SpanJob& job : work.jobs) {
    work.input_begin = &job == &work.jobs[0] ? job.range.input_begin
                                             : std::min(work.input_begin, job.range.input_begin);
    work.input_end = std::max(work.input_end, job.range.input_end);
    work.fresh |= job.attempt > 0;
  }
  nr_fetching_ += work.jobs.size();
  return work;
}

void Dispatcher::AddJobsLocked(Space* space, const Scheduler::Range& range,
                               const BlobSource::Pair& pair, FetchWork* work) {
  const auto now = Clock::now();
  const uint32_t end = range.first + range.nr_spans, shift = space->view->chunk_shift();
  std::optional<int64_t> oldest;
  for (uint32_t first = range.first; first < end;) {
    SpanJob job;
    job.view = space->view;
    job.space = space->number;
    job.first = first;
    job.urgency = range.urgency;
    job.image = range.image;
    job.pair = pair;
    job.picked = now;
    bool whole_tail = false;
    uint64_t bytes = 0;
    while (first < end && (job.nr_spans == 0 || (!IsRead(range.urgency) &&
                                                 bytes + space->BytesOf(first) <=
                                                     options_.job_bytes))) {
      bytes += space->BytesOf(first);
      if (auto r = space->rounds.find(first); r != space->rounds.end())
        job.attempt = std::max(job.attempt, r->second);
      whole_tail |= space->whole_tail.count(first) != 0;
      for (const Scheduler::Wanted& w : scheduler_.WantedOf(space->number, first)) {
        if (!IsRead(w.urgency)) continue;
        const uint64_t at = static_cast<uint64_t>(w.chunk_no) << shift;
        job.urgent_begin = job.urgent_end == 0 ? at : std::min(job.urgent_begin, at);
        job.urgent_end = std::max<uint64_t>(job.urgent_end, at + (1ULL << shift));
        if (job.attempt == 0) oldest = std::min(oldest.value_or(w.since), w.since);
      }
      job.nr_spans++;
      first++;
    }
    job.range = PlanInput(
        pair.index->table,
        OutputOfRun(space->source.primary()->table, job.first, job.nr_spans, shift),
        whole_tail || job.attempt > 0);
    if (job.range.out_begin < job.range.out_end) {
      work->jobs.push_back(std::move(job));
      continue;
    }
    for (uint32_t i = 0; i < job.nr_spans; i++)  // no chunk begins there
      (void)scheduler_.Finish(space->number, job.first + i, kMaxFruitless);
  }
  if (oldest) counters_->PhaseOf(Phase::kQueue).Observe(now - TimeOfStamp(*oldest));
}

bool Dispatcher::TakeRequest(const FetchLocation& location, Urgency urgency) {
  MutexLock lock(mutex_);
  return scheduler_.TakeRequest(location.host, urgency);
}

void Dispatcher::PutBack(const FetchWork& work) {
  MutexLock lock(mutex_);
  scheduler_.RequestEnded(work.location.host);
  nr_fetching_ -= work.jobs.size();
  for (const SpanJob& job : work.jobs)
    for (uint32_t i = 0; i < job.nr_spans; i++) scheduler_.Requeue(job.space, job.first + i);
}

void Dispatcher::RequestEnded(const FetchLocation& location) {
  After after;
  MutexLock lock(mutex_);
  scheduler_.RequestEnded(location.host);
  after.calls.push_back(hooks_.fetch);
}

// ---- what is in the cache ----

void Dispatcher::FailRefused() {
  std::map<SpaceKey, std::vector<Scheduler::Wanted>> refused;
  {
    MutexLock lock(mutex_);
    for (const CachedWork& c : std::exchange(to_fail_, {}))
      refused[{c.view->info.cache, c.view->info.space}].push_back(c.wanted);
  }
  for (const auto& [key, chunks] : refused)
    FailChunks(key.first, key.second, chunks, ErrorKind::kMismatch);
}

std::optional<CachedWork> Dispatcher::NextCached() {
  FailRefused();
  MutexLock lock(mutex_);
  if (draining_) return std::nullopt;
  auto work = cached_.Pop(MonotonicMs());
  if (work) nr_checking_++;
  return work;
}

std::optional<Dispatcher::Clock::time_point> Dispatcher::NextCachedAt() {
  MutexLock lock(mutex_);
  if (draining_ || !cached_.NextChange()) return std::nullopt;
  return Clock::time_point(std::chrono::milliseconds(*cached_.NextChange()));
}

void Dispatcher::CachedDone(const CachedWork& work, const CachedEnd& end) {
  After after;
  MutexLock lock(mutex_);
  nr_checking_--;
  Ended(&after);
  if (end.what == CachedEnd::kServed) {
    if (!IsRead(work.wanted.urgency)) return;
    counters_->miss.Observe(Clock::now() - TimeOfStamp(work.wanted.since));
    after.calls.push_back(
        [=, this] { Trace(*work.view, work.wanted, TimeOfStamp(work.wanted.since), true); });
    return;
  }
  Space* space = SpaceOf(work.space);
  if (space == nullptr || stopping_) return;  // RemoveSpace() has the others
  if (end.what == CachedEnd::kNoWrites) {  // the same holds for those that were wanted before
    Cache* cache = space->view->cache.get();
    std::vector<Scheduler::Wanted> lost = {work.wanted};
    for (const CachedWork& c : cached_.Take([&](const CachedWork& c) {
           return c.space == work.space &&
                  !cache->Find(c.view->info.space, c.wanted.chunk_no);
         }))
      lost.push_back(c.wanted);
    return GiveUpChunksLocked(space, DigestString(space->view->blob->blob_digest),
                              space->view->image, TimeOfStamp(work.wanted.since),
                              std::move(lost), end.error, &after);
  }
  if (end.what == CachedEnd::kRefused)
    cached_.PushRefused(work, MonotonicMs());
  else
    WantLocked(space, work.wanted.chunk_no, work.wanted.urgency, work.wanted.since,
               space->view->image);
  after.calls.push_back(hooks_.fetch);
  if (!cached_.empty()) after.calls.push_back(hooks_.cached);
}

// ---- how it ended ----

void Dispatcher::Resolve(const SpanJob& job, uint32_t chunk_no, uint64_t order) {
  std::optional<Scheduler::Wanted> was;
  {
    MutexLock lock(mutex_);
    Space* space = SpaceOf(job.space);
    if (space == nullptr) return;
    was = scheduler_.Resolve(job.space, space->SpanOf(chunk_no), chunk_no, order);
  }
  if (!was || !IsRead(was->urgency)) return;
  counters_->miss.Observe(Clock::now() - TimeOfStamp(was->since));
  Trace(*job.view, *was, job.picked, true);
}

Dispatcher::Awaited Dispatcher::IsAwaited(uint32_t number, uint32_t chunk_no) {
  MutexLock lock(mutex_);
  Awaited awaited;
  awaited.order = scheduler_.last_order();
  if (Space* space = SpaceOf(number)) {
    auto urgency = scheduler_.UrgencyOf(number, space->SpanOf(chunk_no), chunk_no);
    awaited.by_reader = urgency && IsRead(*urgency);
  }
  return awaited;
}

void Dispatcher::Ended(After* after) {
  after->calls.push_back(hooks_.idle);
}

void Dispatcher::JobEnded(After* after) {
  nr_fetching_--;
  Ended(after);
  after->calls.push_back(hooks_.fetch);
}

void Dispatcher::FinishLocked(Space* space, const SpanJob& job, After* after) {
  for (uint32_t i = 0; i < job.nr_spans; i++) {
    auto left = scheduler_.Finish(job.space, job.first + i, kMaxFruitless);
    if (left.empty()) continue;
    GiveUpLocked(space, job, std::move(left),
                 Error{ErrorKind::kInternal, EIO, "its span was decoded and lacks it"}, after);
  }
}

void Dispatcher::SpansDone(const SpanJob& job) {
  After after;
  MutexLock lock(mutex_);
  JobEnded(&after);
  Space* space = SpaceOf(job.space);
  if (space == nullptr) return;
  space->source.OnGood(job.pair.id);
  UpdateSourcesLocked(space, MonotonicMs());
  for (uint32_t i = 0; i < job.nr_spans; i++) {
    space->rounds.erase(job.first + i);
    space->decoders_lost.erase(space->decoders_lost.lower_bound({job.first + i, 0}),
                               space->decoders_lost.lower_bound({job.first + i + 1, 0}));
    space->whole_tail.erase(job.first + i);
  }
  FinishLocked(space, job, &after);
  after.calls.push_back([this, image = job.image] { hooks_.ended(image, OkStatus()); });
}

void Dispatcher::Requeue(const SpanJob& job) {
  After after;
  MutexLock lock(mutex_);
  JobEnded(&after);
  for (uint32_t i = 0; i < job.nr_spans; i++) scheduler_.Requeue(job.space, job.first + i);
}

void Dispatcher::SpansLost(const SpanJob& job, const Error& error) {
  After after;
  MutexLock lock(mutex_);
  JobEnded(&after);
  Space* space = SpaceOf(job.space);
  if (space == nullptr || stopping_) return;
  std::vector<Scheduler::Wanted> chunks;
  for (uint32_t i = 0; i < job.nr_spans; i++)
    for (const auto& w : scheduler_.Drop(job.space, job.first + i)) chunks.push_back(w);
  GiveUpLocked(space, job, std::move(chunks), error, &after);
}

void Dispatcher::FetchFailed(const SpanJob& job, FetchOutcome outcome, const Error& error,
                             int64_t retry_at_ms) {
  After after;
  MutexLock lock(mutex_);
  Space* space = SpaceOf(job.space);
  JobEnded(&after);
  if (space == nullptr) return;
  if (outcome == FetchOutcome::kMismatch) return BlameLocked(space, job, error, &after);
  const bool lost =
      LocationFailedLocked(space, job.pair.location.location, outcome, error, retry_at_ms);
  if (outcome == FetchOutcome::kTransient || outcome == FetchOutcome::kGone) {
    counters_->retries++;
    counters_->retries_by[static_cast<size_t>(error.kind)]++;
  }
  for (uint32_t i = 0; i < job.nr_spans; i++) scheduler_.Requeue(job.space, job.first + i);
  if (!lost) return;
  // Jobs that run now will fail in the same way, and come here too.
  auto chunks = scheduler_.DropQueued(job.space);
  GiveUpLocked(space, job, std::move(chunks),
               Error{ErrorKind::kNotFound, EIO,
                     error.message + ": no location has the blob: push the image again"},
               &after);
}

void Dispatcher::HoldLocked(Space* space, uint32_t location, FetchOutcome outcome,
                            int64_t retry_at_ms) {
  const int64_t now = MonotonicMs();
  if (outcome == FetchOutcome::kRefused)
    space->source.Hold(location, now + kRefusedHoldMs);
  else if (outcome != FetchOutcome::kCanceled)
    space->source.Hold(location, retry_at_ms > 0 ? retry_at_ms : now + kShortHoldMs);
  UpdateSourcesLocked(space, now);
}

void Dispatcher::LocationServed(uint32_t cache, uint32_t space_no, uint32_t location) {
  MutexLock lock(mutex_);
  if (Space* space = SpaceOf(cache, space_no)) space->source.OnFound(location);
}

bool Dispatcher::LocationFailed(uint32_t cache, uint32_t space_no, uint32_t location,
                                FetchOutcome outcome, const Error& error, int64_t retry_at_ms) {
  MutexLock lock(mutex_);
  Space* space = SpaceOf(cache, space_no);
  if (space == nullptr) return false;
  return LocationFailedLocked(space, location, outcome, error, retry_at_ms);
}

// True: no location has the blob.
bool Dispatcher::LocationFailedLocked(Space* space, uint32_t location, FetchOutcome outcome,
                                      const Error& error, int64_t retry_at_ms) {
  if (outcome != FetchOutcome::kCanceled) space->source.SetTrouble(location, error.message);
  if (outcome != FetchOutcome::kGone) {
    HoldLocked(space, location, outcome, retry_at_ms);
    return false;
  }
  const int64_t now = MonotonicMs();
  const bool lost = space->source.OnGone(location, now);
  UpdateSourcesLocked(space, now);
  return lost;
}

void Dispatcher::SpansBad(const SpanJob& job, const Error& error) {
  After after;
  MutexLock lock(mutex_);
  JobEnded(&after);
  if (Space* space = SpaceOf(job.space); space != nullptr && !stopping_)
    BlameLocked(space, job, error, &after);
}

void Dispatcher::DecoderLost(const SpanJob& job, const Error& error) {
  After after;
  MutexLock lock(mutex_);
  JobEnded(&after);
  Space* space = SpaceOf(job.space);
  if (space == nullptr || stopping_) return;
  uint32_t span = job.first;
  const uint32_t end = job.first + job.nr_spans;
  while (span < end && scheduler_.WantedOf(job.space, span).empty()) span++;
  if (span < end) {
    uint32_t& lost = space->decoders_lost[{span, job.pair.id}];
    if (++lost >= kDecoders) {
      space->decoders_lost.erase({span, job.pair.id});
      return BlameLocked(space, job,
                         {error.kind, error.err,
                          error.message + ": " + std::to_string(kDecoders) +
                              " decoders in a row were lost while they decoded these bytes"},
                         &after);
    }
  }
  for (uint32_t i = 0; i < job.nr_spans; i++) scheduler_.Requeue(job.space, job.first + i);
  after.calls.push_back([this, job, error] {
    LogEvent(LogLevel::kWarning, hooks_.fields("retry", job.view->image, *job.view->blob),
             "%s: %s: another decoder tries it", NameOf(job).c_str(), error.message.c_str());
  });
}

// A run with wrong bytes has stopped at its first span with something left. That span is tried
// again, from another pair if there is one. The other spans are queued again.
void Dispatcher::BlameLocked(Space* space, const SpanJob& job, const Error& error, After* after) {
  if (error.kind == ErrorKind::kMismatch) counters_->mismatches++;
  counters_->retries++;
  counters_->retries_by[static_cast<size_t>(error.kind)]++;
  space->source.SetTrouble(job.pair.location.location, error.message);
  bool blamed = false;
  for (uint32_t span = job.first; span < job.first + job.nr_spans; span++) {
    if (blamed || scheduler_.WantedOf(job.space, span).empty()) {
      scheduler_.Requeue(job.space, span);
      continue;
    }
    blamed = true;
    if (job.range.cut && error.kind == ErrorKind::kInvalid) {  // a guess of ours: nobody's fault
      space->whole_tail.insert(span);
      scheduler_.Requeue(job.space, span);
      continue;
    }
    space->source.OnBad(job.pair.id);
    UpdateSourcesLocked(space, MonotonicMs());
    if (scheduler_.TryOther(job.space, span, job.pair.id)) continue;
    if (space->source.AnyHeld(MonotonicMs(), [&](uint32_t pair) REQUIRES(mutex_) {
          return !scheduler_.WasTried(job.space, span, pair);
        })) {  // it was not tried: the job waits for it
      scheduler_.Requeue(job.space, span);
      continue;
    }
    uint32_t& round = space->rounds[span];
    if (++round < kRounds) {
      scheduler_.ForgetTried(job.space, span);
      scheduler_.Requeue(job.space, span);
      continue;
    }
    space->rounds.erase(span);
    GiveUpLocked(space, job, scheduler_.Drop(job.space, span),
                 Error{error.kind, EIO,
                       error.message + ": the same result from all " +
                           std::to_string(space->source.Locations().size()) +
                           " locations: the image or a mirror is bad"},
                 after);
  }
  const uint32_t attempt = job.attempt;
  after->calls.push_back([this, job, attempt, error] {
    LogEvent(LogLevel::kWarning, hooks_.fields("retry", job.view->image, *job.view->blob),
             "%s: try %u: %s", NameOf(job).c_str(), attempt + 1, error.message.c_str());
  });
}

void Dispatcher::GiveUpLocked(Space* space, const SpanJob& job,
                              std::vector<Scheduler::Wanted> chunks, const Error& error,
                              After* after) {
  GiveUpChunksLocked(space, NameOf(job), job.image, job.picked, std::move(chunks), error, after);
}

void Dispatcher::GiveUpChunksLocked(Space* space, const std::string& name, uint32_t image,
                                    Clock::time_point picked,
                                    std::vector<Scheduler::Wanted> chunks, const Error& error,
                                    After* after) {
  if (chunks.empty()) return;
  after->calls.push_back([this, view = space->view, name, image, picked,
                          chunks = std::move(chunks), error] {
    EventFields fields = hooks_.fields("miss_failed", view->image, *view->blob);
    fields.chunk = chunks[0].chunk_no;
    fields.count = chunks.size();
    LogEvent(LogLevel::kError, fields, "%s: giving up %zu chunks, from chunk %u: %s",
             name.c_str(), chunks.size(), chunks[0].chunk_no, error.message.c_str());
    for (const Scheduler::Wanted& w : chunks) Trace(*view, w, picked, false);
    FailChunks(view->info.cache, view->info.space, chunks, error.kind);
    hooks_.ended(image, error);
  });
}

void Dispatcher::FailChunks(uint32_t cache, uint32_t space,
                            const std::vector<Scheduler::Wanted>& chunks, ErrorKind cause) {
  std::vector<ChunkEntry> entries;
  for (const Scheduler::Wanted& w : chunks) {
    if (!IsRead(w.urgency)) continue;  // nobody reads it
    entries.push_back({.space = space, .chunk_no = w.chunk_no, .err = EIO});
    counters_->miss.Observe(Clock::now() - TimeOfStamp(w.since));
  }
  if (entries.empty() || stopping_) return;
  counters_->fails += entries.size();
  counters_->fails_by[static_cast<size_t>(cause)] += entries.size();
  Status s = link_->Fail(cache, entries);
  if (!s.ok()) Log(LogLevel::kWarning, "%s", s.error().message.c_str());
}

void Dispatcher::Trace(const SpaceView& view, const Scheduler::Wanted& w, Clock::time_point picked,
                       bool ok) {
  if (!tracer_->on() || !IsRead(w.urgency)) return;
  const auto since = TimeOfStamp(w.since);
  tracer_->Add(MissTracer::Chunk{.blob = view.blob->blob_digest,
                                 .chunk_no = w.chunk_no,
                                 .since = since,
                                 .picked = std::max(since, picked),
                                 .end = Clock::now(),
                                 .ok = ok});
}

}  // namespace fastoci
