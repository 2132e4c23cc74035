// SPDX-License-Identifier: Apache-2.0
// Signatures of manifests as cosign makes them, and the policy that demands them. By a
// signature, the owner of a key vouches for the manifest with a digest. The signature
// lies beside the image, under the tag sha256-<hex>.sig or as a
// referrer; each layer of that manifest is a payload ("simple signing") that
// names the digest, with the signature in an annotation.
//
// Everything that the registry sends is hostile. Its size is bounded, a payload is parsed
// only after a key has vouched for it, and no answer can turn a demand off.
#ifndef FASTOCI_ATTACH_SIGNATURE_H_
#define FASTOCI_ATTACH_SIGNATURE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <openssl/evp.h>

#include "base/byte_reader.h"
#include "base/result.h"
#include "config/config.h"
#include "registry/client.h"

namespace fastoci {

// The public keys (PEM, one behind the other) of a file, any of which will do:
// that is how keys are replaced. ECDSA and RSA sign SHA-256, Ed25519 the payload.
class PublicKeys {
 public:
  // kInvalid if there is none, or one that is not to be trusted (RSA of less than
  // 2048 bits, curves of less than 256).
  static Result<PublicKeys> Load(const std::string& path);
  static Result<PublicKeys> Parse(const std::string& pem, const std::string& name);
  bool Verify(ByteSpan payload, ByteSpan signature) const;

 private:
  struct Free {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  };
  std::vector<std::unique_ptr<EVP_PKEY, Free>> keys_;
};

// The file of keys for images of ref's repository, however ref spells it: the rule
// that matches most of it decides. "" if no signature is demanded.
std::string KeysFor(const std::vector<SignatureRule>& rules, const Reference& ref);

// What a seed's import remembers of the keys that its image had to be signed with: the sha256 of
// their file. "" if no signature is demanded.
Result<std::string> SeedKeysOf(const std::vector<SignatureRule>& rules, const std::string& ref);

// Where signatures lie: a repository, or a layout that has a copy of them.
struct SignatureSource {
  std::function<Result<Manifest>(const std::string& name)> manifest;  // of a tag, or a digest
  std::function<Result<std::string>(const std::string& digest, uint64_t max_bytes)> blob;
  // The digests of the referrers of that type.
  std::function<Result<std::vector<std::string>>(const std::string& digest, const std::string& type)> referrers;
};
// OK if a key in key_file has signed manifest_digest and the signature is in source.
// kMismatch, with EKEYREJECTED in err: there is no such signature; the message
// says what was found. ref: the image, for messages.
Status DemandSignature(const SignatureSource& source, const Reference& ref,
                       const std::string& manifest_digest, const std::string& key_file);
// The same for a signature that is in ref's repository.
Status DemandSignature(RegistryClient* client, const Reference& ref,
                       const std::string& manifest_digest, const std::string& key_file);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_SIGNATURE_H_
