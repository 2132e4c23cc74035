// SPDX-License-Identifier: Apache-2.0
// A key that signs manifests in a StubRegistry as cosign does.
#ifndef FASTOCI_TESTING_SIGNING_KEY_H_
#define FASTOCI_TESTING_SIGNING_KEY_H_

#include <gtest/gtest.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/base64.h"
#include "registry/client.h"
#include "testing/stub_registry.h"

namespace fastoci {

struct SigningKey {
  explicit SigningKey(EVP_PKEY* k) : key(k, EVP_PKEY_free) {}
  static SigningKey Ec(const char* curve = "P-256") { return SigningKey(EVP_EC_gen(curve)); }
  static SigningKey Ed25519() { return SigningKey(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")); }
  static SigningKey Rsa(size_t bits = 2048) { return SigningKey(EVP_RSA_gen(static_cast<unsigned>(bits))); }

  std::string Pem() const {
    BIO* bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PUBKEY(bio, key.get());
    char* data;
    const long n = BIO_get_mem_data(bio, &data);
    std::string pem(data, static_cast<size_t>(n));
    BIO_free(bio);
    return pem;
  }
  std::string Sign(const std::string& text) const {
    EVP_MD_CTX* c = EVP_MD_CTX_new();
    const bool whole = EVP_PKEY_get_base_id(key.get()) == EVP_PKEY_ED25519;
    size_t size = 0;
    const auto* data = reinterpret_cast<const uint8_t*>(text.data());
    EXPECT_EQ(EVP_DigestSignInit(c, nullptr, whole ? nullptr : EVP_sha256(), nullptr, key.get()), 1);
    EXPECT_EQ(EVP_DigestSign(c, nullptr, &size, data, text.size()), 1);
    std::string out(size, '\0');
    EXPECT_EQ(EVP_DigestSign(c, reinterpret_cast<uint8_t*>(out.data()), &size, data, text.size()), 1);
    out.resize(size);
    EVP_MD_CTX_free(c);
    return out;
  }
  std::shared_ptr<EVP_PKEY> key;
};

// What a signature of the manifest with that digest signs.
inline std::string SignedPayload(const std::string& digest) {
  return nlohmann::json{{"critical",
                         {{"identity", {{"docker-reference", "demo"}}},
                          {"image", {{"docker-manifest-digest", digest}}},
                          {"type", "cosign container image signature"}}},
                        {"optional", nullptr}}
      .dump();
}

inline nlohmann::json SignatureLayer(StubRegistry* registry, const std::string& payload, const std::string& signature) {
  return {{"mediaType", "application/vnd.dev.cosign.simplesigning.v1+json"},
          {"digest", registry->AddBlob(payload)},
          {"size", payload.size()},
          {"annotations", {{"dev.cosignproject.cosign/signature", Base64Encode(signature)}}}};
}

inline std::string SignatureTag(const std::string& digest) { return "sha256-" + digest.substr(7) + ".sig"; }

inline void SignManifest(StubRegistry* registry, const std::string& repository, const std::string& digest,
                         const SigningKey& key) {
  const std::string payload = SignedPayload(digest);
  const nlohmann::json manifest = {
      {"schemaVersion", 2},
      {"mediaType", kOciManifest},
      {"layers", nlohmann::json::array({SignatureLayer(registry, payload, key.Sign(payload))})}};
  registry->AddManifest(repository, SignatureTag(digest), kOciManifest, manifest.dump());
}

}  // namespace fastoci

#endif  // FASTOCI_TESTING_SIGNING_KEY_H_
