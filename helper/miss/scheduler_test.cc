// SPDX-License-Identifier: Apache-2.0
// The scheduler by itself, and in a simulation: hosts with windows and answer times, images that
// want much or little, and a clock that jumps from event to event.
#include "miss/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <queue>
#include <random>

namespace fastoci {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr Scheduler::Room kMuch;

Scheduler::SpanBytes Each(uint64_t bytes) {
  return [bytes](uint32_t) { return bytes; };
}

// Space n at host n, each for image n.
void AddSpaces(Scheduler* s, uint32_t n, uint64_t span_bytes, uint32_t max_spans = 1,
               uint32_t window = 8) {
  for (uint32_t i = 1; i <= n; i++) {
    s->AddSpace(i, Each(span_bytes), max_spans);
    s->SetSources(i, {{i, i}});
    s->SetHost(i, window);
  }
}

TEST(SchedulerTest, TheMoreUrgentComesFirstAndThenTheOlder) {
  Scheduler s;
  AddSpaces(&s, 1, kMiB);
  s.Want(1, 10, 0, Urgency::kBackground, 1);
  s.Want(1, 20, 0, Urgency::kAhead, 1);
  s.Want(1, 30, 0, Urgency::kDemand, 1);
  s.Want(1, 40, 0, Urgency::kDemand, 1);
  s.Want(1, 50, 0, Urgency::kMaybe, 1);
  std::vector<uint32_t> order;
  while (auto r = s.Pick(kMuch)) order.push_back(r->first);
  EXPECT_EQ(order, (std::vector<uint32_t>{30, 40, 50, 20, 10}));
  EXPECT_FALSE(s.HasQueued(Urgency::kBackground));
}

TEST(SchedulerTest, AnotherWantLiftsAJobThatKeepsItsAge) {
  Scheduler s;
  AddSpaces(&s, 1, kMiB);
  s.Want(1, 10, 0, Urgency::kPrefetch, 1, 5);
  s.Want(1, 20, 7, Urgency::kDemand, 1, 6);
  s.Want(1, 10, 0, Urgency::kDemand, 1, 9);
  auto r = s.Pick(kMuch);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->first, 10u);
  EXPECT_EQ(s.WantedOf(1, 10).at(0).since, 9) << "since a reader wants it";
  EXPECT_EQ(s.nr_jobs(), 2u);
}

TEST(SchedulerTest, AdjacentSpansAreOneRangeUpToItsLimits) {
  Scheduler s({.range_bytes = 4 * kMiB});
  AddSpaces(&s, 1, kMiB, 64);
  for (uint32_t span : {9, 5, 6, 7, 8, 10, 12}) s.Want(1, span, span, Urgency::kAhead, 1);
  auto r = s.Pick(kMuch);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->first, 9u) << "the oldest, and only what lies behind it";
  EXPECT_EQ(r->nr_spans, 2u);
  r = s.Pick(kMuch);
  EXPECT_EQ(r->first, 5u);
  EXPECT_EQ(r->nr_spans, 4u) << "up to one that runs";
  EXPECT_EQ(r->bytes, 4 * kMiB);
  EXPECT_EQ(s.Pick(kMuch)->first, 12u);
  EXPECT_TRUE(s.IsRunning(1, 6));
}

// Spans are numbers in a table of their own space.
TEST(SchedulerTest, ARangeLooksAtNoSpanOfAnotherSpace) {
  Scheduler s;
  AddSpaces(&s, 2, kMiB, 64);
  s.AddSpace(3, [](uint32_t span) {
    EXPECT_LT(span, 2u);
    return kMiB;
  }, 64);
  s.SetSources(3, {{3, 3}});
  s.SetHost(3, 8);
  s.AddSpace(4, Each(kMiB), 64);
  s.SetSources(4, {{4, 4}});
  s.SetHost(4, 8);
  s.Want(3, 0, 0, Urgency::kDemand, 3);
  s.Want(3, 1, 0, Urgency::kDemand, 3);
  s.Want(4, 12000, 0, Urgency::kDemand, 3);
  EXPECT_EQ(s.Pick(kMuch)->nr_spans, 2u);
}

TEST(SchedulerTest, AReadersRangeTakesNothingAlongThatNobodyReads) {
  Scheduler s;
  AddSpaces(&s, 1, kMiB, 64);
  s.Want(1, 1, 0, Urgency::kDemand, 1);
  s.Want(1, 2, 0, Urgency::kAhead, 1);
  s.Want(1, 3, 0, Urgency::kBackground, 1);
  EXPECT_EQ(s.Pick(kMuch)->nr_spans, 2u);
}

TEST(SchedulerTest, ALargeSpanIsARangeByItself) {
  Scheduler s({.range_bytes = 4 * kMiB});
  AddSpaces(&s, 1, 100 * kMiB, 64);
  s.Want(1, 0, 0, Urgency::kDemand, 1);
  s.Want(1, 1, 0, Urgency::kDemand, 1);
  EXPECT_EQ(s.Pick({4 * kMiB, 0})->nr_spans, 1u);
  EXPECT_FALSE(s.Pick({4 * kMiB - 1, 0})) << "it needs room for one request";
}

TEST(SchedulerTest, NoHostGetsMoreThanItsWindowAndAPartIsKeptForReaders) {
  Scheduler s;
  AddSpaces(&s, 1, kMiB, 1, 8);
  for (uint32_t i = 0; i < 20; i++) s.Want(1, i * 2, 0, Urgency::kPrefetch, 1);
  int n = 0;
  while (s.Pick(kMuch)) n++;
  EXPECT_EQ(n, 6);
  for (uint32_t i = 50; i < 70; i++) s.Want(1, i * 2, 0, Urgency::kDemand, 1);
  for (n = 0; s.Pick(kMuch); n++) continue;
  EXPECT_EQ(n, 2);
  EXPECT_EQ(s.in_flight(1), 8u);
  s.SetHost(1, 4);
  s.RequestEnded(1);
  EXPECT_FALSE(s.Pick(kMuch)) << "the window shrank";
  for (int i = 0; i < 4; i++) s.RequestEnded(1);
  EXPECT_EQ(s.Pick(kMuch)->urgency, Urgency::kDemand);
  EXPECT_FALSE(s.Pick(kMuch));
}

// So that hosts that do not answer leave room for others.
TEST(SchedulerTest, AHostHoldsNoMoreThanItLeaves) {
  Scheduler s;
  constexpr uint32_t kDead = 3;
  AddSpaces(&s, kDead + 1, kMiB, 1, 64);
  for (uint32_t i = 0; i < 64; i++)
    for (uint32_t space = 1; space <= kDead; space++)
      s.Want(space, i * 2, 0, Urgency::kDemand, space);
  std::unordered_map<uint32_t, uint64_t> held;
  uint64_t left = 48 * kMiB;
  auto pick = [&] {
    auto r = s.Pick({.urgent_bytes = left, .other_bytes = left / 2, .held = &held});
    if (!r) return 0U;
    left -= r->bytes;
    held[r->source.host] += r->bytes;
    return r->source.host;
  };
  while (pick() != 0) continue;
  EXPECT_EQ(held[1], 12 * kMiB);
  EXPECT_EQ(held[1] + held[2] + held[3] + left, 48 * kMiB);
  EXPECT_EQ(left, 12 * kMiB) << "as much as each of them has";
  s.Want(4, 0, 0, Urgency::kDemand, 4);
  EXPECT_EQ(pick(), 4U) << "one that comes later";
  left = kMiB;
  s.RequestEnded(4);
  held.erase(4);
  s.Want(4, 2, 0, Urgency::kDemand, 4);
  EXPECT_EQ(pick(), 4U) << "a single request always";
}

TEST(SchedulerTest, ARangeEndsWhereItsHostsPartOfTheRoomDoes) {
  Scheduler s({.range_bytes = 4 * kMiB});
  AddSpaces(&s, 1, kMiB, 64);
  for (uint32_t span = 0; span < 8; span++) s.Want(1, span, 0, Urgency::kDemand, 1);
  const std::unordered_map<uint32_t, uint64_t> held = {{1, 4 * kMiB}};
  EXPECT_EQ(s.Pick({.urgent_bytes = 6 * kMiB, .held = &held})->nr_spans, 2U);
  EXPECT_FALSE(s.Pick({.urgent_bytes = 4 * kMiB, .held = &held}));
}

// Who waits for what is queued does not wait for a registry that is down.
TEST(SchedulerTest, WhatCannotGoOnDoesNotCount) {
  Scheduler s;
  AddSpaces(&s, 2, kMiB);
  for (uint32_t i = 0; i < 100; i++) s.Want(1, i, 0, Urgency::kDemand, 1);
  EXPECT_TRUE(s.HasQueued(Urgency::kDemand));
  EXPECT_EQ(s.nr_queued_of(1, Urgency::kDemand), 100u);
  s.SetHost(1, 0, false);
  EXPECT_FALSE(s.CanGoOn(1));
  EXPECT_FALSE(s.HasQueued(Urgency::kBackground));
  EXPECT_EQ(s.nr_queued_of(1, Urgency::kDemand), 0u);
  EXPECT_EQ(s.nr_queued(), 100u);
  s.SetHost(1, 1, false);
  EXPECT_FALSE(s.HasQueued(Urgency::kBackground)) << "one request shows whether it answers";
  EXPECT_TRUE(s.Pick(kMuch));
  s.Want(2, 0, 0, Urgency::kPrefetch, 1);
  EXPECT_TRUE(s.HasQueued(Urgency::kPrefetch));
  EXPECT_FALSE(s.HasQueued(Urgency::kReadahead));
  EXPECT_EQ(s.nr_queued_of(1, Urgency::kPrefetch), 1u);
  s.SetSources(2, {});
  EXPECT_FALSE(s.HasQueued(Urgency::kPrefetch));
  s.SetSources(1, {{1, 1}, {2, 2}});
  EXPECT_TRUE(s.HasQueued(Urgency::kDemand)) << "from its second source";
  (void)s.RemoveSpace(1);
  EXPECT_FALSE(s.HasQueued(Urgency::kBackground));
}

TEST(SchedulerTest, AHostWithAWindowOfOneServesTheLeastUrgentToo) {
  Scheduler s;
  AddSpaces(&s, 1, kMiB, 1, 1);
  s.Want(1, 0, 0, Urgency::kBackground, 1);
  EXPECT_TRUE(s.Pick(kMuch));
}

TEST(SchedulerTest, AGatedHostHoldsUpNobodyElseAndASecondSourceServes) {
  Scheduler s;
  AddSpaces(&s, 3, kMiB);
  s.SetHost(1, 0);
  for (uint32_t i = 0; i < 100; i++) s.Want(1, i, 0, Urgency::kDemand, 1);
  s.Want(2, 0, 0, Urgency::kBackground, 2);
  EXPECT_EQ(s.Pick(kMuch)->space, 2u);
  EXPECT_FALSE(s.Pick(kMuch));
  EXPECT_EQ(s.nr_queued(), 100u);
  s.SetSources(1, {{1, 1}, {9, 3}});
  auto r = s.Pick(kMuch);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->source, (Scheduler::Source{9, 3}));
  s.SetHost(1, 1);
  EXPECT_EQ(s.Pick(kMuch)->source.host, 1u) << "the first one is open again";
}

TEST(SchedulerTest, WhatWasTriedFromASourceIsTriedFromTheOthers) {
  Scheduler s;
  AddSpaces(&s, 2, kMiB);
  s.SetSources(1, {{1, 1}, {2, 2}});
  s.Want(1, 4, 3, Urgency::kDemand, 1);
  EXPECT_EQ(s.Pick(kMuch)->source.id, 1u);
  s.RequestEnded(1);
  EXPECT_TRUE(s.TryOther(1, 4, 1));
  EXPECT_EQ(s.Pick(kMuch)->source.id, 2u);
  EXPECT_FALSE(s.TryOther(1, 4, 2)) << "no other is left";
  EXPECT_TRUE(s.IsRunning(1, 4));
  s.ForgetTried(1, 4);
  s.Requeue(1, 4);
  s.SetHost(2, 0);
  EXPECT_EQ(s.Pick(kMuch)->source.id, 1u);
  s.SetHost(1, 0);
  EXPECT_TRUE(s.TryOther(1, 4, 1));
  EXPECT_FALSE(s.Pick(kMuch)) << "the other host is gated: it waits";
  EXPECT_EQ(s.Drop(1, 4).size(), 1u);
}

TEST(SchedulerTest, WhatIsWantedWhileItsJobRunsIsNotLost) {
  Scheduler s;
  AddSpaces(&s, 1, kMiB);
  s.Want(1, 0, 1, Urgency::kDemand, 1);
  ASSERT_TRUE(s.Pick(kMuch));
  s.Want(1, 0, 2, Urgency::kDemand, 1);
  EXPECT_FALSE(s.Pick(kMuch));
  EXPECT_TRUE(s.Resolve(1, 0, 1));
  EXPECT_FALSE(s.Resolve(1, 0, 1));
  EXPECT_TRUE(s.Finish(1, 0, 2).empty());
  ASSERT_TRUE(s.Pick(kMuch)) << "queued again for chunk 2";
  EXPECT_TRUE(s.Finish(1, 0, 2).empty());
  ASSERT_TRUE(s.Pick(kMuch));
  auto given_up = s.Finish(1, 0, 2);
  ASSERT_EQ(given_up.size(), 1u);
  EXPECT_EQ(given_up[0].chunk_no, 2u);
  EXPECT_EQ(s.nr_jobs(), 0u);
}

// The chunk was served, evicted and missed again before its job heard that it was served.
TEST(SchedulerTest, WhatIsWantedAgainAfterItCameIsNotLost) {
  Scheduler s;
  AddSpaces(&s, 1, kMiB);
  s.Want(1, 0, 1, Urgency::kDemand, 1);
  ASSERT_TRUE(s.Pick(kMuch));
  const uint64_t came = s.last_order();
  s.Want(1, 0, 1, Urgency::kDemand, 1);
  EXPECT_FALSE(s.Resolve(1, 0, 1, came));
  EXPECT_TRUE(s.Finish(1, 0, 2).empty());
  ASSERT_TRUE(s.Pick(kMuch));
  EXPECT_TRUE(s.Resolve(1, 0, 1, s.last_order()));
}

TEST(SchedulerTest, RemovingASpaceReturnsWhatWasWanted) {
  Scheduler s;
  AddSpaces(&s, 2, kMiB);
  s.Want(1, 0, 1, Urgency::kDemand, 1);
  s.Want(1, 3, 9, Urgency::kAhead, 1);
  s.Want(2, 3, 9, Urgency::kAhead, 1);
  ASSERT_TRUE(s.Pick(kMuch));
  EXPECT_EQ(s.RemoveSpace(1).size(), 2u);
  s.Requeue(1, 0);
  EXPECT_TRUE(s.Finish(1, 0, 1).empty());
  s.Want(1, 0, 1, Urgency::kDemand, 1);
  EXPECT_EQ(s.nr_jobs(), 1u);
  EXPECT_EQ(s.WaitingBySpace().at(2).chunks, 1u);
}

TEST(SchedulerTest, ImagesShareByBytesAndNotByJobs) {
  Scheduler s({.quantum_bytes = kMiB});
  s.SetHost(1, 1);
  for (uint32_t i : {1, 2}) s.AddSpace(i, Each(i == 1 ? 4 * kMiB : kMiB), 1);
  for (uint32_t i : {1, 2}) s.SetSources(i, {{i, 1}});
  for (uint32_t span = 0; span < 500; span++)
    for (uint32_t i : {1, 2}) s.Want(i, span, 0, Urgency::kDemand, i);
  uint64_t bytes[3] = {};
  for (int i = 0; i < 200; i++) {
    auto r = s.Pick(kMuch);
    bytes[r->image] += r->bytes;
    s.RequestEnded(1);
  }
  EXPECT_NEAR(static_cast<double>(bytes[1]), static_cast<double>(bytes[2]), 8.0 * kMiB);
}

// One event at a time: requests end when their host has answered, and then more are picked.
class Simulation {
 public:
  Scheduler s;
  double now = 0;
  std::map<uint32_t, double> seconds_of_host;  // of one request
  std::map<uint32_t, uint64_t> bytes_of_image;
  std::map<uint32_t, uint32_t> most_of_host;
  std::map<std::pair<uint32_t, uint32_t>, double> done;  // (space, span) -> when

  void Run(double until) {
    for (;;) {
      while (auto r = s.Pick({})) {
        running_.push({now + seconds_of_host.at(r->source.host), *r});
        most_of_host[r->source.host] =
            std::max(most_of_host[r->source.host], s.in_flight(r->source.host));
      }
      if (running_.empty() || running_.top().first > until) break;
      auto [at, range] = running_.top();
      running_.pop();
      now = at;
      s.RequestEnded(range.source.host);
      bytes_of_image[range.image] += range.bytes;
      for (uint32_t i = 0; i < range.nr_spans; i++) {
        for (const auto& w : s.WantedOf(range.space, range.first + i))
          (void)s.Resolve(range.space, range.first + i, w.chunk_no);
        (void)s.Finish(range.space, range.first + i, 1);
        done[{range.space, range.first + i}] = now;
      }
    }
    now = until;
  }
  bool idle() const { return running_.empty(); }

 private:
  struct Later {
    bool operator()(const std::pair<double, Scheduler::Range>& a,
                    const std::pair<double, Scheduler::Range>& b) const {
      return a.first > b.first;
    }
  };
  std::priority_queue<std::pair<double, Scheduler::Range>,
                      std::vector<std::pair<double, Scheduler::Range>>, Later>
      running_;
};

TEST(SchedulerSimulationTest, ABlackHoleDelaysNoOtherHost) {
  Simulation alone, beside;
  for (Simulation* sim : {&alone, &beside}) {
    AddSpaces(&sim->s, 2, kMiB, 1, 8);
    sim->seconds_of_host = {{1, 90.0}, {2, 0.1}};
    for (uint32_t i = 0; sim == &beside && i < 200; i++)
      sim->s.Want(1, i, 0, Urgency::kDemand, 1);
    sim->Run(0.5);
    for (uint32_t i = 0; i < 40; i++) sim->s.Want(2, i, 0, Urgency::kDemand, 2);
    sim->Run(60);
  }
  ASSERT_EQ(beside.done.size(), 40u);
  EXPECT_EQ(alone.done, beside.done);
}

TEST(SchedulerSimulationTest, DemandOvertakesADownloadThatFillsTheWindow) {
  Simulation sim;
  AddSpaces(&sim.s, 1, kMiB, 1, 8);
  sim.seconds_of_host = {{1, 1.0}};
  for (uint32_t i = 0; i < 1000; i++) sim.s.Want(1, i, 0, Urgency::kBackground, 1);
  sim.Run(10.5);
  sim.s.Want(1, 5000, 0, Urgency::kDemand, 1);
  sim.Run(20);
  EXPECT_DOUBLE_EQ((sim.done.at({1, 5000})), 11.5) << "at once, in the part that is kept";
  EXPECT_LE(sim.most_of_host[1], 8u);
}

TEST(SchedulerSimulationTest, OneOfManyImagesOnOneHostIsNotStarved) {
  Simulation sim;
  sim.s.SetHost(1, 4);
  sim.seconds_of_host = {{1, 0.1}};
  for (uint32_t i = 1; i <= 10; i++) {
    sim.s.AddSpace(i, Each(kMiB), 4);
    sim.s.SetSources(i, {{i, 1}});
    // The first nine want much, and all of it before the tenth comes.
    for (uint32_t span = 0; i < 10 && span < 2000; span++)
      sim.s.Want(i, span, 0, Urgency::kDemand, i);
  }
  sim.Run(5);
  for (uint32_t span = 0; span < 20; span++) sim.s.Want(10, span * 2, 0, Urgency::kDemand, 10);
  sim.Run(6.05);
  EXPECT_EQ((sim.done.count({10, 0})), 1u) << "within a turn of the others";
  sim.Run(60);
  EXPECT_EQ(sim.bytes_of_image[10], 20 * kMiB);
  const auto [least, most] = std::minmax_element(
      sim.bytes_of_image.begin(), std::prev(sim.bytes_of_image.end()),
      [](const auto& a, const auto& b) { return a.second < b.second; });
  EXPECT_LE(most->second - least->second, 12 * kMiB) << "equal shares";
}

TEST(SchedulerSimulationTest, RandomLoadWithGatesEndsWithNothingLeft) {
  for (uint32_t seed = 0; seed < 20; seed++) {
    std::mt19937 engine(seed);
    auto rng = [&] { return static_cast<uint32_t>(engine()); };
    Simulation sim;
    constexpr uint32_t kHosts = 4;
    for (uint32_t h = 1; h <= kHosts; h++) {
      sim.s.SetHost(h, 1 + rng() % 8);
      sim.seconds_of_host[h] = 0.05 * (1 + rng() % 10);
    }
    std::set<std::pair<uint32_t, uint32_t>> wanted;
    for (uint32_t i = 1; i <= 12; i++) {
      sim.s.AddSpace(i, Each(1000 + rng() % (2 * kMiB)), 1 + rng() % 8);
      sim.s.SetSources(i, {{i * 2, 1 + rng() % kHosts}, {i * 2 + 1, 1 + rng() % kHosts}});
    }
    for (int step = 0; step < 200; step++) {
      for (uint32_t n = rng() % 20; n > 0; n--) {
        const uint32_t space = 1 + rng() % 12, span = rng() % 300;
        sim.s.Want(space, span, rng() % 16, static_cast<Urgency>(rng() % kNrUrgencies),
                   1 + rng() % 5);
        wanted.insert({space, span});
      }
      sim.s.SetHost(1 + rng() % kHosts, rng() % 3 ? rng() % 16 : 0);
      sim.Run(sim.now + 0.1);
    }
    for (uint32_t h = 1; h <= kHosts; h++) sim.s.SetHost(h, 4);
    sim.Run(sim.now + 10000);
    EXPECT_TRUE(sim.idle());
    EXPECT_EQ(sim.s.nr_jobs(), 0u);
    EXPECT_EQ(sim.s.nr_queued(), 0u);
    for (const auto& key : wanted) EXPECT_TRUE(sim.done.count(key));
    for (uint32_t h = 1; h <= kHosts; h++) EXPECT_EQ(sim.s.in_flight(h), 0u);
  }
}

// What a Pick() costs does not grow with what is queued.
TEST(SchedulerSimulationTest, AHundredThousandWantedChunksCostFewSteps) {
  Simulation sim;
  AddSpaces(&sim.s, 20, kMiB, 4, 64);
  for (uint32_t i = 1; i <= 20; i++) sim.seconds_of_host[i] = 0.01;
  for (uint32_t i = 0; i < 100000; i++)
    sim.s.Want(1 + i % 20, i / 20 / 4 * 2, i, static_cast<Urgency>(i % kNrUrgencies), 1 + i % 20);
  sim.s.SetHost(7, 0);
  sim.Run(10000);
  EXPECT_EQ(sim.done.size(), 19u * 1250);
  EXPECT_LT(sim.s.steps(), 100u * 25000);
}

}  // namespace
}  // namespace fastoci
