// SPDX-License-Identifier: Apache-2.0
#include "base/digest.h"

#include <openssl/evp.h>

#include <cstdlib>

namespace fastoci {

struct Sha256::Impl {
  EVP_MD_CTX* ctx = EVP_MD_CTX_new();
  Impl() {
    if (ctx == nullptr || EVP_DigestInit_ex(ctx, EVP_sha256(), nullptr) != 1) std::abort();
  }
  ~Impl() { EVP_MD_CTX_free(ctx); }
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(ByteSpan data) { EVP_DigestUpdate(impl_->ctx, data.data(), data.size()); }

Sha256 Sha256::Copy() const {
  Sha256 copy;
  if (EVP_MD_CTX_copy_ex(copy.impl_->ctx, impl_->ctx) != 1) std::abort();
  return copy;
}

Sha256Digest Sha256::Finish() {
  Sha256Digest out;
  EVP_DigestFinal_ex(impl_->ctx, out.data(), nullptr);
  EVP_DigestInit_ex(impl_->ctx, nullptr, nullptr);
  return out;
}

Sha256Digest Sha256::Of(ByteSpan data) {
  Sha256 h;
  h.Update(data);
  return h.Finish();
}

std::string HexEncode(ByteSpan data) {
  static const char kHex[] = "0123456789abcdef";
  std::string out;
  for (uint8_t b : data) {
    out += kHex[b >> 4];
    out += kHex[b & 15];
  }
  return out;
}

std::string DigestString(const Sha256Digest& digest) { return "sha256:" + HexEncode(digest); }

Result<Sha256Digest> ParseDigest(const std::string& text) {
  if (text.size() != 71 || text.compare(0, 7, "sha256:") != 0)
    return InvalidError("not a sha256 digest: '" + text.substr(0, 100) + "'");
  Sha256Digest out{};
  for (size_t i = 0; i < 64; i++) {
    char c = text[7 + i];
    int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (v < 0) return InvalidError("not a sha256 digest: '" + text + "'");
    out[i / 2] = static_cast<uint8_t>(out[i / 2] << 4 | v);
  }
  return out;
}

namespace {

struct Crc32cTable {
  uint32_t t[8][256];
  Crc32cTable() {
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t c = i;
      for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82f63b78U : c >> 1;
      t[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
      for (int k = 1; k < 8; k++) t[k][i] = t[k - 1][i] >> 8 ^ t[0][t[k - 1][i] & 255];
  }
};

}  // namespace

uint32_t Crc32cRaw(uint32_t seed, ByteSpan data) {
  static const Crc32cTable kTable;
  const auto& t = kTable.t;
  uint32_t c = seed;
  size_t i = 0;
  for (; i + 8 <= data.size(); i += 8) {
    const uint8_t* p = data.data() + i;
    c ^= p[0] | p[1] << 8 | p[2] << 16 | static_cast<uint32_t>(p[3]) << 24;
    c = t[7][c & 255] ^ t[6][c >> 8 & 255] ^ t[5][c >> 16 & 255] ^ t[4][c >> 24] ^ t[3][p[4]] ^
        t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]];
  }
  for (; i < data.size(); i++) c = c >> 8 ^ t[0][(c ^ data[i]) & 255];
  return c;
}

}  // namespace fastoci
