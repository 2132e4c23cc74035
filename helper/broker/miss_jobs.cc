// SPDX-License-Identifier: Apache-2.0
// The lanes' part of MissService: one run of jobs from pick to finish.
#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "broker/chunk_check.h"
#include "broker/job_context.h"

namespace fastoci {
namespace {

constexpr uint32_t kMaxTries = 3;   // of one run, and of one requeued job
constexpr uint64_t kDeadlineBytes = 64 << 20;  // that fetch_deadline_ms is meant for
constexpr int kMaxSlotTries = 4;    // slots that refuse one chunk
constexpr auto kLaneRetry = std::chrono::seconds(1);

}  // namespace

// Half of the lanes are kept for who waits for a read, one of them for demand;
// a single lane takes everything.
Urgency MissService::LeastUrgency(int number) const {
  if (options_.nr_lanes == 1) return Urgency::kBackground;
  if (number == 0) return Urgency::kDemand;
  return number < (options_.nr_lanes + 1) / 2 ? Urgency::kAhead : Urgency::kBackground;
}

// A run keeps all that it decodes: it shall not push out more than a sixteenth of
// a small cache.
uint32_t MissService::MaxSpansLocked() const {
  uint64_t spans = options_.max_spans;
  for (const auto& [no, cache] : caches_) {
    const uint64_t bytes = static_cast<uint64_t>(cache->info().nr_slots) * cache->chunk_bytes();
    spans = std::min(spans, bytes / 16 / kRawSpanBytes);
  }
  return static_cast<uint32_t>(std::max<uint64_t>(spans, 1));
}

void MissService::RunLane(int number) {
  const Urgency least = LeastUrgency(number);
  std::unique_ptr<Lane> lane;
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (!lane) {
      lock.unlock();
      auto made = lanes_->NewLane(LaneKind::kPlain);
      lock.lock();
      if (!made.ok()) {
        Log(LogLevel::kError, "lane %d: %s", number, made.error().message.c_str());
        work_.wait_for(lock, kLaneRetry, [&] { return stop_; });
        continue;
      }
      lane = std::move(*made);
    }
    work_.wait(lock, [&] { return stop_ || (!draining_ && queue_.HasWork(least)); });
    if (stop_) return;
    auto run = queue_.Pick(least, MaxSpansLocked());
    if (!run) continue;
    nr_running_++;
    lock.unlock();
    RunJob(lane.get(), *run);
    lock.lock();
    nr_running_--;
    idle_.notify_all();
    if (queue_.nr_queued() > 0) work_.notify_all();
  }
}

Status MissService::Prepare(const JobQueue::Run& run, JobContext* job) {
  std::lock_guard lock(mutex_);
  auto cache = caches_.find(run.first.cache);
  auto space = spaces_.find({run.first.cache, run.first.space});
  if (cache == caches_.end() || space == spaces_.end() || !space->second.meta)
    return NotFoundError("its image is gone");
  job->run = run;
  job->cache = cache->second;
  job->meta = space->second.meta;
  job->image = space->second.image;
  job->blob_no = space->second.blob;
  job->blob = &job->meta->blobs[job->blob_no];
  job->refused = space->second.refused;
  job->chunk = std::make_unique<AlignedBuffer>(job->chunk_bytes());
  job->read = run.urgency >= Urgency::kAhead;
  job->picked = Clock::now();
  std::optional<int64_t> oldest;
  for (uint32_t i = 0; job->read && i < run.nr_spans; i++)
    for (const JobQueue::Wanted& w : queue_.WantedOf(run.Key(i)))
      if (w.urgency >= Urgency::kAhead) oldest = std::min(oldest.value_or(w.since), w.since);
  if (oldest) counters_.PhaseOf(Phase::kQueue).Observe(job->picked - TimeOfStamp(*oldest));
  return job->chunk->ok() ? OkStatus() : Status(ErrnoError("memory", ENOMEM));
}

// Its image or cache went meanwhile; what still waits is failed in time.
void MissService::Abandon(const JobQueue::Run& run) {
  std::lock_guard lock(mutex_);
  for (uint32_t i = 0; i < run.nr_spans; i++)
    for (const JobQueue::Wanted& w : queue_.Drop(run.Key(i)))
      if (w.urgency >= Urgency::kAhead)
        orphans_.push_back({run.first.cache,
                            {.space = run.first.space, .chunk_no = w.chunk_no},
                            Clock::now()});
  refresh_ = true;
  manage_.notify_all();
}

void MissService::RunJob(Lane* lane, const JobQueue::Run& run) {
  JobContext job;
  if (!Prepare(run, &job).ok()) return Abandon(run);
  if (!job.refused.empty()) return FinishRun(&job, MismatchError(job.refused));
  Status status = OkStatus();
  for (uint32_t tries = 0; NeedsFetch(&job); tries++) {  // each time: misses come meanwhile
    status = job.cache->Writable();
    if (status.ok()) status = TryRun(lane, &job, tries);
    if (status.ok()) break;
    const Error& e = status.error();
    if (e.kind == ErrorKind::kMismatch) counters_.mismatches++;
    if (stopping()) return;  // the kernel sends what is pending to the next helper
    LogEvent(LogLevel::kWarning, FieldsOf("retry", job.image, *job.blob), "%s: try %u: %s",
             job.Name().c_str(), tries + 1, e.message.c_str());
    if (tries + 1 == kMaxTries || e.kind == ErrorKind::kDenied || e.kind == ErrorKind::kNotFound ||
        e.err == EROFS)
      break;
    counters_.retries++;
    counters_.retries_by[static_cast<size_t>(e.kind)]++;
    status = OkStatus();
  }
  // What is cached is served although its span cannot be fetched.
  while (!status.ok() && ServeCached(&job)) continue;
  if (!stopping()) FinishRun(&job, status);
}

// A failed run stopped at its first unresolved span: that one is given up, the
// others have their turn again.
void MissService::FinishRun(JobContext* job, const Status& status) {
  std::vector<JobQueue::Wanted> failed;
  bool blamed = status.ok();
  {
    std::lock_guard lock(mutex_);
    if (auto image = images_.find(job->image); image != images_.end()) {
      uint32_t& failures = image->second.download_failures;
      failures = status.ok() ? 0 : failures + 1;
      image->second.download_error = status.ok() ? "" : status.error().message;
    }
    for (uint32_t i = 0; i < job->run.nr_spans; i++) {
      const JobKey key = job->run.Key(i);
      std::vector<JobQueue::Wanted> left;
      if (!blamed && !queue_.WantedOf(key).empty()) {
        left = queue_.Drop(key);
        blamed = true;
      } else {
        left = queue_.Finish(key, kMaxTries + 1, status.ok());
      }
      failed.insert(failed.end(), left.begin(), left.end());
    }
  }
  if (failed.empty()) return;
  // Why all of a space is refused was told once.
  EventFields fields = FieldsOf("miss_failed", job->image, *job->blob);
  fields.chunk = failed[0].chunk_no;
  fields.count = failed.size();
  LogEvent(job->refused.empty() ? LogLevel::kError : LogLevel::kDebug, fields,
           "%s: giving up %zu chunks, from chunk %u: %s", job->Name().c_str(), failed.size(),
           failed[0].chunk_no, status.ok() ? "not in the span" : status.error().message.c_str());
  for (const JobQueue::Wanted& w : failed) Trace(*job, w, false);
  FailChunks(job->run.first.cache, job->space(), failed,
             status.ok() ? ErrorKind::kInternal : status.error().kind);
}

Status MissService::TryRun(Lane* lane, JobContext* job, uint32_t attempt) {
  LaneJob l;
  l.image = job->image;
  l.blob = job->blob_no;
  l.info = job->blob;
  l.range = PlanRun(*job->blob, job->begin, job->end - job->begin, job->cache->info().chunk_shift,
                    attempt > 0);  // the input may have been cut too short for the tail
  l.miss_class = static_cast<uint8_t>(std::max(static_cast<int>(job->run.urgency) - 2, 0));
  // A span may be a whole blob, such as one of a single zstd frame.
  l.deadline_ms = static_cast<uint32_t>(
      options_.fetch_deadline_ms *
      (1 + std::min<uint64_t>((l.range.input_end - l.range.input_begin) / kDeadlineBytes, 1000)));
  l.attempt = attempt;
  if (l.range.out_begin == l.range.out_end) return OkStatus();
  job->next_offset = l.range.out_begin;
  job->pieces.clear();
  job->verify = job->write = std::chrono::nanoseconds(0);
  MissTracer::Request traced{.blob = job->blob->blob_digest,
                             .span = job->begin,
                             .nr_spans = job->end - job->begin,
                             .attempt = attempt,
                             .background = !job->read,
                             .begin = Clock::now()};
  tracer_.Add(traced, false);
  Status ran = lane->Run(l, [&](uint64_t offset, ByteSpan piece) {
    return TakePiece(job, offset, piece);
  });
  {
    std::lock_guard lock(mutex_);
    if (auto image = images_.find(job->image); image != images_.end())
      image->second.bytes_fetched += lane->bytes_fetched();
  }
  const LaneTimes times = lane->times();
  traced.end = Clock::now();
  traced.lane = times;
  traced.verify = job->verify;
  traced.write = job->write;
  traced.bytes = lane->bytes_fetched();
  if (!ran.ok()) traced.error = ran.error().message;
  tracer_.Add(traced, true);
  if (job->read) {
    counters_.PhaseOf(Phase::kNetwork).Observe(times.network);
    counters_.PhaseOf(Phase::kDecode).Observe(times.decode);
    counters_.PhaseOf(Phase::kVerify).Observe(job->verify);
    counters_.PhaseOf(Phase::kWrite).Observe(job->write);
  }
  CountBytes(lane->bytes_fetched(), job->run.urgency == Urgency::kBackground);
  CountRequests(*lane);
  FASTOCI_CHECK_OK(ran);
  if (job->next_offset != l.range.out_end) return MismatchError("the lane ended before its range");
  return OkStatus();
}

void MissService::CountBytes(uint64_t fetched, bool background) {
  counters_.bytes_fetched += fetched;
  if (background) counters_.bytes_background += fetched;
}

void MissService::CountRequests(const Lane& lane) {
  const HttpTally http = lane.http();
  counters_.requests += http.requests;
  counters_.request_retries += http.retries;
  counters_.tokens += http.tokens;
}

Status MissService::TakePiece(JobContext* job, uint64_t data_offset, ByteSpan piece) {
  if (stopping()) return Error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
  const uint64_t left = job->blob->data_bytes - std::min(job->blob->data_bytes, data_offset);
  if (data_offset != job->next_offset || piece.empty() ||
      piece.size() != std::min<uint64_t>(kDigestBytes, left))
    return Error{ErrorKind::kMismatch, EBADMSG, "the decoder's pieces are out of order"};
  const auto begin = Clock::now();
  const Sha256Digest digest = Sha256::Of(piece);
  job->verify += Clock::now() - begin;
  const auto& digests = job->blob->digests;
  if (!digests.empty() && digests[data_offset / kDigestBytes] != digest)
    return MismatchError("digest of data bytes " + std::to_string(data_offset) + "+" +
                         std::to_string(piece.size()) + " differs");
  counters_.bytes_decoded += piece.size();
  if (digests.empty()) counters_.unverified++;
  job->next_offset = data_offset + piece.size();
  return KeepPiece(job, data_offset, piece, digest);
}

// Writes its chunk with the last of it; the caller checked order and digest.
Status MissService::KeepPiece(JobContext* job, uint64_t data_offset, ByteSpan piece,
                              const Sha256Digest& digest) {
  const uint64_t in_chunk = data_offset % job->chunk_bytes();
  if (in_chunk == 0) job->pieces.clear();
  std::copy(piece.begin(), piece.end(), job->chunk->data() + in_chunk);
  job->pieces.push_back(digest);
  const uint64_t filled = in_chunk + piece.size();
  if (filled < job->chunk_bytes() && data_offset + piece.size() < job->blob->data_bytes)
    return OkStatus();
  const auto write_begin = Clock::now();
  Status written = WriteChunk(job, static_cast<uint32_t>(data_offset / job->chunk_bytes()), filled);
  job->write += Clock::now() - write_begin;
  return written;
}

Status MissService::WriteChunk(JobContext* job, uint32_t chunk_no, size_t bytes) {
  job->cache->WaitForClaim(job->space(), chunk_no);
  if (auto where = job->cache->Find(job->space(), chunk_no)) {
    if (where->use == SlotUse::kPresent && job->cache->FillAgain(job->space(), chunk_no)) {
      Resolve(job, chunk_no);
      return OkStatus();
    }
    // A restored one that nobody verified yet: the fresh bytes replace it.
    if (auto slot = job->cache->Claim(job->space(), chunk_no)) job->cache->Drop({&*slot, 1});
  }
  std::fill(job->chunk->data() + bytes, job->chunk->data() + job->chunk_bytes(), 0);
  SlotRow row;
  row.space_id = job->blob->data_space_id;
  row.data_bytes = job->blob->data_bytes;
  row.chunk_no = chunk_no;
  row.digest = ChunkDigest(job->pieces);
  FASTOCI_TRY(row.slot, WriteSlot(job));
  FASTOCI_CHECK_OK(job->cache->Publish(job->space(), row));
  Resolve(job, chunk_no);
  return OkStatus();
}

Result<uint32_t> MissService::WriteSlot(JobContext* job) {
  for (int tries = 1;; tries++) {
    FASTOCI_TRY(uint32_t slot, job->cache->TakeSlot());
    Status written = job->cache->WriteSlot(slot, job->slot());
    if (written.ok()) return slot;
    if (written.error().err == ECANCELED) return written.error();
    FASTOCI_CHECK_OK(job->cache->Retire(slot, written.error().message));
    if (tries == kMaxSlotTries) return written.error();
  }
}

void MissService::Resolve(JobContext* job, uint32_t chunk_no) {
  std::optional<JobQueue::Wanted> was;
  {
    std::lock_guard lock(mutex_);
    was = queue_.Resolve(job->KeyOf(chunk_no), chunk_no);
  }
  if (!was || was->urgency < Urgency::kAhead) return;
  counters_.miss.Observe(Clock::now() - TimeOfStamp(was->since));
  Trace(*job, *was, true);
}

void MissService::Trace(const JobContext& job, const JobQueue::Wanted& w, bool ok) {
  if (!tracer_.on() || w.urgency < Urgency::kAhead) return;
  const auto since = TimeOfStamp(w.since);
  tracer_.Add(MissTracer::Chunk{.blob = job.blob->blob_digest,
                                .chunk_no = w.chunk_no,
                                .since = since,
                                .picked = std::max(since, job.picked),
                                .end = Clock::now(),
                                .ok = ok});
}

// Serves what is cached; true if chunks are left that only a source has: those
// of spans begin to end - 1.
bool MissService::NeedsFetch(JobContext* job) {
  while (ServeCached(job)) continue;
  std::lock_guard lock(mutex_);
  job->begin = job->end = 0;
  for (uint32_t i = 0; i < job->run.nr_spans; i++) {
    const uint32_t span = job->run.first.span + i;
    if (queue_.WantedOf(job->run.Key(i)).empty()) continue;
    if (job->end == 0) job->begin = span;
    job->end = span + 1;
  }
  return job->end != 0;
}

// Wanted chunks that need no fetch: those that the kernel has by now, and those
// that lie in a restored slot. True if there were any: look again.
bool MissService::ServeCached(JobContext* job) {
  std::vector<uint32_t> wanted;
  {
    std::lock_guard lock(mutex_);
    for (uint32_t i = 0; i < job->run.nr_spans; i++)
      for (const JobQueue::Wanted& w : queue_.WantedOf(job->run.Key(i)))
        wanted.push_back(w.chunk_no);
  }
  bool any = false;
  for (uint32_t chunk_no : wanted) {
    if (stopping()) return false;
    auto where = job->cache->Find(job->space(), chunk_no);
    if (!where) continue;
    if (where->use == SlotUse::kRestored) {
      Space space;
      space.info.space = job->space();
      space.meta = job->meta;
      space.image = job->image;
      space.blob = job->blob_no;
      (void)CheckSlot(job->cache.get(), space, {where->slot, job->space(), chunk_no, false},
                      job->chunk.get(), &counters_.rotten);
      any = true;
    } else if (where->use == SlotUse::kVerifying) {
      job->cache->WaitForClaim(job->space(), chunk_no);
      any = true;
    }
    if (job->cache->FillAgain(job->space(), chunk_no)) {
      Resolve(job, chunk_no);
      any = true;
    }
  }
  return any;
}

void MissService::FailChunks(uint32_t cache, uint32_t space,
                             const std::vector<JobQueue::Wanted>& chunks, ErrorKind cause) {
  std::vector<ChunkEntry> entries;
  for (const JobQueue::Wanted& w : chunks) {
    if (w.urgency < Urgency::kAhead) continue;  // nobody reads it
    entries.push_back({.space = space, .chunk_no = w.chunk_no, .err = EIO});
    counters_.miss.Observe(Clock::now() - TimeOfStamp(w.since));
  }
  if (entries.empty()) return;
  counters_.fails += entries.size();
  counters_.fails_by[static_cast<size_t>(cause)] += entries.size();
  Status s = link_->Fail(cache, entries);
  if (!s.ok()) Log(LogLevel::kWarning, "%s", s.error().message.c_str());
}

}  // namespace fastoci
