// SPDX-License-Identifier: Apache-2.0
// The real fetcher with credentials that are needed, shared, refused, expired and
// renewed.
#include "fetcher/fetcher_test.h"
#include "base/monotonic.h"

namespace fastoci {
namespace {

// How a registry answers a wrong Authorization.
StubHabits Refusal(int status, const std::string& body) {
  StubHabits habits;
  habits.refused_status = status;
  habits.refused_body = body;
  return habits;
}

using Auth = StubRegistry::Auth;

class FetcherCredentials : public FetcherTest {
 protected:
  void SetUp() override {
    FetcherTest::SetUp();
    // Out of nobody's reach: only the keeper can open it.
    secret_dir_ = dir_ + "/secret";
    ASSERT_EQ(mkdir(secret_dir_.c_str(), 0700), 0);
    path_ = secret_dir_ + "/config.json";
  }
  // For each registry: the password of "user".
  void Store(const std::vector<std::pair<const StubRegistry*, std::string>>& passwords) {
    std::string json;
    for (const auto& [stub, password] : passwords)
      json += (json.empty() ? "" : ",") + ("\"" + stub->host()) +
              R"(":{"username":"user","password":")" + password + "\"}";
    ASSERT_TRUE(WriteFileAtomic(path_, AsBytes(R"({"auths":{)" + json + "}}"), 0600).ok());
  }
  void Start() { Restart({"--credentials", path_, "--retry-scale", "1000"}); }

  std::string secret_dir_, path_;
};

TEST_F(FetcherCredentials, OneTokenForAllWhoWait) {
  stub_.RequireAuth(Auth::kBearer, "user", "right");
  Store({{&stub_, "right"}});
  Start();
  std::vector<uint32_t> ids;
  for (uint64_t i = 0; i < 20; i++) ids.push_back(Begin(there_, i * 1000, 1000));
  FetchTally sum;
  for (uint32_t id : ids) {
    FetchEvent e = End(id);
    ExpectGood(e);
    sum.requests += e.tally.requests;
    sum.tokens += e.tally.tokens;
  }
  EXPECT_EQ(stub_.CountRequests("GET", "/token"), 1);
  EXPECT_EQ(sum.tokens, 1U);
  EXPECT_EQ(sum.requests, static_cast<uint32_t>(stub_.CountRequests("GET", "")));
  // From then on nothing is refused.
  FetchEvent e = Run(there_, 5, 1000);
  EXPECT_EQ(e.tally.requests, 1U);
}

// Whatever a registry calls it: the Fetch that meets it goes on with a new token.
TEST_F(FetcherCredentials, ExpiredTokensAreReplaced) {
  struct Case {
    int status;
    std::string body;
  };
  for (const Case& c : std::vector<Case>{
           {401, ""},
           {403, "Your authorization token has expired. Reauthenticate and try again."},
           {400, R"({"errors":[{"code":"DENIED","message":"Your Authorization Token is invalid."}]})"}}) {
    SCOPED_TRACE(c.status);
    stub_.SetHabits({});
    stub_.RequireAuth(Auth::kBearer, "user", "right");
    Store({{&stub_, "right"}});
    Start();
    ExpectGood(Run(there_, 10, 1000));
    stub_.SetHabits(Refusal(c.status, c.body));
    stub_.RequireAuth(Auth::kBearer, "user", "right");  // forgets its tokens
    FetchEvent e = Run(there_, 10, 1000);
    ExpectGood(e);
    EXPECT_EQ(e.tally.requests, 3U) << "refused, the token, served";
    EXPECT_EQ(e.tally.retries, 1U);
    EXPECT_EQ(e.tally.tokens, 1U);
  }
}

// A password that is refused, also as ECR says it, closes the gate of its
// repository, and a new file opens it.
TEST_F(FetcherCredentials, ANewFileOpensWhatCredentialsClosed) {
  struct Case {
    Auth auth;
    int status;
  };
  for (const Case& c : {Case{Auth::kBasic, 401}, Case{Auth::kBearer, 401}, Case{Auth::kBasic, 403},
                        Case{Auth::kBasic, 400}}) {
    SCOPED_TRACE(c.status);
    stub_.SetHabits({});
    stub_.RequireAuth(c.auth, "user", "first");
    Store({{&stub_, "first"}});
    Start();
    ExpectGood(Run(there_, 10, 1000));
    stub_.SetHabits(
        Refusal(c.status, c.status == 401 ? "" : "denied: Your authorization token has expired"));
    stub_.RequireAuth(c.auth, "user", "second");
    FetchEvent e = Run(there_, 10, 1000);
    ExpectFailed(e, FetchOutcome::kTransient, EACCES, "credentials: ");
    EXPECT_EQ(e.error.message.find("first"), std::string::npos) << e.error.message;
    EXPECT_EQ(hosts_[there_.host].gate, HostGate::kOpen) << "only the repository's";
    EXPECT_GT(e.retry_at_ms, MonotonicMs());
    e = Run(there_, 10, 1000);
    ExpectFailed(e, FetchOutcome::kGated, EAGAIN, "credentials: ");
    Store({{&stub_, "second"}});
    WaitForHost(there_.host, [](const HostState& h) { return h.openings > 0; });
    ExpectGood(Run(there_, 10, 1000));
  }
}

TEST_F(FetcherCredentials, ABrokenFileSpoilsNothingAndADeletedOneCounts) {
  stub_.RequireAuth(Auth::kBearer, "user", "right");
  Start();  // no file yet
  ExpectFailed(Run(there_, 10, 1000), FetchOutcome::kTransient, EACCES, "credentials: ");
  Store({{&stub_, "right"}});
  WaitForHost(there_.host, [](const HostState& h) { return h.openings > 0; });
  ExpectGood(Run(there_, 10, 1000));
  ASSERT_TRUE(WriteFileAtomic(path_, AsBytes(std::string("{")), 0600).ok());
  stub_.RequireAuth(Auth::kBearer, "user", "right");  // forgets its tokens
  ExpectGood(Run(there_, 10, 1000));
  ASSERT_EQ(unlink(path_.c_str()), 0);
  stub_.RequireAuth(Auth::kBearer, "user", "right");
  ExpectFailed(Run(there_, 10, 1000), FetchOutcome::kTransient, EACCES, "credentials: ");
  const uint32_t before = hosts_[there_.host].openings;
  Store({{&stub_, "right"}});
  WaitForHost(there_.host, [&](const HostState& h) { return h.openings > before; });
  ExpectGood(Run(there_, 10, 1000));
}

// A login that is revoked makes nobody else ask for tokens anew.
TEST_F(FetcherCredentials, OneLoginConcernsItsOwnTokens) {
  StubRegistry other;
  other.AddBlob(data_);
  for (StubRegistry* s : {&stub_, &other}) s->RequireAuth(Auth::kBearer, "user", "right");
  Store({{&stub_, "right"}, {&other, "right"}});
  Start();
  FetchLocation elsewhere = Open(2, RegistrySource(other));
  ExpectGood(Run(there_, 10, 1000));
  ExpectGood(Run(elsewhere, 10, 1000));
  stub_.RequireAuth(Auth::kBearer, "user", "changed");
  ExpectFailed(Run(there_, 10, 1000), FetchOutcome::kTransient, EACCES, "credentials: ");
  ExpectGood(Run(elsewhere, 10, 1000));
  Store({{&stub_, "changed"}, {&other, "right"}});
  WaitForHost(there_.host, [](const HostState& h) { return h.openings > 0; });
  ExpectGood(Run(there_, 10, 1000));
  ExpectGood(Run(elsewhere, 10, 1000));
  EXPECT_EQ(other.CountRequests("GET", "/token"), 1);
  EXPECT_EQ(hosts_[elsewhere.host].openings, 0U);
}

TEST_F(FetcherCredentials, AccountsThatDifferByRepositoryAreGatedApart) {
  stub_.RequireAuth(Auth::kBasic, "user", "right");
  std::string json = R"({"auths":{")" + stub_.host() +
                     R"(/demo":{"username":"user","password":"wrong"},")" + stub_.host() +
                     R"(":{"username":"user","password":"right"}}})";
  ASSERT_TRUE(WriteFileAtomic(path_, AsBytes(json), 0600).ok());
  Start();
  ExpectFailed(Run(there_, 10, 1000), FetchOutcome::kTransient, EACCES, "credentials: ");
  ExpectGood(Run(Open(2, RegistrySource(stub_, "other")), 10, 1000));
  ExpectFailed(Run(there_, 10, 1000), FetchOutcome::kGated, EAGAIN, "credentials: ");
}

}  // namespace
}  // namespace fastoci
