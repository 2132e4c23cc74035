// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "base/digest.h"
#include "registry/client.h"
#include "registry/token.h"
#include "testing/stub_registry.h"

namespace fastoci {
namespace {

constexpr char kHex[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

TEST(Reference, Parses) {
  struct {
    const char *text, *host, *repository, *tag;
    bool digest;
  } cases[] = {
      {"alpine", "docker.io", "library/alpine", "latest", false},
      {"alpine:3", "docker.io", "library/alpine", "3", false},
      {"user/app", "docker.io", "user/app", "latest", false},
      {"localhost/app", "localhost", "app", "latest", false},
      {"127.0.0.1:5000/a/b_c.d--e:v1.0-x", "127.0.0.1:5000", "a/b_c.d--e", "v1.0-x", false},
      {"[::1]:5000/a:t", "[::1]:5000", "a", "t", false},
      {"ghcr.io/o/r@D", "ghcr.io", "o/r", "", true},
      {"ghcr.io/o/r:t@D", "ghcr.io", "o/r", "t", true},
  };
  for (const auto& c : cases) {
    std::string text = c.text;
    if (c.digest) text.replace(text.find("@D"), 2, std::string("@sha256:") + kHex);
    auto r = ParseReference(text);
    ASSERT_TRUE(r.ok()) << c.text;
    EXPECT_EQ(r->host, c.host) << c.text;
    EXPECT_EQ(r->repository, c.repository) << c.text;
    EXPECT_EQ(r->tag, c.tag) << c.text;
    EXPECT_EQ(!r->digest.empty(), c.digest) << c.text;
    EXPECT_EQ(ParseReference(r->ToString())->ToString(), r->ToString());
  }
}

TEST(Reference, RefusesMalformed) {
  for (const char* bad : {"", "/a", "a/", "A", "h.io/", "h.io/a//b", "h.io/a:", "h.io/a:-t",
                          "h.io/../a", "h.io/a@sha256:12", "h.io:99999/a", "h.io:/a", "h io/a",
                          "h.io/a?x=y", "u@h.io/a", "h.io/a___b", "[::1/a", "a\nb"})
    EXPECT_FALSE(ParseReference(bad).ok()) << bad;
}

TEST(Reference, Loopback) {
  EXPECT_TRUE(IsLoopbackHost("127.0.0.1:5000"));
  EXPECT_TRUE(IsLoopbackHost("localhost"));
  EXPECT_TRUE(IsLoopbackHost("[::1]:5000"));
  EXPECT_FALSE(IsLoopbackHost("127.evil.example"));
  EXPECT_FALSE(IsLoopbackHost("localhost.evil.example"));
}

TEST(CredentialsTest, LongestMatchWins) {
  auto c = Credentials::Parse(R"({"auths":{
    "https://index.docker.io/v1/":{"auth":"aHViOmE6Yg=="},
    "h.io":{"username":"host","password":"p"},
    "h.io/team":{"auth":"dGVhbTpw"},
    "helper.io":{}}})");
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->Find("docker.io", "library/x")->username, "hub");
  EXPECT_EQ(c->Find("docker.io", "library/x")->password.Reveal(), "a:b");
  EXPECT_EQ(c->Find("h.io", "x")->username, "host");
  EXPECT_EQ(c->Find("h.io", "team/x")->username, "team");
  EXPECT_EQ(c->Find("h.io", "teammate/x")->username, "host");
  EXPECT_FALSE(c->Find("h.io.evil", "x"));
  EXPECT_FALSE(c->Find("helper.io", "x"));
}

TEST(CredentialsTest, UserPasswordAndMalformed) {
  EXPECT_EQ(Credentials::FromUserPassword("u:p:q")->Find("any", "x")->password.Reveal(), "p:q");
  EXPECT_FALSE(Credentials::FromUserPassword("u").ok());
  EXPECT_FALSE(Credentials::Parse("[").ok());
  EXPECT_FALSE(Credentials::Parse(R"({"auths":[]})").ok());
  EXPECT_FALSE(Credentials::Parse(R"({"auths":{"h":{"auth":"!!"}}})").ok());
  EXPECT_TRUE(Credentials::Parse("{}").ok());
}

TEST(CredentialsTest, Base64) {
  for (const char* s : {"", "a", "ab", "abc", "abcd"})
    EXPECT_EQ(*Base64Decode(Base64Encode(s)), s);
  EXPECT_EQ(Base64Encode("team:p"), "dGVhbTpw");
}

TEST(Token, ParsesChallenges) {
  auto c = ParseChallenges(R"(Basic realm="a, b", Bearer realm="https://t/x?y",service=s,scope="q\"r")");
  ASSERT_EQ(c.size(), 2u);
  EXPECT_EQ(c[0].scheme, "basic");
  EXPECT_EQ(c[0].params["realm"], "a, b");
  EXPECT_EQ(c[1].params["realm"], "https://t/x?y");
  EXPECT_EQ(c[1].params["service"], "s");
  EXPECT_EQ(c[1].params["scope"], "q\"r");
  EXPECT_TRUE(ParseChallenges("=").empty());
  EXPECT_EQ(ParseChallenges("Bearer realm=\"open").size(), 1u);
}

class RegistryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    repo_ = *ParseReference(stub_.host() + "/demo");
    data_.resize(200000);
    for (size_t i = 0; i < data_.size(); i++) data_[i] = static_cast<char>(i * 7 + i / 255);
    digest_ = stub_.AddBlob(data_);
    Connect(Credentials());
  }
  void Connect(Credentials credentials) {
    RegistryOptions options;
    options.retry.first_delay_ms = 1;
    options.http.stall_ms = 300;
    client_ = std::move(*RegistryClient::Open(options, std::move(credentials)));
  }
  static Credentials User(const std::string& text) { return *Credentials::FromUserPassword(text); }

  StubRegistry stub_;
  Reference repo_;
  std::string data_, digest_;
  std::unique_ptr<RegistryClient> client_;
};

TEST_F(RegistryTest, Manifests) {
  std::string digest = stub_.AddManifest("demo", "v1", kOciManifest, R"({"a":1})");
  auto m = client_->GetManifest(repo_.WithTag("v1"));
  ASSERT_TRUE(m.ok()) << m.error().message;
  EXPECT_EQ(m->media_type, kOciManifest);
  EXPECT_EQ(m->digest, digest);
  ASSERT_TRUE(client_->GetManifest(repo_.WithDigest(digest)).ok());
  stub_.Inject(Fault::kFlipBit, 1);
  EXPECT_EQ(client_->GetManifest(repo_.WithDigest(digest)).error().kind, ErrorKind::kMismatch);
  stub_.Inject(Fault::kClose, 1, 2);
  EXPECT_TRUE(client_->GetManifest(repo_.WithDigest(digest)).ok());
  EXPECT_EQ(client_->GetManifest(repo_.WithTag("v2")).error().kind, ErrorKind::kNotFound);
}

TEST_F(RegistryTest, ManifestSizeIsLimited) {
  stub_.AddManifest("demo", "big", kOciManifest, std::string(kMaxManifestBytes + 1, ' '));
  EXPECT_EQ(client_->GetManifest(repo_.WithTag("big")).error().kind, ErrorKind::kInvalid);
}

TEST_F(RegistryTest, WholeBlobIsVerified) {
  EXPECT_EQ(*client_->HeadBlob(repo_, digest_), data_.size());
  EXPECT_EQ(*client_->ReadBlob(repo_, digest_, 1 << 20), data_);
  EXPECT_EQ(client_->ReadBlob(repo_, digest_, 1000).error().kind, ErrorKind::kInvalid);
  stub_.Inject(Fault::kClose, 3, 50000);
  EXPECT_EQ(*client_->ReadBlob(repo_, digest_, 1 << 20), data_);
  stub_.Inject(Fault::kFlipBit, 1);
  EXPECT_EQ(client_->ReadBlob(repo_, digest_, 1 << 20).error().kind, ErrorKind::kMismatch);
  std::string empty = stub_.AddBlob("");
  EXPECT_EQ(*client_->ReadBlob(repo_, empty, 10), "");
}

TEST_F(RegistryTest, ErrorsNameBlobAndRange) {
  std::string absent = std::string("sha256:") + kHex;
  Status s = client_->GetBlobRange(repo_, absent, {0, 1024, 0},
                                   [](ByteSpan) { return OkStatus(); });
  EXPECT_EQ(s.error().message, "blob " + absent + " bytes 0-1023: HTTP 404");
  EXPECT_EQ(client_->HeadBlob(repo_, "sha256:../x").error().kind, ErrorKind::kInvalid);
}

TEST_F(RegistryTest, BasicAndBearer) {
  for (auto auth : {StubRegistry::Auth::kBasic, StubRegistry::Auth::kBearer}) {
    stub_.RequireAuth(auth, "user", "right");
    Connect(Credentials());
    EXPECT_EQ(client_->HeadBlob(repo_, digest_).error().kind, ErrorKind::kDenied);
    Connect(User("user:wrong"));
    auto denied = client_->HeadBlob(repo_, digest_);
    EXPECT_EQ(denied.error().kind, ErrorKind::kDenied);
    EXPECT_EQ(denied.error().message.find("wrong"), std::string::npos);
    Connect(User("user:right"));
    EXPECT_EQ(*client_->ReadBlob(repo_, digest_, 1 << 20), data_);
  }
  EXPECT_EQ(stub_.CountRequests("GET", "scope=repository%3Ademo%3Apull"), 3);
}

TEST_F(RegistryTest, AnExpiredTokenIsRenewed) {
  stub_.RequireAuth(StubRegistry::Auth::kBearer, "user", "right");
  Connect(User("user:right"));
  ASSERT_TRUE(client_->HeadBlob(repo_, digest_).ok());
  stub_.RequireAuth(StubRegistry::Auth::kBearer, "user", "right");  // forgets the token
  EXPECT_TRUE(client_->HeadBlob(repo_, digest_).ok());
}

TEST_F(RegistryTest, CredentialsAreRefreshedOnce) {
  for (auto auth : {StubRegistry::Auth::kBasic, StubRegistry::Auth::kBearer}) {
    stub_.RequireAuth(auth, "user", "new");
    Connect(User("user:old"));
    int calls = 0;
    client_->SetCredentialsRefresher([&] {
      calls++;
      client_->SetCredentials(User("user:new"));
      return true;
    });
    EXPECT_TRUE(client_->HeadBlob(repo_, digest_).ok());
    EXPECT_EQ(calls, 1);
  }
}

TEST_F(RegistryTest, RedirectKeepsTheTokenHome) {
  stub_.RequireAuth(StubRegistry::Auth::kBearer, "user", "right");
  Connect(User("user:right"));
  stub_.Inject(Fault::kRedirect, 1);
  std::string got;
  Status s = client_->GetBlobRange(repo_, digest_, {10, 20, data_.size()}, [&](ByteSpan b) {
    got.append(reinterpret_cast<const char*>(b.data()), b.size());
    return OkStatus();
  });
  ASSERT_TRUE(s.ok()) << s.error().message;
  EXPECT_EQ(got, data_.substr(10, 20));
  auto last = stub_.Requests().back();
  EXPECT_EQ(last.port, stub_.other_port());
  EXPECT_EQ(last.headers.count("authorization"), 0u);
}

TEST_F(RegistryTest, UploadsOnceAndAgainAfterFailure) {
  std::string blob(150000, 'u');
  stub_.Inject(Fault::kStatus, 1, 503, "PUT");
  stub_.Inject(Fault::kStatus, 1, 500, "POST");
  auto digest = client_->UploadBlob(repo_, blob);
  ASSERT_TRUE(digest.ok()) << digest.error().message;
  EXPECT_EQ(stub_.BlobData(*digest), blob);
  int posts = stub_.CountRequests("POST", "/blobs/uploads/");
  ASSERT_TRUE(client_->UploadBlob(repo_, blob).ok());
  EXPECT_EQ(stub_.CountRequests("POST", "/blobs/uploads/"), posts);
  EXPECT_TRUE(*client_->MountBlob(repo_, *digest, "other/repo"));
  EXPECT_FALSE(*client_->MountBlob(repo_, std::string("sha256:") + kHex, "other/repo"));
}

TEST_F(RegistryTest, UploadWithBearer) {
  stub_.RequireAuth(StubRegistry::Auth::kBearer, "user", "right");
  Connect(User("user:right"));
  ASSERT_TRUE(client_->UploadBlob(repo_, "hello").ok());
  ASSERT_TRUE(client_->PutManifest(repo_.WithTag("x"), kOciManifest, "{}").ok());
}

TEST_F(RegistryTest, ReferrersByFallbackTag) {
  std::string subject = stub_.AddManifest("demo", "v1", kOciManifest, R"({"a":1})");
  EXPECT_NE(client_->Referrers(repo_, subject)->find("\"manifests\":[]"), std::string::npos);
  std::string body = R"({"artifactType":"t/x","subject":{"digest":")" + subject + R"("}})";
  for (int i = 0; i < 2; i++) {  // the second time changes nothing
    auto put = client_->PutManifest(repo_.WithTag("ref"), kOciManifest, body);
    ASSERT_TRUE(put.ok()) << put.error().message;
    auto index = client_->Referrers(repo_, subject);
    ASSERT_TRUE(index.ok());
    size_t at = index->find(*put);
    EXPECT_NE(at, std::string::npos);
    EXPECT_EQ(index->find(*put, at + 1), std::string::npos);
    EXPECT_NE(index->find("t/x"), std::string::npos);
  }
}

TEST_F(RegistryTest, RegistriesWithReferrersApiGetNoFallbackTag) {
  stub_.SetReferrersApi(true);
  std::string body = std::string(R"({"subject":{"digest":"sha256:)") + kHex + R"("}})";
  ASSERT_TRUE(client_->PutManifest(repo_.WithTag("ref"), kOciManifest, body).ok());
  EXPECT_EQ(stub_.CountRequests("PUT", "sha256-"), 0);
}

}  // namespace
}  // namespace fastoci
