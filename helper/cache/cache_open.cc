// SPDX-License-Identifier: Apache-2.0
// Cache::Open(): kernel, database and slot table made to agree.
//
//   kernel has      database has      then
//   present         the same          still served, row kept
//   present         nothing, other    still served; verified and entered later
//   nothing         a row             RESTOREd: served once it was verified
//   other           a row             row removed
//   bad             anything          row removed, slot retired
//
// Slots that an earlier helper reserved, or whose eviction still runs, are the
// kernel's: ALLOC gives them when they are free.
#include <algorithm>
#include <utility>

#include "base/log.h"
#include "cache/cache.h"
#include "fastoci_netlink.h"

namespace fastoci {

Result<std::shared_ptr<Cache>> Cache::Open(KernelLink* link, const CacheInfo& info,
                                           std::unique_ptr<CacheDevice> device,
                                           std::unique_ptr<CacheDb> db, CacheCounters* counters,
                                           const std::string& no_db) {
  const CacheGeometry& g = device->geometry();
  if (g.uuid != info.uuid || g.nr_slots != info.nr_slots || g.chunk_shift != info.chunk_shift)
    return MismatchError(device->path() + ": its superblock is not the one that the kernel read: "
                         "detach all images and attach them again");
  std::shared_ptr<Cache> cache(new Cache(link, info, counters));
  cache->device_ = std::move(device);
  cache->db_ = std::move(db);
  if (!no_db.empty()) {
    MutexLock lock(cache->mutex_);
    cache->db_trouble_.Set(info.cache,
                           no_db + ": the cache will not outlive a restart of the helper: repair it and "
                              "start the helper again");
  }
  FASTOCI_CHECK_OK(cache->Reconcile());
  return cache;
}

Status Cache::Reconcile() {
  // Gives back what was reserved in a former cache of this UUID. End() of that one
  // has waited for its writes.
  FASTOCI_CHECK_OK(link_->ReturnAll(info_.cache));
  std::vector<SlotInfo> slots(info_.nr_slots);
  FASTOCI_CHECK_OK(link_->GetSlots(info_.cache, false, [&](const SlotInfo& i) {
    if (i.slot < slots.size()) slots[i.slot] = i;
  }));
  FASTOCI_TRY(auto spaces, link_->GetSpaces());
  std::map<Sha256Digest, uint32_t> by_id;
  for (const SpaceInfo& s : spaces)
    if (s.cache == info_.cache) by_id[s.id] = s.space;
  std::vector<bool> has_row(info_.nr_slots, !db_);
  Status restored = db_ ? RestoreRows(slots, by_id, &has_row) : OkStatus();
  if (!restored.ok()) {
    Log(LogLevel::kError, "cache %u: %s: what an earlier helper cached is not used", info_.cache,
        restored.error().message.c_str());
  }
  {
    MutexLock lock(mutex_);
    has_row_ = std::move(has_row);
  }
  return ReadSlots();
}

Status Cache::RestoreRows(const std::vector<SlotInfo>& slots,
                          const std::map<Sha256Digest, uint32_t>& spaces,
                          std::vector<bool>* has_row) {
  std::vector<ChunkEntry> batch;
  SlotRow of;
  auto flush = [&] {
    if (!batch.empty()) RestoreBatch(of, batch, has_row);
    batch.clear();
  };
  FASTOCI_CHECK_OK(db_->ForEach([&](const SlotRow& row) {
    if (row.slot >= slots.size()) return db_->Remove(row.slot);
    const SlotInfo& i = slots[row.slot];
    auto space = spaces.find(row.space_id);
    const bool same =
        space != spaces.end() && i.space == space->second && i.chunk_no == row.chunk_no;
    if (same && (i.state == FASTOCI_SLOT_PRESENT || i.state == FASTOCI_SLOT_RESTORED)) {
      (*has_row)[row.slot] = true;
    } else if (i.state != FASTOCI_SLOT_FREE) {
      db_->Remove(row.slot);
    } else {
      if (row.space_id != of.space_id || batch.size() == FASTOCI_MAX_BATCH) flush();
      of = row;
      batch.push_back({.chunk_no = row.chunk_no, .slot = row.slot});
    }
  }));
  flush();
  return OkStatus();
}

void Cache::RestoreBatch(const SlotRow& of, std::span<const ChunkEntry> batch,
                         std::vector<bool>* has_row) {
  if (link_->Restore(info_.cache, of.space_id, of.data_bytes, batch).ok()) {
    for (const ChunkEntry& c : batch) (*has_row)[c.slot] = true;
    return;
  }
  for (const ChunkEntry& c : batch) {  // what was done already succeeds again
    const bool ok = link_->Restore(info_.cache, of.space_id, of.data_bytes, {&c, 1}).ok();
    (*has_row)[c.slot] = ok;
    if (!ok) db_->Remove(c.slot);
  }
}

// The table as the kernel's map has it.
Status Cache::ReadSlots() {
  std::vector<uint32_t> surplus;
  FASTOCI_CHECK_OK(link_->GetSlots(info_.cache, false, [&](const SlotInfo& i) {
    MutexLock lock(mutex_);
    if (i.slot < info_.nr_slots) AddSlot(i, &surplus);
  }));
  if (!surplus.empty()) Drop(surplus);
  MutexLock lock(mutex_);
  Log(LogLevel::kInfo, "cache %u: %s, %u slots of %llu KiB, %u served, %u to be verified",
      info_.cache, device_->path().c_str(), info_.nr_slots, 1ULL << info_.chunk_shift >> 10,
      table_.Count(SlotUse::kPresent), table_.Count(SlotUse::kRestored));
  return OkStatus();
}

// surplus: gets slots that were restored for a chunk that another slot has.
void Cache::AddSlot(const SlotInfo& i, std::vector<uint32_t>* surplus) {
  if (i.state == FASTOCI_SLOT_BAD) return RetireUnreadable(i.slot);
  const bool present = i.state == FASTOCI_SLOT_PRESENT;
  if (!present && i.state != FASTOCI_SLOT_RESTORED) return;
  if (auto other = table_.Find(i.space, i.chunk_no)) {
    surplus->push_back(present ? other->slot : i.slot);
    if (!present) return;
    policy_.Removed(other->slot);
    table_.Set(other->slot, SlotUse::kFree);
  }
  table_.SetChunk(i.slot, present ? SlotUse::kPresent : SlotUse::kRestored, i.space, i.chunk_no);
  policy_.Restored(i.slot, KeyOf(i.space, i.chunk_no));
  if (i.accessed) policy_.Accessed(i.slot);
}

}  // namespace fastoci
