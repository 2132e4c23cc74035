// SPDX-License-Identifier: Apache-2.0
// Arena: the memory that bodies of requests go to. The fetcher writes it, decoders read it. The
// broker does not map it: its memory is locked, and all of the arena would become resident.
// ArenaSpace is the pure part: which places are in use.
#ifndef FASTOCI_MISS_ARENA_H_
#define FASTOCI_MISS_ARENA_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

inline constexpr uint64_t kArenaBytes = 64 << 20;
inline constexpr uint64_t kArenaUnit = 4096;  // places begin and end at multiples

// Take() gives the lowest place that is large enough, so places that were used lately are used
// again first.
class ArenaSpace {
 public:
  explicit ArenaSpace(uint64_t bytes) : bytes_(bytes) { free_[0] = bytes; }
  std::optional<uint64_t> Take(uint64_t bytes);  // bytes > 0
  void GiveBack(uint64_t offset, uint64_t bytes);
  uint64_t used() const { return used_; }
  uint64_t bytes() const { return bytes_; }

 private:
  const uint64_t bytes_;
  uint64_t used_ = 0;
  std::map<uint64_t, uint64_t> free_;  // offset -> bytes
};

class Arena;

// A place in the arena. Its destructor gives the place back; any thread may run it.
class ArenaPlace {
 public:
  ArenaPlace(std::shared_ptr<Arena> arena, uint64_t offset, uint64_t bytes)
      : arena_(std::move(arena)), offset_(offset), bytes_(bytes) {}
  ~ArenaPlace();
  ArenaPlace(const ArenaPlace&) = delete;
  ArenaPlace& operator=(const ArenaPlace&) = delete;
  uint64_t offset() const { return offset_; }
  uint64_t bytes() const { return bytes_; }

 private:
  const std::shared_ptr<Arena> arena_;
  const uint64_t offset_, bytes_;
};

// Any thread.
class Arena : public std::enable_shared_from_this<Arena> {
 public:
  static Result<std::shared_ptr<Arena>> Make(uint64_t bytes = kArenaBytes);
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  int fd() const { return fd_.get(); }
  // Null: no room.
  std::shared_ptr<ArenaPlace> Take(uint64_t bytes) EXCLUDES(mutex_);
  uint64_t used() const EXCLUDES(mutex_);
  uint64_t bytes() const { return bytes_; }
  // A copy of what is there.
  Status Read(uint64_t offset, std::span<uint8_t> out) const;
  // Gives the memory of unused places back to the system. Call it when little is going on.
  void Trim() EXCLUDES(mutex_);

 private:
  friend class ArenaPlace;
  explicit Arena(uint64_t bytes) : bytes_(bytes), space_(bytes) {}
  void GiveBack(uint64_t offset, uint64_t bytes) EXCLUDES(mutex_);

  const uint64_t bytes_;
  UniqueFd fd_;
  mutable Mutex mutex_;
  ArenaSpace space_ GUARDED_BY(mutex_);
  bool touched_ GUARDED_BY(mutex_) = false;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_ARENA_H_
