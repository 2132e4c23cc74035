// SPDX-License-Identifier: Apache-2.0
#include "miss/arena.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <random>

#include "base/byte_reader.h"

namespace fastoci {
namespace {

TEST(ArenaSpace, PlacesNeverOverlapAndAllComesBack) {
  constexpr uint64_t kBytes = 64 * kArenaUnit;
  ArenaSpace space(kBytes);
  std::mt19937 rng(1);
  std::map<uint64_t, uint64_t> taken;
  for (int i = 0; i < 20000; i++) {
    if (rng() % 2) {
      const uint64_t bytes = 1 + rng() % (8 * kArenaUnit);
      if (auto offset = space.Take(bytes)) {
        const uint64_t end = *offset + bytes;
        EXPECT_LE(end, kBytes);
        EXPECT_EQ(*offset % kArenaUnit, 0u);
        auto after = taken.lower_bound(*offset);
        EXPECT_TRUE(after == taken.end() || after->first >= end);
        EXPECT_TRUE(after == taken.begin() ||
                    std::prev(after)->first + std::prev(after)->second <= *offset);
        taken[*offset] = bytes;
      }
    } else if (!taken.empty()) {
      auto it = std::next(taken.begin(), static_cast<ptrdiff_t>(rng() % taken.size()));
      space.GiveBack(it->first, it->second);
      taken.erase(it);
    }
  }
  for (const auto& [offset, bytes] : taken) space.GiveBack(offset, bytes);
  EXPECT_EQ(space.used(), 0u);
  EXPECT_EQ(space.Take(kBytes), 0u);
  EXPECT_EQ(space.Take(1), std::nullopt);
}

TEST(Arena, APlaceOutlivesItsHoldersAndMemoryIsGivenBack) {
  auto arena = Arena::Make(1 << 20);
  ASSERT_TRUE(arena.ok());
  auto place = (*arena)->Take(300000);
  ASSERT_NE(place, nullptr);
  EXPECT_EQ((*arena)->Take(1 << 20), nullptr);
  const std::string text(300000, 'x');
  ASSERT_EQ(::pwrite((*arena)->fd(), text.data(), text.size(),
                     static_cast<off_t>(place->offset())),
            300000);
  Bytes got(5);
  ASSERT_TRUE((*arena)->Read(place->offset() + 299995, got).ok());
  EXPECT_EQ(got, Bytes(5, 'x'));
  struct stat st;
  (*arena)->Trim();
  ASSERT_EQ(::fstat((*arena)->fd(), &st), 0);
  EXPECT_GT(st.st_blocks, 0) << "it is in use";
  place = nullptr;
  (*arena)->Trim();
  ASSERT_EQ(::fstat((*arena)->fd(), &st), 0);
  EXPECT_EQ(st.st_blocks, 0);
  EXPECT_EQ(st.st_size, 1 << 20);
  EXPECT_NE(::ftruncate((*arena)->fd(), 4096), 0) << "others map it";
}

}  // namespace
}  // namespace fastoci
