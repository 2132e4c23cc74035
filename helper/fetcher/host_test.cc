// SPDX-License-Identifier: Apache-2.0
#include "fetcher/host.h"

#include <gtest/gtest.h>

#include <vector>

namespace fastoci {
namespace {

using Fault = FetchVerdict::Fault;
constexpr char kScope[] = "h.io/a";

class HostTest : public testing::Test {
 protected:
  static FetchVerdict Failure(Fault fault, int64_t retry_after_ms = -1) {
    FetchVerdict v;
    v.outcome = FetchOutcome::kTransient;
    v.fault = fault;
    v.retry_after_ms = retry_after_ms;
    v.cause = "HTTP 503";
    v.http_status = 503;
    v.requests = 1;
    return v;
  }
  static FetchVerdict Of(FetchOutcome outcome) {
    FetchVerdict v;
    v.outcome = outcome;
    v.requests = 1;
    v.bytes = outcome == FetchOutcome::kDone ? 1000 : 0;
    return v;
  }
  // Until when it is refused; -1: let in.
  int64_t Refused(int64_t now, const std::string& scope = kScope, uint32_t location = 1) {
    Host::Refusal refusal;
    Host::Ticket ticket;
    if (!host_.Enter(now, scope, location, &ticket, &refusal)) return refusal.retry_at_ms;
    host_.Leave(now, ticket, Of(FetchOutcome::kCanceled));
    return -1;
  }
  int64_t Run(int64_t started, int64_t ended, const FetchVerdict& verdict,
              const std::string& scope = kScope, uint32_t location = 1) {
    Host::Ticket ticket;
    EXPECT_TRUE(host_.Enter(started, scope, location, &ticket, &refusal_));
    return host_.Leave(ended, ticket, verdict);
  }

  Host host_{7, "https://h.io", {}, [] { return 0U; }};
  Host::Refusal refusal_;
};

// What each kind of failure closes, for the same blob, another blob of the same
// repository, and another repository.
TEST_F(HostTest, FaultsCloseTheGateThatTheyBelongTo) {
  struct Case {
    const char* name;
    FetchVerdict verdict;
    bool same, blob, repository;
    HostGate gate;
  };
  const std::vector<Case> cases = {
      {"429", Failure(Fault::kOverload, 60000), true, true, true, HostGate::kGated},
      {"no answer, 5xx", Failure(Fault::kServer), true, true, true, HostGate::kGated},
      {"credentials", Failure(Fault::kCredentials), true, true, false, HostGate::kOpen},
      {"token server", Failure(Fault::kTokenServer), true, true, false, HostGate::kOpen},
      {"an odd status", Failure(Fault::kLocation), true, false, false, HostGate::kOpen},
      {"404", Of(FetchOutcome::kGone), false, false, false, HostGate::kOpen},
      {"wrong size", Of(FetchOutcome::kMismatch), false, false, false, HostGate::kOpen},
      {"canceled", Of(FetchOutcome::kCanceled), false, false, false, HostGate::kOpen},
      {"done", Of(FetchOutcome::kDone), false, false, false, HostGate::kOpen},
  };
  for (const Case& c : cases) {
    Host host(7, "https://h.io", {}, [] { return 0U; });
    Host::Ticket ticket;
    Host::Refusal refusal;
    ASSERT_TRUE(host.Enter(1000, kScope, 1, &ticket, &refusal));
    int64_t until = host.Leave(1001, ticket, c.verdict);
    EXPECT_EQ(until != 0, c.same) << c.name;
    auto refused = [&](const char* scope, uint32_t location) {
      Host::Ticket t;
      if (!host.Enter(1002, scope, location, &t, &refusal)) return true;
      host.Leave(1002, t, Of(FetchOutcome::kCanceled));
      return false;
    };
    EXPECT_EQ(refused(kScope, 1), c.same) << c.name;
    EXPECT_EQ(refused(kScope, 2), c.blob) << c.name;
    EXPECT_EQ(refused("h.io/b", 3), c.repository) << c.name;
    EXPECT_EQ(host.Reply(1002).gate, c.gate) << c.name;
    EXPECT_EQ(host.in_flight(), 0U) << c.name;
    EXPECT_EQ(!host.WaitForCredentials().empty(), c.verdict.fault == Fault::kCredentials) << c.name;
  }
}

TEST_F(HostTest, NoRequestBeforeTheTimeThatA429Names) {
  EXPECT_EQ(Run(1000, 1010, Failure(Fault::kOverload, 60000)), 61010);
  for (int64_t now : {1011, 30000, 61009}) EXPECT_EQ(Refused(now), std::max(now + 100, INT64_C(61010)));
  EXPECT_EQ(Refused(61010), -1);
  WorkReply m = host_.Reply(61010);
  EXPECT_EQ(m.gate, HostGate::kProbing);
  EXPECT_EQ(m.window, 1U);
  EXPECT_EQ(m.since_ms, 1010);
  EXPECT_STREQ(m.text, "HTTP 503");
  EXPECT_EQ(m.http_status, 503U);
}

TEST_F(HostTest, OneProbeThenAllOrNone) {
  Run(1000, 1000, Failure(Fault::kServer));  // until 1125
  Host::Ticket probe, other;
  ASSERT_TRUE(host_.Enter(1125, kScope, 1, &probe, &refusal_));
  EXPECT_FALSE(host_.Enter(1126, kScope, 2, &other, &refusal_));
  EXPECT_GT(refusal_.retry_at_ms, 1126);
  EXPECT_EQ(host_.Leave(1130, probe, Failure(Fault::kServer)), 1130 + 250);
  ASSERT_TRUE(host_.Enter(1380, kScope, 1, &probe, &refusal_));
  EXPECT_EQ(host_.Leave(1390, probe, Of(FetchOutcome::kDone)), 0);
  EXPECT_EQ(host_.Reply(1390).gate, HostGate::kOpen);
  EXPECT_EQ(Refused(1391), -1);
  // A blob that is not there shows as well that the host answers.
  Run(2000, 2000, Failure(Fault::kServer));
  ASSERT_TRUE(host_.Enter(2125, kScope, 9, &probe, &refusal_));
  host_.Leave(2130, probe, Of(FetchOutcome::kGone));
  EXPECT_EQ(host_.Reply(2130).gate, HostGate::kOpen);
}

TEST_F(HostTest, AFailureWhileOthersSucceedConcernsItsBlob) {
  Host::Ticket a, b;
  ASSERT_TRUE(host_.Enter(1000, kScope, 1, &a, &refusal_));
  ASSERT_TRUE(host_.Enter(1000, kScope, 2, &b, &refusal_));
  host_.Leave(1050, a, Of(FetchOutcome::kDone));
  uint32_t window = host_.Reply(1050).window;
  EXPECT_EQ(host_.Leave(1060, b, Failure(Fault::kServer)), 1060 + 125);
  EXPECT_EQ(host_.Reply(1060).gate, HostGate::kOpen);
  EXPECT_EQ(host_.Reply(1060).window, window / 2);
  EXPECT_EQ(Refused(1070, kScope, 1), -1);
  EXPECT_EQ(Refused(1070, kScope, 2), 1185);
  Run(1185, 1190, Of(FetchOutcome::kDone), kScope, 2);
  EXPECT_EQ(Refused(1191, kScope, 2), -1);
}

TEST_F(HostTest, TheWindowIsALimit) {
  std::vector<Host::Ticket> tickets(Window::kFirst);
  for (uint32_t i = 0; i < Window::kFirst; i++)
    ASSERT_TRUE(host_.Enter(10, kScope, i, &tickets[i], &refusal_));
  Host::Ticket more;
  EXPECT_FALSE(host_.Enter(10, kScope, 99, &more, &refusal_));
  EXPECT_EQ(refusal_.retry_at_ms, 0);
  EXPECT_NE(refusal_.cause.find("its limit now"), std::string::npos);
  host_.Leave(20, tickets[0], Of(FetchOutcome::kDone));
  EXPECT_TRUE(host_.Enter(20, kScope, 99, &more, &refusal_));
}

TEST_F(HostTest, OpensEarly) {
  EXPECT_FALSE(host_.Open());
  Run(1000, 1000, Failure(Fault::kCredentials));
  Run(1000, 1000, Failure(Fault::kTokenServer), "h.io/b");
  EXPECT_EQ(host_.WaitForCredentials(), std::vector<std::string>{kScope});
  EXPECT_FALSE(host_.OpenForCredentials("h.io/b")) << "no credentials closed that one";
  EXPECT_TRUE(host_.OpenForCredentials(kScope));
  EXPECT_EQ(Refused(1001), -1);
  EXPECT_NE(Refused(1001, "h.io/b"), -1) << "no credentials closed that one";
  EXPECT_EQ(host_.Reply(1001).openings, 1U);
  Run(1002, 1002, Failure(Fault::kOverload, 60000));
  EXPECT_TRUE(host_.Open());
  EXPECT_EQ(Refused(1003, "h.io/b"), -1);
  EXPECT_EQ(host_.Reply(1003).openings, 2U);
}

TEST_F(HostTest, ForgetsGatesThatNobodyComesTo) {
  Run(1000, 1000, Failure(Fault::kCredentials));
  host_.Prune(600000);
  EXPECT_FALSE(host_.WaitForCredentials().empty());
  host_.Prune(700000);
  EXPECT_TRUE(host_.WaitForCredentials().empty());
}

TEST_F(HostTest, TellsOfChangesAndCounts) {
  EXPECT_TRUE(host_.TakeChanged(1));
  EXPECT_FALSE(host_.TakeChanged(1));
  EXPECT_EQ(host_.NextChangeMs(1), INT64_MAX);
  Run(100, 100, Failure(Fault::kServer));
  EXPECT_TRUE(host_.TakeChanged(100));
  EXPECT_EQ(host_.NextChangeMs(100), 225);
  EXPECT_FALSE(host_.TakeChanged(224));
  EXPECT_TRUE(host_.TakeChanged(225)) << "probing now";
  Run(300, 301, Of(FetchOutcome::kDone));
  EXPECT_TRUE(host_.TakeChanged(301));
  WorkReply m = host_.Reply(301);
  EXPECT_STREQ(m.name, "https://h.io");
  EXPECT_EQ(m.host, 7U);
  EXPECT_EQ(m.host_requests, 2U);
  EXPECT_EQ(m.host_bytes, 1000U);
  EXPECT_EQ(m.outcomes[static_cast<size_t>(FetchOutcome::kDone)], 1U);
  EXPECT_EQ(m.outcomes[static_cast<size_t>(FetchOutcome::kTransient)], 1U);
}

TEST(LocalHost, OnlyTheFileThatFailsWaits) {
  Host files(kLocalHost, "files", {}, [] { return 0U; });
  Host::Ticket ticket;
  Host::Refusal refusal;
  FetchVerdict failure;
  failure.outcome = FetchOutcome::kTransient;
  failure.fault = Fault::kServer;
  ASSERT_TRUE(files.Enter(10, "/", 1, &ticket, &refusal));
  EXPECT_EQ(files.Leave(10, ticket, failure), 135);
  EXPECT_EQ(files.Reply(10).gate, HostGate::kOpen);
  EXPECT_FALSE(files.Enter(11, "/", 1, &ticket, &refusal));
  EXPECT_TRUE(files.Enter(11, "/", 2, &ticket, &refusal));
}

}  // namespace
}  // namespace fastoci
