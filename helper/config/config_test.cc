// SPDX-License-Identifier: Apache-2.0
#include "config/config.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace fastoci {
namespace {

std::string ErrorOf(const std::string& text, ConfigDialect dialect = ConfigDialect::kOurs) {
  auto c = ParseConfig(text, "c.json", dialect);
  return c.ok() ? "" : c.error().message;
}

TEST(Config, AnEmptyFileIsTheDefaults) {
  auto c = ParseConfig("{}", "c.json", ConfigDialect::kOurs);
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_TRUE(c->keep_cache);
  EXPECT_EQ(c->cache_dir, "/var/lib/fastoci/cache");
  EXPECT_EQ(c->cache_size_gb, 4u);
  EXPECT_EQ(c->whole_layer_kb, 1024u);
  EXPECT_FALSE(c->download.enable);
}

TEST(Config, BothSizesAreAddedAndOurFilesLieApart) {
  auto c = ParseConfig(R"({"gzipCacheConfig": {"enable": false, "cacheSizeGB": 10,
      "cacheDir": "/opt/overlaybd/gzip_cache"}, "cacheConfig": {"cacheSizeGB": 3,
      "cacheDir": "/opt/overlaybd/registry_cache"},
      "credentialConfig": {"mode": "file", "path": "/etc/cred.json"},
      "download": {"enable": true, "delay": 0, "maxMBps": 7, "tryCnt": 2, "blockSize": 1048576}})",
                       "c.json", ConfigDialect::kOurs);
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->cache_size_gb, 13u);
  EXPECT_EQ(c->cache_dir, "/opt/overlaybd/gzip_cache/fastoci");
  EXPECT_FALSE(c->keep_cache);
  EXPECT_EQ(c->credentials, "/etc/cred.json");
  EXPECT_TRUE(c->download.enable);
  EXPECT_EQ(c->download.delay_s, 0u);
  EXPECT_EQ(c->download.max_mbps, 7u);
  EXPECT_EQ(c->download.block_bytes, 1048576u);
}

TEST(Config, ADownloadMayHaveNoLimit) {
  auto c = ParseConfig(R"({"download": {"enable": true, "maxMBps": 0}})", "c.json",
                       ConfigDialect::kOurs);
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->download.max_mbps, 0u);
  EXPECT_EQ(ErrorOf("{\"download\": {\"maxMBps\": 100001}}"),
            "c.json:1:15: \"download.maxMBps\" must be a whole number from 0 to 100000");
}

TEST(Config, ComplaintsNameThePlace) {
  EXPECT_EQ(ErrorOf("{\n  \"chunkKB\": 64,\n  \"chukKB\": 64\n}"),
            "c.json:3:3: unknown key \"chukKB\"");
  EXPECT_EQ(ErrorOf("{\"download\": {\"enable\": 1}}"),
            "c.json:1:15: \"download.enable\" must be true or false");
  EXPECT_EQ(ErrorOf("{\"gzipCacheConfig\":\n{\"cacheSizeGB\": 0}}"),
            "c.json:2:2: \"gzipCacheConfig.cacheSizeGB\" must be a whole number from 1 to 1048576");
  EXPECT_EQ(ErrorOf("{\"gzipCacheConfig\": {\"cacheSizeGB\": 1.5}}").substr(0, 12), "c.json:1:22:");
  EXPECT_EQ(ErrorOf("{\"gzipCacheConfig\": {\"cacheSizeGB\": -1}}").substr(0, 12), "c.json:1:22:");
  EXPECT_EQ(ErrorOf("{\"wholeLayerKB\": 1048577}"),
            "c.json:1:2: \"wholeLayerKB\" must be a whole number from 0 to 1048576");
  EXPECT_EQ(ErrorOf("{\"chunkKB\": 96}"), "c.json:1:2: \"chunkKB\" must be a power of two");
  EXPECT_EQ(ErrorOf("{\"download\": 3}"), "c.json:1:2: \"download\" must be an object");
  EXPECT_EQ(ErrorOf("{\"chunkKB\": 64, \"chunkKB\": 64}"),
            "c.json:1:17: \"chunkKB\" is there twice");
  EXPECT_EQ(ErrorOf("{\"credentialConfig\": {\"mode\": \"http\"}}").substr(0, 12), "c.json:1:23:");
  EXPECT_EQ(ErrorOf("{\"exporterConfig\": {\n\"uriPrefix\": \"m\"}}"),
            "c.json:2:1: \"exporterConfig.uriPrefix\" must begin with \"/\"");
  EXPECT_EQ(ErrorOf("{\"exporterConfig\": {\"port\": 65536}}").substr(0, 12), "c.json:1:21:");
  EXPECT_EQ(ErrorOf("{\"registryCacheSizeGB\": 4}").substr(0, 11), "c.json:1:2:");
}

TEST(Config, SignaturesAreDemandedByRepository) {
  auto c = ParseConfig(R"({"signatures": {"*": "/etc/keys/all.pem", "r.example:5000/dev": "none"}})",
                       "c.json", ConfigDialect::kOurs);
  ASSERT_TRUE(c.ok()) << c.error().message;
  ASSERT_EQ(c->signatures.size(), 2U);
  EXPECT_EQ(c->signatures[0].prefix, "*");
  EXPECT_EQ(c->signatures[0].key_file, "/etc/keys/all.pem");
  EXPECT_EQ(c->signatures[1].prefix, "r.example:5000/dev");
  EXPECT_EQ(c->signatures[1].key_file, "");
  EXPECT_EQ(ErrorOf("{\"signatures\": {\"nginx\": \"/k\"}}"),
            "c.json:1:17: \"signatures.nginx\" can match no image: it names no registry; "
            "write docker.io/library/nginx");
  auto same = ParseConfig(R"({"signatures": {"R.Example:443/dev/": "/k"}})", "c.json",
                          ConfigDialect::kOurs);
  ASSERT_TRUE(same.ok()) << same.error().message;
  EXPECT_EQ(same->signatures[0].prefix, "r.example/dev");
  EXPECT_EQ(ErrorOf("{\"signatures\": {\"a.b\": \"keys.pem\"}}"),
            "c.json:1:17: \"signatures.a.b\" must be the whole path of a file of public keys, or \"none\"");
  for (const char* bad : {R"({"signatures": "/k"})", R"({"signatures": {"a.b": 3}})",
                          R"({"signatures": {"a.b": ""}})", R"({"signatures": {"": "/k"}})",
                          R"({"signatures": {"a.b": {"b": "/k"}}})", R"({"signatures": {"a.b": ["/k"]}})",
                          R"({"signatures": {"a.b": "/k", "a.b": "/l"}})",
                          // rules that can never match, and two spellings of one
                          R"({"signatures": {"prod/app": "/k"}})", R"({"signatures": {"a.b/App": "/k"}})",
                          R"({"signatures": {"a.b/app:1": "/k"}})", R"({"signatures": {"a.b/*": "/k"}})",
                          R"({"signatures": {"https://a.b": "/k"}})",
                          R"({"signatures": {"a.b": "/k", "A.b:443": "/l"}})", R"({"signatures": ["/k"]})"})
    EXPECT_NE(ErrorOf(bad), "") << bad;
}

TEST(Config, WhatIsNoJsonObjectIsRefused) {
  EXPECT_EQ(ErrorOf("{\n\"chunkKB\": 64,\n}").substr(0, 9), "c.json:3:");
  for (const char* bad : {"", "[]", "3", "\"x\"", "null", "{\"chunkKB\": 64} x", "{\"chunkKB\"",
                          "{\"chunkKB\": [64]}", "{\"download\": []}", "\xff"})
    EXPECT_NE(ErrorOf(bad), "") << bad;
  EXPECT_NE(ErrorOf("{\"x\":" + std::string(5000, '[')), "");
}

TEST(Config, PeersAreUrls) {
  auto c = ParseConfig(R"({"p2pConfig": {"enable": true, "address": "http://localhost:9731/x/"}})",
                       "c.json", ConfigDialect::kOurs);
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->p2p, "http://localhost:9731/x");
  EXPECT_EQ(c->p2p_proxy, "");
  EXPECT_NE(ErrorOf(R"({"p2pConfig": {"enable": true}})").find("needs an \"address\""),
            std::string::npos);
  for (const char* bad : {"localhost:9731", "http://", "ftp://h", "http://u:p@h", "http://h?x", "http://h x"})
    for (const char* key : {"address", "proxy"})
      EXPECT_NE(ErrorOf(std::string(R"({"p2pConfig": {"enable": true, ")") + key + R"(": ")" + bad + "\"}}")
                    .find(std::string("\"p2pConfig.") + key + "\" must be a URL"),
                std::string::npos) << bad;
}

TEST(Config, OverlaybdsFileIsKnownByItsName) {
  char name[] = "/tmp/fastoci-config.XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::filesystem::path dir = name, before = std::filesystem::current_path();
  std::filesystem::create_directory(dir / "overlaybd");
  for (const char* file : {"overlaybd/config.json", "overlaybd/overlaybd.json", "overlaybd.json", "config.json"})
    std::ofstream(dir / file) << R"({"ioEngine": 0})";  // a key that we do not have
  std::filesystem::current_path(dir);
  for (const char* theirs : {"overlaybd.json", "overlaybd/config.json", "overlaybd/overlaybd.json", "./overlaybd.json"})
    EXPECT_TRUE(LoadConfig(theirs).ok()) << theirs;
  EXPECT_TRUE(LoadConfig(dir / "overlaybd/config.json").ok());
  EXPECT_FALSE(LoadConfig("config.json").ok());
  std::filesystem::current_path(before);
  std::filesystem::remove_all(dir);
}

TEST(Config, TheDirectoryOfHostsFiles) {
  EXPECT_EQ(ParseConfig("{}", "f", ConfigDialect::kOurs)->hosts_dir, "");
  EXPECT_EQ(ParseConfig(R"({"hostsDir": "/etc/mirrors"})", "f", ConfigDialect::kOurs)->hosts_dir, "/etc/mirrors");
  EXPECT_EQ(ParseConfig(R"({"hostsDir": "none"})", "f", ConfigDialect::kOurs)->hosts_dir, "none");
  EXPECT_NE(ErrorOf(R"({"hostsDir": "certs.d"})").find("\"hostsDir\" must be the whole path"), std::string::npos);
}

TEST(Config, OverlaybdsFileIsAcceptedAsItIs) {
  auto c = ParseConfig(R"({"logConfig": {"logLevel": 1, "logPath": "/var/log/overlaybd.log"},
    "cacheConfig": {"cacheType": "file", "cacheDir": "/opt/overlaybd/registry_cache",
      "cacheSizeGB": 4},
    "gzipCacheConfig": {"enable": true, "cacheDir": "/opt/overlaybd/gzip_cache", "cacheSizeGB": 4},
    "credentialConfig": {"mode": "file", "path": "/opt/overlaybd/cred.json"}, "ioEngine": 0,
    "download": {"enable": true, "delay": 600, "delayExtra": 30, "maxMBps": 100},
    "p2pConfig": {"enable": false, "address": "http://localhost:9731/accelerator"},
    "exporterConfig": {"enable": true, "uriPrefix": "/m", "port": 9864, "updateInterval": 60000000},
    "hosts": [{"a": [1, {"b": 2}]}], "enableAudit": true, "registryFsVersion": "v2"})",
                       "overlaybd.json", ConfigDialect::kOverlaybd);
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->cache_size_gb, 8u);
  EXPECT_EQ(c->cache_dir, "/opt/overlaybd/gzip_cache/fastoci");
  EXPECT_EQ(c->credentials, "/opt/overlaybd/cred.json");
  EXPECT_EQ(c->p2p, "") << "it is not enabled";
  EXPECT_EQ(c->download.delay_s, 600u);
  EXPECT_TRUE(c->metrics.enable);
  EXPECT_EQ(c->metrics.path, "/m");
  EXPECT_EQ(c->metrics.port, 9864u);
  auto legacy = ParseConfig(
      R"({"registryCacheDir": "/c", "registryCacheSizeGB": 6, "credentialFilePath": "/cred"})",
      "overlaybd.json", ConfigDialect::kOverlaybd);
  ASSERT_TRUE(legacy.ok()) << legacy.error().message;
  EXPECT_EQ(legacy->cache_dir, "/c/fastoci");
  EXPECT_EQ(legacy->cache_size_gb, 6u);
  EXPECT_EQ(legacy->credentials, "/cred");
  EXPECT_NE(ErrorOf(R"({"download": {"delay": "soon"}})", ConfigDialect::kOverlaybd), "");
  // Credentials that would silently be missing otherwise.
  for (const char* mode : {"http", "https", "uds", "other"})
    for (auto dialect : {ConfigDialect::kOurs, ConfigDialect::kOverlaybd})
      EXPECT_NE(ErrorOf(std::string(R"({"credentialConfig": {"mode": ")") + mode +
                            R"(", "path": "localhost:19876/auth"}})",
                        dialect)
                    .find(std::string("\"") + mode + "\" is not supported, only \"file\""),
                std::string::npos)
          << mode;
}

}  // namespace
}  // namespace fastoci
