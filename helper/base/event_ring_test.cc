// SPDX-License-Identifier: Apache-2.0
#include "base/event_ring.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace fastoci {
namespace {

std::vector<nlohmann::json> Lines(const std::string& text) {
  std::vector<nlohmann::json> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(nlohmann::json::parse(line));
  return out;
}

bool Readable(const EventRing& ring) {
  pollfd fd = {ring.fd(), POLLIN, 0};
  return ::poll(&fd, 1, 0) == 1;
}

TEST(EventRing, KeepsTheLastOnesAndTellsSlowReadersWhatTheyMissed) {
  EventRing ring(3);
  uint64_t early = 0, late = 0;
  EXPECT_EQ(ring.TakeBehind(&early, 1000), "");
  ring.Add({{"event", "a"}});
  auto got = Lines(ring.TakeBehind(&early, 1000));
  ASSERT_EQ(got.size(), 1U);
  EXPECT_EQ(got[0]["seq"], 1);
  EXPECT_GT(got[0]["time"].get<double>(), 1.6e9);
  for (int i = 0; i < 5; i++) ring.Add({{"event", "b"}});
  EXPECT_EQ(ring.last(), 6U);
  got = Lines(ring.TakeBehind(&late, 1000));  // who comes late lost nothing
  ASSERT_EQ(got.size(), 3U);
  EXPECT_EQ(got[0]["seq"], 4);
  got = Lines(ring.TakeBehind(&early, 1000));
  ASSERT_EQ(got.size(), 4U);
  EXPECT_EQ(got[0]["event"], "lost");
  EXPECT_EQ(got[0]["count"], 2);
  EXPECT_EQ(got[3]["seq"], 6);
  EXPECT_EQ(ring.TakeBehind(&early, 1000), "");
}

TEST(EventRing, HandsOutInParts) {
  EventRing ring(100);
  for (int i = 0; i < 10; i++) ring.Add({{"event", std::string(100, 'x')}});
  uint64_t cursor = 0;
  std::string all;
  for (int turns = 0; turns < 10; turns++) {
    const std::string part = ring.TakeBehind(&cursor, 1);
    EXPECT_EQ(Lines(part).size(), 1U);
    all += part;
  }
  EXPECT_EQ(Lines(all).size(), 10U);
  EXPECT_EQ(cursor, 10U);
  cursor = 77;  // of an earlier helper
  EXPECT_EQ(ring.TakeBehind(&cursor, 1000), "");
}

TEST(EventRing, WakesItsPollerOnce) {
  EventRing ring(2);
  EXPECT_FALSE(Readable(ring));
  ring.Add({});
  ring.Add({});
  EXPECT_TRUE(Readable(ring));
  ring.Quiet();
  EXPECT_FALSE(Readable(ring));
}

TEST(EventRing, TakesNoLineWithoutABound) {
  EventRing ring(2);
  ring.Add({{"event", std::string(EventRing::kMaxLineBytes, 'x')}});
  ring.Add({{"event", "not \xff UTF-8"}});
  uint64_t cursor = 0;
  EXPECT_EQ(Lines(ring.TakeBehind(&cursor, 1)).at(0)["seq"], 1);
}

TEST(EventJson, NamesWhatARecordSpeaksOf) {
  const auto event = EventJson(LogLevel::kWarning,
                               {.kind = "retry", .image = "demo", .blob = "sha256:ab", .chunk = 0},
                               "try 1");
  EXPECT_EQ(event, nlohmann::json::parse(R"({"event": "retry", "level": "warning",
      "message": "try 1", "image": "demo", "blob": "sha256:ab", "chunk": 0})"));
}

TEST(LogSink, GetsEventsOfAllLevelsAndPlainRecords) {
  std::vector<std::string> got;
  SetLogSink([&](LogLevel, const EventFields& f, const std::string& text) {
    got.push_back(std::string(f.kind) + ":" + text);
  });
  SetLogLevel(LogLevel::kError);
  LogEvent(LogLevel::kDebug, {.kind = "evict"}, "%d chunks", 3);
  Log(LogLevel::kDebug, "not this one");
  Log(LogLevel::kError, "but this");
  SetLogLevel(LogLevel::kInfo);
  SetLogSink(nullptr);
  EXPECT_EQ(got, (std::vector<std::string>{"evict:3 chunks", "log:but this"}));
}

TEST(JournalRecord, IsTheNativeProtocols) {
  EXPECT_EQ(JournalRecord(LogLevel::kError, "fastoci-helperd",
                          {.kind = "rotten", .image = "demo", .blob = "sha256:ab", .chunk = 7},
                          "bad"),
            "PRIORITY=3\nSYSLOG_IDENTIFIER=fastoci-helperd\nMESSAGE=bad\nFASTOCI_EVENT=rotten\n"
            "FASTOCI_IMAGE=demo\nFASTOCI_BLOB=sha256:ab\nFASTOCI_CHUNK=7\n");
  // What has a newline cannot smuggle a field in.
  EXPECT_EQ(JournalRecord(LogLevel::kInfo, "p", {}, "a\nFASTOCI_IMAGE=x"),
            std::string("PRIORITY=6\nSYSLOG_IDENTIFIER=p\nMESSAGE\n") +
                std::string("\x11\0\0\0\0\0\0\0", 8) + "a\nFASTOCI_IMAGE=x\nFASTOCI_EVENT=log\n");
}

}  // namespace
}  // namespace fastoci
