// SPDX-License-Identifier: Apache-2.0
#include "fetcher/locations.h"

#include <gtest/gtest.h>

#include "fetcher/protocol.h"

namespace fastoci {
namespace {

BlobLocation Registry(const std::string& host, const std::string& repository,
                      const std::string& scheme = "https") {
  BlobLocation l;
  l.type = BlobLocation::Type::kRegistry;
  l.scheme = scheme;
  l.repository.host = host;
  l.repository.repository = repository;
  return l;
}

BlobLocation File(const std::string& path) {
  BlobLocation l;
  l.path = path;
  return l;
}

FetchImage Image(std::vector<BlobLocation> sources, const std::string& digest = "sha256:a",
                 uint64_t bytes = 10) {
  return {{{digest, bytes, std::move(sources)}}};
}

TEST(Locations, EqualOnesOfAllImagesAreOne) {
  Locations l;
  auto first = l.Open(1, Image({Registry("h.io", "a"), Registry("m.io", "a"), File("/a")}));
  ASSERT_TRUE(first.ok());
  const auto& a = first->blobs[0];
  ASSERT_EQ(a.size(), 3U);
  EXPECT_EQ(first->new_hosts.size(), 2U);
  EXPECT_EQ(first->new_hosts[0].name, "https://h.io");
  EXPECT_EQ(a[0]->url, "https://h.io/v2/a/blobs/sha256:a");
  EXPECT_EQ(a[0]->scope.name(), "h.io/a");
  EXPECT_EQ(a[2]->host, kLocalHost);
  EXPECT_NE(a[0]->host, a[1]->host);

  Knowledge plain;
  plain.plain_http = true;
  auto second = l.Open(2, Image({Registry("m.io", "a"), Registry("h.io", "b"),
                                 Registry("h.io", "a", "http"), File("/a")}), plain);
  ASSERT_TRUE(second.ok());
  const auto& b = second->blobs[0];
  EXPECT_EQ(b[0]->number, a[1]->number);
  EXPECT_NE(b[1]->number, a[0]->number);
  EXPECT_EQ(b[1]->host, a[0]->host);
  EXPECT_NE(b[2]->host, a[0]->host) << "another scheme is another server";
  EXPECT_EQ(b[3]->number, a[2]->number);
  EXPECT_EQ(second->new_hosts.size(), 1U);

  // Another blob, or one of another size, is somewhere else.
  auto other = l.Open(3, Image({Registry("h.io", "a")}, "sha256:b"));
  auto longer = l.Open(4, Image({Registry("h.io", "a")}, "sha256:a", 11));
  EXPECT_NE(other->blobs[0][0]->number, a[0]->number);
  EXPECT_NE(longer->blobs[0][0]->number, a[0]->number);
}

TEST(Locations, LiveAsLongAsAnImageNamesThem) {
  Locations l;
  uint32_t number = l.Open(1, Image({Registry("h.io", "a")}))->blobs[0][0]->number;
  const uint32_t host = l.Find(number)->host;
  EXPECT_TRUE(l.Open(2, Image({Registry("h.io", "a")}))->gone.locations.empty());
  EXPECT_TRUE(l.Close(1).locations.empty());
  EXPECT_TRUE(l.Close(1).locations.empty());
  EXPECT_NE(l.Find(number), nullptr);
  // Replaced by an image that still names it, and by one that does not.
  auto both = l.Open(2, Image({Registry("h.io", "a"), Registry("h.io", "b"), File("/x")}));
  EXPECT_TRUE(both->gone.locations.empty());
  auto one = l.Open(2, Image({Registry("h.io", "a"), File("/x")}));
  EXPECT_EQ(one->gone.locations.size(), 1U);
  EXPECT_TRUE(one->gone.hosts.empty()) << "it has another location";
  auto replaced = l.Open(2, Image({File("/x")}));
  ASSERT_EQ(replaced->gone.locations.size(), 1U);
  EXPECT_EQ(replaced->gone.locations[0]->number, number);
  EXPECT_EQ(replaced->gone.hosts, std::vector<uint32_t>{host});
  EXPECT_EQ(l.Find(number), nullptr);
  EXPECT_EQ(l.Close(2).locations.size(), 1U);
  // Never the same number again, but the same name.
  auto again = l.Open(3, Image({Registry("h.io", "a")}));
  EXPECT_NE(again->blobs[0][0]->number, number);
  ASSERT_EQ(again->new_hosts.size(), 1U);
  EXPECT_NE(again->new_hosts[0].number, host);
  EXPECT_EQ(again->new_hosts[0].name, "https://h.io");
}

// The server that a peer stands for lives as long as the peer's location, also if they are one.
TEST(Locations, ServersLiveAsLongAsTheirLocations) {
  Locations l;
  Knowledge k;
  for (const char* peer : {"https://h.io", "http://localhost:1"}) {
    k.p2p = peer;
    auto opened = l.Open(1, Image({Registry("h.io", "a")}), k);
    ASSERT_TRUE(opened.ok());
    const size_t nr_hosts = opened->new_hosts.size();
    EXPECT_EQ(l.Close(1).hosts.size(), nr_hosts) << peer;
  }
  // One that another image uses stays.
  ASSERT_TRUE(l.Open(1, Image({Registry("h.io", "a")}), k).ok());
  ASSERT_TRUE(l.Open(2, Image({Registry("h.io", "b")})).ok());
  EXPECT_EQ(l.Close(1).hosts.size(), 1U) << "the peer";
  EXPECT_EQ(l.Close(2).hosts.size(), 1U);
}

TEST(Locations, DockerHubIsOneServerByAnyName) {
  Locations l;
  auto o = l.Open(1, Image({Registry("docker.io", "library/x"), Registry("index.docker.io", "x"),
                            Registry("registry-1.docker.io", "x")}));
  EXPECT_EQ(o->new_hosts.size(), 1U);
  EXPECT_EQ(o->blobs[0][0]->url, "https://registry-1.docker.io/v2/library/x/blobs/sha256:a");
  EXPECT_EQ(o->blobs[0][0]->scope.host, "docker.io");
}

TEST(Locations, AreBounded) {
  Locations l;
  for (uint32_t i = 0; i < kMaxImages; i++) ASSERT_TRUE(l.Open(i, Image({File("/x")})).ok());
  auto refused = l.Open(kMaxImages, Image({File("/x")}));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().kind, ErrorKind::kUnavailable);
  EXPECT_TRUE(l.Open(5, Image({File("/y")})).ok());
  for (uint32_t i = 0; i < kMaxServers; i++)
    ASSERT_TRUE(l.Open(i / 2, Image({Registry("h" + std::to_string(i / 2 * 2), "a"),
                                     Registry("h" + std::to_string(i), "a")})).ok());
  refused = l.Open(kMaxImages - 1, Image({Registry("more", "a")}));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().kind, ErrorKind::kUnavailable);
  EXPECT_TRUE(l.Open(kMaxImages - 1, Image({Registry("h7", "a")})).ok());
  // As soon as another image is closed, there is room again.
  (void)l.Close(0);
  EXPECT_TRUE(l.Open(0, Image({Registry("more", "a")})).ok());
  // However many servers there were.
  for (uint32_t i = 0; i < 2 * kMaxServers; i++)
    ASSERT_TRUE(l.Open(0, Image({Registry("o" + std::to_string(i), "a")})).ok());
}

}  // namespace
}  // namespace fastoci
