// SPDX-License-Identifier: Apache-2.0
#include "registry/hosts.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace fastoci {
namespace {

std::vector<HostConfig> Parse(const std::string& text, const std::string& host = "docker.io") {
  auto r = ParseHostsToml(text, "/certs/dir", host);
  if (r.ok()) return *r;
  ADD_FAILURE() << r.error().message;
  return {};
}

std::string ErrorOf(const std::string& text) {
  auto r = ParseHostsToml(text, "/certs/dir", "r.example");
  return r.ok() ? "" : r.error().message;
}

std::string Places(const std::vector<HostConfig>& all) {
  std::string s;
  for (const HostConfig& h : all) s += h.Url("a/b", "blobs/d") + "\n";
  return s;
}

TEST(HostsToml, MirrorsComeInTheFilesOrderAndTheRegistryLast) {
  EXPECT_EQ(Places(Parse(R"(
server = "https://registry-1.docker.io"
[host."https://zz.example"]
  capabilities = ["pull", "resolve"]
[host."http://aa.example:5000"]
[host."mm.example/proxy"]
[host."https://over.example/api/hub"]
  override_path = true
)")),
            "https://zz.example/v2/a/b/blobs/d?ns=docker.io\n"
            "http://aa.example:5000/v2/a/b/blobs/d?ns=docker.io\n"
            "https://mm.example/proxy/v2/a/b/blobs/d?ns=docker.io\n"
            "https://over.example/api/hub/a/b/blobs/d?ns=docker.io\n"
            "https://registry-1.docker.io/v2/a/b/blobs/d\n");
  // In one table, too.
  EXPECT_EQ(Places(Parse("host = { \"https://z.example\" = {}, \"https://a.example\" = {} }",
                         "r.example:5000")),
            "https://z.example/v2/a/b/blobs/d?ns=r.example%3A5000\n"
            "https://a.example/v2/a/b/blobs/d?ns=r.example%3A5000\n"
            "https://r.example:5000/v2/a/b/blobs/d\n");
}

TEST(HostsToml, TheServerMayBeAnother) {
  EXPECT_EQ(Places(Parse("server = \"https://other.example/v2\"", "r.example")),
            "https://other.example/v2/a/b/blobs/d?ns=r.example\n");
  EXPECT_EQ(Places(Parse("server = \"http://R.example\"", "r.example")),
            "http://r.example/v2/a/b/blobs/d\n");
  EXPECT_EQ(Places(Parse("", "127.0.0.1:5000")), "http://127.0.0.1:5000/v2/a/b/blobs/d\n");
  EXPECT_EQ(Places(Parse("# nothing")), "https://registry-1.docker.io/v2/a/b/blobs/d\n");
}

TEST(HostsToml, ReadsEachKeyInEachForm) {
  auto all = Parse(R"(
ca = "top.pem"
skip_verify = true
[host."https://a.example"]
  capabilities = ["PULL"]
  ca = ["/abs/ca1.pem", "ca2.pem"]
  client = [["c.pem", "k.pem"], ["d.pem", ""]]
  dial_timeout = "1m1.5s"
  [host."https://a.example".header]
    Authorization = "Basic abc"
    x-many = ["1", "2"]
[host."https://b.example"]
  client = "both.pem"
[host."https://c.example"]
  client = ["one.pem", "two.pem"]
  capabilities = ["push", "resolve", "referrers"]
)");
  ASSERT_EQ(all.size(), 4U);
  EXPECT_TRUE(all[0].pull);
  EXPECT_FALSE(all[0].resolve);
  EXPECT_FALSE(all[0].push);
  EXPECT_EQ(all[0].ca_files, (std::vector<std::string>{"/abs/ca1.pem", "/certs/dir/ca2.pem"}));
  ASSERT_EQ(all[0].clients.size(), 2U);
  EXPECT_EQ(all[0].clients[0].cert_file, "/certs/dir/c.pem");
  EXPECT_EQ(all[0].clients[0].key_file, "/certs/dir/k.pem");
  EXPECT_EQ(all[0].clients[1].key_file, "");
  EXPECT_EQ(all[0].dial_timeout_ms, 61500);
  ASSERT_EQ(all[0].headers.size(), 3U);
  EXPECT_EQ(all[0].headers[0].first, "Authorization");
  EXPECT_EQ(all[0].headers[0].second.Reveal(), "Basic abc");
  EXPECT_EQ(all[0].headers[2].second.Reveal(), "2");
  EXPECT_FALSE(all[0].skip_verify);
  EXPECT_EQ(all[1].clients[0].cert_file, "/certs/dir/both.pem");
  EXPECT_TRUE(all[1].push);
  EXPECT_EQ(all[2].clients.size(), 2U);
  EXPECT_FALSE(all[2].pull);
  EXPECT_TRUE(all[3].skip_verify);
  EXPECT_EQ(all[3].ca_files[0], "/certs/dir/top.pem");
}

TEST(HostsToml, NamesLineAndFault) {
  EXPECT_EQ(ErrorOf("\nskip_verify = 1\n"), "line 2: \"skip_verify\" must be true or false");
  EXPECT_EQ(ErrorOf("[host.\"ftp://x.example\"]"),
            "line 1: \"host\" \"ftp://x.example\" is neither http nor https");
  EXPECT_EQ(ErrorOf("[host.\"https://x.example\"]\ncapabilities = [\"fly\"]"),
            "line 2: \"capabilities\" has an unknown capability: fly");
  for (const char* bad :
       {"= 1", "server = 3", "host = 1", "[host]\nx = 1", "ca = 1", "ca = [1]", "client = [[\"a\"]]",
        "client = {}", "header = 1", "header = {\"a b\" = \"x\"}", "header = {a = \"x\\ny\"}",
        "dial_timeout = \"soon\"", "dial_timeout = \"5\"", "server = \"https://u@h.example\"",
        "server = \"https://h.example/../x\"", "server = \"https://h.example/a?b\"", "unknown = 1",
        "server = \"https://\"", "capabilities = \"pull\"", "[.a]\nx = 1"})
    EXPECT_NE(ErrorOf(bad), "") << bad;
  EXPECT_NE(ErrorOf("a = " + std::string(5000, '[')), "");
}

TEST(HostsToml, OnlyCommentsMayHaveMoreThanAscii) {
  EXPECT_EQ(Places(Parse("# Spiegel f\u00fcr uns \u1681\nserver = \"https://a.example\" # \u200f\n")),
            "https://a.example/v2/a/b/blobs/d?ns=docker.io\n");
  EXPECT_EQ(ErrorOf("server = \"https://a.example/#\" # x\nca = \"/\u00fc.pem\""),
            "line 2: a character that is not ASCII");
}

class HostsDirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::temp_directory_path() / ("fastoci-hosts-" + std::to_string(getpid()));
    std::filesystem::create_directories(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  Result<std::vector<HostConfig>> Load(const std::string& ref) {
    HostsOptions o;
    o.roots = {root_ / "containerd", root_ / "docker"};
    return LoadHosts(o, *ParseReference(ref));
  }
  std::filesystem::path root_;
};

TEST_F(HostsDirTest, TheBestDirectoryCounts) {
  EXPECT_EQ(Places(*Load("r.example:5000/x")), "https://r.example:5000/v2/a/b/blobs/d\n");
  Write("containerd/_default/hosts.toml", "[host.\"https://default.example\"]");
  EXPECT_EQ((*Load("r.example:5000/x"))[0].authority, "default.example");
  Write("containerd/r.example/hosts.toml", "[host.\"https://noport.example\"]");
  EXPECT_EQ((*Load("r.example:5000/x"))[0].authority, "noport.example");
  Write("containerd/r.example:5000/hosts.toml", "[host.\"https://colon.example\"]");
  EXPECT_EQ((*Load("r.example:5000/x"))[0].authority, "colon.example");
  Write("containerd/r.example_5000_/hosts.toml", "[host.\"https://under.example\"]");
  EXPECT_EQ((*Load("r.example:5000/x"))[0].authority, "under.example");
  Write("containerd/docker.io/hosts.toml", "[host.\"https://hub.example\"]");
  EXPECT_EQ((*Load("alpine"))[0].authority, "hub.example");
  EXPECT_EQ((*Load("alpine"))[1].authority, "registry-1.docker.io");
}

TEST_F(HostsDirTest, DockersDirectoryHasCertificates) {
  Write("docker/r.example:5000/ca.crt", "CA");
  Write("docker/r.example:5000/client.cert", "CERT");
  Write("docker/r.example:5000/client.key", "KEY");
  auto all = Load("r.example:5000/x");
  ASSERT_TRUE(all.ok()) << all.error().message;
  ASSERT_EQ(all->size(), 1U);
  EXPECT_EQ((*all)[0].ca_pem, "CA\n");
  EXPECT_EQ((*all)[0].client_cert_pem, "CERT");
  EXPECT_EQ((*all)[0].client_key_pem.Reveal(), "KEY");
  std::filesystem::remove(root_ / "docker/r.example:5000/client.key");
  auto bad = Load("r.example:5000/x");
  ASSERT_FALSE(bad.ok());
  EXPECT_NE(bad.error().message.find("client.key"), std::string::npos);
}

TEST_F(HostsDirTest, WhatCannotBeReadIsNamed) {
  Write("containerd/a.example/hosts.toml", "ca = \"absent.pem\"");
  EXPECT_NE(Load("a.example/x").error().message.find("a.example/absent.pem"), std::string::npos);
  Write("containerd/b.example/hosts.toml", "ca = [");
  EXPECT_NE(Load("b.example/x").error().message.find("b.example/hosts.toml"), std::string::npos);
}

TEST(HostDirectoryNames, OfEachKindOfHost) {
  EXPECT_EQ(HostDirectoryNames("[::1]:5000")[0], "[::1]_5000_");
  EXPECT_EQ(HostDirectoryNames("[::1]"), (std::vector<std::string>{"[::1]", "_default"}));
  EXPECT_EQ(HostDirectoryNames("docker.io"), (std::vector<std::string>{"docker.io", "_default"}));
}

}  // namespace
}  // namespace fastoci
