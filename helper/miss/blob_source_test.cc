// SPDX-License-Identifier: Apache-2.0
#include "miss/blob_source.h"

#include <gtest/gtest.h>

namespace fastoci {
namespace {

constexpr int64_t kRetry = 1000;

std::shared_ptr<const SpanIndex> Index(uint8_t content) {
  BlobInfo blob;
  blob.data_bytes = blob.blob_bytes = 1000;
  blob.spans = {{0, 0}};
  blob.index = {content};
  auto index = SpanIndexes().Take(&blob);
  EXPECT_TRUE(index.ok());
  EXPECT_TRUE(blob.index.empty() && blob.spans.empty()) << "it is the index's now";
  return *index;
}

std::vector<uint32_t> LocationsOf(const BlobSource& s, int64_t now = 0) {
  std::vector<uint32_t> out;
  for (const auto& source : s.Usable(now)) out.push_back(s.Find(source.id)->location.location);
  return out;
}

TEST(BlobSource, EqualLocationsAndIndexesOfImagesAreOne) {
  BlobSource s(kRetry);
  s.AddImage(1, Index(7));
  s.SetLocations(1, {{10, 1}, {11, 2}});
  s.AddImage(2, Index(7));
  s.SetLocations(2, {{11, 2}, {12, 3}});
  EXPECT_EQ(LocationsOf(s), (std::vector<uint32_t>{10, 11, 12}));
  const uint32_t third = s.Usable(0)[2].id;
  s.RemoveImage(1);
  EXPECT_EQ(LocationsOf(s), (std::vector<uint32_t>{11, 12}));
  EXPECT_NE(s.Find(third), nullptr) << "keeps its number";
  EXPECT_NE(s.primary(), nullptr);
  s.RemoveImage(2);
  EXPECT_TRUE(s.empty());
  EXPECT_TRUE(s.Usable(0).empty());
}

TEST(BlobSource, ANewLocationComesWhereTheListHasIt) {
  BlobSource s(kRetry);
  s.AddImage(1, Index(7));
  s.SetLocations(1, {{10, 1}});
  s.AddImage(2, Index(7));
  s.SetLocations(2, {{20, 2}});
  s.SetLocations(1, {{11, 3}, {10, 1}, {12, 4}});
  EXPECT_EQ(LocationsOf(s), (std::vector<uint32_t>{11, 10, 20, 12}));
  s.SetLocations(1, {{12, 4}});
  EXPECT_EQ(LocationsOf(s), (std::vector<uint32_t>{20, 12}));
}

TEST(BlobSource, AnotherIndexIsAnotherWayForEachLocation) {
  BlobSource s(kRetry);
  auto first = Index(1), second = Index(2);
  s.AddImage(1, first);
  s.SetLocations(1, {{10, 1}});
  s.AddImage(2, second);
  s.SetLocations(2, {{20, 2}});
  ASSERT_EQ(s.Usable(0).size(), 4u);
  EXPECT_EQ(s.primary(), first);
  EXPECT_EQ(s.Find(s.Usable(0)[2].id)->index, second);
  // The first image's index is bad: what it gives is wrong from everywhere.
  s.OnBad(s.Usable(0)[0].id);
  s.OnBad(s.Usable(0)[0].id);
  EXPECT_EQ(s.Find(s.Usable(0)[0].id)->index, second);
  s.RemoveImage(1);
  EXPECT_EQ(s.primary(), first) << "spans are numbered by it";
  EXPECT_EQ(LocationsOf(s), (std::vector<uint32_t>{20}));
}

TEST(BlobSource, WhatWasWrongIsTriedLastUntilItIsRight) {
  BlobSource s(kRetry);
  s.AddImage(1, Index(1));
  s.SetLocations(1, {{10, 1}, {11, 1}});
  const uint32_t first = s.Usable(0)[0].id;
  s.OnBad(first);
  EXPECT_EQ(LocationsOf(s), (std::vector<uint32_t>{11, 10}));
  s.OnGood(first);
  EXPECT_EQ(LocationsOf(s), (std::vector<uint32_t>{10, 11}));
}

TEST(BlobSource, AHeldLocationComesBackAtItsTimeOrWhenItsHostIsReleased) {
  BlobSource s(kRetry);
  s.AddImage(1, Index(1));
  s.SetLocations(1, {{10, 1}, {11, 2}});
  s.Hold(10, 500);
  EXPECT_EQ(LocationsOf(s, 100), (std::vector<uint32_t>{11}));
  EXPECT_EQ(s.NextChange(100), 500);
  EXPECT_EQ(LocationsOf(s, 500), (std::vector<uint32_t>{10, 11}));
  EXPECT_EQ(s.NextChange(500), std::nullopt);
  s.Hold(10, 900);
  s.ReleaseHost(2);
  EXPECT_EQ(LocationsOf(s, 600), (std::vector<uint32_t>{11}));
  s.ReleaseHost(1);
  EXPECT_EQ(LocationsOf(s, 600), (std::vector<uint32_t>{10, 11}));
}

TEST(BlobSource, ABlobIsLostAfterTwoRoundsAtEveryLocation) {
  BlobSource s(kRetry);
  s.AddImage(1, Index(1));
  s.SetLocations(1, {{10, 1}, {11, 2}});
  EXPECT_FALSE(s.OnGone(10, 0));
  EXPECT_FALSE(s.OnGone(10, 10)) << "the same round";
  EXPECT_FALSE(s.OnGone(11, 20));
  EXPECT_TRUE(LocationsOf(s, 30).empty());
  EXPECT_EQ(LocationsOf(s, kRetry), (std::vector<uint32_t>{10}));
  EXPECT_FALSE(s.OnGone(10, kRetry));
  EXPECT_TRUE(s.OnGone(11, kRetry + 20));
  EXPECT_EQ(LocationsOf(s, kRetry + 20).size(), 2u) << "each new want tries once more";
  EXPECT_FALSE(s.OnGone(10, kRetry + 30));
  EXPECT_EQ(LocationsOf(s, kRetry + 30), (std::vector<uint32_t>{11})) << "and asks each of them";
  EXPECT_TRUE(s.OnGone(11, kRetry + 40));
  EXPECT_FALSE(s.OnGone(10, kRetry + 50));
  s.OnGood(s.Usable(kRetry + 50)[0].id);  // it was pushed to the second one again
  EXPECT_FALSE(s.OnGone(10, 5 * kRetry)) << "one has it";
}

TEST(SpanIndexes, OneForAllImagesThatHaveIt) {
  SpanIndexes all;
  auto blob = [](uint8_t id, uint8_t index) {
    BlobInfo b;
    b.data_space_id[0] = id;
    b.spans = {{0, 0}};
    b.index = Bytes(10, index);
    return b;
  };
  BlobInfo a = blob(1, 1), same = blob(1, 1), other = blob(2, 1), third = blob(1, 2);
  auto first = all.Take(&a), second = all.Take(&same);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(*first, *second);
  EXPECT_TRUE(same.index.empty() && same.spans.empty());
  EXPECT_NE(*all.Take(&other), *first) << "another blob";
  EXPECT_NE(*all.Take(&third), *first) << "another index";
}

TEST(BlobSource, OfAnotherFetcherEverythingIsNew) {
  BlobSource s(kRetry);
  s.AddImage(1, Index(1));
  s.SetLocations(1, {{10, 1}});
  s.Hold(10, 500);
  s.ForgetLocations();
  EXPECT_TRUE(s.Usable(0).empty());
  EXPECT_EQ(s.NextChange(0), std::nullopt);
  s.SetLocations(1, {{10, 4}});
  ASSERT_EQ(s.Usable(0).size(), 1u);
  EXPECT_EQ(s.Usable(0)[0].host, 4u);
}

}  // namespace
}  // namespace fastoci
