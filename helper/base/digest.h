// SPDX-License-Identifier: Apache-2.0
// SHA-256 (OpenSSL) and CRC-32C.
#ifndef FASTOCI_BASE_DIGEST_H_
#define FASTOCI_BASE_DIGEST_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "base/byte_reader.h"
#include "base/result.h"

namespace fastoci {

using Sha256Digest = std::array<uint8_t, 32>;

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void Update(ByteSpan data);
  // A second hash that has the same bytes so far.
  Sha256 Copy() const;
  // Returns the digest and starts anew.
  Sha256Digest Finish();
  static Sha256Digest Of(ByteSpan data);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::string HexEncode(ByteSpan data);
// "sha256:<64 lower-case hex digits>" to and from bytes, as in the OCI image spec.
std::string DigestString(const Sha256Digest& digest);
Result<Sha256Digest> ParseDigest(const std::string& text);

// CRC-32C. Crc32cRaw continues from a register value and inverts nothing; overlaybd's
// formats need that. Crc32c inverts at the start and at the end, as our formats do.
uint32_t Crc32cRaw(uint32_t seed, ByteSpan data);
inline uint32_t Crc32c(ByteSpan data) { return ~Crc32cRaw(~0U, data); }

}  // namespace fastoci

#endif  // FASTOCI_BASE_DIGEST_H_
