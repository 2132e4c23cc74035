// SPDX-License-Identifier: Apache-2.0
#include "attach/signature.h"

#include <openssl/err.h>
#include <openssl/pem.h>


#include "attach/manifest.h"
#include "base/digest.h"
#include "base/base64.h"
#include "base/foreign_json.h"
#include "base/json.h"
#include "base/unique_fd.h"
#include "image/copy.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr char kPayloadType[] = "application/vnd.dev.cosign.simplesigning.v1+json";
constexpr char kSignature[] = "dev.cosignproject.cosign/signature";
constexpr size_t kMaxKeyFileBytes = 1 << 20;
constexpr size_t kMaxKeys = 64;
constexpr size_t kMaxSignatures = 64;  // that are looked at, of one image
constexpr uint64_t kMaxPayloadBytes = 64 * 1024;
constexpr int kMinSecurityBits = 112;  // RSA of 2048 bits

// Of an authentic payload: the digest that it vouches for.
std::string SignedDigest(const std::string& payload) {
  const Json j = ParseForeignJson(payload);
  return JsonText(JsonChild(JsonChild(j, "critical"), "image"), "docker-manifest-digest");
}

// What was found while no good signature was.
struct Search {
  const SignatureSource& source;
  const std::string& digest;
  const PublicKeys& keys;
  size_t seen = 0;
  std::string reason = "there is none";

  Result<bool> Try(const Json& layer);
  Result<bool> TryManifest(const std::string& name);
  Result<bool> TryReferrers();
};

Result<bool> Search::Try(const Json& layer) {
  if (JsonText(layer, "mediaType") != kPayloadType) return false;
  if (++seen > kMaxSignatures) return false;
  const auto signature = Base64Decode(JsonText(JsonChild(layer, "annotations"), kSignature));
  if (!signature.ok() || signature->empty()) {
    reason = "a signature is not in base64";
    return false;
  }
  auto payload = source.blob(JsonText(layer, "digest"), kMaxPayloadBytes);
  if (!payload.ok()) {
    const ErrorKind kind = payload.error().kind;
    if (kind == ErrorKind::kUnavailable || kind == ErrorKind::kDenied) return payload.error();
    reason = "a signature's payload cannot be read: " + payload.error().message;
    return false;
  }
  if (!keys.Verify(AsBytes(*payload), AsBytes(*signature))) {
    reason = "no key of it made the one that is there";
    return false;
  }
  const std::string what = SignedDigest(*payload);
  if (what == digest) return true;
  reason = "the one that is there is of another manifest (" + what.substr(0, 80) + ")";
  return false;
}

Result<bool> Search::TryManifest(const std::string& name) {
  auto manifest = source.manifest(name);
  if (!manifest.ok()) {
    if (manifest.error().kind == ErrorKind::kNotFound) return false;
    return manifest.error();
  }
  const Json j = ParseForeignJson(manifest->body);
  for (const Json& layer : JsonChild(j, "layers")) {
    FASTOCI_TRY(bool good, Try(layer));
    if (good) return true;
  }
  return false;
}

Result<bool> Search::TryReferrers() {
  auto artifacts = source.referrers(digest, kSignatureArtifact);
  if (!artifacts.ok()) {
    const ErrorKind kind = artifacts.error().kind;
    if (kind == ErrorKind::kNotFound || kind == ErrorKind::kInvalid) return false;
    return artifacts.error();
  }
  for (const std::string& of : *artifacts) {
    if (++seen > kMaxSignatures) return false;
    FASTOCI_TRY(bool good, TryManifest(of));
    if (good) return true;
  }
  return false;
}

}  // namespace

// Each block alone, so that one that is damaged, or a private key, is not passed over.
Result<PublicKeys> PublicKeys::Parse(const std::string& pem, const std::string& name) {
  static constexpr char kBegin[] = "-----BEGIN ";
  PublicKeys keys;
  for (size_t at = pem.find(kBegin); at != std::string::npos;) {
    const size_t next = pem.find(kBegin, at + 1);
    const std::string block = pem.substr(at, next - at);
    at = next;
    const std::string which = name + ": key " + std::to_string(keys.keys_.size() + 1);
    if (keys.keys_.size() == kMaxKeys) return InvalidError(which + ": too many");
    std::unique_ptr<BIO, decltype(&BIO_free)> bio(
        BIO_new_mem_buf(block.data(), static_cast<int>(block.size())), BIO_free);
    EVP_PKEY* key = bio ? PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr) : nullptr;
    ERR_clear_error();
    if (!key) return InvalidError(which + " is no public key in PEM form, or damaged");
    keys.keys_.emplace_back(key);
    const int type = EVP_PKEY_get_base_id(key);
    if ((type != EVP_PKEY_EC && type != EVP_PKEY_RSA && type != EVP_PKEY_ED25519) ||
        EVP_PKEY_get_security_bits(key) < kMinSecurityBits)
      return InvalidError(which + " is none of ECDSA, Ed25519 and RSA, or too short");
  }
  if (keys.keys_.empty()) return InvalidError(name + ": no public key in PEM form is in it");
  return keys;
}

Result<PublicKeys> PublicKeys::Load(const std::string& path) {
  auto pem = ReadFile(path, kMaxKeyFileBytes);
  if (!pem.ok()) return pem.error().Wrap("the keys of \"signatures\"");
  return Parse(*pem, path);
}

bool PublicKeys::Verify(ByteSpan payload, ByteSpan signature) const {
  for (const auto& key : keys_) {
    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                    EVP_MD_CTX_free);
    const EVP_MD* hash =
        EVP_PKEY_get_base_id(key.get()) == EVP_PKEY_ED25519 ? nullptr : EVP_sha256();
    const bool good =
        context && EVP_DigestVerifyInit(context.get(), nullptr, hash, nullptr, key.get()) == 1 &&
        EVP_DigestVerify(context.get(), signature.data(), signature.size(), payload.data(),
                         payload.size()) == 1;
    ERR_clear_error();
    if (good) return true;
  }
  return false;
}

std::string KeysFor(const std::vector<SignatureRule>& rules, const Reference& ref) {
  const std::string repository = CanonicalRepository(ref);
  const SignatureRule* best = nullptr;
  size_t longest = 0;
  for (const SignatureRule& rule : rules) {
    const size_t match = rule.prefix == "*" ? 1 : MatchPrefix(rule.prefix, repository);
    if (match <= longest) continue;
    best = &rule;
    longest = match;
  }
  return best ? best->key_file : "";
}

Result<std::string> SeedKeysOf(const std::vector<SignatureRule>& rules, const std::string& ref) {
  FASTOCI_TRY(const Reference parsed, ParseReference(ref));
  const std::string key_file = KeysFor(rules, parsed);
  if (key_file.empty()) return std::string();
  FASTOCI_TRY(const std::string keys, ReadFile(key_file, kMaxKeyFileBytes));
  return HexEncode(Sha256::Of(AsBytes(keys)));
}

Status DemandSignature(RegistryClient* client, const Reference& ref,
                       const std::string& manifest_digest, const std::string& key_file) {
  const SignatureSource source{
      [&](const std::string& name) {
        return client->GetManifest(name.starts_with("sha256:") ? ref.WithDigest(name) : ref.WithTag(name));
      },
      [&](const std::string& digest, uint64_t max_bytes) { return client->ReadBlob(ref, digest, max_bytes); },
      [&](const std::string& digest, const std::string& type) -> Result<std::vector<std::string>> {
        FASTOCI_TRY(std::string index, client->Referrers(ref, digest, type));
        return ReferrersOfType(index, type);
      }};
  return DemandSignature(source, ref, manifest_digest, key_file);
}

Status DemandSignature(const SignatureSource& source, const Reference& ref,
                       const std::string& manifest_digest, const std::string& key_file) {
  const std::string image = ref.host + "/" + ref.repository + "@" + manifest_digest;
  FASTOCI_TRY(PublicKeys keys, PublicKeys::Load(key_file));
  FASTOCI_CHECK_OK(ParseDigest(manifest_digest));
  Search search{source, manifest_digest, keys};
  auto found = search.TryManifest(SignatureTag(manifest_digest));
  if (found.ok() && !*found) found = search.TryReferrers();
  if (!found.ok())
    return found.error().Wrap(image + ": whether it is signed cannot be told (keys: " + key_file +
                              ")");
  if (*found) return OkStatus();
  return Error{ErrorKind::kMismatch, EKEYREJECTED,
               image + ": no signature by a key of " + key_file + ", which \"signatures\" in the configuration demands: " +
                   search.reason + (search.seen > kMaxSignatures ? " (too many signatures)" : "")};
}

}  // namespace fastoci
