// SPDX-License-Identifier: Apache-2.0
// The checker's part of MissService: what lies in slots is compared with its
// digests. Chunks that an earlier run left are verified before they are served,
// those that somebody waits for by the lanes, the rest here; a scrub reads all
// that is served, verify_on_read what was read since its last look. It yields to
// jobs.
#include <algorithm>
#include <numeric>

#include "base/log.h"
#include "broker/chunk_check.h"
#include "broker/miss_service.h"

namespace fastoci {
namespace {

constexpr size_t kBatch = 16;  // slots between two looks at who waits
constexpr auto kIdlePoll = std::chrono::milliseconds(50);
constexpr auto kReadPoll = std::chrono::seconds(2);

}  // namespace

// Verifies a slot and serves it, or enters its row if it was served already.
// False: its content was wrong, which *bad counts, or gone.
bool MissService::CheckSlot(Cache* cache, const Space& space, const Cache::Unchecked& what,
                            AlignedBuffer* buffer, Counters::Count* bad) {
  uint32_t slot = what.slot;
  if (!what.present) {
    auto claimed = cache->Claim(what.space, what.chunk_no);
    if (!claimed) return false;  // somebody else has it
    slot = *claimed;
  }
  const BlobInfo& blob = space.info_of_blob();
  const std::span<uint8_t> data(buffer->data(), cache->chunk_bytes());
  Status read = cache->device()->ReadSlot(slot, data);
  auto digest = read.ok() ? CheckChunk(blob, what.chunk_no, data) : std::nullopt;
  if (digest && blob.digests.empty()) {
    auto row = cache->RowOf(slot);
    if (row ? row->digest != *digest || row->chunk_no != what.chunk_no : !what.present)
      digest = std::nullopt;
  }
  if (digest) {
    SlotRow row{.space_id = blob.data_space_id,
                .chunk_no = what.chunk_no,
                .slot = slot,
                .digest = *digest,
                .data_bytes = blob.data_bytes};
    if (what.present) {
      cache->Adopt(row);
      return true;
    }
    const bool served = cache->Publish(what.space, row).ok();
    if (served) counters_.restored++;
    return served;
  }
  if (what.present) {
    // The slot may have been evicted and filled anew while it was read.
    auto where = cache->Find(what.space, what.chunk_no);
    if (!where || where->slot != slot) return true;
  }
  ++*bad;
  EventFields fields = FieldsOf(bad == &counters_.planted ? "planted" : "rotten", space.image, blob);
  fields.chunk = what.chunk_no;
  LogEvent(LogLevel::kError, fields,
           "%s: chunk %u in slot %u: %s; it is fetched again when it is read", fields.blob.c_str(),
           what.chunk_no, slot,
           read.ok() ? "its content is not what its digest says" : read.error().message.c_str());
  if (what.present)
    cache->EvictChunk(what.space, what.chunk_no);
  else
    cache->Drop({&slot, 1});
  return false;
}

// False: stop.
bool MissService::WaitForIdle() {
  std::unique_lock lock(mutex_);
  while (!stop_ && (draining_ || queue_.HasWork(Urgency::kAhead))) idle_.wait_for(lock, kIdlePoll);
  return !stop_;
}

// Checks some slots from *cursor on; false at the end.
bool MissService::CheckSome(Cache* cache, uint32_t* cursor) {
  std::map<uint32_t, Space> known;
  std::set<uint32_t> numbers;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [key, space] : spaces_) {
      if (key.first != cache->info().cache || !space.meta) continue;
      known[key.second] = space;
      numbers.insert(key.second);
    }
  }
  AlignedBuffer buffer(cache->chunk_bytes());
  auto slots = cache->ToCheck(kBatch, numbers, cursor);
  for (const Cache::Unchecked& what : slots) {
    if (!buffer.ok() || stopping()) return false;
    (void)CheckSlot(cache, known.at(what.space), what, &buffer, &counters_.rotten);
  }
  return !slots.empty();
}

// Reads again what these slots serve. False: stop.
bool MissService::ScrubSlots(Cache* cache, const std::vector<uint32_t>& slots) {
  AlignedBuffer buffer(cache->chunk_bytes());
  if (!buffer.ok()) return false;
  for (uint32_t slot : slots) {
    if (!WaitForIdle()) return false;
    auto what = cache->PresentIn(slot);
    if (!what) continue;
    Space space;
    {
      std::lock_guard lock(mutex_);
      auto it = spaces_.find({cache->info().cache, what->space});
      if (it == spaces_.end() || !it->second.meta) continue;
      space = it->second;
    }
    (void)CheckSlot(cache, space, *what, &buffer, &counters_.rotten);
    counters_.scrubbed++;
  }
  return true;
}

void MissService::Check() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    auto wanted = [&] { return stop_ || check_ || scrub_; };
    if (options_.verify_on_read)
      manage_.wait_for(lock, kReadPoll, wanted);
    else
      manage_.wait(lock, wanted);
    const bool scrub = std::exchange(scrub_, false);
    check_ = false;
    lock.unlock();
    for (auto& cache : AllCaches()) {
      uint32_t cursor = 0;
      while (WaitForIdle() && CheckSome(cache.get(), &cursor)) continue;
      std::vector<uint32_t> slots;
      if (scrub) {
        slots.resize(cache->info().nr_slots);
        std::iota(slots.begin(), slots.end(), 0);
      } else if (options_.verify_on_read) {
        slots = cache->TakeRead();
      }
      const uint64_t rotten = counters_.rotten;
      if (ScrubSlots(cache.get(), slots) && scrub) {
        EventFields fields;
        fields.kind = "scrub";
        fields.count = counters_.rotten - rotten;
        LogEvent(LogLevel::kInfo, fields, "cache %u: scrubbed, %llu chunks were rotten",
                 cache->info().cache, static_cast<unsigned long long>(fields.count));
      }
    }
    lock.lock();
  }
}

void MissService::Scrub() {
  std::lock_guard lock(mutex_);
  scrub_ = true;
  manage_.notify_all();
}

}  // namespace fastoci
