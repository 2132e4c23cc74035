// SPDX-License-Identifier: Apache-2.0
// zlib is the oracle: the same output, the same block ends, the same streams
// refused.
#include "codec/deflate_decoder.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <random>

#include "testing/deflate_oracle.h"

namespace fastoci {
namespace {

Bytes MakeStream(std::mt19937* rng, size_t bytes, int level, int strategy) {
  Bytes data;
  while (data.size() < bytes) {
    size_t n = 1 + (*rng)() % 400, kind = (*rng)() % 5;
    for (size_t i = 0; i < n; i++)
      data.push_back(kind == 0 ? static_cast<uint8_t>((*rng)())
                     : kind < 3 && data.size() > 40000 ? data[data.size() - 1 - n * 79]
                     : data.size() > 20 ? data[data.size() - 1 - n % 20] : 'x');
  }
  z_stream z{};
  deflateInit2(&z, level, Z_DEFLATED, -MAX_WBITS, 9, strategy);
  Bytes out(data.size() * 2 + 100000);
  z.next_out = out.data();
  z.avail_out = static_cast<uInt>(out.size());
  z.next_in = data.data();
  constexpr int kFlushes[] = {Z_BLOCK, Z_NO_FLUSH, Z_SYNC_FLUSH, Z_PARTIAL_FLUSH};
  while (z.next_in < data.data() + data.size()) {
    size_t left = static_cast<size_t>(data.data() + data.size() - z.next_in);
    z.avail_in = static_cast<uInt>(std::min<size_t>(left, 1 + (*rng)() % 30000));
    deflate(&z, kFlushes[(*rng)() % 4]);
  }
  deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

TEST(DeflateDecoderTest, AgreesWithZlib) {
  std::mt19937 rng(1);
  for (int level : {0, 1, 6, 9}) {
    for (int strategy : {Z_DEFAULT_STRATEGY, Z_FIXED, Z_HUFFMAN_ONLY, Z_RLE}) {
      Bytes stream = MakeStream(&rng, 200000, level, strategy);
      Deflated want = DeflatedByZlib(stream);
      ASSERT_TRUE(want.ok);
      for (auto [step, room] : {std::pair<size_t, size_t>{1 << 20, 1 << 20}, {1, 300}, {17, 40000}, {4096, 1}})
        EXPECT_TRUE(DeflatedByDecoder(stream, step, room) == want)
            << "level " << level << " strategy " << strategy << " step " << step;
    }
  }
}

TEST(DeflateDecoderTest, RefusesWhatZlibRefuses) {
  std::mt19937 rng(2);
  int refused = 0;
  for (int i = 0; i < 3000; i++) {
    Bytes stream = MakeStream(&rng, 1 + rng() % 3000, i % 3 == 0 ? 1 : 9, i % 5 == 0 ? Z_FIXED : Z_DEFAULT_STRATEGY);
    for (int k = 0; k < 1 + i % 3; k++) {
      size_t at = rng() % std::min<size_t>(stream.size(), rng() % 2 ? 100 : 5000);
      stream[at] = static_cast<uint8_t>(stream[at] ^ 1 << rng() % 8);
    }
    if (i % 7 == 0) stream.resize(rng() % stream.size());
    Deflated want = DeflatedByZlib(stream), got = DeflatedByDecoder(stream, i % 2 ? 1 << 20 : 13, 5000);
    ASSERT_EQ(got.ok, want.ok) << i;
    refused += !want.ok;
    if (want.ok) {
      ASSERT_TRUE(got == want) << i;
    } else {
      size_t n = std::min(got.data.size(), want.data.size());
      ASSERT_TRUE(std::equal(got.data.begin(), got.data.begin() + static_cast<ptrdiff_t>(n), want.data.begin())) << i;
    }
  }
  EXPECT_GT(refused, 1000);
}

// Few symbols with code lengths of all shapes, complete, incomplete and
// over-subscribed ones, then random bits.
TEST(DeflateDecoderTest, JudgesCodesAsZlibDoes) {
  const std::vector<std::vector<uint8_t>> shapes = {
      {}, {1}, {2}, {1, 1}, {1, 2}, {1, 2, 2}, {2, 2, 2, 2}, {1, 2, 3, 3}, {1, 1, 1}, {2, 2, 2, 3, 3}};
  std::mt19937 rng(3);
  int taken = 0;
  for (int i = 0; i < 20000; i++) {
    std::vector<bool> bits = {true, false, true};  // last block, dynamic
    auto put = [&bits](unsigned value, int n) {
      for (int k = 0; k < n; k++) bits.push_back((value >> k & 1) != 0);
    };
    unsigned nr_literals = 257 + rng() % 32, nr_distances = 1 + rng() % 32;
    put(nr_literals - 257, 5);
    put(nr_distances - 1, 5);
    put(14, 4);  // 18 of the 19, in their own order; those of 0 to 3 have 2 bits
    for (unsigned symbol : {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1})
      put(symbol < 4 ? 2 : 0, 3);
    std::vector<uint8_t> lengths(nr_literals + nr_distances);
    bool first = true;
    for (uint8_t n : shapes[rng() % shapes.size()]) {
      lengths[first && rng() % 8 ? 256 : rng() % nr_literals] = n;
      first = false;
    }
    for (uint8_t n : shapes[rng() % shapes.size()]) lengths[nr_literals + rng() % nr_distances] = n;
    for (uint8_t n : lengths) put((n & 1) << 1 | n >> 1, 2);
    for (int k = 0; k < 200; k++) bits.push_back(rng() % 2);
    Bytes stream((bits.size() + 7) / 8);
    for (size_t k = 0; k < bits.size(); k++)
      stream[k / 8] = static_cast<uint8_t>(stream[k / 8] | bits[k] << k % 8);
    Deflated want = DeflatedByZlib(stream), got = DeflatedByDecoder(stream, 100, 3000);
    ASSERT_EQ(got.ok, want.ok) << i;
    if (want.ok) {
      ASSERT_TRUE(got == want) << i;
      taken++;
    }
  }
  EXPECT_GT(taken, 1000);
}

TEST(DeflateDecoderTest, TellsCopiesFromBelow) {
  Bytes stream;
  {
    Bytes data(40000);
    std::mt19937 rng(4);
    for (uint8_t& b : data) b = static_cast<uint8_t>(rng());
    data.insert(data.end(), data.begin() + 20000, data.begin() + 20100);
    data.insert(data.end(), data.end() - 50, data.end());
    uLongf n = compressBound(data.size());
    stream.resize(n);
    compress2(stream.data(), &n, data.data(), data.size(), 9);
    stream.resize(n);
    stream.erase(stream.begin(), stream.begin() + 2);
  }
  Bytes buffer(100000);
  std::vector<DeflateCopy> copies;
  DeflateDecoder::Output out{buffer, 0, 0, 20050, &copies};
  DeflateDecoder decoder;
  decoder.Restart();
  ByteSpan in = stream;
  while (*decoder.Decode(&in, true, &out) != DeflateDecoder::Event::kStreamEnd) {
  }
  ASSERT_EQ(copies.size(), 1U);
  EXPECT_EQ(copies[0].from, 20000U);
  EXPECT_EQ(copies[0].length, 100U);
}

}  // namespace
}  // namespace fastoci
