// SPDX-License-Identifier: Apache-2.0
// GzipStream over one of two raw inflaters. What is common is here: the start
// in mid-byte, the bounds of 32-bit counters and the end.
#define ZLIB_CONST
#include <isa-l/igzip_lib.h>
#include <zlib.h>

#include <algorithm>

#include "codec/gzip_index.h"

namespace fastoci {

class GzipStream::Inflater {
 public:
  virtual ~Inflater() = default;
  virtual bool Start(GzipWindow* window) = 0;
  // The stream begins with the low `bits` bits of value.
  virtual void Prime(int bits, int value) = 0;
  virtual Result<Progress> Run(ByteSpan in, std::span<uint8_t> out) = 0;
};

class GzipStream::ZlibInflater : public Inflater {
 public:
  ~ZlibInflater() override { inflateEnd(&z_); }
  bool Start(GzipWindow* window) override {
    return inflateInit2(&z_, -MAX_WBITS) == Z_OK &&
           inflateSetDictionary(&z_, window->data(), window->size()) == Z_OK;
  }
  void Prime(int bits, int value) override { inflatePrime(&z_, bits, value); }
  Result<Progress> Run(ByteSpan in, std::span<uint8_t> out) override {
    z_.next_in = in.data();
    z_.avail_in = static_cast<uInt>(in.size());
    z_.next_out = out.data();
    z_.avail_out = static_cast<uInt>(out.size());
    int rc = inflate(&z_, Z_NO_FLUSH);
    if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
      return InvalidError(std::string("deflate stream: ") + (z_.msg ? z_.msg : "corrupt"));
    return Progress{in.size() - z_.avail_in, out.size() - z_.avail_out, rc == Z_STREAM_END};
  }

 private:
  z_stream z_{};
};

class GzipStream::IsalInflater : public Inflater {
 public:
  bool Start(GzipWindow* window) override {
    isal_inflate_init(&state_);
    state_.crc_flag = ISAL_DEFLATE;  // no wrapper, no checksum
    return isal_inflate_set_dict(&state_, window->data(), static_cast<uint32_t>(window->size())) ==
           COMP_OK;
  }
  void Prime(int bits, int value) override {
    state_.read_in = static_cast<uint64_t>(value);
    state_.read_in_length = bits;
  }
  Result<Progress> Run(ByteSpan in, std::span<uint8_t> out) override {
    state_.next_in = const_cast<uint8_t*>(in.data());
    state_.avail_in = static_cast<uint32_t>(in.size());
    state_.next_out = out.data();
    state_.avail_out = static_cast<uint32_t>(out.size());
    int rc = isal_inflate(&state_);
    if (rc < 0 || rc == ISAL_NEED_DICT) return InvalidError(Text(rc));
    return Progress{in.size() - state_.avail_in, out.size() - state_.avail_out,
                    state_.block_state == ISAL_BLOCK_FINISH};
  }

 private:
  static const char* Text(int rc) {
    switch (rc) {
      case ISAL_INVALID_BLOCK: return "deflate stream: invalid block";
      case ISAL_INVALID_SYMBOL: return "deflate stream: invalid symbol";
      case ISAL_INVALID_LOOKBACK: return "deflate stream: invalid distance";
      default: return "deflate stream: corrupt";
    }
  }
  inflate_state state_{};
};

GzipStream::GzipStream(std::unique_ptr<Inflater> inflater, uint8_t bits)
    : inflater_(std::move(inflater)), bits_to_prime_(bits) {}
GzipStream::GzipStream(GzipStream&&) noexcept = default;
GzipStream& GzipStream::operator=(GzipStream&&) noexcept = default;
GzipStream::~GzipStream() = default;

Result<GzipStream> GzipStream::Open(const GzipIndex& index, size_t entry, GzipEngine engine) {
  GzipWindow window;
  FASTOCI_CHECK_OK(index.ReadWindow(entry, &window));
  std::unique_ptr<Inflater> inflater;
  if (engine == GzipEngine::kIsal) {
    inflater = std::make_unique<IsalInflater>();
  } else {
    inflater = std::make_unique<ZlibInflater>();
  }
  if (!inflater->Start(&window))
    return Error{ErrorKind::kInternal, ENOMEM, "the inflater cannot start"};
  return GzipStream(std::move(inflater), index.entries()[entry].bits);
}

Result<GzipStream::Progress> GzipStream::Decode(ByteSpan in, std::span<uint8_t> out) {
  if (ended_) return Progress{0, 0, true};
  size_t primed = 0;
  if (bits_to_prime_ != 0) {
    if (in.empty()) return Progress{};
    inflater_->Prime(bits_to_prime_, in[0] >> (8 - bits_to_prime_));
    bits_to_prime_ = 0;
    primed = 1;
    in = in.subspan(1);
  }
  constexpr size_t kMost = 1U << 30;
  FASTOCI_TRY(Progress p, inflater_->Run(in.first(std::min(in.size(), kMost)),
                                         out.first(std::min(out.size(), kMost))));
  p.consumed += primed;
  ended_ = p.ended;
  return p;
}

}  // namespace fastoci
