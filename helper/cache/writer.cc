// SPDX-License-Identifier: Apache-2.0
#include "cache/writer.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/thread.h"

namespace fastoci {
namespace {

constexpr int kMaxSlotTries = 4;  // slots that may refuse one chunk
constexpr int kMaxRounds = 3;     // for a chunk whose other slot is being verified

Error Stopped() { return {ErrorKind::kUnavailable, ECANCELED, "stopping"}; }

// Writes the chunks of one batch. Chunks come in order of space and number.
class BatchWriter {
 public:
  explicit BatchWriter(Cache* cache) : cache_(cache) {}

  // Chunks of which another slot is being verified are tried again when that has ended.
  void Run(std::vector<VerifiedChunk>* batch) {
    std::vector<VerifiedChunk*> left;
    for (VerifiedChunk& c : *batch) left.push_back(&c);
    for (int round = 1; !left.empty() && round <= kMaxRounds; round++) {
      if (round > 1) cache_->WaitForClaim(left[0]->space, left[0]->row.chunk_no);
      left = Round(left);
    }
    for (VerifiedChunk* c : left)
      c->result = Error{ErrorKind::kUnavailable, EAGAIN, "another slot of it is being verified"};
  }

 private:
  using Chunks = std::vector<VerifiedChunk*>;

  // Returns those that must wait.
  Chunks Round(const Chunks& chunks) {
    Chunks absent, wait;
    for (VerifiedChunk* c : chunks) {
      const bool twice = !absent.empty() && absent.back()->space == c->space &&
                         absent.back()->row.chunk_no == c->row.chunk_no;
      if (twice || IsVerifying(*c))
        wait.push_back(c);
      else if (IsThere(*c))
        c->result = OkStatus();  // not what the round before came to
      else
        absent.push_back(c);
    }
    for (int tries = 1; !absent.empty() && tries <= kMaxSlotTries; tries++)
      absent = WriteAll(std::move(absent), &wait);
    return wait;
  }

  bool IsVerifying(const VerifiedChunk& c) {
    auto where = cache_->Find(c.space, c.row.chunk_no);
    return where && where->use == SlotUse::kVerifying;
  }

  // The kernel serves it already; a restored slot that nobody verified yet makes room for it.
  bool IsThere(const VerifiedChunk& c) {
    auto where = cache_->Find(c.space, c.row.chunk_no);
    if (!where) return false;
    if (where->use == SlotUse::kPresent) return cache_->FillAgain(c.space, c.row.chunk_no);
    if (auto slot = cache_->Claim(c.space, c.row.chunk_no)) cache_->Drop({&*slot, 1});
    return false;
  }

  // Returns the chunks whose slots were refused. Sets the results of all others.
  Chunks WriteAll(Chunks chunks, Chunks* wait) {
    Chunks refused;
    std::span<VerifiedChunk*> left(chunks);
    while (!left.empty()) {
      const size_t n = TakeSlots(left);
      if (n == 0) break;
      WriteSome(left.first(n), &refused, wait);
      left = left.subspan(n);
    }
    return refused;
  }

  // Slots for the first of them, as many as are to be had at once. It waits only while it has
  // none: others may wait for those that are held here. 0: none came; all have their result.
  size_t TakeSlots(std::span<VerifiedChunk*> chunks) {
    size_t n = 0;
    while (n < chunks.size()) {
      const VerifiedChunk& first = *chunks[n];
      size_t run = 1;
      while (n + run < chunks.size() && chunks[n + run]->space == first.space &&
             chunks[n + run]->row.chunk_no == first.row.chunk_no + run)
        run++;
      auto slots = cache_->TakeSlots(run, first.space, first.row.chunk_no, n == 0);
      if (!slots.ok() && n == 0)
        for (VerifiedChunk* c : chunks) c->result = slots.error();
      if (!slots.ok() || slots->empty()) return n;
      for (uint32_t slot : *slots) chunks[n++]->row.slot = slot;
    }
    return n;
  }

  void WriteSome(std::span<VerifiedChunk*> chunks, Chunks* refused, Chunks* wait) {
    std::vector<CacheDevice::SlotWrite> writes;
    for (VerifiedChunk* c : chunks) {
      auto bytes = c->data.span();
      std::fill(bytes.begin() + static_cast<ptrdiff_t>(c->data_bytes), bytes.end(), 0);
      writes.push_back({.slot = c->row.slot, .data = bytes});
    }
    cache_->WriteSlots(writes);
    std::vector<Cache::Filling> fillings;
    Chunks written;
    for (size_t i = 0; i < chunks.size(); i++) {
      VerifiedChunk* c = chunks[i];
      c->result = writes[i].result;
      if (c->result.ok()) {
        fillings.push_back({.space = c->space, .row = c->row});
        written.push_back(c);
      } else if (c->result.error().err != ECANCELED) {
        Status retired = cache_->Retire(c->row.slot, c->result.error().message);
        if (retired.ok())
          refused->push_back(c);
        else
          c->result = retired;
      }
    }
    cache_->PublishAll(fillings);
    for (size_t i = 0; i < written.size(); i++) {
      written[i]->result = fillings[i].result;
      if (!fillings[i].result.ok() && fillings[i].result.error().err == EAGAIN)
        wait->push_back(written[i]);
    }
  }

  Cache* const cache_;
};

}  // namespace

ChunkWriter::ChunkWriter(std::shared_ptr<Cache> cache, const ChunkWriterOptions& options, Done done)
    : cache_(std::move(cache)),
      options_(options),
      done_(std::move(done)),
      pool_(ChunkPool::Make(cache_->chunk_bytes(),
                            std::max<size_t>(options.pool_bytes / cache_->chunk_bytes(), 2),
                            std::max<size_t>(options.spare_bytes / cache_->chunk_bytes(), 2))) {}

Result<std::unique_ptr<ChunkWriter>> ChunkWriter::Start(std::shared_ptr<Cache> cache,
                                                        const ChunkWriterOptions& options,
                                                        Done done) {
  std::unique_ptr<ChunkWriter> writer(
      new ChunkWriter(std::move(cache), options, std::move(done)));
  for (int i = 0; i < std::max(options.nr_threads, 2); i++) {
    FASTOCI_TRY(std::thread thread, StartThread([w = writer.get(), urgent_only = i == 0] {
                  w->Work(urgent_only);
                }));
    writer->threads_.push_back(std::move(thread));
  }
  return writer;
}

ChunkWriter::~ChunkWriter() { Stop(); }

void ChunkWriter::Write(std::vector<VerifiedChunk> chunks) {
  if (chunks.empty()) return;
  {
    MutexLock lock(mutex_);
    if (!stop_) {
      nr_pending_ += chunks.size();
      bool normal = false;
      for (VerifiedChunk& c : chunks) {
        normal |= !c.urgent;
        (c.urgent ? urgent_ : normal_).push_back(std::move(c));
      }
      if (!urgent_.empty()) WakeForUrgent();
      if (normal) work_.NotifyOne();
      return;
    }
  }
  for (VerifiedChunk& c : chunks) c.result = Stopped();
  done_(std::move(chunks));
}

void ChunkWriter::WakeForUrgent() {
  if (std::exchange(urgent_thread_waits_, false))
    urgent_work_.NotifyOne();
  else
    work_.NotifyOne();
}

std::vector<VerifiedChunk> ChunkWriter::NextBatch(bool urgent_only) {
  std::vector<VerifiedChunk> batch;
  const size_t max = std::max<size_t>(options_.batch_bytes / cache_->chunk_bytes(), 1);
  if (urgent_.empty() && urgent_only) return batch;
  auto& queue = urgent_.empty() ? normal_ : urgent_;
  for (; !queue.empty() && batch.size() < max; queue.pop_front())
    batch.push_back(std::move(queue.front()));
  // What is left is another thread's, if one is idle.
  if (!urgent_.empty()) WakeForUrgent();
  if (!normal_.empty()) work_.NotifyOne();
  return batch;
}

void ChunkWriter::Work(bool urgent_only) {
  MutexLock lock(mutex_);
  for (;;) {
    std::vector<VerifiedChunk> batch = NextBatch(urgent_only);
    if (batch.empty()) {
      if (stop_) return;
      if (urgent_only) urgent_thread_waits_ = true;
      (urgent_only ? urgent_work_ : work_).Wait(mutex_);
      if (urgent_only) urgent_thread_waits_ = false;
      continue;
    }
    lock.Unlock();
    const size_t n = batch.size();
    std::sort(batch.begin(), batch.end(), [](const VerifiedChunk& a, const VerifiedChunk& b) {
      return std::tie(a.space, a.row.chunk_no) < std::tie(b.space, b.row.chunk_no);
    });
    BatchWriter(cache_.get()).Run(&batch);
    done_(std::move(batch));
    lock.Lock();
    nr_pending_ -= n;
    idle_.NotifyAll();
  }
}

size_t ChunkWriter::nr_pending() const {
  MutexLock lock(mutex_);
  return nr_pending_;
}

bool ChunkWriter::Drain(std::chrono::steady_clock::time_point deadline) {
  MutexLock lock(mutex_);
  return idle_.WaitUntil(mutex_, deadline,
                         [this]() REQUIRES(mutex_) { return nr_pending_ == 0; });
}

void ChunkWriter::Stop() {
  std::vector<VerifiedChunk> left;
  {
    MutexLock lock(mutex_);
    stop_ = true;
    for (auto* queue : {&urgent_, &normal_}) {
      for (VerifiedChunk& c : *queue) left.push_back(std::move(c));
      queue->clear();
    }
    nr_pending_ -= left.size();
    urgent_work_.NotifyAll();
    work_.NotifyAll();
    idle_.NotifyAll();
  }
  pool_->Interrupt();
  if (!left.empty()) {
    for (VerifiedChunk& c : left) c.result = Stopped();
    done_(std::move(left));
  }
  for (std::thread& t : threads_) t.join();
  threads_.clear();
}

}  // namespace fastoci
