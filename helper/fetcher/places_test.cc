// SPDX-License-Identifier: Apache-2.0
#include "fetcher/places.h"

#include <gtest/gtest.h>

#include "fetcher/protocol.h"

namespace fastoci {
namespace {

FetchBlob Blob(const std::string& host, const std::string& scheme = "https") {
  BlobLocation l;
  l.type = BlobLocation::Type::kRegistry;
  l.scheme = scheme;
  l.repository.host = host;
  l.repository.repository = "team/app";
  return {"sha256:a", 10, {l}};
}

Access Given(const std::string& host, const std::string& password = "p") {
  Access a;
  a.host = host;
  a.ca_pem = "CA";
  a.client_cert_pem = "CERT";
  a.client_key_pem = Secret("KEY");
  a.credential = {"u", Secret(password), {}};
  return a;
}

std::vector<Place> Places(const FetchBlob& blob, const Knowledge& k) {
  auto places = PlacesOf(blob, k);
  EXPECT_TRUE(places.ok()) << (places.ok() ? "" : places.error().message);
  return places.ok() ? *places : std::vector<Place>();
}

TEST(Places, WhatAttachWasGivenIsForOneRegistryInAnySpelling) {
  Knowledge k;
  k.accesses = {Given("Registry.Example:443")};
  auto own = Places(Blob("registry.example"), k);
  ASSERT_EQ(own.size(), 1U);
  EXPECT_EQ(own[0].server.credential->password.Reveal(), "p");
  EXPECT_EQ(own[0].server.site->ca_pem, "CA");
  EXPECT_EQ(own[0].server.site->client_key_pem.Reveal(), "KEY");
  auto other = Places(Blob("other.example"), k);
  ASSERT_EQ(other.size(), 1U);
  EXPECT_EQ(other[0].server.site, nullptr);
  EXPECT_FALSE(other[0].server.credential);
}

// Of a stack of layers from several registries: as each is accessed, but the password for its own alone.
TEST(Places, WhatAttachWasGivenHoldsForTheOtherRegistriesOfTheStack) {
  Access a = Given("r.example");
  a.repository = "team/app";
  a.plain_http = true;
  a.more_hosts = {"low.example", "unused.example"};
  auto read = AccessFromJson(AccessToJson(a).Reveal());
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(*read, a);
  FetchImage image;
  image.blobs = {Blob("r.example"), Blob("low.example", "http")};
  Knowledge k;
  k.accesses = AccessesFor(image, {*read});
  EXPECT_EQ(k.accesses.size(), 2U);
  auto low = Places(image.blobs[1], k), top = Places(image.blobs[0], k);
  ASSERT_EQ(low.size() + top.size(), 2U);
  EXPECT_EQ(low[0].server.origin, "http://low.example");
  EXPECT_EQ(low[0].server.site->ca_pem, "CA");
  EXPECT_FALSE(low[0].server.credential);
  EXPECT_TRUE(top[0].server.credential);
  EXPECT_FALSE(AccessFromJson(R"({"version":1,"host":"r.example","more_hosts":["/x"]})").ok());
  EXPECT_FALSE(AccessFromJson(R"({"version":1,"host":"r.example","more_hosts":"x"})").ok());
}

TEST(Places, MirrorsGetNothingOfTheRegistrys) {
  Knowledge k;
  k.accesses = {Given("registry.example")};
  auto hosts = ParseHostsToml(
      "server = \"https://registry.example\"\nskip_verify = true\n"
      "[host.\"http://mirror.example:80\"]\n[host.\"http://mirror.example:80\".header]\nx = \"y\"\n"
      "[host.\"https://registry.example\"]\n",
      "/d", "registry.example");
  ASSERT_TRUE(hosts.ok()) << hosts.error().message;
  k.hosts["registry.example"] = *hosts;
  auto all = Places(Blob("registry.example"), k);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[0].url, "http://mirror.example:80/v2/team/app/blobs/sha256:a?ns=registry.example");
  EXPECT_EQ(all[0].scope.name(), "mirror.example:80/team/app");
  EXPECT_FALSE(all[0].server.credential);
  EXPECT_EQ(all[0].server.site->ca_pem, "");
  EXPECT_EQ(all[0].server.site->client_key_pem.Reveal(), "");
  EXPECT_EQ(all[0].server.site->headers.size(), 1U);
  for (int i : {1, 2}) {
    EXPECT_EQ(all[i].url, "https://registry.example/v2/team/app/blobs/sha256:a");
    EXPECT_TRUE(all[i].server.credential);
    EXPECT_TRUE(all[i].server.site->headers.empty());
  }
}

// As containerd does it, also where the registry is not the last one.
TEST(Places, TheOrderIsTheFiles) {
  Knowledge k;
  k.hosts["r.example"] = *ParseHostsToml("[host.\"https://r.example\"]\n[host.\"https://m.example\"]\n", "/d", "r.example");
  auto all = Places(Blob("r.example"), k);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[0].server.origin, "https://r.example");
  EXPECT_EQ(all[1].server.origin, "https://m.example");
  EXPECT_EQ(all[2].server.origin, "https://r.example");
}

TEST(Places, WhatAttachWasToldWinsOverTheFile) {
  Knowledge k;
  k.hosts["r.example"] = *ParseHostsToml("server = \"https://r.example\"\nskip_verify = true\n", "/d", "r.example");
  Access a;
  a.host = "r.example";
  a.ca_pem = "CA";
  k.accesses = {a};
  EXPECT_FALSE(Places(Blob("r.example"), k)[0].server.site->insecure) << "who names a CA wants it";
  // JSON that says "http" alone is not enough.
  EXPECT_EQ(Places(Blob("r.example", "http"), k)[0].server.origin, "https://r.example");
  k.accesses[0].plain_http = true;
  EXPECT_EQ(Places(Blob("r.example", "http"), k)[0].server.origin, "http://r.example");
}

TEST(Places, ServersDifferByWhatTheyAreToldAndTheirKeysAreNoSecrets) {
  Knowledge none, one, two;
  one.accesses = {Given("r.example", "password-one")};
  two.accesses = {Given("r.example", "password-two")};
  auto key = [](const Knowledge& k) { return Places(Blob("r.example"), k)[0].server.Key(); };
  EXPECT_EQ(key(none), "https://r.example");
  EXPECT_EQ(key(one), key(one));
  EXPECT_NE(key(one), key(two));
  EXPECT_NE(key(one), key(none));
  EXPECT_EQ(key(one).find("password"), std::string::npos);
  // Two attaches of one image: each may be the one that works.
  one.accesses.push_back(two.accesses[0]);
  EXPECT_EQ(Places(Blob("r.example"), one).size(), 2U);
}

TEST(Places, AFileOfCredentialsIsForTheRegistryAlone) {
  Knowledge k;
  Access a;
  a.host = "r.example";
  a.credentials_file = "/etc/login.json";
  k.accesses = {a};
  const Server with = Places(Blob("r.example"), k)[0].server;
  EXPECT_EQ(with.credentials_file, "/etc/login.json");
  EXPECT_NE(with.Key(), "https://r.example");
  EXPECT_EQ(Places(Blob("other.example"), k)[0].server.Key(), "https://other.example");
}

TEST(Places, PlainHttpOnlyWhereAllowed) {
  Knowledge k;
  EXPECT_FALSE(PlacesOf(Blob("r.example", "http"), k).ok());
  EXPECT_TRUE(PlacesOf(Blob("127.0.0.1:5000", "http"), k).ok());
  Access a;
  a.host = "other.example";
  a.plain_http = true;
  k.accesses = {a};
  EXPECT_FALSE(PlacesOf(Blob("r.example", "http"), k).ok());
  k.accesses[0].host = "r.example";
  EXPECT_EQ(Places(Blob("r.example", "http"), k)[0].server.origin, "http://r.example");
  k.accesses.clear();
  k.plain_http = true;
  EXPECT_TRUE(PlacesOf(Blob("r.example", "http"), k).ok());
}

TEST(Places, WhatOneAttachMaySendInTheClearIsItsOwn) {
  Access plain = Given("r.example", "plain"), other = Given("r.example", "other");
  plain.plain_http = true;
  Knowledge k;
  k.accesses = {other, plain};
  auto http = Places(Blob("r.example", "http"), k);
  ASSERT_EQ(http.size(), 1U);
  EXPECT_EQ(http[0].server.credential->password.Reveal(), "plain");
  EXPECT_TRUE(http[0].server.http_by_attach);
  EXPECT_EQ(Places(Blob("r.example"), k).size(), 2U) << "https is for both";
  // Where the node itself says http, nobody else is asked.
  k.plain_http = true;
  http = Places(Blob("r.example", "http"), k);
  ASSERT_EQ(http.size(), 2U);
  EXPECT_FALSE(http[0].server.http_by_attach);
  k.plain_http = false;
  k.hosts["r.example"] = *ParseHostsToml("server = \"http://r.example\"\n", "/d", "r.example");
  EXPECT_EQ(Places(Blob("r.example", "http"), k).size(), 2U);
}

TEST(Places, AProxyGetsNoPasswordInTheClear) {
  Knowledge k;
  k.plain_http = true;
  k.accesses = {Given("r.example")};
  k.hosts["r.example"] = *ParseHostsToml(
      "server = \"https://r.example\"\n[header]\nAuthorization = \"Basic abc\"\n", "/d",
      "r.example");
  k.hosts["r.example"][0].scheme_said = false;
  for (const auto& [proxy, is_private] : std::vector<std::pair<std::string, bool>>{
           {"http://127.0.0.1:4001", true},
           {"http://[::1]:4001", true},
           {"https://proxy.example", true},
           {"http://proxy.example:4001", false},
           {"http://localhost:1@proxy.example:4001", false}}) {
    k.p2p_proxy = proxy;
    auto http = Places(Blob("r.example", "http"), k), https = Places(Blob("r.example"), k);
    ASSERT_EQ(http.size(), 2U);
    ASSERT_EQ(https.size(), 2U);
    EXPECT_EQ(http[0].without_authorization, !is_private) << proxy;
    EXPECT_EQ(http[0].server.site->headers.empty(), !is_private) << proxy;
    EXPECT_FALSE(https[0].without_authorization) << proxy;
    EXPECT_EQ(https[0].server.site->headers.size(), 1U);
    for (const auto& places : {http, https}) {
      EXPECT_FALSE(places[1].without_authorization);
      EXPECT_EQ(places[1].server.site->headers.size(), 1U);
      EXPECT_EQ(places[1].server.site->proxy, "");
    }
  }
  // Another machine's loopback is another one.
  for (const char* host : {"127.0.0.1:5000", "localhost"}) {
    for (const char* proxy : {"http://proxy.example:4001", "https://proxy.example"}) {
      k.p2p_proxy = proxy;
      EXPECT_EQ(Places(Blob(host, "http"), k).size(), 1U) << host;
    }
    k.p2p_proxy = "http://localhost:4001";
    EXPECT_EQ(Places(Blob(host, "http"), k).size(), 2U) << host;
  }
}

TEST(Places, PeersComeFirstAndGetNoPasswordInTheClear) {
  Knowledge k;
  k.hosts["r.example"] = *ParseHostsToml("[host.\"https://m.example\"]\n", "/d", "r.example");
  k.p2p_proxy = "http://127.0.0.1:4001";
  for (const auto& [url, is_private] : std::vector<std::pair<std::string, bool>>{
           {"http://localhost:9731/accelerator", true},
           {"http://127.0.0.1:65001", true},
           {"https://peer.example/x", true},
           {"http://peer.example/x", false}}) {
    k.p2p = url;
    auto all = Places(Blob("r.example"), k);
    ASSERT_EQ(all.size(), 4U);
    EXPECT_EQ(all[0].url, url + "/https://r.example/v2/team/app/blobs/sha256:a");
    EXPECT_EQ(all[0].peer_of->Key(), all[3].server.Key());
    EXPECT_EQ(all[0].without_authorization, !is_private) << url;
    EXPECT_EQ(all[1].server.site->proxy, k.p2p_proxy);
    EXPECT_EQ(all[1].url, all[3].url);
    EXPECT_EQ(all[2].server.origin, "https://m.example");
    EXPECT_EQ(all[3].server.Key(), "https://r.example");
  }
}

TEST(Places, AreBoundedAndKeepTheRegistry) {
  Knowledge k;
  std::string toml;
  for (size_t i = 0; i < kMaxHosts; i++) toml += "[host.\"https://m" + std::to_string(i) + "\"]\n";
  k.hosts["r.example"] = *ParseHostsToml(toml, "/d", "r.example");
  auto all = Places(Blob("r.example"), k);
  ASSERT_EQ(all.size(), kMaxBlobLocations);
  EXPECT_EQ(all.front().server.origin, "https://m0");
  EXPECT_EQ(all.back().server.origin, "https://r.example");
}

}  // namespace
}  // namespace fastoci
