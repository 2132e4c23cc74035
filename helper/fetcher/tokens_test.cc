// SPDX-License-Identifier: Apache-2.0
#include "fetcher/tokens.h"

#include <gtest/gtest.h>

#include <deque>
#include <vector>

namespace fastoci {
namespace {

HttpResponse Refusal(int status, const std::string& challenge = "") {
  HttpResponse r;
  r.status = status;
  r.url = "https://h.io/v2/a/blobs/x";
  if (!challenge.empty()) r.headers.emplace("www-authenticate", challenge);
  return r;
}

constexpr char kBearer[] = "Bearer realm=\"https://t.io/token\",service=\"s\"";

class TokensTest : public testing::Test {
 protected:
  struct Sent {
    HttpRequest request;
    HttpLoop::Done done;
  };
  TokensTest()
      : source_({.find_credential =
                     [this](const TokenScope&, bool fresh, const TokenSource::FoundDone& done) {
                       checks_++;
                       if (fresh) freshes_++;
                       if (on_check_) on_check_(fresh);
                       if (trouble_) return done(*trouble_);
                       if (!credential_) return done(std::optional<FoundCredential>());
                       done(std::optional<FoundCredential>({*credential_, "a test"}));
                     },
                 .send = [this](HttpRequest r, HttpLoop::Done done) -> uint64_t {
                   sent_.push_back({std::move(r), std::move(done)});
                   return sent_.size();
                 },
                 .cancel = [this](uint64_t id) { canceled_.push_back(id); },
                 .now = [this] { return now_; }},
                "https://h.io") {
    credential_ = Credential{"user", Secret("password"), {}};
  }
  // The answer to the token request of that number, from 0.
  void Answer(size_t number, const std::string& token, int seconds = 110) {
    Sent s = std::move(sent_[number]);
    std::string body = R"({"token":")" + token + R"(","expires_in":)" + std::to_string(seconds) + "}";
    ASSERT_TRUE(s.request.on_body(AsBytes(body)).ok());
    s.request.tally->requests++;
    HttpResponse r;
    r.status = 200;
    s.done(std::move(r));
  }
  TokenSource::Ready Keep(std::string* what) {
    return [this, what](const Result<Secret>& value, const TokenSource::Cost& cost) {
      *what = value.ok() ? value->Reveal() : "error: " + value.error().message;
      if (!value.ok()) kind_ = value.error().kind;
      requests_ += cost.requests;
      tokens_ += cost.tokens;
    };
  }
  std::string Get(const std::string& repository = "a") {
    std::string got = "waits";
    source_.Get({"h.io", repository}, 1, Keep(&got));
    if (got == "waits") source_.Cancel(1);
    return got;
  }
  void FirstToken() {
    std::string got;
    source_.Renew({"h.io", "a"}, Secret(), Refusal(401, kBearer), 1, Keep(&got));
    Answer(0, "one");
    ASSERT_EQ(got, "Bearer one");
  }

  std::optional<Credential> credential_;
  std::optional<Error> trouble_;
  std::function<void(bool fresh)> on_check_;
  std::deque<Sent> sent_;
  std::vector<uint64_t> canceled_;
  SteadyTime now_ = SteadyTime() + std::chrono::hours(1);
  int checks_ = 0, freshes_ = 0;
  uint32_t requests_ = 0, tokens_ = 0;
  ErrorKind kind_ = ErrorKind::kInternal;
  TokenSource source_;
};

TEST_F(TokensTest, NothingIsSentUnasked) {
  EXPECT_EQ(Get(), "");
  EXPECT_EQ(checks_, 0);
}

TEST_F(TokensTest, OneRequestForAllWhoWait) {
  std::string got[3];
  for (uint64_t i = 0; i < 3; i++)
    source_.Renew({"h.io", "a"}, Secret(), Refusal(401, kBearer), 10 + i, Keep(&got[i]));
  ASSERT_EQ(sent_.size(), 1U);
  EXPECT_EQ(sent_[0].request.url, "https://t.io/token?service=s&scope=repository%3Aa%3Apull");
  EXPECT_EQ(sent_[0].request.authorization.Reveal(), "Basic dXNlcjpwYXNzd29yZA==");
  source_.Cancel(11);
  Answer(0, "one");
  EXPECT_EQ(got[0], "Bearer one");
  EXPECT_EQ(got[1], "");
  EXPECT_EQ(got[2], "Bearer one");
  EXPECT_EQ(requests_, 1U);
  EXPECT_EQ(tokens_, 1U);
  EXPECT_EQ(Get(), "Bearer one");
  // Another repository: its own, and without being refused first.
  EXPECT_EQ(Get("b"), "waits");
  EXPECT_EQ(sent_.size(), 2U);
  EXPECT_NE(sent_[1].request.url.find("repository%3Ab%3Apull"), std::string::npos);
}

TEST_F(TokensTest, AUsedTokenIsReplacedBeforeItExpires) {
  FirstToken();  // good for 100 s
  now_ += std::chrono::seconds(74);
  EXPECT_EQ(Get(), "Bearer one");
  EXPECT_EQ(sent_.size(), 1U);
  now_ += std::chrono::seconds(2);
  EXPECT_EQ(Get(), "Bearer one");
  EXPECT_EQ(Get(), "Bearer one");
  ASSERT_EQ(sent_.size(), 2U) << "one request, and nobody waits for it";
  Answer(1, "two");
  EXPECT_EQ(Get(), "Bearer two");
  // If that fails, the old one is used for as long as it is good.
  now_ += std::chrono::seconds(80);
  EXPECT_EQ(Get(), "Bearer two");
  ASSERT_EQ(sent_.size(), 3U);
  sent_[2].done(Error{ErrorKind::kUnavailable, EIO, "down"});
  EXPECT_EQ(Get(), "Bearer two");
  EXPECT_EQ(sent_.size(), 3U) << "not at once again";
  now_ += std::chrono::seconds(6);
  EXPECT_EQ(Get(), "Bearer two");
  EXPECT_EQ(sent_.size(), 4U);
  now_ += std::chrono::seconds(20);
  EXPECT_EQ(Get(), "waits");
  EXPECT_EQ(sent_.size(), 4U);
}

TEST_F(TokensTest, ARefusedTokenIsReplacedOnce) {
  FirstToken();
  std::string a, b;
  source_.Renew({"h.io", "a"}, Secret("Bearer one"), Refusal(403), 1, Keep(&a));
  ASSERT_EQ(sent_.size(), 2U) << "a 403 without a challenge: the last one counts";
  Answer(1, "two");
  EXPECT_EQ(a, "Bearer two");
  // Who was refused with the old one too gets the new one.
  source_.Renew({"h.io", "a"}, Secret("Bearer one"), Refusal(401, kBearer), 2, Keep(&b));
  EXPECT_EQ(b, "Bearer two");
  EXPECT_EQ(sent_.size(), 2U);
}

TEST_F(TokensTest, FailuresOfTheTokenServer) {
  struct Case {
    int status;
    ErrorKind kind;
  };
  for (const Case& c : std::vector<Case>{{401, ErrorKind::kDenied},
                                         {403, ErrorKind::kDenied},
                                         {400, ErrorKind::kDenied},
                                         {429, ErrorKind::kUnavailable},
                                         {503, ErrorKind::kUnavailable}}) {
    sent_.clear();
    std::string got;
    int64_t retry_after = 0;
    source_.Renew({"h.io", "a"}, Secret(), Refusal(401, kBearer), 1,
                  [&](const Result<Secret>& value, const TokenSource::Cost& cost) {
                    Keep(&got)(value, cost);
                    retry_after = cost.retry_after_ms;
                  });
    ASSERT_EQ(sent_.size(), 1U);
    HttpResponse r;
    r.status = c.status;
    const int freshes = freshes_;
    if (c.status == 429) r.headers.emplace("retry-after", "7");
    sent_[0].done(r);
    EXPECT_EQ(got.find("error: token server: HTTP " + std::to_string(c.status)), 0U) << got;
    EXPECT_EQ(kind_, c.kind) << c.status;
    EXPECT_EQ(retry_after, c.status == 429 ? 7000 : -1);
    EXPECT_EQ(freshes_ - freshes, c.kind == ErrorKind::kDenied ? 1 : 0);
    EXPECT_EQ(sent_.size(), 1U) << "the same credentials would be refused again";
  }
}

TEST_F(TokensTest, BasicIsSentAgainOnlyIfItChanged) {
  std::string got;
  source_.Renew({"h.io", "a"}, Secret(), Refusal(401, "Basic realm=\"r\""), 1, Keep(&got));
  EXPECT_EQ(got, "Basic dXNlcjpwYXNzd29yZA==");
  EXPECT_EQ(Get(), got);
  std::string refused = got;
  source_.Renew({"h.io", "a"}, Secret(refused), Refusal(401, "Basic realm=\"r\""), 1, Keep(&got));
  EXPECT_EQ(got, "error: HTTP 401");
  EXPECT_EQ(kind_, ErrorKind::kDenied);
  // A later Fetch tries it: the account may be good again.
  EXPECT_EQ(Get(), refused);
  // The file is looked at first.
  on_check_ = [&](bool) { credential_->password = Secret("new"); };
  source_.Renew({"h.io", "a"}, Secret(refused), Refusal(401, "Basic realm=\"r\""), 1, Keep(&got));
  EXPECT_EQ(got, "Basic dXNlcjpuZXc=");
  EXPECT_TRUE(sent_.empty());
}

TEST_F(TokensTest, WithoutCredentials) {
  credential_.reset();
  std::string got;
  source_.Renew({"h.io", "a"}, Secret(), Refusal(403), 1, Keep(&got));
  EXPECT_EQ(got, "error: HTTP 403") << "nobody said what is wanted";
  source_.Renew({"h.io", "a"}, Secret(), Refusal(401, "Basic realm=\"r\""), 1, Keep(&got));
  EXPECT_EQ(got, "error: HTTP 401: credentials are needed");
  EXPECT_EQ(Get("open"), "") << "another repository may be open to everybody";
  source_.Renew({"h.io", "a"}, Secret(), Refusal(401, kBearer), 1, Keep(&got));
  ASSERT_EQ(sent_.size(), 1U);
  EXPECT_TRUE(sent_[0].request.authorization.empty()) << "an anonymous token";
}

// A helper's answer that a token server refuses is asked for anew, and that may help.
TEST_F(TokensTest, RefusedCredentialsAreAskedForAnew) {
  on_check_ = [&](bool fresh) { credential_->password = Secret(fresh ? "new" : "old"); };
  std::string got;
  source_.Renew({"h.io", "a"}, Secret(), Refusal(401, kBearer), 1, Keep(&got));
  ASSERT_EQ(sent_.size(), 1U);
  HttpResponse denied;
  denied.status = 401;
  Sent first = std::move(sent_[0]);
  first.done(denied);
  ASSERT_EQ(sent_.size(), 2U);
  EXPECT_EQ(sent_[1].request.authorization.Reveal(), "Basic dXNlcjpuZXc=");
  Answer(1, "two");
  EXPECT_EQ(got, "Bearer two");
  EXPECT_EQ(freshes_, 1);
}

// A helper that fails: the repository may be open to everybody, and if not, both is told.
TEST_F(TokensTest, CredentialsThatCannotBeFound) {
  trouble_ = NotFoundError("docker-credential-x is not in PATH");
  std::string got;
  source_.Renew({"h.io", "a"}, Secret(), Refusal(401, kBearer), 1, Keep(&got));
  ASSERT_EQ(sent_.size(), 1U);
  EXPECT_TRUE(sent_[0].request.authorization.empty());
  Answer(0, "anonymous");
  EXPECT_EQ(got, "Bearer anonymous");
  source_.Renew({"h.io", "b"}, Secret(), Refusal(401, "Basic realm=\"r\""), 1, Keep(&got));
  EXPECT_EQ(got, "error: HTTP 401: credentials are needed; credentials: docker-credential-x is "
                 "not in PATH");
}

TEST_F(TokensTest, NewCredentialsForgetJustTheirTokens) {
  FirstToken();
  EXPECT_EQ(Get("b"), "waits");
  Answer(1, "b");
  int changed = 0;
  source_.Look("h.io/a", [&] { changed++; });
  EXPECT_EQ(changed, 0) << "they are the same";
  EXPECT_EQ(Get("a"), "Bearer one");
  credential_->password = Secret("new");
  source_.Look("h.io/a", [&] { changed++; });
  EXPECT_EQ(changed, 1);
  EXPECT_EQ(Get("b"), "Bearer b");
  EXPECT_EQ(Get("a"), "waits");
}

TEST_F(TokensTest, ItsRequestsEndWithIt) {
  {
    TokenSource source({.find_credential =
                            [](const TokenScope&, bool, const TokenSource::FoundDone& done) {
                              done(std::optional<FoundCredential>());
                            },
                        .send = [](HttpRequest, HttpLoop::Done) -> uint64_t { return 42; },
                        .cancel = [this](uint64_t id) { canceled_.push_back(id); },
                        .now = [this] { return now_; }},
                       "https://h.io");
    source.Renew({"h.io", "a"}, Secret(), Refusal(401, kBearer), 1,
                 [](const Result<Secret>&, const TokenSource::Cost&) { ADD_FAILURE(); });
  }
  EXPECT_EQ(canceled_, std::vector<uint64_t>{42});
}

}  // namespace
}  // namespace fastoci
