// SPDX-License-Identifier: Apache-2.0
// The real fetcher with what the node knows: credential helpers, what attach was given,
// mirrors of hosts.toml.
#include <chrono>

#include "base/base64.h"
#include "fetcher/fetcher_test.h"
#include "fetcher/keeper.h"
#include "registry/access.h"

namespace fastoci {
namespace {

using Auth = StubRegistry::Auth;

class FetcherAccess : public FetcherTest {
 protected:
  void SetUp() override {
    FetcherTest::SetUp();
    for (const char* d : {"/secret", "/secret/images", "/secret/certs.d", "/bin"})
      ASSERT_EQ(mkdir((dir_ + d).c_str(), d[1] == 'b' ? 0755 : 0700), 0);
    images_ = dir_ + "/secret/images";
    hosts_dir_ = dir_ + "/secret/certs.d";
    config_ = dir_ + "/secret/config.json";
    path_ = std::getenv("PATH");
    ASSERT_EQ(setenv("PATH", (dir_ + "/bin:" + path_).c_str(), 1), 0);
  }
  void TearDown() override {
    setenv("PATH", path_.c_str(), 1);
    FetcherTest::TearDown();
  }
  void Start(std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"--no-node-credentials", "--credentials", config_,
                                     "--state-dir", images_, "--hosts-dir", hosts_dir_,
                                     "--retry-scale", "1000"};
    args.insert(args.end(), more.begin(), more.end());
    Restart(args);
  }
  void Write(const std::string& path, const std::string& text, mode_t mode = 0600) {
    ASSERT_TRUE(WriteFileAtomic(path, AsBytes(text), mode).ok()) << path;
  }
  // The node's config.json: user's login at the stub.
  void WriteLogin(const std::string& password) {
    Write(config_, R"({"auths":{")" + stub_.host() +
                       R"(":{"username":"user","password":")" + password + R"("}}})");
  }
  // docker-credential-NAME, which says what the file NAME.secret has.
  void Helper(const std::string& name, const std::string& script) {
    const std::string path = dir_ + "/bin/docker-credential-" + name;
    Write(path, "#!/bin/sh\ncat > /dev/null\n" + script + "\n", 0755);
    ASSERT_EQ(chmod(path.c_str(), 0755), 0);
  }
  std::string Answer(const std::string& secret) {
    return R"(echo '{"Username":"user","Secret":")" + secret + R"("}')";
  }
  void GiveAccess(const std::string& name, const std::string& id, const Access& access) {
    Access a = access;
    a.image_id = id;
    mkdir((images_ + "/" + name).c_str(), 0700);
    Write(images_ + "/" + name + "/access.json", AccessToJson(a).Reveal());
  }
  static Access AccessOf(const StubRegistry& stub, const std::string& password) {
    Access a;
    a.host = stub.host();
    a.credential = {"user", Secret(password), {}};
    return a;
  }
  std::vector<FetchLocation> OpenAs(uint32_t image, const std::string& id,
                                    const std::string& sources) {
    auto blobs = client_->OpenImage(image, id, AsBytes(Json(sources)));
    EXPECT_TRUE(blobs.ok()) << (blobs.ok() ? "" : blobs.error().message);
    return blobs.ok() ? blobs->front() : std::vector<FetchLocation>();
  }
  void HostsToml(const std::string& registry, const std::string& text) {
    mkdir((hosts_dir_ + "/" + registry).c_str(), 0700);
    Write(hosts_dir_ + "/" + registry + "/hosts.toml", text);
  }

  const std::string id_ = std::string(64, 'a'), other_id_ = std::string(64, 'b');
  std::string images_, hosts_dir_, config_, path_;
};

TEST_F(FetcherAccess, AHelperIsAskedAndAskedAnewAfterARefusal) {
  for (Auth auth : {Auth::kBasic, Auth::kBearer}) {
    stub_.RequireAuth(auth, "user", "first");
    Write(config_, R"({"credHelpers":{")" + stub_.host() + R"(":"test"}})");
    Helper("test", Answer("first"));
    Start();
    ExpectGood(Run(there_, 10, 1000));
    ExpectGood(Run(there_, 10, 1000));
    // Another password: the same Fetch goes on with it.
    Helper("test", Answer("second"));
    stub_.RequireAuth(auth, "user", "second");
    ExpectGood(Run(there_, 10, 1000));
  }
}

// A helper that hangs holds who needs it, and nobody else.
TEST_F(FetcherAccess, AHelperThatHangsHoldsNobodyElse) {
  StubRegistry other, open;
  for (StubRegistry* s : {&other, &open}) s->AddBlob(data_);
  for (StubRegistry* s : {&stub_, &other}) s->RequireAuth(Auth::kBearer, "user", "right");
  Write(config_, R"({"credHelpers":{")" + stub_.host() + R"(":"slow",")" + other.host() +
                     R"(":"fast"}})");
  Helper("slow", "touch " + dir_ + "/bin/running; exec sleep 1000");
  Helper("fast", Answer("right"));
  ASSERT_EQ(chmod((dir_ + "/bin").c_str(), 0777), 0);  // helpers are nobody
  Start();
  FetchLocation fast = Open(2, RegistrySource(other)), free = Open(3, RegistrySource(open));
  uint32_t slow = Begin(there_, 0, 1000);
  ASSERT_TRUE(Eventually([&] { return access((dir_ + "/bin/running").c_str(), F_OK) == 0; }));
  ExpectGood(Run(fast, 10, 1000));
  ExpectGood(Run(free, 10, 1000));
  ASSERT_TRUE(client_->Cancel(slow).ok());
  EXPECT_EQ(End(slow).outcome, FetchOutcome::kCanceled);
}

// More questions about one registry than the keeper answers at a time: the others wait.
TEST_F(FetcherAccess, ManyRepositoriesOfOneRegistry) {
  stub_.RequireAuth(Auth::kBasic, "user", "right");
  Write(config_, R"({"credHelpers":{")" + stub_.host() + R"(":"slow"}})");
  Helper("slow", "sleep 0.3; " + Answer("right"));
  Start();
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < 40; i++)
    ids.push_back(Begin(Open(10 + i, RegistrySource(stub_, "team/app" + std::to_string(i))), 10, 1000));
  for (uint32_t id : ids) ExpectGood(End(id));
}

TEST_F(FetcherAccess, AHelperThatTakesTooLongIsADeniedRead) {
  stub_.RequireAuth(Auth::kBasic, "user", "right");
  Write(config_, R"({"credHelpers":{")" + stub_.host() + R"(":"slow"}})");
  Helper("slow", "exec sleep 1000");
  Start({"--helper-patience", "100"});
  ExpectFailed(Run(there_, 10, 1000), FetchOutcome::kTransient, EACCES,
               "docker-credential-slow gave no answer in 100 ms");
}

TEST_F(FetcherAccess, WhatAttachWasGivenIsForItsImageAndItsRegistry) {
  StubRegistry other;
  other.AddBlob(data_);
  for (StubRegistry* s : {&stub_, &other}) s->RequireAuth(Auth::kBasic, "user", "given");
  Write(config_, "{}");
  GiveAccess("one", id_, AccessOf(stub_, "given"));
  for (int helper = 0; helper < 2; helper++) {  // and the next one, too
    Start();
    auto with = OpenAs(2, id_, RegistrySource(stub_) + "," + RegistrySource(other));
    ASSERT_EQ(with.size(), 2U);
    auto without = OpenAs(3, other_id_, RegistrySource(stub_));
    ASSERT_EQ(without.size(), 1U);
    EXPECT_NE(with[0].location, without[0].location);
    EXPECT_NE(with[0].host, without[0].host) << "its own gate";
    ExpectGood(Run(with[0], 10, 1000));
    for (const FetchLocation& l : {with[1], without[0]})
      ExpectFailed(Run(l, 10, 1000), FetchOutcome::kTransient, EACCES, "credentials");
    for (const StubRequest& r : other.Requests()) EXPECT_EQ(r.headers.count("authorization"), 0U);
    EXPECT_EQ(hosts_[with[0].host].name, stub_.url() + " (2)");
  }
}

// The same image in two repositories has one id. What is for one of them is not for the other.
TEST_F(FetcherAccess, WhatAttachWasGivenIsForItsRepository) {
  stub_.RequireAuth(Auth::kBasic, "user", "given");
  Write(config_, "{}");
  Access a = AccessOf(stub_, "given");
  a.repository = "team/one";
  GiveAccess("one", id_, a);
  Start();
  ExpectGood(Run(OpenAs(2, id_, RegistrySource(stub_, "team/one"))[0], 10, 1000));
  ExpectFailed(Run(OpenAs(3, id_, RegistrySource(stub_, "team/two"))[0], 10, 1000),
               FetchOutcome::kTransient, EACCES, "credentials");
}

// Nothing is kept for the image any more, so it is read with what the node has.
TEST_F(FetcherAccess, WhatIsNotKeptAnyMoreCountsNoMore) {
  stub_.RequireAuth(Auth::kBasic, "user", "second");
  WriteLogin("second");
  GiveAccess("one", id_, AccessOf(stub_, "first"));
  Start();
  FetchLocation there = OpenAs(2, id_, RegistrySource(stub_))[0];
  ExpectFailed(Run(there, 10, 1000), FetchOutcome::kTransient, EACCES, "credentials");
  ASSERT_EQ(unlink((images_ + "/one/access.json").c_str()), 0);
  WaitForHost(there.host, [](const HostState& h) { return h.openings > 0; });
  ExpectGood(Run(there, 10, 1000));
}

// The file counts for the images that were attached with it, and a change of it at once.
TEST_F(FetcherAccess, AFileThatAttachWasGiven) {
  stub_.RequireAuth(Auth::kBasic, "user", "first");
  const std::string file = dir_ + "/secret/login.json";
  auto login = [&](const std::string& password) {
    Write(file, R"({"auths":{")" + stub_.host() + R"(":{"username":"user","password":")" +
                    password + R"("}}})");
  };
  Write(config_, "{}");
  login("first");
  Access a;
  a.host = stub_.host();
  a.credentials_file = file;
  GiveAccess("one", id_, a);
  Start();
  FetchLocation with = OpenAs(2, id_, RegistrySource(stub_))[0];
  FetchLocation without = OpenAs(3, other_id_, RegistrySource(stub_))[0];
  ExpectGood(Run(with, 10, 1000));
  ExpectFailed(Run(without, 10, 1000), FetchOutcome::kTransient, EACCES, "credentials");
  stub_.RequireAuth(Auth::kBasic, "user", "second");
  ExpectFailed(Run(with, 10, 1000), FetchOutcome::kTransient, EACCES, "credentials");
  login("second");
  WaitForHost(with.host, [](const HostState& h) { return h.openings > 0; });
  ExpectGood(Run(with, 10, 1000));
}

// The fetcher, which parses what comes from outside, cannot have any file read.
TEST_F(FetcherAccess, TheKeeperReadsOnlyFilesThatAnAttachNames) {
  const std::string file = dir_ + "/secret/login.json";
  Write(file, R"({"auths":{"r.example":{"username":"user","password":"p"}}})");
  Write(config_, R"({"auths":{"r.example":{"username":"node","password":"p"}}})");
  KeeperWork work({.credentials = config_, .node_credentials = false, .state_dirs = {images_}});
  auto name = [&] {
    auto found = work.Credential("r.example", "app", file, false);
    if (!found.ok()) return found.error().message;
    return *found ? (*found)->credential.username : "nobody";
  };
  EXPECT_EQ(name(), "node");
  Access a;
  a.host = "r.example";
  a.credentials_file = file;
  GiveAccess("one", id_, a);
  EXPECT_EQ(name(), "user");
  // It is for that file alone.
  Write(file, "{}");
  EXPECT_EQ(name(), "nobody");
  ASSERT_EQ(unlink((images_ + "/one/access.json").c_str()), 0);
  EXPECT_EQ(name(), "node");
}

TEST_F(FetcherAccess, PlainHttpOnlyWhereItIsAllowed) {
  Write(config_, "{}");
  Start();
  const std::string json = Json(HostSource("http", "registry.example"));
  auto refused = client_->OpenImage(2, id_, AsBytes(json));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().kind, ErrorKind::kInvalid);
  EXPECT_NE(refused.error().message.find("http to registry.example is not allowed"),
            std::string::npos);
  Access a;
  a.host = "registry.example";
  a.plain_http = true;
  GiveAccess("one", id_, a);
  EXPECT_TRUE(client_->OpenImage(2, id_, AsBytes(json)).ok());
  EXPECT_FALSE(client_->OpenImage(3, other_id_, AsBytes(json)).ok());
  Restart({"--plain-http"});
  EXPECT_TRUE(client_->OpenImage(3, other_id_, AsBytes(json)).ok());
}

TEST_F(FetcherAccess, MirrorsComeBeforeTheRegistry) {
  StubRegistry mirror;
  mirror.AddBlob(data_);
  stub_.RequireAuth(Auth::kBasic, "user", "right");
  WriteLogin("right");
  HostsToml(stub_.host(), "[host.\"" + mirror.url() + "/cache\"]\n  override_path = false\n" +
                              "  capabilities = [\"pull\"]\n  [host.\"" + mirror.url() +
                              "/cache\".header]\n    X-Peer = \"yes\"\n" +
                              "[host.\"http://127.0.0.1:1\"]\n  capabilities = [\"resolve\"]\n");
  Start();
  auto places = OpenAs(2, id_, RegistrySource(stub_));
  ASSERT_EQ(places.size(), 2U) << "one mirror cannot be pulled from";
  EXPECT_NE(places[0].host, places[1].host);
  ExpectGood(Run(places[1], 10, 1000));
  // Its path and its "ns" are asked for, with its headers, without anybody's password.
  FetchEvent e = Run(places[0], 10, 1000);
  EXPECT_EQ(e.outcome, FetchOutcome::kGone) << "the stub has no such path";
  EXPECT_NE(e.error.message.find(mirror.host() + "/demo for " + stub_.host()), std::string::npos)
      << e.error.message;
  auto asked = mirror.Requests();
  ASSERT_EQ(asked.size(), 1U);
  EXPECT_EQ(asked[0].target, "/cache/v2/demo/blobs/" + digest_ + "?ns=" + UrlEscape(stub_.host()));
  EXPECT_EQ(asked[0].headers["x-peer"], "yes");
  EXPECT_EQ(asked[0].headers.count("authorization"), 0U);
  for (const StubRequest& r : stub_.Requests()) EXPECT_EQ(r.headers.count("x-peer"), 0U);
}

// --hosts-dir of an attach is for its image.
TEST_F(FetcherAccess, AnAttachMayNameADirectoryOfHostsFiles) {
  StubRegistry mirror;
  mirror.AddBlob(data_);
  Write(config_, "{}");
  const std::string own = dir_ + "/secret/own";
  for (const std::string& d : {own, own + "/" + stub_.host()}) ASSERT_EQ(mkdir(d.c_str(), 0700), 0);
  Write(own + "/" + stub_.host() + "/hosts.toml", "[host.\"" + mirror.url() + "\"]\n");
  Access a;
  a.host = stub_.host();
  a.hosts_dirs = {own};
  GiveAccess("one", id_, a);
  HostsToml(stub_.host(), "[host.\"http://127.0.0.1:1\"]\n[host.\"http://127.0.0.1:2\"]\n");
  Start();
  auto with = OpenAs(2, id_, RegistrySource(stub_));
  ASSERT_EQ(with.size(), 2U);
  ExpectGood(Run(with[0], 10, 1000));
  EXPECT_EQ(stub_.CountRequests("GET", ""), 0);
  EXPECT_EQ(OpenAs(3, other_id_, RegistrySource(stub_)).size(), 3U);
  a.hosts_dirs = {"none"};
  GiveAccess("one", id_, a);
  EXPECT_EQ(OpenAs(4, id_, RegistrySource(stub_)).size(), 1U);
}

// A login that attach got is replaced by that of the next attach.
TEST_F(FetcherAccess, AnotherAttachGivesAnotherPassword) {
  stub_.RequireAuth(Auth::kBasic, "user", "second");
  Write(config_, "{}");
  GiveAccess("one", id_, AccessOf(stub_, "first"));
  Start();
  FetchLocation there = OpenAs(2, id_, RegistrySource(stub_))[0];
  ExpectFailed(Run(there, 10, 1000), FetchOutcome::kTransient, EACCES, "credentials");
  GiveAccess("one", id_, AccessOf(stub_, "second"));
  WaitForHost(there.host, [](const HostState& h) { return h.openings > 0; });
  ExpectGood(Run(there, 10, 1000));
}

// A peer gets what the registry wants, and decides nothing.
TEST_F(FetcherAccess, PeersComeFirstAndTheRegistryStays) {
  StubRegistry peer;
  peer.AddBlob(data_);
  stub_.RequireAuth(Auth::kBasic, "user", "right");
  WriteLogin("right");
  Start({"--p2p", peer.url() + "/accelerator"});
  auto places = OpenAs(2, id_, RegistrySource(stub_));
  ASSERT_EQ(places.size(), 2U);
  ExpectGood(Run(places[1], 10, 1000));
  FetchEvent e = Run(places[0], 10, 1000);
  EXPECT_EQ(e.outcome, FetchOutcome::kGone) << "the stub has no such path";
  auto asked = peer.Requests();
  ASSERT_EQ(asked.size(), 1U);
  EXPECT_EQ(asked[0].target, "/accelerator/" + stub_.url() + "/v2/demo/blobs/" + digest_);
  EXPECT_NE(asked[0].headers["authorization"], "");
  // One that asks for a password itself gets none: it waits, the registry does not.
  const int before = stub_.CountRequests("GET", "");
  peer.RequireAuth(Auth::kBasic, "user", "other");
  e = Run(places[0], 10, 1000);
  EXPECT_EQ(e.outcome, FetchOutcome::kTransient);
  EXPECT_EQ(stub_.CountRequests("GET", ""), before);
  ExpectGood(Run(places[1], 10, 1000));
  EXPECT_EQ(peer.CountRequests("GET", ""), 2) << "asked once, and not again with another answer";
}

// Of two attaches of an image, one of which may be sent in the clear, the other one's password
// does not take its place.
TEST_F(FetcherAccess, WhatWasGivenForHttpsIsNotSentInTheClear) {
  auto sent = [&](const std::string& password) {
    const std::string basic = "Basic " + Base64Encode("user:" + password);
    for (StubRequest& r : stub_.Requests())
      if (r.headers["authorization"] == basic) return true;
    return false;
  };
  stub_.RequireAuth(Auth::kBasic, "user", "second");
  Write(config_, "{}");
  Access a = AccessOf(stub_, "first");
  a.host = "registry.example";
  a.plain_http = true;
  GiveAccess("one", id_, a);
  a.credential.password = Secret("second");
  a.plain_http = false;
  GiveAccess("two", id_, a);
  Start({"--p2p-proxy", stub_.url()});  // which plays the registry, too
  auto places = OpenAs(2, id_, HostSource("http", "registry.example"));
  ASSERT_EQ(places.size(), 2U);
  const uint32_t host = places[0].host;
  ExpectFailed(Run(places[0], 10, 1000), FetchOutcome::kTransient, EACCES, "credentials");
  EXPECT_TRUE(sent("first"));
  ASSERT_EQ(unlink((images_ + "/one/access.json").c_str()), 0);
  WaitForHost(host, [](const HostState& h) { return h.openings > 0; });
  ExpectFailed(Run(places[0], 10, 1000), FetchOutcome::kTransient, EACCES, "credentials");
  EXPECT_FALSE(sent("second"));
  const uint32_t openings = hosts_[host].openings;
  a.plain_http = true;
  GiveAccess("two", id_, a);
  WaitForHost(host, [=](const HostState& h) { return h.openings > openings; });
  EXPECT_EQ(Run(places[0], 10, 1000).outcome, FetchOutcome::kGone) << "the stub has no such path";
  EXPECT_TRUE(sent("second"));
}

// Not at first, and not when it asks for it.
TEST_F(FetcherAccess, AProxyGetsNoPasswordInTheClear) {
  UniqueFd ipv6(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!ipv6.valid()) GTEST_SKIP() << "no IPv6";
  stub_.RequireAuth(Auth::kBasic, "user", "right");
  Write(config_, R"({"auths":{"registry.example":{"username":"user","password":"right"}}})");
  // A name of the stub that does not look like one of this machine.
  const std::string port = stub_.host().substr(stub_.host().find(':'));
  Start({"--plain-http", "--p2p-proxy", "http://[::ffff:127.0.0.1]" + port});
  auto places = OpenAs(2, id_, HostSource("http", "registry.example"));
  ASSERT_EQ(places.size(), 2U);
  FetchEvent e = Run(places[0], 10, 1000);
  EXPECT_EQ(e.outcome, FetchOutcome::kTransient);
  EXPECT_NE(e.error.message.find("401"), std::string::npos) << e.error.message;
  auto asked = stub_.Requests();
  ASSERT_EQ(asked.size(), 1U) << "and it is not asked again";
  EXPECT_EQ(asked[0].headers.count("authorization"), 0U);
}

// What root can mend is asked for again, and is no image's end.
TEST_F(FetcherAccess, ABrokenHostsTomlIsNamed) {
  Write(config_, "{}");
  Start();
  HostsToml(stub_.host(), "nonsense");
  const std::string json = Json(RegistrySource(stub_));
  auto opened = client_->OpenImage(2, id_, AsBytes(json));
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().kind, ErrorKind::kUnavailable);
  EXPECT_NE(opened.error().message.find("hosts.toml"), std::string::npos) << opened.error().message;
  HostsToml(stub_.host(), "");
  EXPECT_TRUE(client_->OpenImage(2, id_, AsBytes(json)).ok());
}

}  // namespace
}  // namespace fastoci
