// SPDX-License-Identifier: Apache-2.0
// Slots of a cache: taken, written, retired, evicted.
#include <algorithm>
#include <chrono>
#include <utility>

#include "base/log.h"
#include "cache/cache.h"
#include "fastoci_netlink.h"

namespace fastoci {
namespace {

constexpr auto kSlotDeadline = std::chrono::seconds(10);
constexpr auto kEvictWait = std::chrono::milliseconds(100);
constexpr auto kOnlyUsed = std::chrono::seconds(60);
// Batches that may wait for their readers. While these last (a device may be suspended), more
// evictions would empty the cache and free nothing.
constexpr uint32_t kMaxEvicting = 2;
// A sweep costs as much as the cache has slots: one per nr_slots / kSweepShare fills.
constexpr uint32_t kSweepShare = 32;
// Of more slots than these, only the committing thread sweeps, as no read shall wait for that.
constexpr uint32_t kMaxSweepInline = 8192;

}  // namespace

// ---- writing ----

Status Cache::Write(const std::function<Status()>& write) {
  ReaderLock writing(writing_);
  {
    MutexLock lock(mutex_);
    if (stop_) return Error{ErrorKind::kUnavailable, ECANCELED, "the cache is gone"};
  }
  return write();
}

void Cache::WriteSlots(std::span<CacheDevice::SlotWrite> writes) {
  Status s = Write([&] {
    device_->WriteSlots(writes);
    return OkStatus();
  });
  for (CacheDevice::SlotWrite& w : writes) {
    if (!s.ok()) w.result = s;
    if (w.result.ok()) wrote_ = true;
  }
}

Status Cache::WriteSlot(uint32_t slot, std::span<const uint8_t> data) {
  CacheDevice::SlotWrite write{.slot = slot, .data = data};
  WriteSlots({&write, 1});
  return write.result;
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
  MutexLock lock(mutex_);
  if (!s.ok() && s.error().err == EROFS) {
    takes_none_ = true;
    device_trouble_.Set(info_.cache, s.error().message);
  } else if (s.ok() && std::exchange(takes_none_, false)) {
    device_trouble_.Set(info_.cache, "");
  }
  return s;
}

Status Cache::Writable() { return TakesWrites() ? OkStatus() : ProbeDevice(); }

bool Cache::TakesWrites() {
  MutexLock lock(mutex_);
  return !takes_none_;
}

std::string Cache::Refuses() {
  MutexLock lock(mutex_);
  if (takes_none_) return device_trouble_.text();
  return IsHopeless() ? NoSlot().message : "";
}

void Cache::GiveBack(uint32_t slot) {
  MutexLock lock(mutex_);
  table_.Set(slot, SlotUse::kReserved);
  changed_.NotifyAll();
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
    MutexLock lock(mutex_);
    table_.Set(slot, SlotUse::kRetired);
    refused_.insert(slot);
    nr_refused_++;
    only_used_until_ = Clock::now() + kOnlyUsed;
    while (auto other = table_.Take()) others.push_back(*other);
    device_trouble_.Set(info_.cache,
                        why + ", slot " + std::to_string(slot) + ", " +
                            std::to_string(nr_refused_) +
                            " in all: the cache device refuses writes: check it, and whether the "
                            "file system behind it is full or read-only");
  }
  Drop(others);
  return OkStatus();
}

// ---- taking ----

// A run of slots, and in *low whether few are left.
std::vector<uint32_t> Cache::TakeRun(size_t max, uint32_t space, uint32_t chunk_no, bool* low) {
  std::optional<uint32_t> near;
  if (chunk_no > 0)
    if (auto before = table_.Find(space, chunk_no - 1)) near = before->slot + 1;
  auto slots = table_.TakeRun(max, near);
  *low = table_.Count(SlotUse::kReserved) <= batch_ / 4 && table_.Count(SlotUse::kEvicting) == 0;
  return slots;
}

Result<uint32_t> Cache::TakeSlot() {
  FASTOCI_TRY(auto slots, TakeSlots(1, 0, 0));
  return slots[0];
}

Result<std::vector<uint32_t>> Cache::TakeSlots(size_t max, uint32_t space, uint32_t chunk_no,
                                               bool wait) {
  const auto deadline = Clock::now() + kSlotDeadline;
  for (;;) {
    bool low;
    std::vector<uint32_t> slots;
    {
      MutexLock lock(mutex_);
      if (stop_) return Error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
      slots = TakeRun(std::max<size_t>(max, 1), space, chunk_no, &low);
    }
    if (!slots.empty()) {
      // Ahead of need: who comes next shall not wait for a grace period.
      if (low && reclaim_mutex_.TryLock()) {
        (void)MoreSlots();
        reclaim_mutex_.Unlock();
      }
      return slots;
    }
    if (!wait) return slots;
    if (Reclaim()) continue;
    FASTOCI_CHECK_OK(Writable());
    MutexLock lock(mutex_);
    if (IsHopeless() || Clock::now() > deadline) return NoSlot();
  }
}

Error Cache::NoSlot() {
  if (table_.Count(SlotUse::kRetired) == table_.nr_slots())
    return {ErrorKind::kIo, ENOSPC,
            "cache: all " + std::to_string(table_.nr_slots()) +
                " slots are bad: mend the cache device, then detach all images, start the "
                "helper again and attach them"};
  return {ErrorKind::kIo, ENOSPC,
          "cache: no slot became free: " + std::to_string(table_.Count(SlotUse::kEvicting)) +
              " are still read, " + std::to_string(table_.Count(SlotUse::kRetired)) +
              " are bad, the others are pinned: enlarge the cache or unpin an image"};
}

// Every slot is bad, or holds a chunk that is pinned.
bool Cache::IsHopeless() {
  for (uint32_t slot = 0; slot < table_.nr_slots(); slot++) {
    const bool pinned = table_.use(slot) == SlotUse::kPresent && pinned_.count(table_.space(slot));
    if (!pinned && table_.use(slot) != SlotUse::kRetired) return false;
  }
  return true;
}

// Asks the kernel for slots, evicts if it has none. True if some are there, or will be.
bool Cache::MoreSlots() {
  if (info_.nr_slots <= kMaxSweepInline) SweepIfDue();
  bool only_used, may_evict, refused;
  {
    MutexLock lock(mutex_);
    may_evict = table_.Count(SlotUse::kEvicting) < kMaxEvicting * batch_;
    refused = Clock::now() < only_used_until_;
    only_used = refused || !may_grow_;
    if (!refused && !takes_none_) device_trouble_.Set(info_.cache, "");
  }
  if (only_used && !may_evict) return false;
  if (only_used && EvictSome()) return true;
  if (refused) {  // what others evict or write now is soon to be had; a new slot would be refused
    MutexLock lock(mutex_);
    if (table_.Count(SlotUse::kEvicting) + table_.Count(SlotUse::kTaken) > 0) return false;
  }
  auto slots = link_->Alloc(info_.cache, batch_);
  if (!slots.ok()) return slots.error().err == ENOSPC && may_evict && EvictSome();
  MutexLock lock(mutex_);
  for (uint32_t slot : *slots)
    if (slot < table_.nr_slots() && table_.use(slot) == SlotUse::kFree)
      table_.Set(slot, SlotUse::kReserved);
  changed_.NotifyAll();
  return true;
}

// Waits a little for a slot; true if there is hope.
bool Cache::Reclaim() {
  MutexLock one(reclaim_mutex_);
  {
    MutexLock lock(mutex_);
    if (stop_ || table_.Count(SlotUse::kReserved) > 0) return true;
  }
  const bool more = MoreSlots();
  MutexLock lock(mutex_);
  changed_.WaitFor(mutex_, kEvictWait, [this]() REQUIRES(mutex_) {
    return stop_ || table_.Count(SlotUse::kReserved) > 0;
  });
  return more || table_.Count(SlotUse::kReserved) > 0;
}

// ---- evicting ----

void Cache::SetPinned(std::set<uint32_t> spaces) {
  MutexLock lock(mutex_);
  pinned_ = std::move(spaces);
}

void Cache::Demote(const std::set<uint32_t>& spaces) {
  MutexLock lock(mutex_);
  for (uint32_t slot = 0; slot < table_.nr_slots(); slot++) {
    const SlotUse use = table_.use(slot);
    if ((use == SlotUse::kPresent || use == SlotUse::kRestored) && spaces.count(table_.space(slot)))
      policy_.Demote(slot);
  }
}

// Not before half of the slots are used: an eviction is far away then. Sweeps only while there are
// evictions would come too late: the first of them would find all bits set, those of the fills.
void Cache::SweepIfDue() {
  {
    MutexLock lock(mutex_);
    const uint32_t used = table_.Count(SlotUse::kPresent) + table_.Count(SlotUse::kRestored);
    if (fills_since_sweep_ <= info_.nr_slots / kSweepShare || used < info_.nr_slots / 2) return;
    fills_since_sweep_ = 0;
  }
  Sweep();
}

void Cache::Sweep() {
  Status s = link_->GetSlots(info_.cache, true, [this](const SlotInfo& i) {
    if (!i.accessed || i.slot >= info_.nr_slots) return;
    MutexLock lock(mutex_);
    policy_.Accessed(i.slot);
    read_[i.slot] = true;
  });
  if (!s.ok()) Log(LogLevel::kWarning, "cache %u: %s", info_.cache, s.error().message.c_str());
}

std::vector<uint32_t> Cache::TakeRead() {
  Sweep();
  std::vector<uint32_t> slots;
  MutexLock lock(mutex_);
  for (uint32_t slot = 0; slot < info_.nr_slots; slot++)
    if (read_[slot]) slots.push_back(slot);
  read_.assign(read_.size(), false);
  return slots;
}

// Not for a device that could not use the slots.
bool Cache::EvictSome() {
  bool wrote = wrote_.exchange(false);
  {
    MutexLock lock(mutex_);
    wrote = wrote && !takes_none_;
  }
  if (!wrote && !ProbeDevice().ok()) return false;
  std::vector<uint32_t> victims;
  {
    MutexLock lock(mutex_);
    victims = policy_.Pick(batch_, [this](uint32_t slot) REQUIRES(mutex_) {
      return pinned_.count(table_.space(slot)) != 0;
    });
  }
  return EvictSlots(victims);
}

// slots: no longer in the policy. A present one comes back reserved, by
// OnEvicted(); a restored one is free at once. If the kernel refuses, those that it still serves
// are present again. False: nothing is evicted.
bool Cache::EvictSlots(const std::vector<uint32_t>& slots) {
  std::vector<ChunkEntry> present;
  std::vector<uint32_t> restored;
  WriterLock order(order_);
  {
    MutexLock lock(mutex_);
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
  size_t nr_kept = 0;
  if (!present.empty()) {
    Status s = link_->Evict(info_.cache, present);
    if (!s.ok()) {
      Log(LogLevel::kError, "cache %u: %s", info_.cache, s.error().message.c_str());
      ResyncSlots();
      MutexLock lock(mutex_);
      for (const ChunkEntry& c : present) nr_kept += table_.Find(c.space, c.chunk_no).has_value();
    }
  }
  order.Unlock();
  Drop(restored);
  const size_t nr_evicted = present.size() - nr_kept + restored.size();
  counters_->evictions += nr_evicted;
  return nr_evicted > 0;
}

void Cache::EvictChunk(uint32_t space, uint32_t chunk_no) {
  uint32_t slot;
  {
    MutexLock lock(mutex_);
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
    MutexLock lock(mutex_);
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
  MutexLock lock(mutex_);
  for (const ChunkEntry& c : chunks) {
    if (c.slot >= table_.nr_slots()) continue;
    if (table_.use(c.slot) == SlotUse::kEvicting) table_.Set(c.slot, SlotUse::kReserved);
    ToTest(c.slot);
  }
  changed_.NotifyAll();
}

// As the kernel holds the slot back, it is neither returned nor written.
void Cache::RetireUnreadable(uint32_t slot) {
  const SlotUse use = table_.use(slot);
  if (use == SlotUse::kRetired) return;
  policy_.Removed(slot);
  table_.Set(slot, SlotUse::kRetired);
  has_row_[slot] = false;
  RemoveRow(slot);
  unreadable_.insert(slot);
  counters_->retired++;
  TellUnreadable("slot " + std::to_string(slot) + " cannot be read, ");
  changed_.NotifyAll();
}

void Cache::TellUnreadable(const std::string& which) {
  const size_t n = unreadable_.size() + asked_for_.size();
  if (n == 0) return read_trouble_.Set(info_.cache, "");
  read_trouble_.Set(info_.cache,
                    which + std::to_string(n) +
                        " in all: their chunks are fetched again: check the cache device; when it "
                        "is sound, \"fastoci scrub\" tries these slots again");
}

// ---- bad slots again ----

// A slot that was asked for and did not come is asked for again: it may have failed once more
// before its last reader left, or the request failed.
size_t Cache::RetryBadSlots() {
  std::vector<uint32_t> slots;
  size_t nr_to_test;
  {
    MutexLock lock(mutex_);
    asked_for_.merge(unreadable_);
    slots.assign(asked_for_.begin(), asked_for_.end());
    to_test_.insert(refused_.begin(), refused_.end());
    refused_.clear();
    nr_to_test = to_test_.size();
  }
  if (slots.empty()) return nr_to_test;
  const Status s = link_->Reuse(info_.cache, slots);
  if (s.ok()) return nr_to_test + slots.size();
  Log(LogLevel::kWarning, "cache %u: %s", info_.cache, s.error().message.c_str());
  return nr_to_test;
}

// It was asked for, and is ours now.
void Cache::ToTest(uint32_t slot) {
  if (asked_for_.erase(slot)) to_test_.insert(slot);
}

void Cache::TestSlots() {
  std::set<uint32_t> slots;
  {
    MutexLock lock(mutex_);
    if (stop_) return;
    slots.swap(to_test_);
  }
  if (slots.empty()) return;
  std::vector<uint32_t> good;
  for (uint32_t slot : slots)
    if (TestSlot(slot)) good.push_back(slot);
  MutexLock lock(mutex_);
  for (uint32_t slot : good) {
    slots.erase(slot);
    table_.Set(slot, SlotUse::kReserved);
  }
  refused_.insert(slots.begin(), slots.end());
  TellUnreadable("");
  Log(LogLevel::kInfo, "cache %u: %zu slots are used again, %zu are still bad", info_.cache,
      good.size(), slots.size());
  changed_.NotifyAll();
}

// Takes what was written, and gives it back.
bool Cache::TestSlot(uint32_t slot) {
  AlignedBuffer out(chunk_bytes()), in(chunk_bytes());
  if (!out.ok() || !in.ok()) return false;
  for (size_t i = 0; i < out.size(); i++) out.data()[i] = static_cast<uint8_t>(slot + i * 7);
  return WriteSlot(slot, out.span()).ok() && device_->ReadSlot(slot, in.span()).ok() &&
         std::equal(out.data(), out.data() + out.size(), in.data());
}

void Cache::OnSlotBad(std::span<const ChunkEntry> chunks) {
  MutexLock lock(mutex_);
  for (const ChunkEntry& c : chunks)
    if (c.slot < table_.nr_slots()) RetireUnreadable(c.slot);
}

void Cache::SetMayGrow(bool may_grow) {
  MutexLock lock(mutex_);
  may_grow_ = may_grow;
}

void Cache::Resync() {
  WriterLock order(order_);  // no EVICT between the two looks
  ResyncSlots();
}

// It was to be evicted, but the kernel serves it. Its row is gone, and comes again when the chunk
// has been compared.
void Cache::KeepPresent(uint32_t slot) {
  const uint32_t space = table_.space(slot), chunk_no = table_.chunk_no(slot);
  if (auto other = table_.Find(space, chunk_no)) {  // published meanwhile; the kernel kept this one
    if (other->use != SlotUse::kPresent) return;
    policy_.Removed(other->slot);
    has_row_[other->slot] = false;
    RemoveRow(other->slot);
    table_.Set(other->slot, SlotUse::kReserved);
  }
  table_.SetChunk(slot, SlotUse::kPresent, space, chunk_no);
  policy_.Restored(slot, KeyOf(space, chunk_no));
  nr_missed_rows_++;
}

void Cache::ResyncSlots() {
  std::vector<uint8_t> states(info_.nr_slots, FASTOCI_SLOT_FREE);
  Status s = link_->GetSlots(info_.cache, false, [&](const SlotInfo& i) {
    if (i.slot < states.size()) states[i.slot] = i.state;
  });
  MutexLock lock(mutex_);
  resync_due_ = !s.ok();
  if (!s.ok()) return;
  for (uint32_t slot = 0; slot < info_.nr_slots; slot++) {
    if (states[slot] == FASTOCI_SLOT_BAD) RetireUnreadable(slot);
    if (states[slot] == FASTOCI_SLOT_RESERVED) ToTest(slot);
    if (table_.use(slot) != SlotUse::kEvicting) continue;
    if (states[slot] == FASTOCI_SLOT_RESERVED) table_.Set(slot, SlotUse::kReserved);
    if (states[slot] == FASTOCI_SLOT_FREE) table_.Set(slot, SlotUse::kFree);
    if (states[slot] == FASTOCI_SLOT_PRESENT) KeepPresent(slot);
  }
  changed_.NotifyAll();
}

}  // namespace fastoci
