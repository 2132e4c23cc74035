// SPDX-License-Identifier: Apache-2.0
#include "miss/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace fastoci {
namespace {

uint64_t RoundUp(uint64_t bytes) { return (bytes + kArenaUnit - 1) / kArenaUnit * kArenaUnit; }

}  // namespace

std::optional<uint64_t> ArenaSpace::Take(uint64_t bytes) {
  bytes = RoundUp(bytes);
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second < bytes) continue;
    const uint64_t offset = it->first, left = it->second - bytes;
    free_.erase(it);
    if (left > 0) free_[offset + bytes] = left;
    used_ += bytes;
    return offset;
  }
  return std::nullopt;
}

void ArenaSpace::GiveBack(uint64_t offset, uint64_t bytes) {
  bytes = RoundUp(bytes);
  used_ -= bytes;
  auto after = free_.lower_bound(offset);
  if (after != free_.end() && after->first == offset + bytes) {
    bytes += after->second;
    after = free_.erase(after);
  }
  if (after != free_.begin()) {
    auto before = std::prev(after);
    if (before->first + before->second == offset) {
      before->second += bytes;
      return;
    }
  }
  free_[offset] = bytes;
}

ArenaPlace::~ArenaPlace() { arena_->GiveBack(offset_, bytes_); }

Result<std::shared_ptr<Arena>> Arena::Make(uint64_t bytes) {
  std::shared_ptr<Arena> arena(new Arena(bytes));
  arena->fd_.reset(::memfd_create("fastoci-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!arena->fd_.valid()) return ErrnoError("arena: memfd_create");
  if (::ftruncate(arena->fd_.get(), static_cast<off_t>(bytes)) != 0 ||
      ::fcntl(arena->fd_.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW) != 0)
    return ErrnoError("arena");
  return arena;
}

Status Arena::Read(uint64_t offset, std::span<uint8_t> out) const {
  return PreadFull(fd_.get(), out, offset, "arena");
}

std::shared_ptr<ArenaPlace> Arena::Take(uint64_t bytes) {
  std::optional<uint64_t> offset;
  {
    MutexLock lock(mutex_);
    offset = space_.Take(bytes);
    touched_ = touched_ || offset;
  }
  return offset ? std::make_shared<ArenaPlace>(shared_from_this(), *offset, bytes) : nullptr;
}

void Arena::GiveBack(uint64_t offset, uint64_t bytes) {
  MutexLock lock(mutex_);
  space_.GiveBack(offset, bytes);
}

uint64_t Arena::used() const {
  MutexLock lock(mutex_);
  return space_.used();
}

// Under the lock, so that no place is given out that is being emptied.
void Arena::Trim() {
  MutexLock lock(mutex_);
  if (!touched_ || space_.used() > 0) return;
  touched_ = false;
  (void)::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    static_cast<off_t>(bytes_));
}

}  // namespace fastoci
