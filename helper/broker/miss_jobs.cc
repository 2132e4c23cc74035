// SPDX-License-Identifier: Apache-2.0
// The lanes' part of MissService: one job from pick to finish.
#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "broker/miss_service.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

constexpr uint32_t kMaxTries = 3;  // of one job, and of one requeued key
constexpr size_t kEvictBatch = 64;
constexpr auto kEvictWait = std::chrono::milliseconds(200);
constexpr auto kSlotDeadline = std::chrono::seconds(10);
constexpr auto kLaneRetry = std::chrono::seconds(1);
constexpr size_t kPiece = 1 << FASTOCI_DIGEST_SHIFT;
constexpr uint32_t kAllocBatch = 256;

Sha256Digest ChunkDigest(const std::vector<Sha256Digest>& pieces) {
  if (pieces.size() == 1) return pieces[0];
  Sha256 all;
  for (const Sha256Digest& d : pieces) all.Update(d);
  return all.Finish();
}

}  // namespace

struct MissService::JobContext {
  JobQueue::Picked picked;
  std::shared_ptr<Cache> cache;
  std::shared_ptr<const MetaImage> meta;
  uint32_t image = 0;
  uint32_t blob_no = 0;
  bool adopted = false;
  const BlobInfo* blob = nullptr;
  std::unique_ptr<AlignedBuffer> chunk;
  std::vector<Sha256Digest> pieces;  // of the chunk in hand
  uint64_t next_offset = 0;          // where the next piece must begin

  uint32_t space() const { return picked.key.space; }
  uint64_t chunk_bytes() const { return cache->device->chunk_bytes(); }
  // Bytes of the data space in a chunk.
  size_t DataBytes(uint32_t chunk_no) const {
    const uint64_t at = static_cast<uint64_t>(chunk_no) * chunk_bytes();
    return static_cast<size_t>(std::min(chunk_bytes(), blob->data_bytes - at));
  }
  std::string Name() const {
    return DigestString(blob->blob_digest) + ", span " + std::to_string(picked.key.span);
  }
};

void MissService::RunLane(int number) {
  std::unique_ptr<Lane> lane;
  for (;;) {
    std::optional<JobQueue::Picked> picked;
    {
      std::unique_lock lock(mutex_);
      while (!stop_ && !lane) {
        lock.unlock();
        auto made = lanes_->NewLane();
        lock.lock();
        if (made.ok()) {
          lane = std::move(*made);
          break;
        }
        Log(LogLevel::kError, "lane %d: %s", number, made.error().message.c_str());
        work_.wait_for(lock, kLaneRetry, [&] { return stop_; });
      }
      work_.wait(lock, [&] { return stop_ || queue_.nr_queued() > 0; });
      if (stop_) return;
      picked = queue_.Pick();
    }
    if (picked) RunJob(&lane, *picked);
  }
}

bool MissService::Prepare(const JobQueue::Picked& picked, JobContext* job) {
  std::lock_guard lock(mutex_);
  auto cache = caches_.find(picked.key.cache);
  auto space = spaces_.find({picked.key.cache, picked.key.space});
  if (cache == caches_.end() || space == spaces_.end() || !space->second.meta) return false;
  job->picked = picked;
  job->cache = cache->second;
  job->meta = space->second.meta;
  job->image = space->second.image;
  job->blob_no = space->second.blob;
  job->adopted = space->second.adopted;
  job->blob = &job->meta->blobs[job->blob_no];
  return true;
}

void MissService::RunJob(std::unique_ptr<Lane>* lane, const JobQueue::Picked& picked) {
  JobContext job;
  if (!Prepare(picked, &job)) {
    // Its image or cache went meanwhile; what still waits is failed in time.
    std::lock_guard lock(mutex_);
    for (uint32_t c : queue_.Drop(picked.key))
      orphans_.push_back({picked.key.cache,
                          {.space = picked.key.space, .chunk_no = c, .miss_class = picked.miss_class},
                          Clock::now()});
    refresh_ = true;
    manage_.notify_all();
    return;
  }
  job.chunk = std::make_unique<AlignedBuffer>(job.chunk_bytes());
  Status status = job.chunk->ok() ? OkStatus() : Status(ErrnoError("memory", ENOMEM));
  for (uint32_t tries = 0; status.ok(); tries++) {
    if (!NeedsFetch(&job)) break;  // each time: misses come while the job runs
    status = TryJob(lane->get(), &job, tries);
    if (status.ok()) break;
    const Error& e = status.error();
    if (e.kind == ErrorKind::kMismatch) counters_.mismatches++;
    bool stop;
    {
      std::lock_guard lock(mutex_);
      stop = stop_;
    }
    Log(LogLevel::kWarning, "%s: try %u: %s", job.Name().c_str(), tries + 1, e.message.c_str());
    if (stop || tries + 1 == kMaxTries || e.kind == ErrorKind::kDenied || e.kind == ErrorKind::kNotFound) break;
    counters_.retries++;
    status = OkStatus();
  }
  std::vector<uint32_t> failed;
  {
    std::unique_lock lock(mutex_);
    while (!status.ok() && !stop_ && job.chunk->ok() && HasKeptLocked(&job)) {
      lock.unlock();
      ServeKept(&job);
      lock.lock();
    }
    if (stop_) return;  // the kernel sends what is pending to the next helper
    if (!status.ok() || picked.attempt >= kMaxTries)
      failed = queue_.Drop(picked.key);
    else
      queue_.Finish(picked.key);
    if (queue_.nr_queued() > 0) work_.notify_one();
  }
  if (failed.empty()) return;
  Log(LogLevel::kError, "%s: giving up %zu chunks: %s", job.Name().c_str(), failed.size(),
      status.ok() ? "not in the span" : status.error().message.c_str());
  FailChunks(picked.key.cache, picked.key.space, failed, EIO);
}

Status MissService::TryJob(Lane* lane, JobContext* job, uint32_t attempt) {
  LaneJob l;
  l.image = job->image;
  l.blob = job->blob_no;
  l.info = job->blob;
  l.range = PlanJob(*job->blob, job->picked.key.span, job->cache->info.chunk_shift,
                    attempt > 0);  // the input may have been cut too short for the tail
  l.miss_class = job->picked.miss_class;
  l.deadline_ms = options_.fetch_deadline_ms;
  l.attempt = attempt;
  job->next_offset = l.range.out_begin;
  job->pieces.clear();
  Status ran = lane->Run(l, [&](uint64_t offset, ByteSpan piece) {
    return TakePiece(job, offset, piece);
  });
  counters_.bytes_fetched += lane->bytes_fetched();
  FASTOCI_CHECK_OK(ran);
  if (job->next_offset != l.range.out_end) return MismatchError("the lane ended before its range");
  return OkStatus();
}

Status MissService::TakePiece(JobContext* job, uint64_t data_offset, ByteSpan piece) {
  {
    std::lock_guard lock(mutex_);
    if (stop_) return Error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
  }
  const uint64_t left = job->blob->data_bytes - std::min(job->blob->data_bytes, data_offset);
  if (data_offset != job->next_offset || piece.size() != std::min<uint64_t>(kPiece, left) || piece.empty())
    return Error{ErrorKind::kMismatch, EBADMSG, "the decoder's pieces are out of order"};
  const Sha256Digest digest = Sha256::Of(piece);
  const auto& digests = job->blob->digests;
  if (!digests.empty() && digests[data_offset / kPiece] != digest)
    return MismatchError("digest of data bytes " + std::to_string(data_offset) + "+" + std::to_string(piece.size()) +
                         " differs");
  counters_.bytes_decoded += piece.size();
  if (digests.empty()) counters_.unverified++;
  const uint64_t in_chunk = data_offset % job->chunk_bytes();
  if (in_chunk == 0) job->pieces.clear();
  std::copy(piece.begin(), piece.end(), job->chunk->data() + in_chunk);
  job->pieces.push_back(digest);
  job->next_offset = data_offset + piece.size();
  if (in_chunk + piece.size() == job->chunk_bytes() || job->next_offset == job->blob->data_bytes)
    return WriteChunk(job, static_cast<uint32_t>(data_offset / job->chunk_bytes()), in_chunk + piece.size());
  return OkStatus();
}

Status MissService::WriteChunk(JobContext* job, uint32_t chunk_no, size_t bytes) {
  SlotRow row;
  row.space_id = job->blob->data_space_id;
  row.chunk_no = chunk_no;
  row.digest = ChunkDigest(job->pieces);
  std::optional<SlotRow> kept;
  std::optional<uint32_t> present;
  {
    std::lock_guard lock(mutex_);
    auto space = spaces_.find({job->cache->info.cache, job->space()});
    if (space == spaces_.end()) return NotFoundError("the cache is gone");
    if (auto p = space->second.present.find(chunk_no); p != space->second.present.end())
      present = p->second;
    else
      kept = job->cache->pool.TakeKept(row.space_id, chunk_no);
  }
  if (present) {
    FillAgain(job, chunk_no, *present);
    return OkStatus();
  }
  if (kept) {
    row.slot = kept->slot;
  } else {
    FASTOCI_TRY(row.slot, TakeSlot(job->cache.get()));
  }
  std::fill(job->chunk->data() + bytes, job->chunk->data() + job->chunk_bytes(), 0);
  Status written = job->cache->device->WriteSlot(row.slot, {job->chunk->data(), job->chunk_bytes()});
  if (!written.ok()) {
    std::lock_guard lock(mutex_);
    job->cache->pool.Add({&row.slot, 1});
    return written;
  }
  return Publish(job, row);
}

// The slot holds the chunk and is reserved by us. It is in present before the
// kernel has it: an eviction that comes between finds it and takes it out, so
// that present never names a slot that the kernel gave out again.
Status MissService::Publish(JobContext* job, const SlotRow& row) {
  Cache* cache = job->cache.get();
  auto set_present = [&](bool on) {
    std::lock_guard lock(mutex_);
    auto space = spaces_.find({cache->info.cache, job->space()});
    if (space == spaces_.end()) return;
    if (on)
      space->second.present[row.chunk_no] = row.slot;
    else
      space->second.present.erase(row.chunk_no);
  };
  // A chunk that an earlier helper filled leaves our slot with us, and only
  // RETURN tells: it succeeds just then. Without evictions in between, or the
  // slot might be another lane's by now and RETURN would take it from there.
  std::unique_lock no_evictions(cache->evict_mutex, std::defer_lock);
  if (job->adopted) no_evictions.lock();
  set_present(true);
  ChunkEntry entry{.space = job->space(), .chunk_no = row.chunk_no, .slot = row.slot};
  Status filled = link_->Fill(cache->info.cache, {&entry, 1});
  if (!filled.ok()) {
    set_present(false);
    std::lock_guard lock(mutex_);
    if (filled.error().err != EPERM) cache->pool.Add({&row.slot, 1});  // EPERM: not ours
    return filled;
  }
  counters_.fills++;
  if (job->adopted && link_->Return(cache->info.cache, {&row.slot, 1}).ok()) {
    set_present(false);
    if (cache->db) cache->db->Remove(row.slot);
  } else if (cache->db) {
    cache->db->Add(row);
  }
  std::lock_guard lock(mutex_);
  cache->by_age.emplace_back(job->space(), row.chunk_no);
  queue_.Resolve(job->picked.key, row.chunk_no);
  return OkStatus();
}

// For a miss that crossed our FILL. The same FILL again is a success; if the
// chunk was evicted meanwhile, its miss stays wanted.
void MissService::FillAgain(JobContext* job, uint32_t chunk_no, uint32_t slot) {
  // Holds off evictions, so that the slot cannot be another chunk's by now.
  std::lock_guard no_evictions(job->cache->evict_mutex);
  {
    std::lock_guard lock(mutex_);
    auto space = spaces_.find({job->cache->info.cache, job->space()});
    if (space == spaces_.end()) return;
    auto p = space->second.present.find(chunk_no);
    if (p == space->second.present.end() || p->second != slot) return;
  }
  ChunkEntry entry{.space = job->space(), .chunk_no = chunk_no, .slot = slot};
  const bool ok = link_->Fill(job->cache->info.cache, {&entry, 1}).ok();
  std::lock_guard lock(mutex_);
  if (ok) queue_.Resolve(job->picked.key, chunk_no);
}

// Serves what it can; true if chunks are left that only a source has.
bool MissService::NeedsFetch(JobContext* job) {
  for (;;) {
    ServeKept(job);
    std::lock_guard lock(mutex_);
    if (queue_.Wanted(job->picked.key).empty()) return false;
    if (!HasKeptLocked(job)) return true;
  }
}

bool MissService::HasKeptLocked(JobContext* job) {
  auto space = spaces_.find({job->cache->info.cache, job->space()});
  if (space == spaces_.end()) return false;
  for (uint32_t c : queue_.Wanted(job->picked.key))
    if (job->cache->pool.IsKept(job->blob->data_space_id, c)) return true;
  return false;
}

// Wanted chunks that need no fetch: those that the kernel has by now, and those
// that lie in a kept slot.
void MissService::ServeKept(JobContext* job) {
  Cache* cache = job->cache.get();
  std::vector<std::pair<uint32_t, uint32_t>> present;
  std::vector<SlotRow> kept;
  {
    std::lock_guard lock(mutex_);
    auto space = spaces_.find({cache->info.cache, job->space()});
    if (space == spaces_.end()) return;
    for (uint32_t c : queue_.Wanted(job->picked.key)) {
      if (auto p = space->second.present.find(c); p != space->second.present.end())
        present.emplace_back(c, p->second);
      else if (auto row = cache->pool.TakeKept(job->blob->data_space_id, c))
        kept.push_back(*row);
    }
  }
  for (auto [chunk_no, slot] : present) FillAgain(job, chunk_no, slot);
  for (const SlotRow& row : kept) {
    if (MatchesRow(job, row) && Publish(job, row).ok()) {
      counters_.restored++;
      continue;
    }
    if (cache->db) cache->db->Remove(row.slot);
    std::lock_guard lock(mutex_);
    cache->pool.Add({&row.slot, 1});
  }
}

bool MissService::MatchesRow(JobContext* job, const SlotRow& row) {
  if (!job->cache->device->ReadSlot(row.slot, {job->chunk->data(), job->chunk_bytes()}).ok()) return false;
  const size_t bytes = job->DataBytes(row.chunk_no);
  const auto& digests = job->blob->digests;
  const uint64_t first = static_cast<uint64_t>(row.chunk_no) * job->chunk_bytes() / kPiece;
  std::vector<Sha256Digest> pieces;
  for (size_t at = 0; at < bytes; at += kPiece) {
    pieces.push_back(Sha256::Of({job->chunk->data() + at, std::min(kPiece, bytes - at)}));
    if (!digests.empty() && digests[first + at / kPiece] != pieces.back()) return false;
  }
  // Behind the data space's end a reader may look: zeros, as written.
  if (std::any_of(job->chunk->data() + bytes, job->chunk->data() + job->chunk_bytes(), [](uint8_t b) { return b; }))
    return false;
  return ChunkDigest(pieces) == row.digest;
}

// ---- slots ----

Result<uint32_t> MissService::TakeSlot(Cache* cache) {
  const auto deadline = Clock::now() + kSlotDeadline;
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      if (auto slot = cache->pool.Take()) return *slot;
      if (stop_) return Error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
    }
    auto slots = link_->Alloc(cache->info.cache, kAllocBatch);
    if (slots.ok()) {
      std::lock_guard lock(mutex_);
      cache->pool.Add(*slots);
      continue;
    }
    if (slots.error().err != ENOSPC) return slots.error();
    if (Clock::now() > deadline) return ErrnoError("no slot became free", ENOSPC);
    (void)EvictSome(cache);
  }
}

// The oldest fills go first; the module does not tell access bits yet.
bool MissService::EvictSome(Cache* cache) {
  std::lock_guard one(cache->evict_mutex);
  std::vector<ChunkEntry> victims;
  std::vector<uint32_t> slots;
  {
    std::lock_guard lock(mutex_);
    if (cache->pool.nr_free() > 0) return true;
    while (victims.size() < kEvictBatch && !cache->by_age.empty()) {
      auto [space_no, chunk_no] = cache->by_age.front();
      cache->by_age.pop_front();
      auto space = spaces_.find({cache->info.cache, space_no});
      if (space == spaces_.end()) continue;
      auto p = space->second.present.find(chunk_no);
      if (p != space->second.present.end()) {
        slots.push_back(p->second);
        space->second.present.erase(p);  // before the kernel can give the slot out again
      } else if (!space->second.adopted) {
        continue;
      }
      victims.push_back({.space = space_no, .chunk_no = chunk_no});
    }
  }
  if (victims.empty()) {
    std::unique_lock lock(mutex_);
    evicted_.wait_for(lock, kEvictWait);
    return false;
  }
  if (cache->db)
    for (uint32_t slot : slots) cache->db->Remove(slot);
  counters_.evictions += victims.size();
  uint64_t events;
  {
    std::lock_guard lock(mutex_);
    events = evict_events_;
  }
  Status s = link_->Evict(cache->info.cache, victims);
  if (!s.ok()) Log(LogLevel::kWarning, "cache %u: %s", cache->info.cache, s.error().message.c_str());
  std::unique_lock lock(mutex_);
  // ALLOC tells whether a slot is free; this only paces.
  evicted_.wait_for(lock, kEvictWait, [&] { return stop_ || evict_events_ != events; });
  return s.ok();
}

void MissService::FailChunks(uint32_t cache, uint32_t space, const std::vector<uint32_t>& chunks, int err) {
  std::vector<ChunkEntry> entries;
  for (uint32_t c : chunks) entries.push_back({.space = space, .chunk_no = c, .err = static_cast<uint32_t>(err)});
  counters_.fails += entries.size();
  Status s = link_->Fail(cache, entries);
  if (!s.ok()) Log(LogLevel::kWarning, "%s", s.error().message.c_str());
}

}  // namespace fastoci
