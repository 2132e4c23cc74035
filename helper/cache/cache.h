// SPDX-License-Identifier: Apache-2.0
// Cache: the broker's side of one cache of the kernel. It has the device, the database,
// the slot table and the eviction policy.
//
// Locks. These are taken in this order: reclaim_mutex_ (one thread evicts at a time),
// order_, mutex_ (guards what is in memory; never held over I/O or a call of the
// kernel). Two more locks are taken while none of these is held, and only mutex_ may
// follow them: writing_, shared over each write of a slot, and commit_mutex_, over a
// commit. A FILL holds order_ shared. An EVICT and its change of the table hold order_
// exclusively. So the table and the kernel agree on what is present whenever neither of
// them runs.
//
// Who waits. GetStat(), Find(), CountPresent(), ToCheck(), PresentIn() and the setters
// wait neither for the disk nor for the kernel. Functions that read or write a slot wait
// for the device. Functions that change what is present wait for the kernel's reply.
// Commit() waits for the device's disk and for the database's.
//
// Invariants:
// 1. A slot is written only in kTaken, or in kRetired to test it. Only the thread that took the
//    slot ends kTaken; only the committing thread tests.
// 2. A restored chunk is served only after Claim(), a verification and
//    Publish().
// 3. Rows are hints. A row may be stale or missing after a crash. That does no harm,
//    because nothing is served only because of a row.
#ifndef FASTOCI_CACHE_CACHE_H_
#define FASTOCI_CACHE_CACHE_H_

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "cache/cache_db.h"
#include "cache/cache_device.h"
#include "cache/committer.h"
#include "cache/counters.h"
#include "cache/eviction.h"
#include "cache/slot_table.h"
#include "cache/trouble.h"
#include "kernel/kernel_link.h"

namespace fastoci {

class Cache {
 public:
  // Reads the kernel's map, restores there the chunks that only the database knows, and
  // drops rows that the map contradicts. If db is null, no chunk outlives the cache, and
  // no_db says why there is no database. link and counters must outlive the cache.
  static Result<std::shared_ptr<Cache>> Open(KernelLink* link, const CacheInfo& info,
                                             std::unique_ptr<CacheDevice> device,
                                             std::unique_ptr<CacheDb> db, CacheCounters* counters,
                                             const std::string& no_db = "");

  const CacheInfo& info() const { return info_; }
  CacheDevice* device() { return device_.get(); }
  uint64_t chunk_bytes() const { return device_->chunk_bytes(); }

  // ---- chunks ----

  std::optional<SlotTable::Where> Find(uint32_t space, uint32_t chunk_no);
  // Gives the caller the slot of a restored chunk, to verify it. The caller then calls
  // Publish() or Drop().
  std::optional<uint32_t> Claim(uint32_t space, uint32_t chunk_no);
  // Waits until nobody verifies the chunk, for some seconds at most.
  void WaitForClaim(uint32_t space, uint32_t chunk_no);
  // One chunk for PublishAll(): row names a taken slot that holds the verified chunk. After an
  // error the slot is no longer the caller's. result is OK also if another slot serves the chunk
  // already. EAGAIN in Error::err: another slot of the chunk is still being verified.
  struct Filling {
    uint32_t space = 0;
    SlotRow row;
    Status result = OkStatus();
  };
  // Sends FILL for the chunks, in batches as large as the kernel takes, and sets each result.
  void PublishAll(std::span<Filling> chunks);
  Status Publish(uint32_t space, const SlotRow& row);
  // For a miss that crossed a FILL. If the chunk is present, sends its FILL again and
  // returns true.
  bool FillAgain(uint32_t space, uint32_t chunk_no);
  // Gives taken or claimed slots back to the kernel, and removes their rows.
  void Drop(std::span<const uint32_t> slots);
  // Takes a chunk out of service.
  void EvictChunk(uint32_t space, uint32_t chunk_no);
  // Evicts all chunks of these spaces at once. Returns their number.
  size_t EvictSpaces(const std::set<uint32_t>& spaces);
  uint32_t CountPresent(uint32_t space);

  // ---- slots ----

  // Takes empty slots for the chunks from chunk_no on, at least one and at most max. Prefers
  // adjacent slots that follow the slot of chunk_no - 1. Evicts chunks if need be. Each slot is
  // the caller's until Publish(), GiveBack() or Retire(). ENOSPC in Error::err: no slot became
  // free within some seconds; the message says why. If wait is false, takes only slots that are
  // to be had at once, perhaps none. A thread that holds slots must not wait for more, because
  // others may wait for those.
  Result<std::vector<uint32_t>> TakeSlots(size_t max, uint32_t space, uint32_t chunk_no,
                                          bool wait = true);
  Result<uint32_t> TakeSlot();  // for no chunk in particular
  // These do what CacheDevice's functions of the same names do. ECANCELED after Interrupt().
  void WriteSlots(std::span<CacheDevice::SlotWrite> writes);
  Status WriteSlot(uint32_t slot, std::span<const uint8_t> data);
  // EROFS in Error::err while the device takes no writes at all. While it is so, each call tries
  // a write again and waits for the device.
  Status Writable();
  // Whether the device took writes when it was last tried. Does not wait.
  bool TakesWrites();
  // Why no chunk can be added now, for people; "" if one can: the device takes no writes, or each
  // slot is bad or pinned. Looks at each slot, but does not wait.
  std::string Refuses();
  void GiveBack(uint32_t slot);
  // The device refuses writes to the slot, so this helper does not use it again. If the device
  // refuses all writes, gives the slot back instead and returns the error of Writable(). Then
  // another slot would not help.
  Status Retire(uint32_t slot, const std::string& why);
  // Tries the slots again that could not be read or written. Asks the kernel for those that it
  // holds back. TestSlots() then writes and reads each slot, and it is used again if that works.
  // Returns the number of slots that are tried.
  size_t RetryBadSlots();
  // Tests the slots that RetryBadSlots() asked for and that have come back. Waits for the
  // device. The committing thread calls it.
  void TestSlots();
  // False: the cache file is at its limit. Then only slots that have held a chunk are used.
  void SetMayGrow(bool may_grow);
  // SetPinned(): the spaces whose chunks are never evicted. Demote(): spaces that no image
  // uses; their chunks are evicted first.
  void SetPinned(std::set<uint32_t> spaces);
  void Demote(const std::set<uint32_t>& spaces);

  // ---- verification in the background ----

  // Returns slots that a background pass has to verify: those in kRestored, and those
  // that are present without a row. At most max of them, of these spaces, from slot
  // *cursor on. Moves *cursor; after the last slot it is the number of slots. While the
  // database takes no rows, leaves out the slots without a row.
  struct Unchecked {
    uint32_t slot, space, chunk_no;
    bool present;
  };
  std::vector<Unchecked> ToCheck(size_t max, const std::set<uint32_t>& spaces, uint32_t* cursor);
  // True once after the database takes rows again, if some were not kept before. ToCheck() then
  // returns their chunks.
  bool TakeMissedRows();
  // The committed row of a slot, if there is one.
  std::optional<SlotRow> RowOf(uint32_t slot);
  // Queues the row of a present chunk that was verified.
  void Adopt(const SlotRow& row);
  // Returns the slots that were read since the last call, as the kernel's access bits say.
  std::vector<uint32_t> TakeRead();
  // The chunk that is served from a slot, if there is one.
  std::optional<Unchecked> PresentIn(uint32_t slot);

  // ---- what the kernel says ----

  void OnEvicted(std::span<const ChunkEntry> chunks);
  void OnSlotBad(std::span<const ChunkEntry> chunks);
  // After events were lost: finds the evictions that have ended or never began, and the slots that
  // became bad. If the kernel does not tell, the committing thread tries again.
  void Resync();

  // ---- life ----

  // Starts a thread that commits every interval, and once more at the end. It also reads the
  // kernel's access bits.
  Status StartCommits(std::chrono::milliseconds interval);
  // Commits once more and ends that thread. From then on only the caller's threads call the kernel.
  void StopCommits();
  // Flushes the device, then commits the rows of the slots that were written before.
  void Commit();
  // Ends all waiting in TakeSlots(), now and later.
  void Interrupt();
  // The kernel's cache and its slots are gone. When this returns, no slot is written any
  // more, so a successor on the same device may be opened.
  void End();
  // Forgets all rows and gives the device's space back. Only while no image uses the cache.
  void Discard();

  // pin: records that an image, with these data spaces, is never evicted; else that it may be
  // evicted again. Waits for the disk for some seconds at most. ETIMEDOUT in Error::err: the
  // record is not written yet, and will be later.
  Status RecordPin(const Sha256Digest& image_id, bool pin, std::vector<Sha256Digest> spaces);
  CacheDb* db() { return db_.get(); }

  struct Stat {
    CacheInfo info;
    std::string path;
    uint32_t present = 0, restored = 0, reserved = 0, evicting = 0, retired = 0;
    uint64_t durable = 0;
    std::string trouble;  // what does not work, and what to do; or empty
  };
  Stat GetStat();

 private:
  using Clock = std::chrono::steady_clock;
  Cache(KernelLink* link, const CacheInfo& info, CacheCounters* counters);
  Status Reconcile();
  Status RestoreRows(const std::vector<SlotInfo>& slots,
                     const std::map<Sha256Digest, uint32_t>& spaces, std::vector<bool>* has_row);
  void RestoreBatch(const SlotRow& of, std::span<const ChunkEntry> batch,
                    std::vector<bool>* has_row);
  Status ReadSlots();
  void AddSlot(const SlotInfo& i, std::vector<uint32_t>* surplus) REQUIRES(mutex_);
  uint64_t KeyOf(uint32_t space, uint32_t chunk_no);
  void PublishBatch(std::span<Filling> chunks);
  void FillBatch(std::span<Filling*> chunks) REQUIRES_SHARED(order_);
  void AddRow(const SlotRow& row) REQUIRES(mutex_);
  Status Write(const std::function<Status()>& write);
  Status ProbeDevice();
  std::vector<uint32_t> TakeRun(size_t max, uint32_t space, uint32_t chunk_no, bool* low)
      REQUIRES(mutex_);
  Error NoSlot() REQUIRES(mutex_);
  bool MoreSlots() REQUIRES(reclaim_mutex_);
  bool Reclaim();
  void SweepIfDue() EXCLUDES(mutex_);
  void Sweep() EXCLUDES(mutex_);
  bool EvictSome() REQUIRES(reclaim_mutex_);
  bool EvictSlots(const std::vector<uint32_t>& slots);
  void ResyncSlots() REQUIRES(order_);
  void KeepPresent(uint32_t slot) REQUIRES(mutex_);
  void RemoveRow(uint32_t slot);
  void RetireUnreadable(uint32_t slot) REQUIRES(mutex_);
  void TellUnreadable(const std::string& which) REQUIRES(mutex_);
  void ToTest(uint32_t slot) REQUIRES(mutex_);
  bool TestSlot(uint32_t slot);
  bool IsHopeless() REQUIRES(mutex_);

  KernelLink* const link_;
  const CacheInfo info_;
  CacheCounters* const counters_;
  std::unique_ptr<CacheDevice> device_;
  std::unique_ptr<CacheDb> db_;
  const uint32_t batch_;  // slots that are asked for, or evicted, at a time

  Mutex reclaim_mutex_ ACQUIRED_BEFORE(order_);
  SharedMutex order_ ACQUIRED_BEFORE(mutex_);
  SharedMutex writing_;
  Mutex commit_mutex_;
  Mutex mutex_;
  CondVar changed_;  // a slot came, a claim ended, or stop_
  bool stop_ GUARDED_BY(mutex_) = false;
  bool may_grow_ GUARDED_BY(mutex_) = true;
  SlotTable table_ GUARDED_BY(mutex_);
  EvictionPolicy policy_ GUARDED_BY(mutex_);
  std::set<uint32_t> pinned_ GUARDED_BY(mutex_);
  std::vector<bool> has_row_ GUARDED_BY(mutex_);  // by slot; of present ones
  std::vector<bool> read_ GUARDED_BY(mutex_);     // by slot: for TakeRead()
  uint32_t fills_since_sweep_ GUARDED_BY(mutex_) = 0;
  Clock::time_point only_used_until_ GUARDED_BY(mutex_);
  std::atomic<bool> wrote_ = false;             // a slot was written since the last eviction
  bool takes_none_ GUARDED_BY(mutex_) = false;  // the device took no write at the last try
  bool resync_due_ GUARDED_BY(mutex_) = false;  // it failed
  Trouble device_trouble_ GUARDED_BY(mutex_);
  Trouble read_trouble_ GUARDED_BY(mutex_);
  Trouble db_trouble_ GUARDED_BY(mutex_);
  uint32_t nr_refused_ GUARDED_BY(mutex_) = 0;  // slots that could not be written, since the start
  // Each slot in kRetired is in one of these: the device refused a write, the kernel holds the
  // slot back, we have asked the kernel for it, or it has come and is to be tested.
  std::set<uint32_t> refused_ GUARDED_BY(mutex_);
  std::set<uint32_t> unreadable_ GUARDED_BY(mutex_);
  std::set<uint32_t> asked_for_ GUARDED_BY(mutex_);
  std::set<uint32_t> to_test_ GUARDED_BY(mutex_);
  uint64_t nr_missed_rows_ GUARDED_BY(mutex_) = 0;  // not kept since the last commit
  bool missed_rows_ GUARDED_BY(mutex_) = false;     // for TakeMissedRows()
  std::unique_ptr<Committer> committer_;  // the last one: its thread uses all of the above
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_CACHE_H_
