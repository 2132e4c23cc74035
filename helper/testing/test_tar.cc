// SPDX-License-Identifier: Apache-2.0
#include "testing/test_tar.h"

#include <zlib.h>
#include <zstd.h>

#include <cstdio>
#include <cstring>

namespace fastoci {

size_t TestTar::Add(const Header& h, const std::string& data) {
  size_t at = out_.size();
  out_.resize(at + 512);
  char* b = &out_[at];
  std::memcpy(b, h.name.data(), std::min<size_t>(h.name.size(), 100));
  std::snprintf(b + 100, 8, "%07o", h.mode);
  std::snprintf(b + 108, 8, "%07o", h.uid & 07777777);
  std::snprintf(b + 116, 8, "%07o", h.gid & 07777777);
  std::snprintf(b + 124, 12, "%011llo",
                static_cast<unsigned long long>(h.size != 0 ? h.size : data.size()));
  std::snprintf(b + 136, 12, "%011llo", static_cast<unsigned long long>(h.mtime));
  b[156] = h.type;
  std::memcpy(b + 157, h.link.data(), std::min<size_t>(h.link.size(), 100));
  std::memcpy(b + 257, "ustar\00000", 8);
  std::snprintf(b + 329, 8, "%07o", h.dev_major);
  std::snprintf(b + 337, 8, "%07o", h.dev_minor);
  FixChecksum(at);
  out_ += data;
  Pad();
  return at;
}

void TestTar::FixChecksum(size_t at) {
  std::memset(&out_[at + 148], ' ', 8);
  unsigned sum = 0;
  for (size_t i = 0; i < 512; i++) sum += static_cast<unsigned char>(out_[at + i]);
  std::snprintf(&out_[at + 148], 8, "%06o", sum);
}

size_t TestTar::File(const std::string& name, const std::string& data, uint32_t mode) {
  Header h;
  h.name = name;
  h.mode = mode;
  return Add(h, data);
}

size_t TestTar::Dir(const std::string& name, uint32_t mode) {
  Header h;
  h.name = name;
  h.type = '5';
  h.mode = mode;
  return Add(h);
}

size_t TestTar::Symlink(const std::string& name, const std::string& target) {
  Header h;
  h.name = name;
  h.type = '2';
  h.link = target;
  return Add(h);
}

size_t TestTar::HardLink(const std::string& name, const std::string& target) {
  Header h;
  h.name = name;
  h.type = '1';
  h.link = target;
  return Add(h);
}

std::string TestTar::PaxRecord(const std::string& key, const std::string& value) {
  std::string rest = " " + key + "=" + value + "\n";
  size_t length = rest.size() + 1;
  while (std::to_string(length).size() + rest.size() != length) length++;
  return std::to_string(length) + rest;
}

void TestTar::Pax(const std::map<std::string, std::string>& records, char type) {
  std::string body;
  for (const auto& [key, value] : records) body += PaxRecord(key, value);
  Header h;
  h.name = "pax";
  h.type = type;
  Add(h, body);
}

void TestTar::Pad(char fill) { out_.resize((out_.size() + 511) / 512 * 512, fill); }

std::string TestGzip(const std::string& data) {
  z_stream z{};
  deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&z, data.size()) + 64, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  z.avail_in = static_cast<uInt>(data.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

std::string TestZstd(const std::string& data) {
  std::string out(ZSTD_compressBound(data.size()), '\0');
  ZSTD_CCtx* c = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
  out.resize(ZSTD_compress2(c, out.data(), out.size(), data.data(), data.size()));
  ZSTD_freeCCtx(c);
  return out;
}

}  // namespace fastoci
