// SPDX-License-Identifier: Apache-2.0
// ByteReader: bounded little-endian reads from untrusted bytes. A read past the
// end returns 0 and makes ok() false for good; check ok() before using values.
#ifndef FASTOCI_BASE_BYTE_READER_H_
#define FASTOCI_BASE_BYTE_READER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fastoci {

using Bytes = std::vector<uint8_t>;
using ByteSpan = std::span<const uint8_t>;

inline ByteSpan AsBytes(const std::string& s) {
  return {reinterpret_cast<const uint8_t*>(s.data()), s.size()};
}

class ByteReader {
 public:
  explicit ByteReader(ByteSpan data) : data_(data) {}
  bool ok() const { return ok_; }
  size_t pos() const { return pos_; }
  size_t remaining() const { return data_.size() - pos_; }
  uint8_t U8() { return static_cast<uint8_t>(Le(1)); }
  uint16_t U16() { return static_cast<uint16_t>(Le(2)); }
  uint32_t U32() { return static_cast<uint32_t>(Le(4)); }
  uint64_t U64() { return Le(8); }
  ByteSpan Take(size_t n) {
    if (!ok_ || n > remaining()) {
      ok_ = false;
      return {};
    }
    ByteSpan s = data_.subspan(pos_, n);
    pos_ += n;
    return s;
  }
  void Skip(size_t n) { (void)Take(n); }

 private:
  uint64_t Le(size_t n) {
    ByteSpan s = Take(n);
    uint64_t v = 0;
    for (size_t i = 0; i < s.size(); i++) v |= static_cast<uint64_t>(s[i]) << (8 * i);
    return v;
  }
  ByteSpan data_;
  size_t pos_ = 0;
  bool ok_ = true;
};

// ByteWriter: appends little-endian fields to a vector.
class ByteWriter {
 public:
  void U8(uint8_t v) { out_.push_back(v); }
  void U16(uint16_t v) { Le(v, 2); }
  void U32(uint32_t v) { Le(v, 4); }
  void U64(uint64_t v) { Le(v, 8); }
  void Append(ByteSpan s) { out_.insert(out_.end(), s.begin(), s.end()); }
  void Zeros(size_t n) { out_.resize(out_.size() + n); }
  size_t size() const { return out_.size(); }
  Bytes& bytes() { return out_; }

 private:
  void Le(uint64_t v, size_t n) {
    for (size_t i = 0; i < n; i++) out_.push_back(static_cast<uint8_t>(v >> (8 * i)));
  }
  Bytes out_;
};

}  // namespace fastoci

#endif  // FASTOCI_BASE_BYTE_READER_H_
