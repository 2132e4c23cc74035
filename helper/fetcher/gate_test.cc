// SPDX-License-Identifier: Apache-2.0
#include "fetcher/gate.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace fastoci {
namespace {

constexpr unsigned kNoSpread = 1000000 - 1;  // % 1000 is 999: all but the whole wait

int64_t Wait(const Gate& gate, int64_t now) { return gate.until_ms() - now; }

TEST(Gate, BackoffDoublesUpToItsCapWithinItsSpread) {
  Gate least, most;
  const int64_t whole[] = {250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000};
  int64_t now = 1000000;
  for (int64_t ms : whole) {
    least.Fail(now, now, -1, 0, {});
    most.Fail(now, now, -1, kNoSpread, {});
    EXPECT_EQ(Wait(least, now), ms / 2);
    EXPECT_LE(Wait(most, now), ms);
    EXPECT_GE(Wait(most, now), ms - ms / 500 - 1);
    now += 40000;
  }
}

TEST(Gate, RetryAfterIsHonouredUpToItsCap) {
  struct Case {
    const char* name;
    int64_t retry_after_ms, scale, wait;
  };
  for (const Case& c : std::vector<Case>{{"longer than the backoff", 60000, 100, 60000},
                                         {"shorter", 1, 100, 125},
                                         {"none", -1, 100, 125},
                                         {"an hour", 3600000, 100, 300000},
                                         {"scaled", 60000, 5, 3000},
                                         {"scaled, with its cap", 3600000, 10, 30000},
                                         {"scaled to nothing", -1, 0, 1}}) {
    Gate gate;
    GateTimes times;
    times.scale_percent = c.scale;
    gate.Fail(5000, 5000, c.retry_after_ms, 0, times);
    EXPECT_EQ(Wait(gate, 5000), c.wait) << c.name;
  }
}

TEST(Gate, OneProbeOpensItOrClosesItForLonger) {
  Gate gate;
  bool probe = true;
  EXPECT_TRUE(gate.Enter(10, &probe));
  EXPECT_FALSE(probe);
  gate.Fail(10, 10, -1, 0, {});
  EXPECT_EQ(gate.State(10), HostGate::kGated);
  EXPECT_EQ(gate.since_ms(), 10);
  EXPECT_FALSE(gate.Enter(134, &probe));
  EXPECT_EQ(gate.State(135), HostGate::kProbing);
  EXPECT_TRUE(gate.Enter(135, &probe));
  EXPECT_TRUE(probe);
  bool second = false;
  EXPECT_FALSE(gate.Enter(135, &second)) << "one at a time";
  EXPECT_FALSE(second);
  gate.EndProbe();
  gate.Fail(140, 135, -1, 0, {});
  EXPECT_EQ(Wait(gate, 140), 250);
  EXPECT_EQ(gate.since_ms(), 10) << "since it was open";
  // A probe that tells nothing leaves its place to another.
  EXPECT_TRUE(gate.Enter(390, &probe));
  gate.EndProbe();
  EXPECT_TRUE(gate.Enter(391, &probe));
  gate.EndProbe();
  gate.Succeed(391);
  EXPECT_EQ(gate.State(392), HostGate::kOpen);
  EXPECT_EQ(gate.until_ms(), 0);
  gate.Fail(400, 400, -1, 0, {});
  EXPECT_EQ(Wait(gate, 400), 125) << "counted anew";
}

TEST(Gate, WhatBeganBeforeItClosedCountsOnce) {
  Gate gate;
  for (int64_t now : {100, 101, 102}) gate.Fail(now, 50, -1, 0, {});
  EXPECT_EQ(gate.until_ms(), 225) << "one failure, however many requests were under way";
  gate.Succeed(60);
  EXPECT_EQ(gate.State(110), HostGate::kGated) << "old news";
  gate.Fail(110, 60, 5000, 0, {});
  EXPECT_EQ(gate.until_ms(), 5110) << "a Retry-After counts always";
  gate.Fail(120, 60, 1000, 0, {});
  EXPECT_EQ(gate.until_ms(), 5110) << "and makes no wait shorter";
}

TEST(Gate, OpensAtOnce) {
  Gate gate;
  EXPECT_FALSE(gate.Open());
  gate.Fail(100, 100, 60000, 0, {});
  EXPECT_TRUE(gate.Open());
  EXPECT_EQ(gate.State(101), HostGate::kOpen);
  EXPECT_EQ(gate.since_ms(), 0);
}

// A round: the window full of requests that take `ms` and bring `bytes` each.
void Round(Window* window, int64_t* now, uint64_t bytes, int64_t ms, uint32_t in_flight) {
  uint32_t size = std::min(window->size(), in_flight);
  for (uint32_t i = 1; i <= size; i++) window->Begin(*now, i);
  *now += ms;
  for (uint32_t i = 0; i < size; i++) window->Succeed(*now, bytes);
}

TEST(Window, IsLargeOnceTheHostHasAnswered) {
  Window window;
  for (uint32_t i = 1; i <= Window::kFirst; i++) window.Begin(1, i);
  EXPECT_EQ(window.size(), Window::kFirst);
  window.Succeed(100, 1000);
  EXPECT_EQ(window.size(), Window::kMost);
}

TEST(Window, IsNotLargeIfTheFirstAnswerIsARefusal) {
  Window window;
  window.Begin(1, 1);
  window.Shrink(100, 1);
  window.Begin(200, 1);
  window.Succeed(300, 1000);
  EXPECT_EQ(window.size(), Window::kFirst / 2);
}

TEST(Window, StaysWhenMoreRequestsBringNoMoreBytes) {
  Window window;
  window.Shrink(0, 0);
  int64_t now = 1;
  for (int i = 0; i < 50; i++)  // a link of 1000 bytes per ms, whatever the window
    Round(&window, &now, 10000, window.size() * 10, 1000);
  EXPECT_LE(window.size(), Window::kFirst / 2 + 1);
}

TEST(Window, GrowsOnlyIfItIsFull) {
  Window window;
  window.Shrink(0, 0);
  int64_t now = 1;
  for (int i = 0; i < 100; i++) Round(&window, &now, 1000, 100, Window::kFirst / 2 - 1);
  EXPECT_EQ(window.size(), Window::kFirst / 2);
}

TEST(Window, HalvesOncePerRoundTripAndNeverToNothing) {
  Window window;
  window.Shrink(100, 90);
  EXPECT_EQ(window.size(), Window::kFirst / 2);
  for (int i = 0; i < 10; i++) window.Shrink(101 + i, 95);  // all sent before that
  EXPECT_EQ(window.size(), Window::kFirst / 2);
  for (int64_t now = 200; now < 300; now++) window.Shrink(now, now);
  EXPECT_EQ(window.size(), 1U);
  // From there it grows by one for each window of successes.
  int64_t now = 1000;
  for (uint32_t i = 1; i <= 5; i++) {
    Round(&window, &now, 1000, 100, 1000);
    EXPECT_EQ(window.size(), 1 + i);
  }
}

}  // namespace
}  // namespace fastoci
