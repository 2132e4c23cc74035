// SPDX-License-Identifier: Apache-2.0
#include "miss/fetch_stage.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

#include "base/event.h"
#include "base/monotonic.h"
#include "base/thread.h"

namespace fastoci {
namespace {

constexpr uint32_t kMaxOutstanding = 2;  // Fetches of one transfer at a time
constexpr int kIdleMs = 5000;            // then unused memory is given back
constexpr auto kShortLife = std::chrono::seconds(1);  // of a fetcher: the next one waits a little
constexpr int kPollReadsMs = 50;
constexpr int kPollRoomMs = 5;
constexpr size_t kMaxStreamPlaces = 3;  // one is consumed, one is ready, one comes

MissTracer::Request Traced(const SpanJob& job) {
  return {.blob = job.view->blob->blob_digest,
          .span = job.first,
          .nr_spans = job.nr_spans,
          .attempt = job.attempt,
          .background = !IsRead(job.urgency),
          .begin = job.picked};
}

Error Stopping() { return {ErrorKind::kUnavailable, ECANCELED, "stopping"}; }

}  // namespace

FetchStage::FetchStage(FetchStageOptions options, Spawn spawn, std::shared_ptr<Arena> arena,
                       Dispatcher* dispatcher, DecodeStage* decode, Counters* counters,
                       MissTracer* tracer)
    : options_(options),
      spawn_(std::move(spawn)),
      arena_(std::move(arena)),
      dispatcher_(dispatcher),
      decode_(decode),
      counters_(counters),
      tracer_(tracer),
      wake_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

FetchStage::~FetchStage() { Stop(); }

Status FetchStage::Start(Hooks hooks) {
  hooks_ = std::move(hooks);
  auto session = std::make_shared<Session>();
  session->number = dispatcher_->ForgetHosts();
  FASTOCI_TRY(session->service, spawn_(arena_->fd()));
  {
    MutexLock lock(mutex_);
    session_ = std::move(session);
  }
  FASTOCI_TRY(thread_, StartThread([this] { Run(); }));
  return OkStatus();
}

void FetchStage::Stop() {
  stop_ = true;
  Wake();
  if (thread_.joinable()) thread_.join();
  MutexLock lock(mutex_);
  for (auto& read : reads_) read->done = true;
  reads_.clear();
  read_done_.NotifyAll();
}

void FetchStage::Wake() {
  const uint64_t one = 1;
  (void)!::write(wake_fd_.get(), &one, sizeof(one));
}

std::shared_ptr<FetchStage::Session> FetchStage::session() {
  MutexLock lock(mutex_);
  return session_;
}

Result<FetchStage::Opened> FetchStage::OpenImage(uint32_t image, const std::string& image_id,
                                                  ByteSpan json) {
  auto s = session();
  if (!s || s->hangs)
    return Error{ErrorKind::kUnavailable, EPIPE, "the fetcher is being replaced"};
  FASTOCI_TRY(auto locations, Called(s.get(), s->service->OpenImage(image, image_id, json)));
  return Opened{std::move(locations), s->number};
}

void FetchStage::CloseImage(uint32_t image) {
  if (auto s = session(); s && !s->hangs) (void)Called(s.get(), s->service->CloseImage(image)).ok();
}

template <class T>
T FetchStage::Called(Session* session, T result) {
  if (result.ok()) session->answered = true;
  if (!result.ok() && result.error().err == ETIMEDOUT) {
    session->hangs = true;
    Wake();
  }
  return result;
}

Status FetchStage::OpenGate(uint32_t host) {
  auto s = session();
  return s ? s->service->OpenGate(host) : OkStatus();
}

// ---- the loop ----

int FetchStage::TimeoutMs() {
  auto until = [](Dispatcher::Clock::time_point at) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(at - Dispatcher::Clock::now());
    return static_cast<int>(std::clamp<int64_t>(left.count() + 1, 0, kIdleMs));
  };
  if (!session()) return until(spawn_at_);
  int timeout = kIdleMs;
  if (auto at = dispatcher_->NextTimer()) timeout = until(*at);
  // Nobody says when a place is free again.
  if (no_room_ || !growing_.empty()) timeout = std::min(timeout, kPollRoomMs);
  MutexLock lock(mutex_);
  return reads_.empty() ? timeout : std::min(timeout, kPollReadsMs);
}

void FetchStage::Run() {
  while (!stop_) {
    auto s = session();
    if (!s && Dispatcher::Clock::now() >= spawn_at_) {
      Replace();
      s = session();
    }
    if (s && s->hangs) {
      Lose(s.get(), "it does not answer");
      continue;
    }
    if (s) Pump();
    pollfd fds[2] = {{wake_fd_.get(), POLLIN, 0}, {s ? s->service->event_fd() : -1, POLLIN, 0}};
    const int n = ::poll(fds, 2, TimeoutMs());
    if (n == 0 && flights_.empty()) arena_->Trim();
    uint64_t count;
    if (n > 0 && fds[0].revents) (void)!::read(wake_fd_.get(), &count, sizeof(count));
    if (n <= 0 || !fds[1].revents || !s) continue;
    for (;;) {
      auto event = s->service->Receive();
      if (event.ok()) {
        s->answered = true;
        OnEvent(*event);
        continue;
      }
      if (event.error().err == ETIMEDOUT) break;
      Lose(s.get(), event.error().message);
      break;
    }
  }
  for (auto& [id, flight] : flights_)
    if (flight.transfer) FailTransfer(flight.transfer.get(), FetchOutcome::kCanceled, Stopping(), 0);
  for (auto& t : growing_) FailTransfer(t.get(), FetchOutcome::kCanceled, Stopping(), 0);
}

int FetchStage::PauseSpawns() {
  spawn_pause_ms_ = std::clamp(spawn_pause_ms_ * 2, kMinSpawnPauseMs, kMaxSpawnPauseMs);
  spawn_at_ = Dispatcher::Clock::now() + std::chrono::milliseconds(spawn_pause_ms_);
  return spawn_pause_ms_;
}

// What was under way is fetched again by the next one.
void FetchStage::Lose(Session* session, const std::string& why) {
  if (session->answered) spawn_pause_ms_ = 0;
  const bool worked =
      session->answered && Dispatcher::Clock::now() - session->since >= kShortLife;
  const int pause_ms = worked ? 0 : PauseSpawns();
  LogEvent(LogLevel::kWarning, {.kind = "fetcher_gone"},
           "the fetcher has ended (%s); starting another one in %d ms", why.c_str(), pause_ms);
  {
    MutexLock lock(mutex_);
    session_ = nullptr;
  }
  for (auto& [id, flight] : flights_) session->places.push_back(flight.place);
  const Error gone{ErrorKind::kUnavailable, EPIPE, "the fetcher is gone"};
  next_session_ = dispatcher_->ForgetHosts();
  hooks_.gone();
  std::map<uint32_t, Flight> flights;
  flights.swap(flights_);
  held_.clear();
  for (auto& [id, flight] : flights) {
    if (flight.transfer) FailTransfer(flight.transfer.get(), FetchOutcome::kCanceled, gone, 0);
    if (flight.read) flight.read->begun = false;
  }
  for (auto& t : growing_) FailTransfer(t.get(), FetchOutcome::kCanceled, gone, 0);
  growing_.clear();
}

void FetchStage::Replace() {
  auto service = spawn_(arena_->fd());
  if (!service.ok()) {
    const int pause_ms = PauseSpawns();
    Log(LogLevel::kError, "fetcher: %s; the next try is in %d ms",
        service.error().message.c_str(), pause_ms);
    return;
  }
  auto session = std::make_shared<Session>();
  session->number = next_session_;
  session->service = std::move(*service);
  {
    MutexLock lock(mutex_);
    session_ = std::move(session);
  }
  hooks_.replaced();
}

void FetchStage::Pump() {
  no_room_ = false;
  for (auto it = growing_.begin(); it != growing_.end();) {
    const std::shared_ptr<Transfer> t = *it;
    while (!t->failed && t->next < t->work.input_end && t->outstanding < kMaxOutstanding &&
           MayGrow(t.get()))
      if (!FetchMore(t)) break;
    it = t->failed || t->next >= t->work.input_end ? growing_.erase(it) : std::next(it);
  }
  while (!stop_) {
    const uint64_t used = arena_->used();
    // A transfer may need a little more than its spans, and places do not fit without gaps.
    const uint64_t margin = 2 * kMaxFetchBytes;
    auto left = [&](uint64_t limit) { return limit > used ? limit - used : 0; };
    auto work = dispatcher_->NextFetch(
        {.urgent_bytes = left(arena_->bytes() - margin),
         .other_bytes = left(std::min(options_.other_bytes, arena_->bytes() - margin)),
         .held = &held_});
    if (!work) break;
    if (Begin(std::move(*work))) continue;
    no_room_ = true;  // the places that are free are too small: some job ends soon
    break;
  }
  PumpReads();
}

// False: there is no place for it. The dispatcher has it again, and does not wake this thread,
// which tries again after kPollRoomMs.
bool FetchStage::Begin(FetchWork work) {
  auto place = arena_->Take(std::min(kMaxFetchBytes, work.input_end - work.input_begin));
  if (!place) {
    dispatcher_->PutBack(work);
    return false;
  }
  auto t = std::make_shared<Transfer>();
  t->work = std::move(work);
  t->next = t->gone = t->work.input_begin;
  for (SpanJob& job : t->work.jobs) {
    Job j;
    j.begin = j.given = job.range.input_begin;
    j.end = job.range.input_end;
    j.work = std::make_shared<SpanWork>(
        std::move(job),
        [this](const SpanJob& ended, const SpanWork::End& end) { OnWorkEnd(ended, end); });
    tracer_->Add(Traced(j.work->job()), MissTracer::Stage::kBegun);
    t->jobs.push_back(std::move(j));
  }
  (void)FetchNext(t, std::move(place));
  if (t->next < t->work.input_end) growing_.push_back(t);
  return true;
}

// A stream takes room as its decoder consumes it, and one place while it waits for a decoder:
// otherwise waiting streams could hold the room that running ones need to end.
bool FetchStage::MayGrow(Transfer* t) {
  auto stream = std::find_if(t->jobs.begin(), t->jobs.end(),
                             [](const Job& j) { return j.end - j.begin > kMaxFetchBytes; });
  if (stream == t->jobs.end()) return true;
  std::erase_if(t->handed, [](const auto& place) { return place.expired(); });
  const size_t held = t->segments.size() + t->handed.size();
  return held < (stream->work->started() ? kMaxStreamPlaces : 1);
}

// One more Fetch of a transfer, if there is room for it. The place comes first: a request that is
// given back would wake this thread.
bool FetchStage::FetchMore(const std::shared_ptr<Transfer>& t) {
  auto place = arena_->Take(std::min(kMaxFetchBytes, t->work.input_end - t->next));
  return place && dispatcher_->TakeRequest(t->work.location, t->work.urgency) &&
         FetchNext(t, std::move(place));
}

// The host has room for it.
bool FetchStage::FetchNext(const std::shared_ptr<Transfer>& t, std::shared_ptr<ArenaPlace> place) {
  const uint64_t length = place->bytes();
  t->segments.push_back({.begin = t->next, .end = t->next + length, .place = place});
  Flight flight;
  flight.transfer = t;
  flight.segment = &t->segments.back();
  flight.place = std::move(place);
  flight.location = t->work.location;
  flight.image = t->work.image;
  flight.urgency = t->work.urgency;
  t->next += length;
  t->outstanding++;
  return Send(std::move(flight), t->next - length, length, t->work.fresh);
}

bool FetchStage::Send(Flight flight, uint64_t offset, uint64_t length, bool fresh) {
  FetchRequest request;
  request.id = next_id_++;
  request.location = flight.location.location;
  request.offset = offset;
  request.length = length;
  request.arena_offset = flight.place->offset();
  request.miss_class = MissClassOf(flight.urgency);
  request.fresh = fresh;
  const uint32_t id = request.id;
  flight.bytes = length;
  held_[flight.location.host] += length;
  flights_[id] = std::move(flight);
  auto s = session();
  Status sent = s ? s->service->Fetch(request)
                  : Status(Error{ErrorKind::kUnavailable, EPIPE, "the fetcher is gone"});
  if (sent.ok()) return true;
  // If the fetcher is gone, Receive() notices it. Any other error is handled as a failed Fetch.
  if (sent.error().err == EPIPE) return true;
  FetchEvent event;
  event.kind = FetchEvent::kFailed;
  event.id = id;
  event.outcome = FetchOutcome::kGated;
  event.error = sent.error();
  OnEvent(event);
  return true;
}

void FetchStage::OnEvent(const FetchEvent& event) {
  if (event.kind == FetchEvent::kHost) return dispatcher_->SetHost(event.host);
  if (event.kind == FetchEvent::kHostGone) return dispatcher_->RemoveHost(event.host.host);
  auto it = flights_.find(event.id);
  if (it == flights_.end()) return;
  OnProgress(&it->second, event);
  if (event.kind == FetchEvent::kData) return;
  Flight flight = std::move(it->second);
  flights_.erase(it);
  uint64_t& held = held_[flight.location.host];
  held -= flight.bytes;
  if (held == 0) held_.erase(flight.location.host);
  OnEnd(std::move(flight), event);
}

void FetchStage::OnProgress(Flight* flight, const FetchEvent& event) {
  if (event.total <= flight->counted) return;
  dispatcher_->CountBytes(flight->image, event.total - flight->counted, flight->urgency);
  const uint64_t before = std::exchange(flight->counted, event.total);
  if (!flight->transfer) return;
  flight->segment->received = event.total;
  const uint64_t at = flight->segment->begin;
  if (tracer_->on()) TraceProgress(*flight->transfer, at + before, at + event.total);
  if (event.kind == FetchEvent::kData && !flight->transfer->failed)
    Deliver(flight->transfer.get());
}

void FetchStage::TraceProgress(const Transfer& t, uint64_t begin, uint64_t end) {
  for (const Job& job : t.jobs) {
    if (job.end <= begin || job.begin >= end) continue;
    MissTracer::Request traced = Traced(job.work->job());
    traced.bytes = job.given - job.begin;  // by segments that may be gone
    for (const Segment& s : t.segments) {
      const uint64_t from = std::max(s.begin, job.given), to = std::min(s.begin + s.received, job.end);
      if (from < to) traced.bytes += to - from;
    }
    tracer_->Add(traced, MissTracer::Stage::kProgress);
  }
}

void FetchStage::OnEnd(Flight flight, const FetchEvent& event) {
  counters_->requests += event.tally.requests;
  counters_->request_retries += event.tally.retries;
  counters_->tokens += event.tally.tokens;
  dispatcher_->RequestEnded(flight.location);
  if (flight.read) return EndRead(&flight, event);
  Transfer* t = flight.transfer.get();
  t->outstanding--;
  if (t->failed) return;
  flight.segment->done = event.kind == FetchEvent::kDone;
  Deliver(t);
  if (event.kind == FetchEvent::kDone) return;
  FailTransfer(t, event.outcome, event.error, event.retry_at_ms);
}

// Hands on what is there without a gap.
void FetchStage::Deliver(Transfer* t) {
  uint64_t available = t->gone;
  for (const Segment& s : t->segments) {
    available = s.done ? s.end : s.begin + s.received;
    if (!s.done) break;
  }
  for (Job& job : t->jobs) {
    const bool stream = job.end - job.begin > kMaxFetchBytes;
    if (job.given == job.end || (!stream && available < job.end)) continue;
    for (const Segment& s : t->segments) {
      const uint64_t end = std::min(s.end, job.end);
      if (s.end <= job.given || end > available) continue;  // of a stream, whole segments
      job.work->AddInput({s.place, s.place->offset() + (job.given - s.begin), end - job.given},
                         end == job.end);
      job.given = end;
    }
    if (job.given > job.begin && !std::exchange(job.put, true)) decode_->Put(job.work);
  }
  // Segments that no job needs any more.
  while (!t->segments.empty() && t->segments.front().done) {
    const uint64_t end = t->segments.front().end;
    if (std::any_of(t->jobs.begin(), t->jobs.end(),
                    [&](const Job& j) { return j.given < std::min(j.end, end); }))
      break;
    t->gone = end;
    t->handed.push_back(t->segments.front().place);
    t->segments.pop_front();
  }
}

void FetchStage::FailTransfer(Transfer* t, FetchOutcome outcome, const Error& error,
                              int64_t retry_at_ms) {
  if (std::exchange(t->failed, true)) return;
  for (Job& job : t->jobs) {
    if (job.given == job.end) continue;
    job.work->FailInput(outcome, error, retry_at_ms);
    if (!job.put) job.work->Drop();
  }
}

// ---- ranges for others ----

Result<FetchStage::Bytes> FetchStage::Read(const BlobRange& range, const FetchChoice& choice) {
  auto read = std::make_shared<RangeRead>();
  read->range = range;
  read->choice = choice;
  MutexLock lock(mutex_);
  if (stop_) return Stopping();
  reads_.push_back(read);
  lock.Unlock();
  Wake();
  lock.Lock();
  read_done_.Wait(mutex_, [&] { return read->done; });
  return std::move(read->result);
}

void FetchStage::FinishRead(const std::shared_ptr<RangeRead>& read, Result<Bytes> result) {
  MutexLock lock(mutex_);
  read->done = true;
  read->result = std::move(result);
  std::erase(reads_, read);
  read_done_.NotifyAll();
}

void FetchStage::PumpReads() {
  std::vector<std::shared_ptr<RangeRead>> reads;
  {
    MutexLock lock(mutex_);
    reads.assign(reads_.begin(), reads_.end());
  }
  auto s = session();
  if (!s) return;
  for (const auto& read : reads) {
    if (read->begun) continue;
    const BlobRange& range = read->range;
    auto place = arena_->Take(range.length);  // first, as in FetchMore()
    if (!place) continue;
    auto taken = dispatcher_->TakeLocation(range.cache, range.space, read->choice);
    if (!taken.location) {
      if (taken.why.ok()) continue;
      const bool again = taken.why.error().err == EAGAIN;
      FinishRead(read, again && read->mismatch ? *read->mismatch : taken.why.error());
      continue;
    }
    Flight flight;
    flight.read = read;
    flight.location = *taken.location;
    flight.image = range.image;
    flight.fetcher = s->number;
    flight.place = std::move(place);
    read->begun = true;
    (void)Send(std::move(flight), range.offset, range.length, read->choice.fresh);
  }
}

void FetchStage::EndRead(Flight* flight, const FetchEvent& event) {
  const std::shared_ptr<RangeRead> read = flight->read;
  if (event.kind == FetchEvent::kDone) {
    dispatcher_->LocationServed(read->range.cache, read->range.space, flight->location.location);
    return FinishRead(read, Bytes{std::move(flight->place), flight->location, flight->fetcher});
  }
  read->begun = false;  // another location, or this one when its time comes
  if (event.outcome == FetchOutcome::kMismatch) {
    read->mismatch = event.error;
    read->choice.not_these.insert(flight->location.location);
    read->choice.fetcher = flight->fetcher;
    return;
  }
  if (dispatcher_->LocationFailed(read->range.cache, read->range.space, flight->location.location,
                                  event.outcome, event.error, event.retry_at_ms))
    FinishRead(read, Error{ErrorKind::kNotFound, ENOENT, event.error.message});
}

// ---- how works end ----

void FetchStage::OnWorkEnd(const SpanJob& job, const SpanWork::End& end) {
  const auto now = Dispatcher::Clock::now();
  const auto complete =
      end.times.input_complete.time_since_epoch().count() ? end.times.input_complete : now;
  const std::chrono::nanoseconds network =
      std::max<std::chrono::nanoseconds>(complete - job.picked, std::chrono::nanoseconds(0));
  if (IsRead(job.urgency)) {
    counters_->PhaseOf(Phase::kNetwork).Observe(network);
    counters_->PhaseOf(Phase::kDecode).Observe(end.times.decode);
    counters_->PhaseOf(Phase::kVerify).Observe(end.times.verify);
    counters_->PhaseOf(Phase::kWrite).Observe(end.times.write);
  }
  MissTracer::Request traced = Traced(job);
  traced.end = now;
  traced.lane = {network, end.times.decode};
  traced.verify = end.times.verify;
  traced.write = end.times.write;
  traced.bytes = job.range.input_end - job.range.input_begin;
  traced.error = end.error.message;
  tracer_->Add(traced, MissTracer::Stage::kEnded);
  switch (end.fault) {
    case Fault::kNone: return dispatcher_->SpansDone(job);
    case Fault::kFetch:
      return dispatcher_->FetchFailed(job, end.outcome, end.error, end.retry_at_ms);
    case Fault::kBytes: return dispatcher_->SpansBad(job, end.error);
    case Fault::kDecoder: return dispatcher_->DecoderLost(job, end.error);
    case Fault::kCache: return dispatcher_->SpansLost(job, end.error);
    case Fault::kStopped: return dispatcher_->Requeue(job);
  }
}

}  // namespace fastoci
