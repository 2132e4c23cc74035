// SPDX-License-Identifier: Apache-2.0
// Cache: one cache of the kernel as the broker keeps it: device, database,
// slot table and eviction.
//
// Locks, in this order: reclaim_mutex_ (one evicts at a time), order_, mutex_
// (all that is in memory; never held over I/O or a call of the kernel). writing_ is
// held alone, shared over each write of a slot. FILL
// runs under order_ shared, EVICT with its change of the table under order_
// exclusive: so, outside of them, the table and the kernel agree on what is
// present.
//
// Invariants:
// 1. A slot is written only in kTaken, which nobody but the taker ends.
// 2. A restored chunk is served only after Claim(), a verification and
//    Publish().
// 3. Rows are hints: a row may be stale or missing at any crash, since nothing
//    is served by it alone.
#ifndef FASTOCI_BROKER_CACHE_H_
#define FASTOCI_BROKER_CACHE_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <string>
#include <vector>

#include "broker/counters.h"
#include "broker/slot_table.h"
#include "kernel/kernel_link.h"
#include "store/cache_db.h"
#include "store/cache_device.h"
#include "store/eviction.h"

namespace fastoci {

class Cache {
 public:
  // Reads the kernel's map, hands it what the database knows beside, and drops
  // rows that the map contradicts. db may be null: nothing outlives the cache, and
  // no_db says why. link and counters must outlive it.
  static Result<std::shared_ptr<Cache>> Open(KernelLink* link, const CacheInfo& info,
                                             std::unique_ptr<CacheDevice> device,
                                             std::unique_ptr<CacheDb> db, Counters* counters,
                                             const std::string& no_db = "");

  const CacheInfo& info() const { return info_; }
  CacheDevice* device() { return device_.get(); }
  uint64_t chunk_bytes() const { return device_->chunk_bytes(); }

  std::optional<SlotTable::Where> Find(uint32_t space, uint32_t chunk_no);
  // Takes a restored chunk's slot out, to verify it: then Publish() or Drop().
  std::optional<uint32_t> Claim(uint32_t space, uint32_t chunk_no);
  // Until nobody verifies the chunk, for some seconds at most.
  void WaitForClaim(uint32_t space, uint32_t chunk_no);
  // An empty slot, by eviction if need be; then Publish(), GiveBack() or
  // Retire(). ENOSPC in Error::err: none became free, for one of the reasons
  // that the message names.
  Result<uint32_t> TakeSlot();
  // data: as for CacheDevice::WriteSlot(). ECANCELED once End() was called.
  Status WriteSlot(uint32_t slot, std::span<const uint8_t> data);
  // An error, EROFS, while the device takes no writes at all; that is tried again each time.
  Status Writable();
  void GiveBack(uint32_t slot);
  // The device refuses it: not used again by this helper. An error as of Writable() if the
  // device refuses everything: then the slot is given back, and no other will do.
  Status Retire(uint32_t slot, const std::string& why);
  // FILL of a taken slot that holds row's verified chunk. On an error the slot
  // is no longer the caller's.
  Status Publish(uint32_t space, const SlotRow& row);
  // For a miss that crossed a FILL: true if the chunk is present and was filled
  // again.
  bool FillAgain(uint32_t space, uint32_t chunk_no);
  // Taken or claimed slots go back to the kernel, their rows go.
  void Drop(std::span<const uint32_t> slots);
  // Takes a chunk out of service.
  void EvictChunk(uint32_t space, uint32_t chunk_no);
  // All chunks of these spaces, at once. Returns their number.
  size_t EvictSpaces(const std::set<uint32_t>& spaces);
  // The committed row of a slot, if there is one.
  std::optional<SlotRow> RowOf(uint32_t slot);

  // Slots in kRestored, and those that are present without a row: what a
  // background pass has to verify. At most max, of these spaces, from slot
  // *cursor on, which moves; at the end it is the number of slots.
  struct Unchecked {
    uint32_t slot, space, chunk_no;
    bool present;
  };
  std::vector<Unchecked> ToCheck(size_t max, const std::set<uint32_t>& spaces, uint32_t* cursor);
  // Slots that were read since the last call, by the kernel's access bits.
  std::vector<uint32_t> TakeRead();
  // The chunk that is served from a slot, if there is one.
  std::optional<Unchecked> PresentIn(uint32_t slot);
  // The chunk of a slot that is present was verified: its row is queued.
  void Adopt(const SlotRow& row);

  // Spaces whose chunks are never evicted, and those that no image uses, which
  // go first.
  // At a limit: no slot is used that never held a chunk.
  void SetMayGrow(bool may_grow);
  void SetPinned(std::set<uint32_t> spaces);
  void Demote(const std::set<uint32_t>& spaces);

  void OnEvicted(std::span<const ChunkEntry> chunks);
  void OnSlotBad(std::span<const ChunkEntry> chunks);
  // After lost events: learns of evictions that ended and slots that became bad meanwhile.
  void Resync();
  // Ends waiting in TakeSlot(), for good.
  void Interrupt();
  // The kernel's cache is gone, and its slots with it: when this returns, none is
  // written any more, so that a successor on the same device may be opened.
  void End();
  void Commit();
  // Forgets all rows and gives the space back; only when no image uses it.
  void Discard();

  struct Stat {
    CacheInfo info;
    std::string path;
    uint32_t present = 0, restored = 0, reserved = 0, evicting = 0, retired = 0;
    uint64_t durable = 0;
    std::string trouble;  // what does not work, and what to do; or empty
  };
  Stat GetStat();
  uint32_t CountPresent(uint32_t space);
  CacheDb* db() { return db_.get(); }

 private:
  using Clock = std::chrono::steady_clock;
  Cache(KernelLink* link, const CacheInfo& info, Counters* counters);
  Status Reconcile();
  Status RestoreRows(const std::vector<SlotInfo>& slots,
                     const std::map<Sha256Digest, uint32_t>& spaces);
  void RestoreBatch(const SlotRow& of, std::span<const ChunkEntry> batch);
  Status ReadSlots();
  uint64_t KeyOf(uint32_t space, uint32_t chunk_no);
  Status Write(const std::function<Status()>& write);
  Status ProbeDevice();
  bool MoreSlots();
  bool Reclaim();
  void Sweep();
  bool EvictSome();
  bool EvictSlots(const std::vector<uint32_t>& slots);
  void RemoveRow(uint32_t slot);
  void RetireUnreadable(uint32_t slot);
  bool IsHopeless();
  // What does not work, and what to do. It may change with each slot: while it
  // lasts, it is logged now and then.
  struct Trouble {
    std::string text;  // or empty
    std::chrono::steady_clock::time_point logged;
  };
  void SetTrouble(Trouble* which, const std::string& text);

  KernelLink* const link_;
  const CacheInfo info_;
  Counters* const counters_;
  std::unique_ptr<CacheDevice> device_;
  std::unique_ptr<CacheDb> db_;
  const uint32_t batch_;  // slots that are asked for, or evicted, at a time

  std::mutex reclaim_mutex_;
  std::shared_mutex order_;
  std::shared_mutex writing_;
  std::mutex mutex_;
  std::condition_variable changed_;  // a slot came, a claim ended, or stop_
  bool stop_ = false;
  bool may_grow_ = true;
  SlotTable table_;
  EvictionPolicy policy_;
  std::set<uint32_t> pinned_;
  std::vector<bool> has_row_;  // by slot; of present ones
  std::vector<bool> read_;     // by slot: for TakeRead()
  uint32_t evicted_since_sweep_ = 0;
  Clock::time_point only_used_until_;
  std::atomic<bool> wrote_ = false;  // a slot, since the last eviction
  bool takes_none_ = false;   // the device, when it was last asked
  Trouble device_trouble_, read_trouble_, db_trouble_;
  uint32_t nr_refused_ = 0;     // slots that could not be written
  uint32_t nr_unreadable_ = 0;  // slots that the kernel retired
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_CACHE_H_
