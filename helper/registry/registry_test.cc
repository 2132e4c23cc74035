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
      {"GHCR.io/o/r", "ghcr.io", "o/r", "latest", false},
      {"docker.io/nginx", "docker.io", "library/nginx", "latest", false},
      {"registry-1.docker.io/nginx:1", "docker.io", "library/nginx", "1", false},
      {"index.docker.io/o/r", "docker.io", "o/r", "latest", false},
      {"registry.hub.docker.com/library/x", "docker.io", "library/x", "latest", false},
      {"LOCALHOST:5000/a", "localhost:5000", "a", "latest", false},
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

TEST(Reference, PrefixesThatMatchNothingAreRefused) {
  for (const char* bad : {"https://h.io/a", "prod/app", "nginx", "h.io/Prod", "h.io/a:1", "h.io/*",
                          "h.io/a//b", "h.io/a@sha256:1", "h.io:x/a", "h..-/a", "*.h.io/a"})
    EXPECT_FALSE(CanonicalPrefix(bad).ok()) << bad;
  EXPECT_NE(CanonicalPrefix("nginx").error().message.find("docker.io/library/nginx"),
            std::string::npos);
  EXPECT_EQ(*CanonicalPrefix("H.io:0443/a/"), "h.io/a");
  EXPECT_EQ(*CanonicalPrefix(*CanonicalPrefix("index.docker.io/a")), "docker.io/a");
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

TEST(CredentialsTest, APathThatEndsAsDockersOldKeysDo) {
  auto c = Credentials::Parse(R"({"auths":{"quay.io/org/v2":{"username":"v2","password":"p"},
    "https://r.io/v2/":{"username":"r","password":"p"}}})");
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->Find("quay.io", "org/v2")->username, "v2");
  EXPECT_FALSE(c->Find("quay.io", "org/other"));
  EXPECT_EQ(c->Find("r.io", "any")->username, "r");
}

TEST(CredentialsTest, UserPasswordAndMalformed) {
  EXPECT_EQ(ParseUserPassword("u:p:q")->password.Reveal(), "p:q");
  EXPECT_FALSE(ParseUserPassword("u").ok());
  EXPECT_FALSE(Credentials::Parse("[").ok());
  EXPECT_FALSE(Credentials::Parse(R"({"auths":[]})").ok());
  EXPECT_FALSE(Credentials::Parse(R"({"auths":{"h":{"auth":"!!"}}})").ok());
  EXPECT_TRUE(Credentials::Parse("{}").ok());
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
  void Connect(Credentials credentials) { Connect(FixedSource(std::move(credentials), "")); }
  void Connect(CredentialSourcePtr source) {
    RegistryOptions options;
    options.retry.first_delay_ms = 1;
    options.http.stall_ms = stall_ms_;
    options.upload_chunk_bytes = chunk_bytes_;
    options.referrers_settle_ms = 20;
    options.transfer_timeout_ms = transfer_timeout_ms_;
    client_ = std::move(*RegistryClient::Open(options, std::move(source)));
  }
  CredentialSourcePtr User(const std::string& text) { return HostSource(stub_.host(), *ParseUserPassword(text), ""); }

  StubRegistry stub_;
  Reference repo_;
  std::string data_, digest_;
  uint64_t chunk_bytes_ = 64 << 20;
  int64_t transfer_timeout_ms_ = 1800000, stall_ms_ = 300;
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
  EXPECT_EQ(*client_->BlobSize(repo_, digest_), data_.size());
  EXPECT_EQ(*client_->ReadBlob(repo_, digest_, 1 << 20), data_);
  EXPECT_EQ(client_->ReadBlob(repo_, digest_, 1000).error().kind, ErrorKind::kInvalid);
  stub_.Inject(Fault::kClose, 3, 50000);
  EXPECT_EQ(*client_->ReadBlob(repo_, digest_, 1 << 20), data_);
  stub_.Inject(Fault::kFlipBit, 1);
  EXPECT_EQ(client_->ReadBlob(repo_, digest_, 1 << 20).error().kind, ErrorKind::kMismatch);
  std::string empty = stub_.AddBlob("");
  EXPECT_EQ(*client_->ReadBlob(repo_, empty, 10), "");
}

// Harbor's proxy before its first GET, a URL that is signed for GET, a server
// without HEAD, one that tells no length.
TEST_F(RegistryTest, TheSizeIsAskedForByGetWhereHeadTellsNone) {
  for (uint64_t status : {404, 403, 405}) {
    stub_.Inject(Fault::kStatus, 1, status, "HEAD");
    auto size = client_->BlobSize(repo_, digest_);
    ASSERT_TRUE(size.ok()) << status << ": " << size.error().message;
    EXPECT_EQ(*size, data_.size()) << status;
  }
  auto expect_size = [&](const std::string& digest, uint64_t bytes) {
    auto size = client_->BlobSize(repo_, digest);
    ASSERT_TRUE(size.ok()) << size.error().message;
    EXPECT_EQ(*size, bytes);
  };
  stub_.Inject(Fault::kNoLength, 1, 0, "HEAD");
  expect_size(digest_, data_.size());
  for (Fault fault : {Fault::kIgnoreRange, Fault::kRedirect}) {
    stub_.Inject(Fault::kStatus, 1, 405, "HEAD");
    stub_.Inject(fault, 1);
    expect_size(digest_, data_.size());
  }
  std::string empty = stub_.AddBlob("");
  stub_.Inject(Fault::kStatus, 1, 405, "HEAD");
  expect_size(empty, 0);
  std::string absent = std::string("sha256:") + kHex;
  EXPECT_EQ(client_->BlobSize(repo_, absent).error().kind, ErrorKind::kNotFound);
  for (const auto& r : stub_.Requests()) {
    if (r.method == "GET") {
      EXPECT_EQ(r.headers.at("range"), "bytes=0-0");
    }
  }
}

TEST_F(RegistryTest, NeitherReadingNorUploadingABlobNeedsHead) {
  for (uint64_t status : {404, 403, 405}) {
    stub_.Inject(Fault::kStatus, 2, status, "HEAD");
    EXPECT_EQ(*client_->ReadBlob(repo_, digest_, 1 << 20), data_) << status;
    std::string blob = "uploaded in spite of " + std::to_string(status);
    auto uploaded = client_->UploadBlob(repo_, blob);
    ASSERT_TRUE(uploaded.ok()) << uploaded.error().message;
    EXPECT_EQ(stub_.BlobData(*uploaded), blob);
    std::string got;
    Status s = client_->GetBlob(repo_, digest_, 0, [&](ByteSpan b) {
      got.append(reinterpret_cast<const char*>(b.data()), b.size());
      return OkStatus();
    });
    EXPECT_TRUE(s.ok());
    EXPECT_EQ(got, data_);
  }
}

TEST_F(RegistryTest, AManifestIsStoredWithAnySuccess) {
  StubHabits habits;
  for (int status : {200, 201, 202}) {
    habits.manifest_put_status = status;
    stub_.SetHabits(habits);
    auto put = client_->PutManifest(repo_.WithTag("x"), kOciManifest, "{}");
    EXPECT_TRUE(put.ok()) << status;
  }
  habits.manifest_put_status = 400;
  stub_.SetHabits(habits);
  EXPECT_FALSE(client_->PutManifest(repo_.WithTag("x"), kOciManifest, "{}").ok());
}

TEST_F(RegistryTest, AChallengeNeedsNoService) {
  StubHabits habits;
  habits.challenge_service = false;
  stub_.SetHabits(habits);
  stub_.RequireAuth(StubRegistry::Auth::kBearer, "user", "right");
  Connect(User("user:right"));
  auto size = client_->BlobSize(repo_, digest_);
  ASSERT_TRUE(size.ok()) << size.error().message;
  EXPECT_EQ(stub_.CountRequests("GET", "service="), 0);
  EXPECT_EQ(stub_.CountRequests("GET", "/token?scope="), 1);
}

TEST_F(RegistryTest, AManifestsContentTellsItsTypeWhereTheRegistryDoesNot) {
  struct {
    const char *body, *type;
  } cases[] = {
      {R"({"mediaType":"application/vnd.docker.distribution.manifest.v2+json","layers":[]})",
       kDockerManifest},
      {R"({"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[]})",
       kDockerManifestList},
      {R"({"schemaVersion":2,"config":{},"layers":[]})", kOciManifest},
      {R"({"schemaVersion":2,"manifests":[]})", kOciIndex},
      {R"({"schemaVersion":1,"fsLayers":[]})", "application/octet-stream"},
      {"no JSON", "application/octet-stream"},
  };
  for (const char* served : {"application/octet-stream", "text/plain; charset=utf-8"}) {
    StubHabits habits;
    habits.manifest_type = served;
    stub_.SetHabits(habits);
    for (const auto& c : cases) {
      std::string digest = stub_.AddManifest("demo", "v1", "", c.body);
      auto m = client_->GetManifest(repo_.WithTag("v1"));
      ASSERT_TRUE(m.ok()) << m.error().message;
      EXPECT_EQ(m->digest, digest);
      EXPECT_EQ(m->body, c.body);
      if (std::string(c.type) == "application/octet-stream")
        EXPECT_TRUE(std::string(served).starts_with(m->media_type)) << m->media_type;
      else
        EXPECT_EQ(m->media_type, c.type);
    }
  }
}

TEST_F(RegistryTest, ErrorsNameBlobAndRange) {
  std::string absent = std::string("sha256:") + kHex;
  Status s = client_->GetBlobRange(repo_, absent, {0, 1024, 0},
                                   [](ByteSpan) { return OkStatus(); });
  EXPECT_EQ(s.error().message, "blob " + absent + " bytes 0-1023: HTTP 404");
  EXPECT_EQ(client_->BlobSize(repo_, "sha256:../x").error().kind, ErrorKind::kInvalid);
}

TEST_F(RegistryTest, BasicAndBearer) {
  for (auto auth : {StubRegistry::Auth::kBasic, StubRegistry::Auth::kBearer}) {
    stub_.RequireAuth(auth, "user", "right");
    Connect(Credentials());
    EXPECT_EQ(client_->BlobSize(repo_, digest_).error().kind, ErrorKind::kDenied);
    Connect(User("user:wrong"));
    auto denied = client_->BlobSize(repo_, digest_);
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
  ASSERT_TRUE(client_->BlobSize(repo_, digest_).ok());
  stub_.RequireAuth(StubRegistry::Auth::kBearer, "user", "right");  // forgets the token
  EXPECT_TRUE(client_->BlobSize(repo_, digest_).ok());
}

// Has a new password when it is asked for one.
class RotatingSource : public CredentialSource {
 public:
  explicit RotatingSource(int* fresh) : fresh_(*fresh) {}
  Result<std::optional<FoundCredential>> Find(const Reference&, bool fresh) override {
    if (fresh) fresh_++;
    FASTOCI_TRY(Credential user, ParseUserPassword(fresh ? "user:new" : "user:old"));
    return std::optional(FoundCredential{user, "a test"});
  }

 private:
  int& fresh_;
};

TEST_F(RegistryTest, CredentialsAreRefreshedOnce) {
  for (auto auth : {StubRegistry::Auth::kBasic, StubRegistry::Auth::kBearer}) {
    stub_.RequireAuth(auth, "user", "new");
    int fresh = 0;
    Connect(std::make_shared<RotatingSource>(&fresh));
    EXPECT_TRUE(client_->BlobSize(repo_, digest_).ok());
    EXPECT_EQ(fresh, 1);
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

TEST_F(RegistryTest, ALargerBlobHasMoreTime) {
  transfer_timeout_ms_ = 0;
  Connect(Credentials());
  const std::string blob(4 << 20, 'u');
  auto digest = client_->UploadBlob(repo_, blob);
  ASSERT_TRUE(digest.ok()) << digest.error().message;
  uint64_t got = 0;
  Status s = client_->GetBlob(repo_, *digest, blob.size(), [&](ByteSpan b) {
    got += b.size();
    return OkStatus();
  });
  ASSERT_TRUE(s.ok()) << s.error().message;
  EXPECT_EQ(got, blob.size());
}

// Each way in which a chunked upload goes, and which requests it takes.
TEST_F(RegistryTest, LargeBlobsAreSentInChunksAndGoOnWhereTheyWere) {
  chunk_bytes_ = 2 << 20;
  stall_ms_ = 20000;  // a slow machine stands still, too
  std::string blob(7 << 20, 'c');
  for (size_t i = 0; i < blob.size(); i += 4096) blob[i] = static_cast<char>(i >> 12);
  auto upload = [&](const char* what, const StubHabits& habits, int patches, int puts) {
    stub_.SetHabits(habits);
    Connect(Credentials());
    blob[0]++;
    const int had = stub_.CountRequests("PATCH", ""), had_puts = stub_.CountRequests("PUT", "");
    auto digest = client_->UploadBlob(repo_, blob);
    ASSERT_TRUE(digest.ok()) << what << ": " << digest.error().message;
    EXPECT_EQ(stub_.BlobData(*digest), blob) << what;
    EXPECT_EQ(stub_.CountRequests("PATCH", "") - had, patches) << what;
    EXPECT_EQ(stub_.CountRequests("PUT", "") - had_puts, puts) << what;
  };
  upload("plain", {}, 4, 1);
  StubHabits habits;
  habits.upload_range = false;
  upload("without Range", habits, 4, 1);
  habits = {};
  habits.location = StubHabits::Location::kAbsolute;
  upload("absolute location", habits, 4, 1);
  habits.location = StubHabits::Location::kOtherPort;
  upload("another server's location", habits, 4, 1);
  // Half of the first chunk is there: it goes on at 1 MiB.
  stub_.Inject(Fault::kHalf, 1, 0, "PATCH");
  habits = {};
  upload("a chunk that broke", habits, 4, 1);
  stub_.Inject(Fault::kStatus, 3, 503, "PATCH");
  upload("503", habits, 7, 1);
  stub_.Inject(Fault::kStatus, 2, 502, "PUT");
  upload("the last step fails", habits, 4, 3);
  stub_.Inject(Fault::kForget, 1, 0, "PATCH");
  upload("forgotten at first: no chunks there", habits, 1, 1);
  habits.max_body = 1 << 20;
  upload("413", habits, 8, 1);
  for (int status : {400, 404, 405, 501}) {
    habits = {};
    habits.patch_status = status;
    upload("chunks are refused", habits, 1, 1);
  }
}

TEST_F(RegistryTest, ABlobThatIsTooLargeForOneRequestIsSentInChunks) {
  chunk_bytes_ = 64 << 20;
  Connect(Credentials());
  StubHabits habits;
  habits.max_body = 1 << 20;
  stub_.SetHabits(habits);
  std::string blob(3 << 20, 'x');
  auto digest = client_->UploadBlob(repo_, blob);
  ASSERT_TRUE(digest.ok()) << digest.error().message;
  EXPECT_EQ(stub_.BlobData(*digest), blob);
  habits.max_body = 1 << 19;  // smaller than any chunk
  stub_.SetHabits(habits);
  EXPECT_FALSE(client_->UploadBlob(repo_, std::string(3 << 20, 'y')).ok());
}

TEST_F(RegistryTest, AStoresUploadLocationGetsNoToken) {
  stub_.RequireAuth(StubRegistry::Auth::kBearer, "user", "right");
  StubHabits habits;
  habits.location = StubHabits::Location::kOtherPort;
  stub_.SetHabits(habits);
  Connect(User("user:right"));
  auto digest = client_->UploadBlob(repo_, "elsewhere");
  ASSERT_TRUE(digest.ok()) << digest.error().message;
  EXPECT_EQ(stub_.BlobData(*digest), "elsewhere");
}

TEST_F(RegistryTest, AMountAsksForBothScopes) {
  stub_.RequireAuth(StubRegistry::Auth::kBearer, "user", "right");
  Connect(User("user:right"));
  EXPECT_TRUE(*client_->MountBlob(repo_, digest_, "other/repo"));
  EXPECT_EQ(stub_.CountRequests("GET", "scope=repository%3Ademo%3Apull%2Cpush"
                                       "&scope=repository%3Aother%2Frepo%3Apull"), 1);
}

TEST_F(RegistryTest, UploadWithBearer) {
  stub_.RequireAuth(StubRegistry::Auth::kBearer, "user", "right");
  Connect(User("user:right"));
  ASSERT_TRUE(client_->UploadBlob(repo_, "hello").ok());
  ASSERT_TRUE(client_->PutManifest(repo_.WithTag("x"), kOciManifest, "{}").ok());
}

TEST_F(RegistryTest, ReferrersByFallbackTag) {
  std::string subject = stub_.AddManifest("demo", "v1", kOciManifest, R"({"a":1})");
  EXPECT_NE(client_->Referrers(repo_, subject, "")->find("\"manifests\":[]"), std::string::npos);
  std::string body = R"({"artifactType":"t/x","subject":{"digest":")" + subject + R"("}})";
  for (int i = 0; i < 2; i++) {  // the second time changes nothing
    auto put = client_->PutManifest(repo_.WithTag("ref"), kOciManifest, body);
    ASSERT_TRUE(put.ok()) << put.error().message;
    auto index = client_->Referrers(repo_, subject, "");
    ASSERT_TRUE(index.ok());
    size_t at = index->find(*put);
    EXPECT_NE(at, std::string::npos);
    EXPECT_EQ(index->find(*put, at + 1), std::string::npos);
    EXPECT_NE(index->find("t/x"), std::string::npos);
  }
}

TEST_F(RegistryTest, ReferrersComeFromTheFallbackTagWhateverTheApiAnswers) {
  std::string subject = stub_.AddManifest("demo", "v1", kOciManifest, R"({"a":1})");
  std::string body = R"({"artifactType":"t/x","subject":{"digest":")" + subject + R"("}})";
  std::string put = *client_->PutManifest(repo_.WithTag("ref"), kOciManifest, body);
  for (int status : {200, 400, 403, 404, 405, 500, 501, 503}) {
    StubHabits habits;
    habits.referrers_status = status;
    stub_.SetHabits(habits);
    auto index = client_->Referrers(repo_, subject, "");
    ASSERT_TRUE(index.ok()) << status << ": " << index.error().message;
    EXPECT_NE(index->find(put), std::string::npos) << status;
    // Without a tag: none; but an API that fails may know some.
    auto none = client_->Referrers(repo_, std::string("sha256:") + kHex, "");
    EXPECT_EQ(none.ok(), status < 500) << status;
  }
}

TEST_F(RegistryTest, ReferrersAreReadPageByPage) {
  stub_.SetReferrersApi(true);
  std::string subject = std::string("sha256:") + kHex;
  std::vector<std::string> put;
  for (int i = 0; i < 7; i++)
    put.push_back(*client_->PutManifest(
        repo_.WithTag("r" + std::to_string(i)), kOciManifest,
        R"({"n":)" + std::to_string(i) + R"(,"subject":{"digest":")" + subject + R"("}})"));
  StubHabits habits;
  for (size_t page : {1, 2, 3, 7, 100}) {
    habits.referrers_page = page;
    stub_.SetHabits(habits);
    auto index = client_->Referrers(repo_, subject, "");
    ASSERT_TRUE(index.ok()) << index.error().message;
    for (const std::string& digest : put)
      EXPECT_NE(index->find(digest), std::string::npos) << page;
  }
  habits.referrers_page = 3;
  habits.referrers_next = "http://127.0.0.1:" + std::to_string(stub_.other_port()) + "/v2/x";
  stub_.SetHabits(habits);
  EXPECT_FALSE(client_->Referrers(repo_, subject, "").ok());  // half a list is none
  habits.referrers_next = "/v2/demo/referrers/" + subject + "?n=0";
  stub_.SetHabits(habits);
  EXPECT_FALSE(client_->Referrers(repo_, subject, "").ok());  // a circle ends
}

TEST_F(RegistryTest, ManyReferrersOfAnotherTypeAreNoReferrersTooMany) {
  stub_.SetReferrersApi(true);
  const std::string subject = std::string("sha256:") + kHex;
  const std::string of = R"("subject":{"digest":")" + subject + R"("})";
  for (int i = 0; i < 1100; i++)
    stub_.AddManifest("demo", "", kOciManifest,
                      R"({"n":)" + std::to_string(i) + R"(,"artifactType":"t/other",)" + of + "}");
  const std::string ours = stub_.AddManifest("demo", "", kOciManifest, R"({"artifactType":"t/x",)" + of + "}");
  auto index = client_->Referrers(repo_, subject, "t/x");
  ASSERT_TRUE(index.ok()) << index.error().message;
  EXPECT_NE(index->find(ours), std::string::npos);
  EXPECT_EQ(index->find("t/other"), std::string::npos);
  EXPECT_FALSE(client_->Referrers(repo_, subject, "t/other").ok());
}

TEST(NextLinkTest, FindsNextAmongLinks) {
  EXPECT_EQ(NextLink(R"(</v2/x?n=1>; rel="next")"), "/v2/x?n=1");
  EXPECT_EQ(NextLink(R"(</a>; rel="prev", <https://h/b,c>; title=x; REL=next)"), "https://h/b,c");
  for (const char* none : {"", "</a>", "</a>; rel=prev", "</a; rel=next", "<>", "/a; rel=\"next\"",
                           "</a>; rel=nextish"})
    EXPECT_EQ(NextLink(none), "") << none;
}

// Somebody who read the tag before us writes it after us.
TEST_F(RegistryTest, AnUpdateOfTheFallbackTagThatWasLostIsMadeAgain) {
  std::string subject = std::string("sha256:") + kHex;
  StubHabits habits;
  habits.stale_tag_body = R"({"schemaVersion":2,"manifests":[{"digest":"sha256:theirs"}]})";
  stub_.SetHabits(habits);
  std::string body = R"({"subject":{"digest":")" + subject + R"("}})";
  std::string put = *client_->PutManifest(repo_.WithTag("ref"), kOciManifest, body);
  std::string index = *client_->Referrers(repo_, subject, "");
  EXPECT_NE(index.find("sha256:theirs"), std::string::npos);
  EXPECT_NE(index.find(put), std::string::npos);
}

TEST_F(RegistryTest, RegistriesWithReferrersApiGetNoFallbackTag) {
  stub_.SetReferrersApi(true);
  std::string body = std::string(R"({"subject":{"digest":"sha256:)") + kHex + R"("}})";
  ASSERT_TRUE(client_->PutManifest(repo_.WithTag("ref"), kOciManifest, body).ok());
  EXPECT_EQ(stub_.CountRequests("PUT", "sha256-"), 0);
}

}  // namespace
}  // namespace fastoci
