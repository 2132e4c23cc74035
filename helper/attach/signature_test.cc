// SPDX-License-Identifier: Apache-2.0
// Keys and signatures are made here, the registry is a stub.
#include "attach/signature.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/digest.h"
#include "base/unique_fd.h"
#include "testing/signing_key.h"
#include "testing/stub_registry.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

using Key = SigningKey;

class SignatureTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/signature_test.XXXXXX";
    key_file_ = std::string(::mkdtemp(name)) + "/keys.pem";
    ref_ = *ParseReference(stub_.host() + "/team/demo:latest");
    digest_ = stub_.AddManifest("team/demo", "latest", kOciManifest, R"({"schemaVersion":2})");
    auto client = RegistryClient::Open({}, Credentials());
    ASSERT_TRUE(client.ok());
    client_ = std::move(*client);
  }
  void TearDown() override {
    ::unlink(key_file_.c_str());
    ::rmdir(key_file_.substr(0, key_file_.rfind('/')).c_str());
  }
  void Trust(const std::string& pem) {
    ASSERT_TRUE(WriteFileAtomic(key_file_, AsBytes(pem)).ok());
  }
  Json Layer(const std::string& payload, const std::string& signature) {
    return SignatureLayer(&stub_, payload, signature);
  }
  std::string SignatureTag() const { return fastoci::SignatureTag(digest_); }
  void Put(const Json& layers, const std::string& tag) {
    const Json manifest = {{"schemaVersion", 2}, {"mediaType", kOciManifest}, {"layers", layers.is_object() ? Json::array({layers}) : layers}};
    stub_.AddManifest("team/demo", tag, kOciManifest, manifest.dump());
  }
  void PutSigned(const Key& key) { SignManifest(&stub_, "team/demo", digest_, key); }
  // "": it is let in.
  std::string Refusal() {
    Status s = DemandSignature(client_.get(), ref_, digest_, key_file_);
    if (s.ok()) return "";
    EXPECT_NE(s.error().message.find(digest_), std::string::npos) << s.error().message;
    EXPECT_NE(s.error().message.find(key_file_), std::string::npos) << s.error().message;
    kind_ = s.error().kind;
    return s.error().message;
  }
  bool Refused(const std::string& why) {
    const std::string refusal = Refusal();
    EXPECT_NE(refusal.find(why), std::string::npos) << "got: " << refusal;
    return !refusal.empty() && kind_ == ErrorKind::kMismatch;
  }

  StubRegistry stub_;
  Reference ref_;
  std::string key_file_, digest_;
  std::unique_ptr<RegistryClient> client_;
  ErrorKind kind_ = ErrorKind::kInternal;
};

TEST_F(SignatureTest, TakesEachKindOfKey) {
  for (const Key& key : {Key::Ec(), Key::Ec("P-384"), Key::Ed25519(), Key::Rsa()}) {
    Trust(key.Pem());
    PutSigned(key);
    EXPECT_EQ(Refusal(), "");
  }
}

TEST_F(SignatureTest, OneOfSeveralKeysIsEnough) {
  const Key old_key = Key::Ec(), new_key = Key::Ed25519();
  Trust("# the old one\n" + old_key.Pem() + "the new one\n" + new_key.Pem());
  PutSigned(old_key);
  EXPECT_EQ(Refusal(), "");
  PutSigned(new_key);
  EXPECT_EQ(Refusal(), "");
  Trust(new_key.Pem());  // the old one is retired
  EXPECT_EQ(Refusal(), "");
  PutSigned(old_key);
  EXPECT_TRUE(Refused("no key of it made the one that is there"));
  // A second signature beside one that is not ours.
  Put({Layer(SignedPayload(digest_), old_key.Sign(SignedPayload(digest_))),
       Layer(SignedPayload(digest_), new_key.Sign(SignedPayload(digest_)))},
      SignatureTag());
  EXPECT_EQ(Refusal(), "");
}

TEST_F(SignatureTest, WithoutOneItIsRefused) {
  Trust(Key::Ec().Pem());
  EXPECT_TRUE(Refused("there is none"));
}

TEST_F(SignatureTest, AnotherManifestsSignatureIsRefused) {
  const Key key = Key::Ec();
  Trust(key.Pem());
  const std::string other = "sha256:" + std::string(64, '7');
  Put({Layer(SignedPayload(other), key.Sign(SignedPayload(other)))}, SignatureTag());
  EXPECT_TRUE(Refused("of another manifest (" + other + ")"));
}

TEST_F(SignatureTest, AChangedPayloadOrSignatureIsRefused) {
  const Key key = Key::Ec();
  Trust(key.Pem());
  const std::string good = key.Sign(SignedPayload(digest_));
  Put({Layer(SignedPayload(digest_) + " ", good)}, SignatureTag());
  EXPECT_TRUE(Refused("no key of it"));
  std::string bad = good;
  bad.back() ^= 1;
  Put({Layer(SignedPayload(digest_), bad)}, SignatureTag());
  EXPECT_TRUE(Refused("no key of it"));
  Json layer = Layer(SignedPayload(digest_), good);
  layer["annotations"]["dev.cosignproject.cosign/signature"] = "&&&";
  Put({layer}, SignatureTag());
  EXPECT_TRUE(Refused("not in base64"));
  // What the registry sends is not what its digest says.
  PutSigned(key);
  stub_.Inject(Fault::kFlipBit, 2);
  EXPECT_NE(Refusal(), "");
}

TEST_F(SignatureTest, SignedNonsenseIsRefused) {
  const Key key = Key::Ec();
  Trust(key.Pem());
  for (const std::string& payload :
       {std::string(""), std::string("[]"), std::string("{\"critical\": 3}"),
        std::string("{\"critical\": {\"image\": {\"docker-manifest-digest\": 3}}}")}) {
    if (payload.empty()) continue;
    Put({Layer(payload, key.Sign(payload))}, SignatureTag());
    EXPECT_TRUE(Refused("of another manifest")) << payload;
  }
  for (const Json& layers : {Json(3), Json::array({3}), Json::array({Json{{"mediaType", 3}}}), Json()}) {
    Put(layers, SignatureTag());
    EXPECT_TRUE(Refused("there is none")) << layers;
  }
  // No end of signatures: bounded, and said.
  Json many = Json::array();
  for (int i = 0; i < 70; i++) many.push_back(Layer(SignedPayload(digest_), "x"));
  many.push_back(Layer(SignedPayload(digest_), key.Sign(SignedPayload(digest_))));
  Put(many, SignatureTag());
  EXPECT_TRUE(Refused("too many signatures"));
}

TEST_F(SignatureTest, AReferrerWillDo) {
  const Key key = Key::Ed25519();
  Trust(key.Pem());
  const Json manifest = {
      {"schemaVersion", 2},
      {"mediaType", kOciManifest},
      {"artifactType", "application/vnd.dev.cosign.artifact.sig.v1+json"},
      {"config", {{"mediaType", "application/vnd.oci.empty.v1+json"}}},
      {"subject", {{"mediaType", kOciManifest}, {"digest", digest_}, {"size", 19}}},
      {"layers", Json::array({Layer(SignedPayload(digest_), key.Sign(SignedPayload(digest_)))})}};
  const std::string body = manifest.dump();
  Reference at = ref_.WithDigest(DigestString(Sha256::Of(AsBytes(body))));
  auto put = client_->PutManifest(at, kOciManifest, body);
  ASSERT_TRUE(put.ok()) << put.error().message;
  EXPECT_EQ(Refusal(), "");
  Trust(Key::Ed25519().Pem());
  EXPECT_TRUE(Refused("no key of it"));
}

TEST_F(SignatureTest, ARegistryThatDoesNotAnswerLetsNothingIn) {
  const Key key = Key::Ec();
  Trust(key.Pem());
  PutSigned(key);
  stub_.Inject(Fault::kStatus, 100, 403);
  EXPECT_NE(Refusal().find("cannot be told"), std::string::npos);
  EXPECT_EQ(kind_, ErrorKind::kDenied);
}

TEST_F(SignatureTest, KeysThatAreNoneAreRefused) {
  PutSigned(Key::Ec());
  EXPECT_NE(DemandSignature(client_.get(), ref_, digest_, "/none.pem").error().message.find("/none.pem"),
            std::string::npos);
  const std::string good = Key::Ec().Pem();
  std::string damaged = good;
  damaged[60] ^= 1;
  for (const std::string& pem :
       {std::string(), std::string("hello"), damaged, good + damaged, Key::Rsa(1024).Pem(),
        good + Key::Ec("P-192").Pem(), good + "-----BEGIN PUBLIC KEY-----\n"}) {
    EXPECT_FALSE(PublicKeys::Parse(pem, "k").ok()) << pem;
  }
  EXPECT_TRUE(PublicKeys::Parse(good, "k").ok());
}

TEST(KeysFor, TakesTheLongestPrefixOfWholeComponents) {
  const std::vector<SignatureRule> rules = {
      {"*", "/all"}, {"r.example/prod", "/prod"}, {"r.example/prod/dev", ""}};
  auto keys = [&](const char* ref) { return KeysFor(rules, *ParseReference(ref)); };
  EXPECT_EQ(keys("other.example/x:1"), "/all");
  EXPECT_EQ(keys("r.example/prod:1"), "/prod");
  EXPECT_EQ(keys("r.example/prod/app:1"), "/prod");
  EXPECT_EQ(keys("r.example/production:1"), "/all");
  EXPECT_EQ(keys("r.example/prod/dev/app:1"), "");
  EXPECT_EQ(KeysFor({{"docker.io/library", "/k"}}, *ParseReference("alpine")), "/k");
  EXPECT_EQ(KeysFor({}, *ParseReference("alpine")), "");
}

// No spelling of a repository may get around its rule, nor one of a rule around
// a repository.
TEST(KeysFor, SpellingDoesNotMatter) {
  struct {
    const char* rule;
    std::vector<const char*> images;
  } cases[] = {
      {"registry.example/prod",
       {"registry.example/prod/app", "Registry.Example/prod/app", "registry.example:443/prod/app",
        "REGISTRY.EXAMPLE:0443/prod/app", "registry.example:80/prod/app:1"}},
      {"Registry.Example:443/prod/", {"registry.example/prod/app", "registry.example/prod:1"}},
      {"registry.example", {"registry.example:443/x", "registry.example/prod/app"}},
      {"registry.example:5000/prod", {"Registry.example:5000/prod/x", "registry.example:05000/prod"}},
      {"docker.io/library/nginx",
       {"nginx", "library/nginx:1", "docker.io/nginx", "index.docker.io/library/nginx",
        "registry-1.docker.io/library/nginx", "registry-1.docker.io/nginx",
        "Registry-1.Docker.io:443/library/nginx", "DOCKER.IO/nginx", "docker.io:443/nginx"}},
      {"docker.io/nginx", {"nginx", "docker.io/library/nginx", "docker.io/nginx/ingress"}},
      {"index.docker.io/library/nginx", {"nginx", "docker.io/nginx"}},
      {"registry-1.docker.io/prod", {"prod/app", "docker.io/prod/app"}},
      {"docker.io", {"nginx", "prod/app", "registry-1.docker.io/prod/app"}},
      {"127.0.0.1:5000/prod", {"127.1:5000/prod", "0x7f.1:5000/prod/app", "[::ffff:127.0.0.1]:5000/prod"}},
      {"[::1]:5000/prod", {"[0:0::1]:5000/prod/app", "[::0001]:5000/prod"}},
      {"localhost/prod", {"LocalHost:80/prod"}},
  };
  for (const auto& c : cases) {
    auto prefix = CanonicalPrefix(c.rule);
    ASSERT_TRUE(prefix.ok()) << c.rule;
    for (const char* image : c.images) {
      auto ref = ParseReference(image);
      if (!ref.ok()) {  // docker does not take it for a host; then for nothing else either
        ADD_FAILURE() << image << ": " << ref.error().message;
        continue;
      }
      EXPECT_EQ(KeysFor({{*prefix, "/k"}}, *ref), "/k") << c.rule << " for " << image;
    }
  }
  auto keys = [](const char* rule, const char* image) {
    return KeysFor({{*CanonicalPrefix(rule), "/k"}}, *ParseReference(image));
  };
  EXPECT_EQ(keys("registry.example/prod", "registry.example:5000/prod"), "");
  EXPECT_EQ(keys("registry.example/prod", "other.registry.example/prod"), "");
  EXPECT_EQ(keys("docker.io/nginx", "registry.example/library/nginx"), "");
  EXPECT_EQ(keys("docker.io/prod", "product/app"), "");
}

}  // namespace
}  // namespace fastoci
