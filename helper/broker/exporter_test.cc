// SPDX-License-Identifier: Apache-2.0
#include "broker/exporter.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

namespace fastoci {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class ExporterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Status s = exporter_.Configure({.enable = true, .port = 0});
    ASSERT_TRUE(s.ok()) << s.error().message;
  }
  void Turn() {  // of the poll loop
    std::vector<pollfd> fds;
    exporter_.AddPollFds(&fds);
    if (::poll(fds.data(), fds.size(), 20) > 0)
      for (const pollfd& fd : fds) exporter_.Handle(fd);
  }
  UniqueFd Connect() {
    sockaddr_in a = {};
    a.sin_family = AF_INET;
    a.sin_port = htons(exporter_.port());
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof(a)), 0);
    return fd;
  }
  std::string Ask(const std::string& request) {
    UniqueFd fd = Connect();
    EXPECT_EQ(::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(request.size()));
    std::string reply;
    for (int i = 0; i < 100; i++) {
      Turn();
      char buffer[4096];
      ssize_t n = ::recv(fd.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
      if (n > 0) reply.append(buffer, static_cast<size_t>(n));
      if (n == 0 || (n < 0 && errno == ECONNRESET)) return reply;
    }
    return reply + " (not closed)";
  }
  Exporter exporter_{[] { return "x 1\n"; }};
};

TEST_F(ExporterTest, AnswersItsPathAndNoOther) {
  const std::string good = Ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(good, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(good, HasSubstr("\r\nContent-Length: 4\r\n"));
  EXPECT_THAT(good, ::testing::EndsWith("\r\n\r\nx 1\n"));
  EXPECT_THAT(Ask("GET /metrics?a=b HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Ask("GET /metricsx HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Ask("POST /metrics HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Ask("GET\r\n\r\n"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Ask("GET \r\n\r\n"), StartsWith("HTTP/1.1 404"));
}

TEST_F(ExporterTest, ClosesOnTooLongARequest) {
  EXPECT_EQ(Ask(std::string(Exporter::kMaxRequestBytes, 'G')), "");
}

TEST_F(ExporterTest, SilentClientsKeepNobodyOut) {
  std::vector<UniqueFd> silent;
  for (size_t i = 0; i < Exporter::kMaxClients + 3; i++) {
    silent.push_back(Connect());
    Turn();
  }
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST_F(ExporterTest, ServesElsewhereWhenToldSoAndNothingWhenDisabled) {
  ASSERT_TRUE(exporter_.Configure({.enable = true, .port = 0, .path = "/m"}).ok());
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Ask("GET /m HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  ASSERT_TRUE(exporter_.Configure({.enable = false}).ok());
  EXPECT_EQ(exporter_.port(), 0);
  std::vector<pollfd> fds;
  exporter_.AddPollFds(&fds);
  EXPECT_TRUE(fds.empty());
}

TEST_F(ExporterTest, TakesAPortAsSoonAsItsHolderLeavesIt) {
  const MetricsConfig same = {.enable = true, .port = exporter_.port()};
  Exporter second([] { return "y 2\n"; });
  Status s = second.Configure(same);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().err, EADDRINUSE);
  EXPECT_THAT(s.error().message, HasSubstr("127.0.0.1:" + std::to_string(same.port)));
  std::vector<pollfd> fds;
  second.AddPollFds(&fds);
  EXPECT_TRUE(fds.empty());
  ASSERT_TRUE(exporter_.Configure({.enable = false}).ok());
  second.AddPollFds(&fds);
  EXPECT_EQ(fds.size(), 1U);
  EXPECT_EQ(second.port(), same.port);
}

}  // namespace
}  // namespace fastoci
