// SPDX-License-Identifier: Apache-2.0
#include "broker/control.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/event_ring.h"
#include "base/packet.h"
#include "broker/notify.h"
#include "control/client.h"
#include "miss/miss_service.h"

namespace fastoci {
namespace {

class ControlTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/control_test.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override { ASSERT_EQ(std::system(("rm -rf " + dir_).c_str()), 0); }
  std::string path() const { return dir_ + "/sock"; }
  UniqueFd Connect() {
    sockaddr_un a = {};
    a.sun_family = AF_UNIX;
    std::memcpy(a.sun_path, path().c_str(), path().size() + 1);
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof(a)), 0);
    return fd;
  }
  static void Turn(ControlServer* s, int times) {
    while (times--) {
      std::vector<pollfd> fds;
      s->AddPollFds(&fds);
      if (::poll(fds.data(), fds.size(), 200) > 0)
        for (const pollfd& f : fds) s->Handle(f);
    }
  }
  static std::string Read(const UniqueFd& fd) {
    char b[65536];
    ssize_t n = ::recv(fd.get(), b, sizeof(b), MSG_DONTWAIT);
    return n > 0 ? std::string(b, static_cast<size_t>(n)) : "";
  }
  std::string dir_;
};

TEST_F(ControlTest, AnswersLinesInOrderAlsoInParts) {
  auto s = ControlServer::Listen(path(), [](const std::string& l, auto&&) { return "<" + l + ">"; });
  ASSERT_TRUE(s.ok()) << s.error().message;
  struct stat st;
  ASSERT_EQ(::stat(path().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  UniqueFd idle = Connect(), c = Connect();
  ASSERT_EQ(::send(c.get(), "a\nb\nhal", 7, 0), 7);
  Turn(s->get(), 5);
  ASSERT_EQ(::send(c.get(), "f\n", 2, 0), 2);
  Turn(s->get(), 2);
  EXPECT_EQ(Read(c), "<a>\n<b>\n<half>\n");
  EXPECT_EQ(Read(idle), "");
}

TEST_F(ControlTest, HandsDescriptorsOverWithTheirLine) {
  std::vector<size_t> counts;
  std::string read;
  auto s = ControlServer::Listen(path(), [&](const std::string& l, std::vector<UniqueFd> fds) {
    counts.push_back(fds.size());
    char text[8] = {};
    if (!fds.empty() && ::pread(fds[0].get(), text, sizeof(text) - 1, 0) > 0) read = text;
    return l;
  });
  ASSERT_TRUE(s.ok());
  std::atomic<bool> done = false;
  std::thread server([&] {
    while (!done) Turn(s->get(), 1);
  });
  UniqueFd file(::memfd_create("test", MFD_CLOEXEC)), other(::dup(file.get()));
  EXPECT_EQ(::write(file.get(), "hello", 5), 5);
  const int fds[] = {file.get(), other.get()};
  EXPECT_TRUE(CallHelper(path(), {{"ok", true}}, 5000, fds).ok());
  EXPECT_TRUE(CallHelper(path(), {{"ok", true}}, 5000).ok());
  // More than any request has: the client is dropped, and they are closed.
  UniqueFd greedy = Connect();
  for (int i = 0; i < 5; i++) (void)SendPacket(greedy.get(), AsBytes("x"), fds).ok();
  char byte;
  EXPECT_LE(::recv(greedy.get(), &byte, 1, 0), 0);
  done = true;
  server.join();
  EXPECT_EQ(counts, (std::vector<size_t>{2, 0}));
  EXPECT_EQ(read, "hello");
}

TEST_F(ControlTest, StreamsEventsToWhoFollows) {
  EventRing ring(10);
  ring.Add({{"event", "before"}});
  auto s = ControlServer::Listen(path(), [&](const std::string& l, auto&&) {
    return HandleEvents(&ring, nlohmann::json::parse(l, nullptr, false));
  });
  ASSERT_TRUE(s.ok());
  UniqueFd follower = Connect(), once = Connect();
  const std::string follow = R"({"op":"events","follow":true})" "\n", recent = R"({"op":"events"})" "\n";
  ASSERT_GT(::send(follower.get(), follow.data(), follow.size(), 0), 0);
  ASSERT_GT(::send(once.get(), recent.data(), recent.size(), 0), 0);
  Turn(s->get(), 6);
  for (UniqueFd* fd : {&follower, &once}) {
    const std::string got = Read(*fd);
    EXPECT_EQ(got.rfind(R"({"last":1,"ok":true})" "\n", 0), 0U) << got;
    EXPECT_NE(got.find("before"), std::string::npos);
  }
  ring.Add({{"event", "after"}});
  Turn(s->get(), 2);
  EXPECT_NE(Read(follower).find("after"), std::string::npos);
  EXPECT_EQ(Read(once), "");
  // Who reads nothing is not waited for, and costs no more than what is ahead.
  UniqueFd lazy = Connect();
  ASSERT_GT(::send(lazy.get(), follow.data(), follow.size(), 0), 0);
  for (int i = 0; i < 100; i++) {
    for (int k = 0; k < 10; k++) ring.Add({{"event", std::string(4000, 'x')}});
    Turn(s->get(), 1);
    Read(follower);
  }
  ring.Add({{"event", "still here"}});
  std::string got;
  for (int i = 0; i < 20 && got.find("still here") == std::string::npos; i++) {
    Turn(s->get(), 1);
    got += Read(follower);
  }
  EXPECT_NE(got.find("still here"), std::string::npos);
}

TEST_F(ControlTest, TracesAsLongAsSomebodyListens) {
  auto made = MissService::Make({}, nullptr, {});
  ASSERT_TRUE(made.ok()) << made.error().message;
  MissService& service = **made;
  auto s = ControlServer::Listen(path(), [&](const std::string&, auto&&) { return HandleTrace(&service); });
  ASSERT_TRUE(s.ok());
  const auto now = std::chrono::steady_clock::now();
  const MissTracer::Chunk chunk{.blob = {}, .chunk_no = 7, .since = now, .picked = now, .end = now, .ok = true};
  service.tracer()->Add(chunk);  // nobody wants it
  EXPECT_FALSE(service.tracer()->on());
  UniqueFd c = Connect();
  ASSERT_EQ(::send(c.get(), "x\n", 2, 0), 2);
  Turn(s->get(), 3);
  EXPECT_EQ(Read(c), "{\"ok\":true}\n");
  EXPECT_TRUE(service.tracer()->on());
  service.tracer()->Add(chunk);
  Turn(s->get(), 2);
  EXPECT_NE(Read(c).find("\"chunk\":7"), std::string::npos);
  c.reset();
  Turn(s->get(), 2);
  EXPECT_FALSE(service.tracer()->on());
}

TEST_F(ControlTest, FollowHelperHandsOverLinesUntilItIsTold) {
  EventRing ring(10);
  auto s = ControlServer::Listen(path(), [&](const std::string& l, auto&&) {
    return HandleEvents(&ring, nlohmann::json::parse(l, nullptr, false));
  });
  ASSERT_TRUE(s.ok());
  std::atomic<bool> done = false;
  std::thread server([&] {
    while (!done) Turn(s->get(), 1);
  });
  std::vector<std::string> lines;
  int quiet = 0;
  Status status = FollowHelper(path(), {{"op", "events"}, {"follow", true}}, 5000, [&](const std::string& line) {
    if (line.empty()) return ++quiet < 3;
    if (lines.empty()) ring.Add({{"event", "later"}});
    lines.push_back(line);
    return true;
  });
  EXPECT_TRUE(status.ok());
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_NE(lines[1].find("later"), std::string::npos);
  status = FollowHelper(path(), {{"op", "events"}, {"follow", true}}, 5000, [&](const std::string& line) {
    if (!line.empty()) return true;
    done = true;
    if (server.joinable()) server.join();
    *s = nullptr;
    return true;
  });
  EXPECT_EQ(status.error().err, EPIPE);
  EXPECT_EQ(FollowHelper(path(), {{"op", "events"}}, 100, [](const std::string&) { return true; }).error().kind,
            ErrorKind::kUnavailable);
}

TEST_F(ControlTest, WhatIsLeftIsSentAtTheEnd) {
  EventRing ring(10);
  auto s = ControlServer::Listen(path(), [&](const std::string& l, auto&&) {
    return HandleEvents(&ring, nlohmann::json::parse(l, nullptr, false));
  });
  ASSERT_TRUE(s.ok());
  UniqueFd c = Connect();
  const std::string follow = R"({"op":"events","follow":true})" "\n";
  ASSERT_GT(::send(c.get(), follow.data(), follow.size(), 0), 0);
  Turn(s->get(), 3);
  Read(c);
  ring.Add({{"event", "stop"}});
  (*s)->Flush();
  EXPECT_NE(Read(c).find("stop"), std::string::npos);
}

TEST_F(ControlTest, AnEndlessLineEndsItsConnectionOnly) {
  auto s = ControlServer::Listen(path(), [](const std::string& l, auto&&) { return l; });
  ASSERT_TRUE(s.ok());
  UniqueFd c = Connect();
  std::string big(ControlServer::kMaxLineBytes + 1, 'x');
  ASSERT_EQ(::send(c.get(), big.data(), big.size(), 0), static_cast<ssize_t>(big.size()));
  Turn(s->get(), 25);
  EXPECT_EQ(::send(c.get(), "x", 1, MSG_NOSIGNAL), -1);
  UniqueFd d = Connect();
  ASSERT_EQ(::send(d.get(), "y\n", 2, 0), 2);
  Turn(s->get(), 3);
  EXPECT_EQ(Read(d), "y\n");
}

TEST_F(ControlTest, TakesTheSocketOfADeadHelperOnly) {
  auto echo = [](const std::string& l, auto&&) { return l; };
  auto s = ControlServer::Listen(path(), echo);
  ASSERT_TRUE(s.ok());
  auto second = ControlServer::Listen(path(), echo);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().err, EADDRINUSE);
  *s = nullptr;
  EXPECT_NE(::access(path().c_str(), F_OK), 0);
  {  // what a killed one leaves behind
    sockaddr_un a = {};
    a.sun_family = AF_UNIX;
    std::memcpy(a.sun_path, path().c_str(), path().size() + 1);
    UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&a), sizeof(a)), 0);
  }
  EXPECT_TRUE(ControlServer::Listen(path(), echo).ok());
}

TEST(HandleControl, AnswersEachOp) {
  auto made = MissService::Make({}, nullptr, {});
  ASSERT_TRUE(made.ok()) << made.error().message;
  MissService& service = **made;
  auto call = [&](const char* line) {
    return HandleControl(&service, "/dev/loop7", nlohmann::json::parse(line, nullptr, false));
  };
  EXPECT_TRUE(call(R"({"op":"ping"})")["ok"].get<bool>());
  EXPECT_EQ(call(R"({"op":"cache"})")["device"], "/dev/loop7");
  EXPECT_EQ(call(R"({"op":"cache"})")["refuses"], "") << "no image uses it";
  auto stat = call(R"({"op":"stat"})");
  EXPECT_EQ(stat["counters"]["misses"], 0);
  EXPECT_TRUE(stat["images"].is_array());
  for (const char* bad :
       {"", "[]", "{", "{\"op\":3}", "{\"op\":\"no\xff\"}", "{\"op\":\"nonsense\"}"})
    EXPECT_TRUE(call(bad).contains("error")) << bad;
  EXPECT_EQ(ControlLine({{"name", "a\xff"}}), R"({"name":"a\ufffd"})");
}

TEST(Notify, TellsAnAbstractSocket) {
  const std::string name = "fastoci-notify-test-" + std::to_string(::getpid());
  sockaddr_un a = {};
  a.sun_family = AF_UNIX;
  std::memcpy(a.sun_path + 1, name.data(), name.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&a),
                   static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size())), 0);
  ::setenv("NOTIFY_SOCKET", ("@" + name).c_str(), 1);
  NotifySystemd("READY=1");
  ::unsetenv("NOTIFY_SOCKET");
  char b[32] = {};
  EXPECT_EQ(::recv(fd.get(), b, sizeof(b), MSG_DONTWAIT), 7);
  EXPECT_STREQ(b, "READY=1");
}

}  // namespace
}  // namespace fastoci
