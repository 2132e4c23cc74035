// SPDX-License-Identifier: Apache-2.0
// RegistryClient with hosts.toml: who is asked, in which order, with what, and what the errors say.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/base64.h"
#include "base/digest.h"
#include "base/json.h"
#include "registry/client.h"
#include "registry/options.h"
#include "testing/stub_registry.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

class MirrorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/fastoci-mirrors.XXXXXX";
    ASSERT_NE(::mkdtemp(dir), nullptr);
    root_ = dir;
    repo_ = *ParseReference(origin_.host() + "/demo");
    data_.resize(300000);
    for (size_t i = 0; i < data_.size(); i++) data_[i] = static_cast<char>(i * 11 + i / 253);
    digest_ = DigestString(Sha256::Of(AsBytes(data_)));
    Mirrors({&mirror_});
    Connect();
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  // text: into the table of each mirror. The stubs have no query in their paths.
  void Toml(const std::string& text) {
    const std::string dir = root_ + "/" + origin_.host();
    std::filesystem::create_directories(dir);
    std::ofstream(dir + "/hosts.toml") << text;
  }
  void Mirrors(const std::vector<StubRegistry*>& mirrors, const std::string& text = "") {
    std::string toml;
    for (StubRegistry* m : mirrors) toml += "[host.\"" + m->url() + "\"]\n" + text;
    Toml(toml);
  }
  void Connect(CredentialSourcePtr source = nullptr) {
    RegistryOptions options;
    options.retry.first_delay_ms = 1;
    options.retry.max_attempts = 3;
    options.http.stall_ms = 300;
    options.referrers_settle_ms = 1;
    options.hosts_dirs = {root_};
    if (source == nullptr) source = FixedSource(Credentials(), "");
    client_ = std::move(*RegistryClient::Open(options, std::move(source)));
  }
  Result<std::string> Blob() { return client_->ReadBlob(repo_, digest_, 1 << 20); }
  // The same by ranges, as commands read large ones.
  Result<std::string> Streamed() {
    std::string got;
    Status s = client_->GetBlob(repo_, digest_, data_.size(), [&](ByteSpan bytes) {
      got.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return OkStatus();
    });
    if (!s.ok()) return s.error();
    return got;
  }
  static size_t Count(StubRegistry& stub) { return stub.Requests().size(); }
  static std::string Body(const std::string& note) {
    return Json{{"schemaVersion", 2}, {"mediaType", kOciManifest}, {"layers", Json::array()},
                {"annotations", {{"note", note}}}}.dump();
  }

  StubRegistry origin_, mirror_;
  Reference repo_;
  std::string root_, data_, digest_;
  std::unique_ptr<RegistryClient> client_;
};

TEST_F(MirrorsTest, AMirrorThatHasItIsAskedAlone) {
  mirror_.AddBlob(data_);
  mirror_.AddManifest("demo", "latest", kOciManifest, Body("mirror"));
  ASSERT_TRUE(Blob().ok()) << Blob().error().message;
  EXPECT_EQ(*Blob(), data_);
  EXPECT_EQ(*Streamed(), data_);
  EXPECT_EQ(*client_->BlobSize(repo_, digest_), data_.size());
  EXPECT_EQ(client_->GetManifest(repo_)->body, Body("mirror"));
  EXPECT_EQ(Count(origin_), 0U);
  EXPECT_EQ(mirror_.Requests()[0].target, "/v2/demo/blobs/" + digest_ + "?ns=" + UrlEscape(origin_.host()));
}

TEST_F(MirrorsTest, TheRegistryIsAskedForWhatAMirrorHasNotOrRefuses) {
  origin_.AddBlob(data_);
  EXPECT_EQ(*Blob(), data_);  // 404
  for (int status : {500, 503, 429, 403, 400}) {
    mirror_.Inject(Fault::kStatus, 1, static_cast<uint64_t>(status));
    EXPECT_EQ(*Streamed(), data_) << status;
  }
  mirror_.AddBlob(data_);
  mirror_.Inject(Fault::kFlipBit, 1);
  EXPECT_EQ(*Blob(), data_) << "a lie";
  for (Fault fault : {Fault::kWrongRange, Fault::kWrongTotal}) {
    mirror_.Inject(fault, 1);
    EXPECT_EQ(*Streamed(), data_);
  }
}

TEST_F(MirrorsTest, WhatBreaksOffGoesOnAtTheNext) {
  for (StubRegistry* s : {&origin_, &mirror_}) s->AddBlob(data_);
  for (Fault fault : {Fault::kClose, Fault::kReset, Fault::kHang}) {
    mirror_.Inject(fault, 1, 100000);
    const size_t before = Count(origin_);
    EXPECT_EQ(*Streamed(), data_);
    ASSERT_EQ(Count(origin_), before + 1);
    StubRequest rest = origin_.Requests().back();
    EXPECT_TRUE(rest.headers["range"].starts_with("bytes=") && rest.headers["range"] != "bytes=0-299999")
        << rest.headers["range"];
  }
}

// It costs its time limit once. As long as nobody else answers, it is asked anyway.
TEST_F(MirrorsTest, AMirrorThatIsAwayIsAskedOnceInAWhile) {
  origin_.AddBlob(data_);
  StubRegistry other;
  Mirrors({&mirror_, &other});
  Connect();
  mirror_.SetDown(true);
  for (int i = 0; i < 3; i++) EXPECT_EQ(*Blob(), data_);
  mirror_.SetDown(false);
  mirror_.AddBlob(data_);
  EXPECT_EQ(*Blob(), data_);
  EXPECT_EQ(Count(mirror_), 0U);
  EXPECT_EQ(Count(other), 4U);
  origin_.SetDown(true);
  other.SetDown(true);
  (void)Blob().ok();
  EXPECT_EQ(*Blob(), data_);
  EXPECT_GT(Count(mirror_), 0U);
}

// The registry itself is away, and a node reaches only its mirror.
TEST_F(MirrorsTest, OnlyTheMirrorIsReached) {
  origin_.SetDown(true);
  mirror_.AddBlob(data_);
  const std::string subject = mirror_.AddManifest("demo", "latest", kOciManifest, Body("x"));
  EXPECT_EQ(*Streamed(), data_);
  ASSERT_TRUE(client_->GetManifest(repo_).ok());
  // Its API is none, and its fallback tag is one.
  std::string tag = subject;
  tag[tag.find(':')] = '-';
  const std::string index = Json{{"schemaVersion", 2}, {"manifests", Json::array({{{"digest", digest_}}})}}.dump();
  mirror_.AddManifest("demo", tag, kOciIndex, index);
  auto referrers = client_->Referrers(repo_, subject, "");
  ASSERT_TRUE(referrers.ok()) << referrers.error().message;
  EXPECT_EQ(*referrers, index);
  // What neither has, and who said so.
  auto absent = client_->GetManifest(repo_.WithTag("absent"));
  ASSERT_FALSE(absent.ok());
  EXPECT_EQ(absent.error().kind, ErrorKind::kUnavailable);
  for (const std::string& words : {"before that, " + mirror_.host() + ": HTTP 404", origin_.host() + ": "})
    EXPECT_NE(absent.error().message.find(words), std::string::npos) << absent.error().message;
}

TEST_F(MirrorsTest, WhatTheLastOneSaysCounts) {
  auto none = client_->GetManifest(repo_);
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().kind, ErrorKind::kNotFound);
  EXPECT_NE(none.error().message.find(origin_.host() + " (before that, " + mirror_.host() + ": HTTP 404"),
            std::string::npos)
      << none.error().message;
  mirror_.SetDown(true);
  EXPECT_EQ(client_->GetManifest(repo_).error().kind, ErrorKind::kNotFound);
}

TEST_F(MirrorsTest, CapabilitiesAreContainerds) {
  for (StubRegistry* s : {&origin_, &mirror_}) {
    s->AddBlob(data_);
    s->AddManifest("demo", "latest", kOciManifest, Body("any"));
  }
  const std::string digest = DigestString(Sha256::Of(AsBytes(Body("any"))));
  Mirrors({&mirror_}, "capabilities = [\"pull\"]\n");
  Connect();
  ASSERT_TRUE(client_->GetManifest(repo_).ok());
  EXPECT_EQ(Count(mirror_), 0U) << "a tag";
  ASSERT_TRUE(client_->GetManifest(repo_.WithDigest(digest)).ok());
  ASSERT_TRUE(Blob().ok());
  EXPECT_EQ(Count(mirror_), 2U);
  Mirrors({&mirror_}, "capabilities = [\"resolve\"]\n");
  Connect();
  ASSERT_TRUE(client_->GetManifest(repo_).ok());
  ASSERT_TRUE(Blob().ok());
  EXPECT_EQ(Count(mirror_), 2U) << "a tag takes both capabilities";
  Toml("capabilities = [\"resolve\"]\n");
  Connect();
  EXPECT_NE(Blob().error().message.find("names no host"), std::string::npos) << Blob().error().message;
  EXPECT_NE(client_->UploadBlob(repo_, "x").error().message.find("push"), std::string::npos);
}

// Also with "push", and also what a mirror has already is sent.
TEST_F(MirrorsTest, AMirrorIsNeverPushedTo) {
  mirror_.AddBlob("blob");
  Mirrors({&mirror_}, "capabilities = [\"pull\", \"resolve\", \"push\"]\n");
  Connect();
  ASSERT_TRUE(client_->UploadBlob(repo_, "blob").ok());
  const std::string subject = DigestString(Sha256::Of(AsBytes(Body("of"))));
  Json referrer = Json::parse(Body("referrer"));
  referrer["subject"] = {{"mediaType", kOciManifest}, {"digest", subject}, {"size", 1}};
  auto put = client_->PutManifest(repo_.WithTag("new"), kOciManifest, referrer.dump());
  ASSERT_TRUE(put.ok()) << put.error().message;
  (void)client_->MountBlob(repo_, DigestString(Sha256::Of(AsBytes("blob"))), "other").ok();
  (void)client_->ListTags(repo_).ok();
  (void)client_->ListRepositories(origin_.host()).ok();
  EXPECT_EQ(Count(mirror_), 0U);
  EXPECT_EQ(origin_.CountRequests("PUT", "/manifests/sha256-"), 1);
}

// The registry's password is not for its mirror, which has its own.
TEST_F(MirrorsTest, AMirrorGetsItsOwnCredentialsOnly) {
  for (StubRegistry* s : {&origin_, &mirror_}) s->AddBlob(data_);
  mirror_.RequireAuth(StubRegistry::Auth::kBasic, "user", "mirrors");
  origin_.RequireAuth(StubRegistry::Auth::kBasic, "user", "origins");
  CredentialSourcePtr given = HostSource(origin_.host(), {"user", Secret("origins"), {}}, "-u");
  Connect(given);
  EXPECT_EQ(*Blob(), data_);
  for (const StubRequest& r : mirror_.Requests()) EXPECT_EQ(r.headers.count("authorization"), 0U);
  EXPECT_EQ(origin_.CountRequests("GET", "/blobs/"), 2);
  for (auto auth : {StubRegistry::Auth::kBasic, StubRegistry::Auth::kBearer}) {
    mirror_.RequireAuth(auth, "user", "mirrors");
    Connect(FirstOf({given, HostSource(mirror_.host(), {"user", Secret("mirrors"), {}}, "login")}));
    EXPECT_EQ(*Streamed(), data_);
  }
  EXPECT_EQ(origin_.CountRequests("GET", "/blobs/"), 2);
  for (StubRequest& r : mirror_.Requests())
    EXPECT_NE(r.headers["authorization"], "Basic " + Base64Encode("user:origins"));
}

// A mirror may know its own referrers only.
TEST_F(MirrorsTest, AnEmptyListOfAMirrorEndsNoSearch) {
  const std::string subject = origin_.AddManifest("demo", "latest", kOciManifest, Body("x"));
  for (StubRegistry* s : {&origin_, &mirror_}) s->SetReferrersApi(true);
  Json referrer = Json::parse(Body("referrer"));
  referrer["subject"] = {{"mediaType", kOciManifest}, {"digest", subject}, {"size", 1}};
  referrer["artifactType"] = "application/x";
  ASSERT_TRUE(client_->PutManifest(repo_.WithTag("a"), kOciManifest, referrer.dump()).ok());
  auto some = client_->Referrers(repo_, subject, "");
  ASSERT_TRUE(some.ok());
  EXPECT_EQ(Json::parse(*some)["manifests"].size(), 1U);
  EXPECT_EQ(mirror_.CountRequests("GET", "/referrers/"), 1);
  EXPECT_EQ(Json::parse(*client_->Referrers(repo_, subject, "application/x"))["manifests"].size(), 1U);
  EXPECT_EQ(Json::parse(*client_->Referrers(repo_, subject, "application/y"))["manifests"].size(), 0U);
  EXPECT_EQ(origin_.CountRequests("GET", "?artifactType=application%2Fy"), 1);
  origin_.SetDown(true);
  EXPECT_EQ(Json::parse(*client_->Referrers(repo_, subject, ""))["manifests"].size(), 0U);
}

// Who gave no answer a moment ago is asked anyway, as for anything else, if nobody is left.
TEST_F(MirrorsTest, ReferrersAreAskedForAgainIfNobodyAnswered) {
  const std::string subject = origin_.AddManifest("demo", "latest", kOciManifest, Body("x"));
  origin_.SetReferrersApi(true);
  Json referrer = Json::parse(Body("referrer"));
  referrer["subject"] = {{"mediaType", kOciManifest}, {"digest", subject}, {"size", 1}};
  ASSERT_TRUE(client_->PutManifest(repo_.WithTag("a"), kOciManifest, referrer.dump()).ok());
  for (StubRegistry* s : {&origin_, &mirror_}) s->SetDown(true);
  EXPECT_FALSE(client_->Referrers(repo_, subject, "").ok());
  for (StubRegistry* s : {&origin_, &mirror_}) s->SetDown(false);
  auto some = client_->Referrers(repo_, subject, "");
  ASSERT_TRUE(some.ok()) << some.error().message;
  EXPECT_EQ(Json::parse(*some)["manifests"].size(), 1U);
}

TEST_F(MirrorsTest, ABrokenFileIsNamed) {
  Toml("nonsense");
  Connect();
  auto broken = Blob();
  ASSERT_FALSE(broken.ok());
  EXPECT_NE(broken.error().message.find(origin_.host() + "/hosts.toml"), std::string::npos)
      << broken.error().message;
  EXPECT_NE(broken.error().message.find("--hosts-dir"), std::string::npos);
}

TEST(HostRoots, NamedNoneOrTheDefault) {
  EXPECT_EQ(HostRoots({}), HostsOptions().roots);
  EXPECT_TRUE(HostRoots({"none"}).empty());
  EXPECT_EQ(HostRoots({"/a", "/b"}), (std::vector<std::string>{"/a", "/b"}));
  EXPECT_FALSE(ReadHostsDirs({"/nonexistent"}).ok());
  EXPECT_TRUE(ReadHostsDirs({"none"})->empty());
}

TEST(PlainOption, WinsOverTheFileForTheRegistryAlone) {
  char dir[] = "/tmp/fastoci-plain.XXXXXX";
  ASSERT_NE(::mkdtemp(dir), nullptr);
  const std::string root = dir;
  std::filesystem::create_directories(root + "/r.example");
  std::ofstream(root + "/r.example/hosts.toml")
      << "server = \"https://r.example\"\n[host.\"https://m.example\"]\n";
  HostsOptions o;
  o.roots = {root};
  o.plain_http = true;
  auto hosts = LoadHosts(o, *ParseReference("r.example/a"));
  std::filesystem::remove_all(root);
  ASSERT_TRUE(hosts.ok());
  EXPECT_EQ((*hosts)[0].scheme, "https");
  EXPECT_EQ((*hosts)[1].scheme, "http");
}

}  // namespace
}  // namespace fastoci
