// SPDX-License-Identifier: Apache-2.0
// Canonical Huffman codes in two-level tables. FastSymbols() runs while input and
// output certainly have room for a whole symbol. OneSymbol() does the rest, and can
// give a symbol back. A stream is valid if zlib accepts it.
#include "codec/deflate_decoder.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace fastoci {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr unsigned kMaxCodeBits = 15;
constexpr unsigned kNrLiterals = 288, kMaxLiterals = 286, kNrDistances = 32, kMaxDistances = 30;
constexpr unsigned kNrCodeLengths = 19, kMaxCodeLengthBits = 7;
constexpr unsigned kEndOfBlock = 256, kFirstLength = 257;

// Table entries: bits 0-5 how much of the code to consume, 6 and 7 flags, 8-11
// extra bits (or those of a second table), 12-27 a literal, the base of a length
// or distance, or the place of the second table, 28-30 what it is.
constexpr uint32_t kLiteral = 1U << 28, kSpecial = 1U << 29, kEnd = 1U << 30, kSecond = 1U << 31;
constexpr uint32_t kInvalid = kSpecial;
constexpr uint32_t CodeBits(uint32_t e) { return e & 63; }
constexpr uint32_t ExtraBits(uint32_t e) { return e >> 8 & 15; }
constexpr uint32_t Value(uint32_t e) { return e >> 12 & 0xffff; }
constexpr uint32_t Entry(uint32_t value, uint32_t extra) { return value << 12 | extra << 8; }

uint32_t LiteralEntry(unsigned symbol) {
  if (symbol < kEndOfBlock) return kLiteral | Entry(symbol, 0);
  if (symbol == kEndOfBlock) return kSpecial | kEnd;
  unsigned n = symbol - kFirstLength;
  if (n < 8) return Entry(n + 3, 0);
  if (n == 28) return Entry(258, 0);
  if (n > 28) return kInvalid;
  unsigned extra = n / 4 - 1;
  return Entry(((n % 4 + 4) << extra) + 3, extra);
}

uint32_t DistanceEntry(unsigned symbol) {
  if (symbol >= kMaxDistances) return kInvalid;
  if (symbol < 4) return Entry(symbol + 1, 0);
  unsigned extra = symbol / 2 - 1;
  return Entry(((symbol % 2 + 2) << extra) + 1, extra);
}

uint32_t CodeLengthEntry(unsigned symbol) { return Entry(symbol, 0); }

unsigned Reverse(unsigned code, unsigned nr_bits) {
  unsigned out = 0;
  for (unsigned i = 0; i < nr_bits; i++) out |= (code >> i & 1) << (nr_bits - 1 - i);
  return out;
}

// False for codes that are over-subscribed, or incomplete other than a single
// code of one bit (may_be_single) or none at all.
bool MakeTable(std::span<const uint8_t> lengths, unsigned root, uint32_t (*entry)(unsigned),
               bool may_be_single, std::span<uint32_t> table) {
  std::array<unsigned, kMaxCodeBits + 1> count{}, code{};
  for (uint8_t n : lengths) count[n]++;
  unsigned nr_codes = static_cast<unsigned>(lengths.size()) - count[0], longest = kMaxCodeBits;
  while (longest > 1 && count[longest] == 0) longest--;
  count[0] = 0;
  int left = 1;
  for (unsigned n = 1; n <= kMaxCodeBits; n++) {
    left = left * 2 - static_cast<int>(count[n]);
    if (left < 0) return false;
    code[n] = (code[n - 1] + count[n - 1]) << 1;
  }
  if (left > 0 && nr_codes != 0 && !(may_be_single && longest == 1)) return false;
  size_t root_size = size_t{1} << root, used = root_size;
  if (left > 0) std::fill_n(table.begin(), root_size, kInvalid | 1);
  unsigned second_bits = longest > root ? longest - root : 0;
  if (second_bits != 0) std::fill_n(table.begin(), root_size, 0);
  for (unsigned symbol = 0; symbol < lengths.size(); symbol++) {
    unsigned n = lengths[symbol];
    if (n == 0) continue;
    unsigned reversed = Reverse(code[n]++, n);
    uint32_t e = entry(symbol);
    if (n <= root) {
      for (size_t i = reversed; i < root_size; i += size_t{1} << n) table[i] = e | n;
      continue;
    }
    uint32_t& first = table[reversed & (root_size - 1)];
    if (first == 0) {
      first = kSpecial | kSecond | Entry(static_cast<uint32_t>(used), second_bits) | root;
      used += size_t{1} << second_bits;
    }
    for (size_t i = reversed >> root; i < size_t{1} << second_bits; i += size_t{1} << (n - root))
      table[Value(first) + i] = e | (n - root);
  }
  return true;
}

Error Corrupt(const char* what) { return InvalidError(std::string("deflate stream: ") + what); }

void Copy(uint8_t* to, size_t distance, size_t length) {
  const uint8_t* from = to - distance;
  if (distance >= 8) {  // in steps of 8, up to 7 bytes too far
    uint8_t* end = to + length;
    do {
      uint64_t v;
      std::memcpy(&v, from, 8);
      std::memcpy(to, &v, 8);
      from += 8;
      to += 8;
    } while (to < end);
  } else if (distance == 1) {
    std::memset(to, *from, length);
  } else {
    for (size_t i = 0; i < length; i++) to[i] = from[i];
  }
}

}  // namespace

// The input as bits; `in` is what is not in the buffer.
struct DeflateDecoder::Bits {
  uint64_t buffer;
  unsigned count;
  const uint8_t *in, *end;

  size_t left() const { return static_cast<size_t>(end - in); }
  // At least 56 bits; wants 8 bytes of input.
  void FillFast() {
    uint64_t v;
    std::memcpy(&v, in, 8);
    buffer |= v << count;
    in += (63 - count) >> 3;
    count |= 56;
  }
  void Fill() {
    for (; count <= 56 && in != end; count += 8) buffer |= uint64_t{*in++} << count;
  }
  void Drop(unsigned n) {
    buffer >>= n;
    count -= n;
  }
  // Whether n bits are there, after Fill(); n at most 56.
  bool Has(unsigned n) const { return count >= n; }
  uint32_t Take(unsigned n) {
    uint32_t v = static_cast<uint32_t>(buffer & ((uint64_t{1} << n) - 1));
    Drop(n);
    return v;
  }
  // Whole bytes back to the input.
  void Unread() {
    in -= count / 8;
    count %= 8;
    buffer &= (uint64_t{1} << count) - 1;
  }
};

void DeflateDecoder::Restart() {
  state_ = State::kHeader;
  last_block_ = false;
  bit_buffer_ = 0;
  nr_bits_ = 0;
}

void DeflateDecoder::UseFixed() {
  if (fixed_) return;
  std::array<uint8_t, kNrLiterals> lengths;
  for (unsigned i = 0; i < kNrLiterals; i++)
    lengths[i] = static_cast<uint8_t>(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
  MakeTable(lengths, kLiteralRoot, LiteralEntry, false, literals_);
  std::array<uint8_t, kNrDistances> five;
  five.fill(5);
  MakeTable(five, kDistanceRoot, DistanceEntry, false, distances_);
  fixed_ = true;
}

// False: the input ends within the header.
Result<bool> DeflateDecoder::ReadHeader(Bits* b) {
  b->Fill();
  if (!b->Has(3)) return false;
  bool last = b->Take(1) != 0;
  unsigned type = b->Take(2);
  if (type == 0) {
    b->Drop(b->count % 8);
    b->Fill();
    if (!b->Has(32)) return false;
    uint32_t n = b->Take(16);
    if ((n ^ b->Take(16)) != 0xffff) return Corrupt("invalid stored block lengths");
    stored_left_ = n;
    state_ = State::kStored;
  } else if (type == 1) {
    UseFixed();
    state_ = State::kSymbols;
  } else if (type == 2) {
    FASTOCI_TRY(bool whole, ReadDynamic(b));
    if (!whole) return false;
    state_ = State::kSymbols;
  } else {
    return Corrupt("invalid block type");
  }
  last_block_ = last;
  return true;
}

Result<bool> DeflateDecoder::ReadDynamic(Bits* b) {
  static constexpr uint8_t kOrder[kNrCodeLengths] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                     11, 4,  12, 3, 13, 2, 14, 1, 15};
  b->Fill();
  if (!b->Has(14)) return false;
  unsigned nr_literals = b->Take(5) + 257, nr_distances = b->Take(5) + 1, nr_lengths = b->Take(4) + 4;
  if (nr_literals > kMaxLiterals || nr_distances > kMaxDistances)
    return Corrupt("too many length or distance symbols");
  std::array<uint8_t, kNrCodeLengths> code_lengths{};
  for (unsigned i = 0; i < nr_lengths; i++) {
    b->Fill();
    if (!b->Has(3)) return false;
    code_lengths[kOrder[i]] = static_cast<uint8_t>(b->Take(3));
  }
  std::array<uint32_t, 1 << kMaxCodeLengthBits> table;
  if (!MakeTable(code_lengths, kMaxCodeLengthBits, CodeLengthEntry, false, table) ||
      code_lengths == std::array<uint8_t, kNrCodeLengths>{})
    return Corrupt("invalid code lengths set");
  std::array<uint8_t, kMaxLiterals + kMaxDistances> lengths{};
  unsigned total = nr_literals + nr_distances;
  for (unsigned i = 0; i < total;) {
    b->Fill();
    uint32_t e = table[b->buffer & (table.size() - 1)];
    unsigned symbol = Value(e), extra = symbol < 16 ? 0 : symbol == 16 ? 2 : symbol == 17 ? 3 : 7;
    if (!b->Has(CodeBits(e) + extra)) return false;
    b->Drop(CodeBits(e));
    if (symbol < 16) {
      lengths[i++] = static_cast<uint8_t>(symbol);
      continue;
    }
    if (symbol == 16 && i == 0) return Corrupt("invalid bit length repeat");
    uint8_t value = symbol == 16 ? lengths[i - 1] : 0;
    unsigned n = b->Take(extra) + (symbol == 18 ? 11 : 3);
    if (n > total - i) return Corrupt("invalid bit length repeat");
    std::fill_n(lengths.begin() + i, n, value);
    i += n;
  }
  if (lengths[kEndOfBlock] == 0) return Corrupt("missing end-of-block code");
  fixed_ = false;
  std::span<const uint8_t> all(lengths);
  if (!MakeTable(all.first(nr_literals), kLiteralRoot, LiteralEntry, true, literals_))
    return Corrupt("invalid literal/lengths set");
  if (!MakeTable(all.subspan(nr_literals, nr_distances), kDistanceRoot, DistanceEntry, true,
                 distances_))
    return Corrupt("invalid distances set");
  return true;
}

Status DeflateDecoder::FastSymbols(Bits* bits, Output* out, bool* block_end) {
  Bits b = *bits;
  uint8_t* const base = out->buffer.data();
  uint8_t* to = base + out->fill;
  uint8_t* const to_end = base + out->buffer.size() - kOutputMargin;
  const uint8_t* const in_end = b.end - 16;
  const uint8_t *const first = base + out->first, *const watch = base + out->watch_below;
  constexpr uint64_t kLiteralMask = (1 << kLiteralRoot) - 1, kDistanceMask = (1 << kDistanceRoot) - 1;
  auto done = [&] {
    out->fill = static_cast<size_t>(to - base);
    b.Unread();
    *bits = b;
  };
  while (b.in <= in_end && to <= to_end) {
    b.FillFast();
    uint32_t e = literals_[b.buffer & kLiteralMask];
    if ((e & kLiteral) != 0) {  // a literal of the root table has at most 11 bits
      b.Drop(CodeBits(e));
      *to++ = static_cast<uint8_t>(Value(e));
      e = literals_[b.buffer & kLiteralMask];
      if ((e & kLiteral) != 0) {
        b.Drop(CodeBits(e));
        *to++ = static_cast<uint8_t>(Value(e));
        e = literals_[b.buffer & kLiteralMask];
        if ((e & kLiteral) != 0) {
          b.Drop(CodeBits(e));
          *to++ = static_cast<uint8_t>(Value(e));
          continue;
        }
      }
    }
    b.Drop(CodeBits(e));
    if ((e & kSpecial) != 0) {
      if ((e & kSecond) != 0) {
        e = literals_[Value(e) + (b.buffer & ((1U << ExtraBits(e)) - 1))];
        b.Drop(CodeBits(e));
        if ((e & kLiteral) != 0) {
          *to++ = static_cast<uint8_t>(Value(e));
          continue;
        }
      }
      if ((e & kEnd) != 0) {
        *block_end = true;
        break;
      }
      if ((e & kSpecial) != 0) return Corrupt("invalid literal/length code");
    }
    size_t length = Value(e) + b.Take(ExtraBits(e));
    b.FillFast();
    e = distances_[b.buffer & kDistanceMask];
    b.Drop(CodeBits(e));
    if ((e & kSpecial) != 0) {
      if ((e & kSecond) == 0) return Corrupt("invalid distance code");
      e = distances_[Value(e) + (b.buffer & ((1U << ExtraBits(e)) - 1))];
      b.Drop(CodeBits(e));
      if ((e & kSpecial) != 0) return Corrupt("invalid distance code");
    }
    size_t distance = Value(e) + b.Take(ExtraBits(e));
    if (distance > static_cast<size_t>(to - first)) return Corrupt("invalid distance too far back");
    if (to - distance < watch)
      out->copies->push_back({static_cast<uint32_t>(to - distance - base), static_cast<uint32_t>(length)});
    Copy(to, distance, length);
    to += length;
  }
  done();
  return OkStatus();
}

// False: the input ends within the symbol. Then nothing of the symbol was taken.
Result<bool> DeflateDecoder::OneSymbol(Bits* bits, Output* out, bool* block_end) {
  Bits b = *bits;
  auto look_up = [&b](std::span<const uint32_t> table, unsigned root) {
    uint32_t e = table[b.buffer & ((1U << root) - 1)];
    if ((e & kSecond) == 0) return e;
    uint32_t second = table[Value(e) + (b.buffer >> root & ((1U << ExtraBits(e)) - 1))];
    return second + root;
  };
  b.Fill();
  uint32_t e = look_up(literals_, kLiteralRoot);
  if (!b.Has(CodeBits(e) + ExtraBits(e))) return false;
  b.Drop(CodeBits(e));
  if ((e & kLiteral) != 0) {
    out->buffer[out->fill++] = static_cast<uint8_t>(Value(e));
  } else if ((e & kEnd) != 0) {
    *block_end = true;
  } else if ((e & kSpecial) != 0) {
    return Corrupt("invalid literal/length code");
  } else {
    size_t length = Value(e) + b.Take(ExtraBits(e));
    b.Fill();
    e = look_up(distances_, kDistanceRoot);
    if (!b.Has(CodeBits(e) + ExtraBits(e))) return false;
    if ((e & kSpecial) != 0) return Corrupt("invalid distance code");
    b.Drop(CodeBits(e));
    size_t distance = Value(e) + b.Take(ExtraBits(e));
    if (distance > out->fill - out->first) return Corrupt("invalid distance too far back");
    size_t from = out->fill - distance;
    if (from < out->watch_below)
      out->copies->push_back({static_cast<uint32_t>(from), static_cast<uint32_t>(length)});
    Copy(&out->buffer[out->fill], distance, length);
    out->fill += length;
  }
  b.Unread();
  *bits = b;
  return true;
}

Result<DeflateDecoder::Event> DeflateDecoder::Decode(ByteSpan* in, bool last, Output* out) {
  Bits bits{bit_buffer_, nr_bits_, in->data(), in->data() + in->size()};
  static_assert(kOutputMargin >= 3 + 258 + 8);
  auto stop = [&](Event event) -> Result<Event> {
    bits.Unread();
    bit_buffer_ = bits.buffer;
    nr_bits_ = bits.count;
    *in = {bits.in, bits.left()};
    if (event == Event::kNeedInput && last) return Corrupt("it is cut off");
    return event;
  };
  for (;;) {
    bool block_end = false;
    if (state_ == State::kHeader) {
      Bits before = bits;
      FASTOCI_TRY(bool whole, ReadHeader(&bits));
      bits.Unread();
      if (!whole) {
        bits = before;
        return stop(Event::kNeedInput);
      }
    }
    if (out->buffer.size() - out->fill < kOutputMargin) return stop(Event::kOutputFull);
    if (state_ == State::kStored) {
      size_t n = std::min<size_t>({stored_left_, bits.left(), out->buffer.size() - out->fill});
      std::copy_n(bits.in, n, out->buffer.begin() + static_cast<ptrdiff_t>(out->fill));
      bits.in += n;
      out->fill += n;
      stored_left_ -= n;
      block_end = stored_left_ == 0;
      if (!block_end && bits.left() == 0) return stop(Event::kNeedInput);
    } else {
      if (bits.left() >= 16) FASTOCI_CHECK_OK(FastSymbols(&bits, out, &block_end));
      while (!block_end && bits.left() < 16 && out->buffer.size() - out->fill >= kOutputMargin) {
        FASTOCI_TRY(bool whole, OneSymbol(&bits, out, &block_end));
        if (!whole) return stop(Event::kNeedInput);
      }
    }
    if (!block_end) continue;
    state_ = State::kHeader;
    if (!last_block_) return stop(Event::kBlockEnd);
    bits.Drop(bits.count % 8);
    return stop(Event::kStreamEnd);
  }
}

}  // namespace fastoci
