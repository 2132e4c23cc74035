// SPDX-License-Identifier: Apache-2.0
#include "attach/pull.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "attach/state.h"
#include "image/oci_image.h"
#include "testing/signing_key.h"
#include "testing/silent_progress.h"
#include "testing/stub_registry.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

class PullTest : public ::testing::Test {
 protected:
  static constexpr char kLayerType[] = "application/vnd.oci.image.layer.v1.tar+gzip";

  Json MetaLayerOf(const std::string& meta, const std::string& target) {
    const std::string p = "containerd.io/snapshot/overlaybd/";
    return {{"mediaType", kLayerType},
            {"digest", meta},
            {"size", 4},
            {"annotations",
             {{p + "version", "0.1.0-turbo.ociv1"},
              {p + "blob-digest", meta},
              {p + "turbo-oci/target-digest", target},
              {p + "turbo-oci/target-media-type", kLayerType}}}};
  }
  std::string AddOriginal() {
    Json j = {{"schemaVersion", 2},
              {"layers", {{{"mediaType", kLayerType}, {"digest", layer_}, {"size", data_.size()}}}}};
    return stub_.AddManifest("demo", "v1", kOciManifest, j.dump());
  }
  Result<ResolvedImage> Resolve(const Json& manifest) {
    stub_.AddManifest("demo", "v1_fastoci", kOciManifest, manifest.dump());
    auto puller = ImagePuller::Open({});
    if (!puller.ok()) return puller.error();
    return puller->Resolve(stub_.host() + "/demo:v1_fastoci", &silence_);
  }

  StubRegistry stub_;
  SilentProgress silence_;
  std::string data_ = std::string(5000, 'x');
  std::string layer_ = stub_.AddBlob(data_);
  std::string meta_ = stub_.AddBlob("meta");
};

TEST_F(PullTest, SizesComeFromTheOriginalsManifest) {
  Json manifest = {{"schemaVersion", 2},
                   {"subject", {{"digest", AddOriginal()}}},
                   {"layers", {MetaLayerOf(meta_, layer_)}}};
  auto image = Resolve(manifest);
  ASSERT_TRUE(image.ok()) << image.error().message;
  EXPECT_EQ(image->fastoci.layers[0].target_bytes, data_.size());
  EXPECT_EQ(stub_.CountRequests("HEAD", ""), 0);
  EXPECT_EQ(stub_.CountRequests("GET", "/blobs/"), 0);
}

TEST_F(PullTest, SizesAreAskedForWithoutHeadWhereTheOriginalIsGone) {
  std::string gone = "sha256:" + std::string(64, '5');
  for (const Json& subject : {Json{{"digest", gone}}, Json{{"digest", "../../evil"}}, Json()}) {
    Json manifest = {{"schemaVersion", 2},
                     {"subject", subject},
                     {"layers", {MetaLayerOf(meta_, layer_)}}};
    for (uint64_t status : {404, 403, 405}) {
      stub_.Inject(Fault::kStatus, 1, status, "HEAD");
      auto image = Resolve(manifest);
      ASSERT_TRUE(image.ok()) << status << ": " << image.error().message;
      EXPECT_EQ(image->fastoci.layers[0].target_bytes, data_.size());
    }
  }
  EXPECT_EQ(stub_.CountRequests("GET", "evil"), 0);
}

TEST_F(PullTest, ALayerThatIsNotThereIsNamed) {
  const std::string absent = "sha256:" + std::string(64, '7');
  auto image = Resolve({{"schemaVersion", 2}, {"layers", {MetaLayerOf(meta_, absent)}}});
  ASSERT_FALSE(image.ok());
  EXPECT_EQ(image.error().kind, ErrorKind::kNotFound);
  EXPECT_NE(image.error().message.find(absent), std::string::npos);
}

// Whoever may push can add an artifact.
TEST_F(PullTest, AnArtifactWithoutASignatureHidesNoSignedOne) {
  char keys[] = "/tmp/fastoci-keys.XXXXXX";
  ASSERT_TRUE(UniqueFd(::mkstemp(keys)).valid());
  const std::string original = AddOriginal(), type = ArtifactType(ImageFormat::kTurboOci);
  auto artifact = [&](const std::string& note) {
    Json manifest = {{"schemaVersion", 2},
                     {"artifactType", type},
                     {"annotations", {{"note", note}}},
                     {"subject", {{"digest", original}}},
                     {"layers", {MetaLayerOf(meta_, layer_)}}};
    return stub_.AddManifest("demo", note, kOciManifest, manifest.dump());
  };
  const std::string old = artifact("old"), good = artifact("good"), evil = artifact("evil");
  Json index = {{"schemaVersion", 2}, {"manifests", Json::array()}};
  for (const std::string& digest : {old, good, evil})  // the newest is the last
    index["manifests"].push_back({{"digest", digest}, {"artifactType", type}});
  stub_.AddManifest("demo", "sha256-" + original.substr(7), kOciIndex, index.dump());
  const SigningKey key = SigningKey::Ec();
  SignManifest(&stub_, "demo", old, key);
  SignManifest(&stub_, "demo", good, key);
  SignManifest(&stub_, "demo", evil, SigningKey::Ec());
  auto resolve = [&](std::vector<SignatureRule> rules, const std::string& pem) {
    EXPECT_TRUE(WriteFileAtomic(keys, AsBytes(pem)).ok());
    auto puller = ImagePuller::Open({}, std::move(rules));
    return puller->Resolve(stub_.host() + "/demo:v1", &silence_);
  };
  EXPECT_EQ(resolve({}, key.Pem())->manifest.digest, evil) << "the newest, without a policy";
  auto image = resolve({{"*", keys}}, key.Pem());
  ASSERT_TRUE(image.ok()) << image.error().message;
  EXPECT_EQ(image->manifest.digest, good);
  image = resolve({{"*", keys}}, SigningKey::Ec().Pem());
  ASSERT_FALSE(image.ok());
  EXPECT_EQ(image.error().err, EKEYREJECTED);
  ::unlink(keys);
}

// What attach was told reaches the next boot, and another attach can be like it.
TEST_F(PullTest, AccessIsKeptAndUsedAgain) {
  char root[] = "/tmp/fastoci-access.XXXXXX";
  ASSERT_NE(::mkdtemp(root), nullptr);
  EXPECT_EQ(ReadAccess(root, "demo").error().kind, ErrorKind::kNotFound);
  Access access;
  access.host = "r.example";
  access.ca_pem = "CA";
  access.client_cert_pem = "CERT";
  access.client_key_pem = Secret("KEY");
  access.credential.username = "u";
  access.credential.password = Secret("p:q");
  Access by_file;
  by_file.host = "r.example";
  by_file.credentials_file = "/etc/login.json";
  by_file.hosts_dirs = {"/etc/mirrors", "none"};
  {
    auto dir = StateDir::Open(root, "demo", 1000);
    ASSERT_TRUE(dir.ok());
    ASSERT_TRUE(dir->SaveAccess(access).ok());
    struct stat st = {};
    ASSERT_EQ(::stat((dir->path() + "/access.json").c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 07777, 0600U);
    auto kept = ReadAccess(root, "demo");
    ASSERT_TRUE(kept.ok()) << kept.error().message;
    EXPECT_EQ(*kept, access);
    RegistryAccess again;
    std::vector<UniqueFd> files;
    ASSERT_TRUE(UseAccess(*kept, &again, &files).ok());
    EXPECT_EQ(files.size(), 3U);
    EXPECT_EQ(again.user_password, "u:p:q");
    auto tls = ReadTlsFlags(again.tls);
    ASSERT_TRUE(tls.ok()) << tls.error().message;
    EXPECT_EQ(*MakeAccess("r.example", false, *tls, again.user_password, again.credentials_file, {}),
              access);
    ASSERT_TRUE(dir->SaveAccess(by_file).ok());
    const std::string ca = again.tls.root_ca;
    files.clear();
    EXPECT_FALSE(ReadFile(ca, 100).ok());  // it went with its descriptor
    ASSERT_TRUE(UseAccess(*ReadAccess(root, "demo"), &again, &files).ok());
    EXPECT_TRUE(files.empty());
    EXPECT_EQ(again.credentials_file, "/etc/login.json");
    EXPECT_EQ(*MakeAccess("r.example", false, {}, "", again.credentials_file, again.hosts_dirs), by_file);
    EXPECT_EQ(MakeAccess("r.example", false, {}, "", "login.json", {})->credentials_file,
              std::filesystem::current_path() / "login.json");
    EXPECT_EQ(MakeAccess("r.example", false, {}, "", "", {"certs.d"})->hosts_dirs[0],
              std::filesystem::current_path() / "certs.d");
    EXPECT_FALSE(AccessFromJson(R"({"version":1,"host":"r.example","hosts_dirs":["certs.d"]})").ok());
    ASSERT_TRUE(dir->SaveAccess(Access()).ok());  // nothing to keep
    EXPECT_EQ(ReadAccess(root, "demo").error().kind, ErrorKind::kNotFound);
    ASSERT_TRUE(dir->Remove().ok());
  }
  ::rmdir(root);
}

}  // namespace
}  // namespace fastoci
