// SPDX-License-Identifier: Apache-2.0
// How a client of a registry gets, keeps, loses and renews its permission, at the
// kinds of registries that there are.
#include <gtest/gtest.h>

#include <atomic>

#include "registry/client.h"
#include "testing/stub_registry.h"

namespace fastoci {
namespace {

// What it has changes when it is asked for something fresh.
class Rotating : public CredentialSource {
 public:
  explicit Rotating(std::vector<Credential> all) : all_(std::move(all)) {}
  Result<std::optional<FoundCredential>> Find(const Reference&, bool fresh) override {
    asked++;
    if (fresh && at_ + 1 < all_.size()) at_++;
    return std::optional<FoundCredential>({all_[at_], "test"});
  }
  std::atomic<int> asked = 0;

 private:
  std::vector<Credential> all_;
  size_t at_ = 0;
};

Credential User(const std::string& name, const std::string& password) {
  Credential c;
  c.username = name;
  c.password = Secret(password);
  return c;
}

class AuthTest : public ::testing::Test {
 protected:
  std::shared_ptr<Rotating> Connect(std::vector<Credential> all) {
    auto source = std::make_shared<Rotating>(std::move(all));
    RegistryOptions options;
    options.retry.first_delay_ms = 1;
    client_ = std::move(*RegistryClient::Open(options, source));
    return source;
  }
  Status Read() {
    auto r = client_->ReadBlob(repo_, digest_, 100);
    if (!r.ok()) return r.error();
    return *r == "data" ? OkStatus() : Status(InvalidError("wrong data"));
  }
  StubRegistry stub_;
  Reference repo_ = *ParseReference(stub_.host() + "/demo");
  std::string digest_ = stub_.AddBlob("data");
  std::unique_ptr<RegistryClient> client_;
};

// ECR answers 403 to a password that has expired, ECR Public 400, others 401.
TEST_F(AuthTest, AnExpiredPasswordIsRenewedWhateverTheRegistryCallsIt) {
  for (int status : {401, 403, 400}) {
    for (auto auth : {StubRegistry::Auth::kBasic, StubRegistry::Auth::kBearer}) {
      StubHabits habits;
      habits.refused_status = status;
      stub_.SetHabits(habits);
      stub_.RequireAuth(auth, "AWS", "first");
      auto source = Connect({User("AWS", "first"), User("AWS", "second")});
      ASSERT_TRUE(Read().ok()) << status;
      stub_.RequireAuth(auth, "AWS", "second");
      Status s = Read();
      EXPECT_TRUE(s.ok()) << status << ": " << s.error().message;
      EXPECT_TRUE(Read().ok());
      stub_.RequireAuth(auth, "AWS", "third");  // revoked: there is no other
      EXPECT_EQ(Read().error().kind, ErrorKind::kDenied) << status;
    }
  }
}

TEST_F(AuthTest, TheSamePasswordIsNotTriedTwice) {
  stub_.RequireAuth(StubRegistry::Auth::kBasic, "u", "right");
  auto source = Connect({User("u", "wrong")});
  EXPECT_EQ(Read().error().kind, ErrorKind::kDenied);
  EXPECT_EQ(stub_.CountRequests("GET", "/blobs/"), 2);  // without, and with
  EXPECT_EQ(source->asked, 2);
}

TEST_F(AuthTest, ADenialThatHasNothingToDoWithExpiryIsTold) {
  stub_.RequireAuth(StubRegistry::Auth::kBasic, "u", "p");
  Connect({User("u", "p")});
  ASSERT_TRUE(Read().ok());
  stub_.Inject(Fault::kStatus, 10, 403);
  EXPECT_EQ(Read().error().kind, ErrorKind::kDenied);
}

// Azure's: an identity token, which is exchanged by POST, and expires.
TEST_F(AuthTest, ARefreshTokenIsExchangedByPost) {
  stub_.RequireRefreshToken("refresh1");
  Credential c, renewed;
  c.identity_token = Secret("refresh1");
  renewed.identity_token = Secret("refresh2");
  Connect({c, renewed});
  ASSERT_TRUE(Read().ok());
  EXPECT_EQ(stub_.CountRequests("POST", "/token"), 1);
  stub_.RequireRefreshToken("refresh2");
  Status s = Read();
  EXPECT_TRUE(s.ok()) << s.error().message;
  for (const StubRequest& r : stub_.Requests())
    EXPECT_EQ(r.target.find("refresh"), std::string::npos) << "a secret in a URL";
}

// GitLab's: a token is good for one repository.
TEST_F(AuthTest, EachRepositoryHasATokenOfItsOwn) {
  stub_.RequireAuth(StubRegistry::Auth::kBearer, "u", "p");
  Connect({User("u", "p")});
  ASSERT_TRUE(Read().ok());
  repo_ = *ParseReference(stub_.host() + "/other/repo");
  ASSERT_TRUE(Read().ok());
  EXPECT_EQ(stub_.CountRequests("GET", "scope=repository%3Ademo%3Apull"), 1);
  EXPECT_EQ(stub_.CountRequests("GET", "scope=repository%3Aother%2Frepo%3Apull"), 1);
}

TEST_F(AuthTest, AFailingSourceIsNamedInTheRefusal) {
  class Failing : public CredentialSource {
    Result<std::optional<FoundCredential>> Find(const Reference&, bool) override {
      return Error{ErrorKind::kUnavailable, ETIMEDOUT, "docker-credential-x gave no answer"};
    }
  };
  stub_.RequireAuth(StubRegistry::Auth::kBasic, "u", "p");
  client_ = std::move(*RegistryClient::Open(RegistryOptions(), std::make_shared<Failing>()));
  Status s = Read();
  EXPECT_EQ(s.error().kind, ErrorKind::kDenied);
  EXPECT_NE(s.error().message.find("docker-credential-x gave no answer"), std::string::npos);
}

}  // namespace
}  // namespace fastoci
