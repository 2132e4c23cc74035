// SPDX-License-Identifier: Apache-2.0
// Taking, publishing and evicting slots; see cache_open.cc for the start.
#include "broker/cache.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/event.h"
#include "fastoci_netlink.h"

namespace fastoci {
namespace {

constexpr auto kSlotDeadline = std::chrono::seconds(10);
constexpr auto kClaimWait = std::chrono::seconds(10);  // reading and hashing one slot
constexpr auto kEvictWait = std::chrono::milliseconds(100);
constexpr auto kOnlyUsed = std::chrono::seconds(60);
constexpr auto kSayAgain = std::chrono::seconds(60);
constexpr uint32_t kMaxBatch = 64;
// A sweep costs as much as the cache has slots: one for so many evictions.
constexpr uint32_t kSweepShare = 32;

}  // namespace

Cache::Cache(KernelLink* link, const CacheInfo& info, Counters* counters)
    : link_(link),
      info_(info),
      counters_(counters),
      batch_(std::clamp(info.nr_slots / 16, 1U, kMaxBatch)),
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
  std::lock_guard lock(mutex_);
  return table_.Find(space, chunk_no);
}

std::optional<uint32_t> Cache::Claim(uint32_t space, uint32_t chunk_no) {
  std::lock_guard lock(mutex_);
  auto where = table_.Find(space, chunk_no);
  if (!where || where->use != SlotUse::kRestored) return std::nullopt;
  policy_.Removed(where->slot);
  table_.SetChunk(where->slot, SlotUse::kVerifying, space, chunk_no);
  return where->slot;
}

void Cache::WaitForClaim(uint32_t space, uint32_t chunk_no) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kClaimWait, [&] {
    auto where = table_.Find(space, chunk_no);
    return stop_ || !where || where->use != SlotUse::kVerifying;
  });
}

std::optional<Cache::Unchecked> Cache::PresentIn(uint32_t slot) {
  std::lock_guard lock(mutex_);
  if (table_.use(slot) != SlotUse::kPresent) return std::nullopt;
  return Unchecked{slot, table_.space(slot), table_.chunk_no(slot), true};
}

Status Cache::Write(const std::function<Status()>& write) {
  std::shared_lock writing(writing_);
  {
    std::lock_guard lock(mutex_);
    if (stop_) return Error{ErrorKind::kUnavailable, ECANCELED, "the cache is gone"};
  }
  return write();
}

Status Cache::WriteSlot(uint32_t slot, std::span<const uint8_t> data) {
  FASTOCI_CHECK_OK(Write([&] { return device_->WriteSlot(slot, data); }));
  wrote_ = true;
  return OkStatus();
}

// A slot that is refused tells nothing of the others; the superblock, whose place was written
// before, does.
Status Cache::ProbeDevice() {
  Status s = Write([&] { return device_->RewriteSuperblock(); });
  if (!s.ok() && s.error().err != ECANCELED)
    s = Error{ErrorKind::kIo, EROFS,
              s.error().message +
                  ": the cache device refuses writes: check it, and whether the file system behind "
                  "it is read-only: until it takes them, what is cached is served, but nothing else"};
  std::lock_guard lock(mutex_);
  if (!s.ok() && s.error().err == EROFS) {
    takes_none_ = true;
    SetTrouble(&device_trouble_, s.error().message);
  } else if (s.ok() && std::exchange(takes_none_, false)) {
    SetTrouble(&device_trouble_, "");
  }
  return s;
}

Status Cache::Writable() {
  {
    std::lock_guard lock(mutex_);
    if (!takes_none_) return OkStatus();
  }
  return ProbeDevice();
}

void Cache::End() {
  Interrupt();
  std::unique_lock writing(writing_);
}

void Cache::GiveBack(uint32_t slot) {
  std::lock_guard lock(mutex_);
  table_.Set(slot, SlotUse::kReserved);
  changed_.notify_one();
}

// A file system that is full refuses all slots that were never written: for a
// while only those are used that held a chunk before.
Status Cache::Retire(uint32_t slot, const std::string& why) {
  if (Status s = ProbeDevice(); !s.ok()) {
    GiveBack(slot);
    return s;
  }
  counters_->retired++;
  RemoveRow(slot);
  std::vector<uint32_t> others;
  {
    std::lock_guard lock(mutex_);
    table_.Set(slot, SlotUse::kRetired);
    nr_refused_++;
    only_used_until_ = Clock::now() + kOnlyUsed;
    while (auto other = table_.Take()) others.push_back(*other);
    SetTrouble(&device_trouble_,
               why + ", slot " + std::to_string(slot) + ", " + std::to_string(nr_refused_) +
                   " in all: the cache device refuses writes: check it, and whether the file "
                   "system behind it is full or read-only");
  }
  Drop(others);
  return OkStatus();
}

void Cache::SetTrouble(Trouble* which, const std::string& text) {
  const bool first = which->text.empty();
  if (which->text == text) return;
  which->text = text;
  EventFields fields;
  const auto now = Clock::now();
  if (text.empty()) {
    fields.kind = "cache_works";
    LogEvent(LogLevel::kInfo, fields, "cache %u: works again", info_.cache);
  } else if (first || now - which->logged >= kSayAgain) {
    which->logged = now;
    fields.kind = "cache_fault";
    LogEvent(LogLevel::kError, fields, "cache %u: %s", info_.cache, text.c_str());
  }
}

void Cache::RemoveRow(uint32_t slot) {
  if (db_) db_->Remove(slot);
}

std::optional<SlotRow> Cache::RowOf(uint32_t slot) {
  if (!db_) return std::nullopt;
  auto row = db_->Find(slot);
  return row.ok() ? *row : std::nullopt;
}

// The table has the chunk before the kernel does: a second publisher of it sees
// that, and a miss that comes between may fill it for us. No eviction can come
// between, by order_.
Status Cache::Publish(uint32_t space, const SlotRow& row) {
  std::shared_lock order(order_);
  bool there;
  {
    std::lock_guard lock(mutex_);
    auto where = table_.Find(space, row.chunk_no);
    there = where && where->slot != row.slot;
    if (!there) table_.SetChunk(row.slot, SlotUse::kPresent, space, row.chunk_no);
  }
  if (there) {
    Drop({&row.slot, 1});
    return OkStatus();
  }
  ChunkEntry entry{.space = space, .chunk_no = row.chunk_no, .slot = row.slot};
  Status filled = link_->Fill(info_.cache, {&entry, 1});
  if (!filled.ok()) {
    Drop({&row.slot, 1});
    return filled;
  }
  counters_->fills++;
  std::lock_guard lock(mutex_);
  if (table_.use(row.slot) != SlotUse::kPresent) return OkStatus();  // became bad at once
  if (db_) db_->Add(row);
  policy_.Filled(row.slot, KeyOf(space, row.chunk_no));
  has_row_[row.slot] = true;
  changed_.notify_all();
  return OkStatus();
}

bool Cache::FillAgain(uint32_t space, uint32_t chunk_no) {
  std::shared_lock order(order_);
  uint32_t slot;
  {
    std::lock_guard lock(mutex_);
    auto where = table_.Find(space, chunk_no);
    if (!where || where->use != SlotUse::kPresent) return false;
    slot = where->slot;
  }
  ChunkEntry entry{.space = space, .chunk_no = chunk_no, .slot = slot};
  if (link_->Fill(info_.cache, {&entry, 1}).ok()) return true;
  order.unlock();
  Resync();  // the slot became bad, while nobody here knew of the cache
  return false;
}

void Cache::Drop(std::span<const uint32_t> slots) {
  {
    std::lock_guard lock(mutex_);  // first: once returned, ALLOC may give them again
    for (uint32_t slot : slots) table_.Set(slot, SlotUse::kFree);
    changed_.notify_all();
  }
  for (uint32_t slot : slots) RemoveRow(slot);
  if (link_->Return(info_.cache, slots).ok()) return;
  for (uint32_t slot : slots) (void)link_->Return(info_.cache, {&slot, 1}).ok();
}

void Cache::Adopt(const SlotRow& row) {
  {
    std::lock_guard lock(mutex_);
    if (table_.use(row.slot) != SlotUse::kPresent || table_.chunk_no(row.slot) != row.chunk_no ||
        has_row_[row.slot])
      return;
    has_row_[row.slot] = true;
  }
  if (db_) db_->Add(row);
}

std::vector<Cache::Unchecked> Cache::ToCheck(size_t max, const std::set<uint32_t>& spaces,
                                              uint32_t* cursor) {
  std::vector<Unchecked> out;
  std::lock_guard lock(mutex_);
  for (; *cursor < table_.nr_slots() && out.size() < max; ++*cursor) {
    const uint32_t slot = *cursor;
    const bool present = table_.use(slot) == SlotUse::kPresent && !has_row_[slot];
    if (!present && table_.use(slot) != SlotUse::kRestored) continue;
    if (!spaces.count(table_.space(slot))) continue;
    out.push_back({slot, table_.space(slot), table_.chunk_no(slot), present});
  }
  return out;
}

void Cache::SetPinned(std::set<uint32_t> spaces) {
  std::lock_guard lock(mutex_);
  pinned_ = std::move(spaces);
}

void Cache::Demote(const std::set<uint32_t>& spaces) {
  std::lock_guard lock(mutex_);
  for (uint32_t slot = 0; slot < table_.nr_slots(); slot++) {
    const SlotUse use = table_.use(slot);
    if ((use == SlotUse::kPresent || use == SlotUse::kRestored) && spaces.count(table_.space(slot)))
      policy_.Demote(slot);
  }
}

// ---- eviction ----

Result<uint32_t> Cache::TakeSlot() {
  const auto deadline = Clock::now() + kSlotDeadline;
  for (;;) {
    std::optional<uint32_t> slot;
    bool low;
    {
      std::lock_guard lock(mutex_);
      if (stop_) return Error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
      slot = table_.Take();
      low = table_.Count(SlotUse::kReserved) <= batch_ / 4 && table_.Count(SlotUse::kEvicting) == 0;
    }
    if (slot) {
      // Ahead of need: who comes next shall not wait for a grace period.
      std::unique_lock one(reclaim_mutex_, std::try_to_lock);
      if (low && one.owns_lock()) (void)MoreSlots();
      return *slot;
    }
    if (Reclaim()) continue;
    FASTOCI_CHECK_OK(Writable());
    std::lock_guard lock(mutex_);
    const bool hopeless = IsHopeless();
    if (hopeless && table_.Count(SlotUse::kRetired) == table_.nr_slots())
      return Error{ErrorKind::kIo, ENOSPC,
                   "cache: all " + std::to_string(table_.nr_slots()) +
                       " slots are bad: mend the cache device, then detach all images, start the "
                       "helper again and attach them"};
    if (hopeless || Clock::now() > deadline) {
      return Error{ErrorKind::kIo, ENOSPC,
                   "cache: no slot became free: " +
                       std::to_string(table_.Count(SlotUse::kEvicting)) + " are still read, " +
                       std::to_string(table_.Count(SlotUse::kRetired)) +
                       " are bad, the others are pinned: enlarge the cache or unpin an image"};
    }
  }
}

// mutex_ is held: every slot is bad, or holds a chunk that is pinned.
bool Cache::IsHopeless() {
  for (uint32_t slot = 0; slot < table_.nr_slots(); slot++) {
    const bool pinned = table_.use(slot) == SlotUse::kPresent && pinned_.count(table_.space(slot));
    if (!pinned && table_.use(slot) != SlotUse::kRetired) return false;
  }
  return true;
}

// Asks the kernel for slots, evicts if it has none; reclaim_mutex_ is held.
// True if some are there, or will be.
bool Cache::MoreSlots() {
  bool only_used;
  {
    std::lock_guard lock(mutex_);
    const bool refused = Clock::now() < only_used_until_;
    only_used = refused || !may_grow_;
    if (!refused && !takes_none_) SetTrouble(&device_trouble_, "");
  }
  if (only_used && EvictSome()) return true;
  auto slots = link_->Alloc(info_.cache, batch_);
  if (!slots.ok()) return slots.error().err == ENOSPC && EvictSome();
  std::lock_guard lock(mutex_);
  for (uint32_t slot : *slots)
    if (slot < table_.nr_slots() && table_.use(slot) == SlotUse::kFree)
      table_.Set(slot, SlotUse::kReserved);
  changed_.notify_all();
  return true;
}

// Waits a little for a slot; true if there is hope.
bool Cache::Reclaim() {
  std::lock_guard one(reclaim_mutex_);
  {
    std::lock_guard lock(mutex_);
    if (stop_ || table_.Count(SlotUse::kReserved) > 0) return true;
  }
  const bool more = MoreSlots();
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kEvictWait,
                     [&] { return stop_ || table_.Count(SlotUse::kReserved) > 0; });
  return more || table_.Count(SlotUse::kReserved) > 0;
}

void Cache::Sweep() {
  Status s = link_->GetSlots(info_.cache, true, [this](const SlotInfo& i) {
    if (!i.accessed || i.slot >= info_.nr_slots) return;
    std::lock_guard lock(mutex_);
    policy_.Accessed(i.slot);
    read_[i.slot] = true;
  });
  if (!s.ok()) Log(LogLevel::kWarning, "cache %u: %s", info_.cache, s.error().message.c_str());
}

std::vector<uint32_t> Cache::TakeRead() {
  Sweep();
  std::vector<uint32_t> slots;
  std::lock_guard lock(mutex_);
  for (uint32_t slot = 0; slot < info_.nr_slots; slot++)
    if (read_[slot]) slots.push_back(slot);
  read_.assign(read_.size(), false);
  return slots;
}

// Not for a device that could not use the slots.
bool Cache::EvictSome() {
  bool wrote = wrote_.exchange(false);
  {
    std::lock_guard lock(mutex_);
    wrote = wrote && !takes_none_;
  }
  if (!wrote && !ProbeDevice().ok()) return false;
  if (evicted_since_sweep_ == 0) Sweep();
  std::vector<uint32_t> victims;
  {
    std::lock_guard lock(mutex_);
    victims = policy_.Pick(
        batch_, [this](uint32_t slot) { return pinned_.count(table_.space(slot)) != 0; });
  }
  evicted_since_sweep_ += static_cast<uint32_t>(victims.size());
  if (evicted_since_sweep_ > info_.nr_slots / kSweepShare) evicted_since_sweep_ = 0;
  return EvictSlots(victims);
}

// slots: no longer in the policy. A present one comes back reserved, by
// OnEvicted(); a restored one is free at once.
bool Cache::EvictSlots(const std::vector<uint32_t>& slots) {
  std::vector<ChunkEntry> present;
  std::vector<uint32_t> restored;
  std::unique_lock order(order_);
  {
    std::lock_guard lock(mutex_);
    for (uint32_t slot : slots) {
      if (table_.use(slot) == SlotUse::kRestored) {
        restored.push_back(slot);
        table_.Set(slot, SlotUse::kTaken);
      } else if (table_.use(slot) == SlotUse::kPresent) {
        present.push_back({.space = table_.space(slot), .chunk_no = table_.chunk_no(slot)});
        table_.Set(slot, SlotUse::kEvicting);
        has_row_[slot] = false;
      } else {
        continue;
      }
      RemoveRow(slot);
    }
  }
  counters_->evictions += present.size() + restored.size();
  if (!present.empty()) {
    Status s = link_->Evict(info_.cache, present);
    if (!s.ok()) Log(LogLevel::kError, "cache %u: %s", info_.cache, s.error().message.c_str());
  }
  order.unlock();
  Drop(restored);
  return !present.empty() || !restored.empty();
}

void Cache::EvictChunk(uint32_t space, uint32_t chunk_no) {
  uint32_t slot;
  {
    std::lock_guard lock(mutex_);
    auto where = table_.Find(space, chunk_no);
    if (!where) return;
    slot = where->slot;
    policy_.Removed(slot);
  }
  (void)EvictSlots({slot});
}

size_t Cache::EvictSpaces(const std::set<uint32_t>& spaces) {
  std::vector<uint32_t> slots;
  {
    std::lock_guard lock(mutex_);
    for (uint32_t slot = 0; slot < table_.nr_slots(); slot++) {
      const SlotUse use = table_.use(slot);
      if (use != SlotUse::kPresent && use != SlotUse::kRestored) continue;
      if (!spaces.count(table_.space(slot))) continue;
      policy_.Removed(slot);
      slots.push_back(slot);
    }
  }
  (void)EvictSlots(slots);
  return slots.size();
}

void Cache::OnEvicted(std::span<const ChunkEntry> chunks) {
  std::lock_guard lock(mutex_);
  for (const ChunkEntry& c : chunks)
    if (c.slot < table_.nr_slots() && table_.use(c.slot) == SlotUse::kEvicting)
      table_.Set(c.slot, SlotUse::kReserved);
  changed_.notify_all();
}

// mutex_ is held. As the kernel holds the slot back, it is neither returned nor written.
void Cache::RetireUnreadable(uint32_t slot) {
  const SlotUse use = table_.use(slot);
  if (use == SlotUse::kRetired) return;
  policy_.Removed(slot);
  table_.Set(slot, SlotUse::kRetired);
  has_row_[slot] = false;
  RemoveRow(slot);
  nr_unreadable_++;
  counters_->retired++;
  SetTrouble(&read_trouble_,
             "slot " + std::to_string(slot) + " cannot be read, " +
                 std::to_string(nr_unreadable_) +
                 " in all: their chunks are fetched again: check the cache device; when it is "
                 "sound, detach all images and attach them again to use these slots");
  changed_.notify_all();
}

void Cache::OnSlotBad(std::span<const ChunkEntry> chunks) {
  std::lock_guard lock(mutex_);
  for (const ChunkEntry& c : chunks)
    if (c.slot < table_.nr_slots()) RetireUnreadable(c.slot);
}

void Cache::SetMayGrow(bool may_grow) {
  std::lock_guard lock(mutex_);
  may_grow_ = may_grow;
}

void Cache::Discard() {
  Status s = db_ ? db_->RemoveAll() : OkStatus();
  if (s.ok()) s = device_->DiscardSlots();
  if (!s.ok()) Log(LogLevel::kWarning, "cache %u: %s", info_.cache, s.error().message.c_str());
}

void Cache::Resync() {
  std::vector<uint8_t> states(info_.nr_slots, FASTOCI_SLOT_FREE);
  std::unique_lock order(order_);  // no EVICT between the two looks
  Status s = link_->GetSlots(info_.cache, false, [&](const SlotInfo& i) {
    if (i.slot < states.size()) states[i.slot] = i.state;
  });
  if (!s.ok()) return;
  std::lock_guard lock(mutex_);
  for (uint32_t slot = 0; slot < info_.nr_slots; slot++) {
    if (states[slot] == FASTOCI_SLOT_BAD) RetireUnreadable(slot);
    if (table_.use(slot) != SlotUse::kEvicting) continue;
    if (states[slot] == FASTOCI_SLOT_RESERVED) table_.Set(slot, SlotUse::kReserved);
    if (states[slot] == FASTOCI_SLOT_FREE) table_.Set(slot, SlotUse::kFree);
  }
  changed_.notify_all();
}

void Cache::Interrupt() {
  std::lock_guard lock(mutex_);
  stop_ = true;
  changed_.notify_all();
}

void Cache::Commit() {
  if (!db_) return;
  Status s = db_->Commit([&] { return device_->Flush(); });
  std::lock_guard lock(mutex_);
  SetTrouble(&db_trouble_,
             s.ok() ? ""
                    : s.error().message + ": what is cached now will be lost at a restart: check "
                                          "the file system of the cache directory");
}

Cache::Stat Cache::GetStat() {
  Stat s;
  s.info = info_;
  s.path = device_->path();
  {
    std::lock_guard lock(mutex_);
    s.present = table_.Count(SlotUse::kPresent);
    s.restored = table_.Count(SlotUse::kRestored);
    s.reserved = table_.Count(SlotUse::kReserved) + table_.Count(SlotUse::kTaken);
    s.evicting = table_.Count(SlotUse::kEvicting);
    s.retired = table_.Count(SlotUse::kRetired);
    for (const Trouble* trouble : {&device_trouble_, &read_trouble_, &db_trouble_})
      if (s.trouble.empty()) s.trouble = trouble->text;
  }
  if (db_)
    if (auto count = db_->Count(); count.ok()) s.durable = *count;
  return s;
}

uint32_t Cache::CountPresent(uint32_t space) {
  std::lock_guard lock(mutex_);
  return table_.CountPresent(space);
}

}  // namespace fastoci
