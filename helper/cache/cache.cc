// SPDX-License-Identifier: Apache-2.0
// Chunks of a cache, and its life; cache_open.cc has its start, cache_slots.cc its slots.
#include "cache/cache.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/log.h"
#include "fastoci_netlink.h"

namespace fastoci {
namespace {

constexpr auto kClaimWait = std::chrono::seconds(10);  // reading and hashing one slot
constexpr auto kPinWait = std::chrono::seconds(5);
constexpr uint32_t kMaxBatch = 64;

}  // namespace

Cache::Cache(KernelLink* link, const CacheInfo& info, CacheCounters* counters)
    : link_(link),
      info_(info),
      counters_(counters),
      batch_(std::clamp(info.nr_slots / 32, 1U, kMaxBatch)),
      table_(info.nr_slots),
      policy_(info.nr_slots),
      has_row_(info.nr_slots),
      read_(info.nr_slots) {}

uint64_t Cache::KeyOf(uint32_t space, uint32_t chunk_no) {
  uint64_t x = (static_cast<uint64_t>(space) << 32 | chunk_no) * 0x9e3779b97f4a7c15ULL;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
  return x ^ x >> 31;
}

std::optional<SlotTable::Where> Cache::Find(uint32_t space, uint32_t chunk_no) {
  MutexLock lock(mutex_);
  return table_.Find(space, chunk_no);
}

std::optional<uint32_t> Cache::Claim(uint32_t space, uint32_t chunk_no) {
  MutexLock lock(mutex_);
  auto where = table_.Find(space, chunk_no);
  if (!where || where->use != SlotUse::kRestored) return std::nullopt;
  policy_.Removed(where->slot);
  table_.SetChunk(where->slot, SlotUse::kVerifying, space, chunk_no);
  return where->slot;
}

void Cache::WaitForClaim(uint32_t space, uint32_t chunk_no) {
  MutexLock lock(mutex_);
  changed_.WaitFor(mutex_, kClaimWait, [&]() REQUIRES(mutex_) {
    auto where = table_.Find(space, chunk_no);
    return stop_ || !where || where->use != SlotUse::kVerifying;
  });
}

std::optional<Cache::Unchecked> Cache::PresentIn(uint32_t slot) {
  MutexLock lock(mutex_);
  if (table_.use(slot) != SlotUse::kPresent) return std::nullopt;
  return Unchecked{slot, table_.space(slot), table_.chunk_no(slot), true};
}

void Cache::RemoveRow(uint32_t slot) {
  if (db_) db_->Remove(slot);
}

std::optional<SlotRow> Cache::RowOf(uint32_t slot) {
  if (!db_) return std::nullopt;
  auto row = db_->Find(slot);
  return row.ok() ? *row : std::nullopt;
}

Status Cache::Publish(uint32_t space, const SlotRow& row) {
  Filling one{.space = space, .row = row};
  PublishAll({&one, 1});
  return one.result;
}

void Cache::PublishAll(std::span<Filling> chunks) {
  while (!chunks.empty()) {
    const size_t n = std::min<size_t>(chunks.size(), FASTOCI_MAX_BATCH);
    PublishBatch(chunks.first(n));
    chunks = chunks.subspan(n);
  }
  if (committer_ && db_ && db_->NearlyFull()) committer_->Kick();
}

// The table gets a chunk before the kernel does. So a second publisher of the chunk
// sees it, and a miss that comes in between may fill it for us. order_ keeps
// evictions out.
void Cache::PublishBatch(std::span<Filling> chunks) {
  ReaderLock order(order_);
  std::vector<Filling*> fill;
  std::vector<uint32_t> surplus;
  {
    MutexLock lock(mutex_);
    for (Filling& c : chunks) {
      auto where = table_.Find(c.space, c.row.chunk_no);
      if (!where || where->slot == c.row.slot) {
        table_.SetChunk(c.row.slot, SlotUse::kPresent, c.space, c.row.chunk_no);
        fill.push_back(&c);
        continue;
      }
      surplus.push_back(c.row.slot);
      if (where->use != SlotUse::kPresent)
        c.result = Error{ErrorKind::kUnavailable, EAGAIN, "another slot of it is being verified"};
    }
  }
  FillBatch(fill);
  for (Filling* c : fill)
    if (!c->result.ok()) surplus.push_back(c->row.slot);
  if (!surplus.empty()) Drop(surplus);
  MutexLock lock(mutex_);
  for (Filling* c : fill) {
    if (!c->result.ok()) continue;
    counters_->fills++;
    fills_since_sweep_++;
    if (table_.use(c->row.slot) != SlotUse::kPresent) continue;  // became bad at once
    policy_.Filled(c->row.slot, KeyOf(c->space, c->row.chunk_no));
    AddRow(c->row);
  }
  changed_.NotifyAll();
}

// All at once. If the kernel refuses one, each by itself; a FILL that succeeded succeeds again.
void Cache::FillBatch(std::span<Filling*> chunks) {
  if (chunks.empty()) return;
  std::vector<ChunkEntry> entries;
  for (const Filling* c : chunks)
    entries.push_back({.space = c->space, .chunk_no = c->row.chunk_no, .slot = c->row.slot});
  const Status all = link_->Fill(info_.cache, entries);
  if (all.ok()) return;
  for (size_t i = 0; i < chunks.size(); i++)
    chunks[i]->result = chunks.size() == 1 ? all : link_->Fill(info_.cache, {&entries[i], 1});
}

// A row that is not kept stays missing until the database takes rows again.
void Cache::AddRow(const SlotRow& row) {
  has_row_[row.slot] = !db_ || db_->Add(row);
  if (has_row_[row.slot]) return;
  nr_missed_rows_++;
  counters_->missed_rows++;
}

bool Cache::FillAgain(uint32_t space, uint32_t chunk_no) {
  ReaderLock order(order_);
  uint32_t slot;
  {
    MutexLock lock(mutex_);
    auto where = table_.Find(space, chunk_no);
    if (!where || where->use != SlotUse::kPresent) return false;
    slot = where->slot;
  }
  ChunkEntry entry{.space = space, .chunk_no = chunk_no, .slot = slot};
  if (link_->Fill(info_.cache, {&entry, 1}).ok()) return true;
  order.Unlock();
  Resync();  // the slot became bad, while nobody here knew of the cache
  return false;
}

void Cache::Drop(std::span<const uint32_t> slots) {
  {
    MutexLock lock(mutex_);  // first: once returned, ALLOC may give them again
    for (uint32_t slot : slots) table_.Set(slot, SlotUse::kFree);
    changed_.NotifyAll();
  }
  for (uint32_t slot : slots) RemoveRow(slot);
  if (link_->Return(info_.cache, slots).ok()) return;
  for (uint32_t slot : slots) (void)link_->Return(info_.cache, {&slot, 1}).ok();
}

void Cache::Adopt(const SlotRow& row) {
  MutexLock lock(mutex_);
  if (table_.use(row.slot) == SlotUse::kPresent && table_.chunk_no(row.slot) == row.chunk_no &&
      !has_row_[row.slot])
    AddRow(row);
}

std::vector<Cache::Unchecked> Cache::ToCheck(size_t max, const std::set<uint32_t>& spaces,
                                              uint32_t* cursor) {
  std::vector<Unchecked> out;
  MutexLock lock(mutex_);
  for (; *cursor < table_.nr_slots() && out.size() < max; ++*cursor) {
    const uint32_t slot = *cursor;
    const bool present =
        table_.use(slot) == SlotUse::kPresent && !has_row_[slot] && db_trouble_.text().empty();
    if (!present && table_.use(slot) != SlotUse::kRestored) continue;
    if (!spaces.count(table_.space(slot))) continue;
    out.push_back({slot, table_.space(slot), table_.chunk_no(slot), present});
  }
  return out;
}

// ---- life ----

Status Cache::StartCommits(std::chrono::milliseconds interval) {
  auto work = [this] {
    bool resync;
    {
      MutexLock lock(mutex_);
      resync = resync_due_;
    }
    if (resync) Resync();
    TestSlots();
    SweepIfDue();
    Commit();
  };
  FASTOCI_TRY(committer_, Committer::Start(work, interval));
  return OkStatus();
}

void Cache::StopCommits() {
  if (committer_) committer_->Stop();
}

void Cache::Commit() {
  if (!db_) return;
  std::vector<uint32_t> lost;
  MutexLock one(commit_mutex_);
  Status s = db_->Commit([&] { return device_->Flush(); }, &lost);
  MutexLock lock(mutex_);
  for (uint32_t slot : lost) has_row_[slot] = false;
  nr_missed_rows_ += lost.size();
  counters_->missed_rows += lost.size();
  if (s.ok()) {
    missed_rows_ |= std::exchange(nr_missed_rows_, 0) != 0;
    db_trouble_.Set(info_.cache, "");
    return;
  }
  std::string text = s.error().message +
                     ": what is cached now will be lost at a restart: check the file system of "
                     "the cache directory";
  if (nr_missed_rows_ > 0)
    text += "; " + std::to_string(nr_missed_rows_) + " more chunks are recorded only after "
            "they were read and compared again";
  db_trouble_.Set(info_.cache, text);
}

bool Cache::TakeMissedRows() {
  MutexLock lock(mutex_);
  return std::exchange(missed_rows_, false);
}

Status Cache::RecordPin(const Sha256Digest& image_id, bool pin, std::vector<Sha256Digest> spaces) {
  if (!db_) return ErrnoError("the cache has no database", EROFS);
  auto write = [db = db_.get(), image_id, pin, spaces = std::move(spaces)] {
    return pin ? db->Pin(image_id, spaces) : db->Unpin(image_id);
  };
  if (!committer_) return write();
  Status s = committer_->Run(write, kPinWait);
  if (!s.ok() && s.error().err == ETIMEDOUT) return s.error().Wrap(
      "the cache database is slow; the pin is recorded when the disk answers");
  return s;
}

void Cache::Interrupt() {
  MutexLock lock(mutex_);
  stop_ = true;
  changed_.NotifyAll();
}

void Cache::End() {
  Interrupt();
  WriterLock writing(writing_);
}

void Cache::Discard() {
  Status s = db_ ? db_->RemoveAll() : OkStatus();
  if (s.ok()) s = device_->DiscardSlots();
  if (!s.ok()) Log(LogLevel::kWarning, "cache %u: %s", info_.cache, s.error().message.c_str());
}

Cache::Stat Cache::GetStat() {
  Stat s;
  s.info = info_;
  s.path = device_->path();
  if (db_) s.durable = db_->Count();
  MutexLock lock(mutex_);
  s.present = table_.Count(SlotUse::kPresent);
  s.restored = table_.Count(SlotUse::kRestored);
  s.reserved = table_.Count(SlotUse::kReserved) + table_.Count(SlotUse::kTaken);
  s.evicting = table_.Count(SlotUse::kEvicting);
  s.retired = table_.Count(SlotUse::kRetired);
  for (const Trouble* trouble : {&device_trouble_, &read_trouble_, &db_trouble_})
    if (s.trouble.empty()) s.trouble = trouble->text();
  return s;
}

uint32_t Cache::CountPresent(uint32_t space) {
  MutexLock lock(mutex_);
  return table_.CountPresent(space);
}

}  // namespace fastoci
