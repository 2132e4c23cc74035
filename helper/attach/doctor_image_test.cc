// SPDX-License-Identifier: Apache-2.0
#include "attach/doctor_image.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "attach/net_probe.h"
#include "testing/silent_progress.h"
#include "testing/stub_registry.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

class DoctorImageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("REGISTRY_AUTH_FILE", "/nonexistent/auth.json", 1);
    constexpr char kType[] = "application/vnd.oci.image.layer.v1.tar+gzip";
    for (size_t i = 0; i < data_.size(); i++) data_[i] = static_cast<char>(i * 7 + i / 251);
    const std::string layer = stub_.AddBlob(data_), meta = stub_.AddBlob("meta");
    Json original = {{"schemaVersion", 2},
                     {"layers", {{{"mediaType", kType}, {"digest", layer}, {"size", data_.size()}}}}};
    const std::string digest = stub_.AddManifest("demo", "v1", kOciManifest, original.dump());
    const std::string p = "containerd.io/snapshot/overlaybd/";
    Json fastoci = {{"schemaVersion", 2},
                    {"subject", {{"digest", digest}}},
                    {"layers",
                     {{{"mediaType", kType},
                       {"digest", meta},
                       {"size", 4},
                       {"annotations",
                        {{p + "version", "0.1.0-turbo.ociv1"},
                         {p + "blob-digest", meta},
                         {p + "turbo-oci/target-digest", layer},
                         {p + "turbo-oci/target-media-type", kType}}}}}}};
    stub_.AddManifest("demo", "v1_fastoci", kOciManifest, fastoci.dump());
  }
  void TearDown() override { ::unsetenv("REGISTRY_AUTH_FILE"); }

  std::string Examine(const std::string& tag = "v1_fastoci") {
    SilentProgress silence;
    std::string text;
    for (const Finding& f : ExamineRemote(stub_.host() + "/demo:" + tag, access_, &silence)) {
      text += std::string(HealthName(f.health)) + " " + f.what + "\n";
      EXPECT_EQ(f.health == Health::kGood, f.advice.empty()) << f.what;
    }
    return text;
  }
  // Of the last line.
  std::string Problem(const std::string& tag = "v1_fastoci") {
    std::string text = Examine(tag);
    text.pop_back();
    return text.substr(text.rfind('\n') + 1);
  }

  StubRegistry stub_;
  RegistryAccess access_;
  std::string data_ = std::string(300000, 0);
};

TEST_F(DoctorImageTest, SaysOfEachStepWhatWasFound) {
  const std::string text = Examine();
  for (const char* line :
       {"ok name server: 127.0.0.1 is 127.0.0.1", "ok connection: 127.0.0.1 port ", "ok TLS: not used",
        "ok credentials: none needed for demo", "ok manifest: sha256:",
        "ok FastOCI: sha256:", "ok layer 1 (sha256:"})
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  EXPECT_EQ(text.find("problem"), std::string::npos) << text;
  EXPECT_NE(text.find("a range of 65536 bytes"), std::string::npos) << text;
}

TEST_F(DoctorImageTest, NamesTheStepThatFails) {
  EXPECT_TRUE(Problem("absent").starts_with("problem manifest: there is no ")) << Problem("absent");
  EXPECT_TRUE(Problem("v1").starts_with("problem FastOCI: ")) << Problem("v1");
  EXPECT_NE(Problem("v1").find("convertor -r"), std::string::npos);
  stub_.Inject(Fault::kIgnoreRange, 4);  // three manifests are asked for before
  EXPECT_NE(Examine().find("sends the whole layer instead of a range"), std::string::npos);
}

TEST_F(DoctorImageTest, SaysWhichWayGaveTheCredentialsAndNoSecret) {
  stub_.RequireAuth(StubRegistry::Auth::kBasic, "user", "geheim");
  EXPECT_TRUE(Problem().starts_with("problem credentials: refused")) << Problem();
  access_.user_password = "user:wrong-geheim";
  EXPECT_TRUE(Problem().starts_with("problem credentials: ")) << Problem();
  EXPECT_EQ(Examine().find("geheim"), std::string::npos);
  access_.user_password = "user:geheim";
  const std::string text = Examine();
  EXPECT_NE(text.find("ok credentials: user \"user\", by -u"), std::string::npos) << text;
  EXPECT_EQ(text.find("geheim"), std::string::npos);
}

TEST_F(DoctorImageTest, ShowsMirrors) {
  char dir[] = "/tmp/fastoci-doctor.XXXXXX";
  ASSERT_NE(::mkdtemp(dir), nullptr);
  const std::string root = dir;
  access_.hosts_dirs = {root};
  StubRegistry mirror;
  std::filesystem::create_directories(root + "/" + stub_.host());
  std::ofstream(root + "/" + stub_.host() + "/hosts.toml")
      << "[host.\"http://127.0.0.1:1\"]\n[host.\"" << mirror.url() << "\"]\n";
  mirror.AddBlob(data_);
  const std::string text = Examine();
  const std::string order = "127.0.0.1:1, " + mirror.host() + ", " + stub_.host();
  for (const std::string& line :
       {"ok mirrors: for " + stub_.host() + " these are asked, in this order: " + order,
        std::string("warning 127.0.0.1:1: connection: "), "warning " + mirror.host() + ": manifest: HTTP 404",
        "ok " + stub_.host() + ": credentials: none needed", std::string("ok FastOCI: sha256:"),
        ", correct, from " + mirror.host()})
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  EXPECT_EQ(text.find("problem"), std::string::npos) << text;
  // The password of -u is not for a mirror.
  mirror.RequireAuth(StubRegistry::Auth::kBasic, "user", "geheim");
  access_.user_password = "user:geheim";
  EXPECT_NE(Examine().find("warning " + mirror.host() + ": credentials: "), std::string::npos);
  std::ofstream(root + "/" + stub_.host() + "/hosts.toml") << "nonsense";
  EXPECT_TRUE(Problem().starts_with("problem mirrors: " + root)) << Problem();
  access_.hosts_dirs = {"none"};
  EXPECT_EQ(Examine().find("mirrors"), std::string::npos);
  std::filesystem::remove_all(root);
}

TEST(DoctorNetwork, UnknownNamesAndClosedPorts) {
  auto none = ResolveServer({"no-such-host.invalid", "443"});
  ASSERT_FALSE(none.ok());
  EXPECT_NE(none.error().message.find("no-such-host.invalid"), std::string::npos);
  int port = 0;
  {
    StubRegistry gone;
    port = gone.other_port();
  }
  auto addresses = ResolveServer({"127.0.0.1", std::to_string(port)});
  ASSERT_TRUE(addresses.ok());
  std::string which;
  auto fd = ConnectServer(*addresses, 5000, &which);
  ASSERT_FALSE(fd.ok());
  EXPECT_NE(fd.error().message.find("127.0.0.1"), std::string::npos);
}

TEST(DoctorNetwork, PlainHttpBehindTheTlsPort) {
  StubRegistry stub;
  auto addresses = ResolveServer({"127.0.0.1", std::to_string(stub.other_port())});
  std::string which;
  auto fd = ConnectServer(*addresses, 5000, &which);
  ASSERT_TRUE(fd.ok());
  TlsFacts facts;
  Status s = HandshakeServer(std::move(*fd), {"127.0.0.1", "443"}, TlsOptions(), 300, &facts);
  EXPECT_FALSE(s.ok());
  EXPECT_EQ(facts.version, "");
}

TEST(ServerOfHost, NameAndPort) {
  EXPECT_EQ(ServerOf("a.example", false).port, "443");
  EXPECT_EQ(ServerOf("a.example", true).port, "80");
  EXPECT_EQ(ServerOf("a.example:5000", true).port, "5000");
  EXPECT_EQ(ServerOf("[::1]:5000", false).name, "::1");
  EXPECT_EQ(ServerOf("[::1]", false).port, "443");
}

TEST(RateLimits, AsDockerHubSaysThem) {
  HttpResponse r;
  EXPECT_EQ(RateLimit(r), "");
  r.headers.emplace("ratelimit-limit", "100;w=21600");
  r.headers.emplace("ratelimit-remaining", "76;w=21600");
  EXPECT_EQ(RateLimit(r), "100 in 21600 s, 76 left");
  r.headers.clear();
  r.headers.emplace("ratelimit-limit", "x");
  EXPECT_EQ(RateLimit(r), "");
}

}  // namespace
}  // namespace fastoci
