// SPDX-License-Identifier: Apache-2.0
#include "codec/gzip_index.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <random>

#include "base/digest.h"

namespace fastoci {
namespace {

// Text-like bytes with long and short repeats at all distances.
Bytes MakeData(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  Bytes d;
  d.reserve(n + 1000);
  while (d.size() < n) {
    unsigned kind = rng() % 8;
    size_t len = 1 + rng() % 300;
    if (kind < 3 || d.empty()) {
      for (size_t i = 0; i < len; i++) d.push_back(static_cast<uint8_t>(rng()));
    } else if (kind < 7) {
      size_t distance = 1 + rng() % std::min<size_t>(d.size(), 32768);
      for (size_t i = 0; i < len; i++) d.push_back(d[d.size() - distance]);
    } else {
      d.insert(d.end(), len, static_cast<uint8_t>(rng() % 4));
    }
  }
  d.resize(n);
  return d;
}

// Deflates `data` in blocks of the given sizes (in turn), not byte-aligned.
Bytes Gzip(const Bytes& data, const std::vector<size_t>& block_sizes, int level = 6,
           const char* name = nullptr) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, level, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  gz_header header{};
  header.name = reinterpret_cast<Bytef*>(const_cast<char*>(name));
  header.os = 3;
  deflateSetHeader(&z, &header);
  Bytes out(data.size() * 2 + 65536 + 64 * data.size() / block_sizes[0]);
  z.next_out = out.data();
  z.avail_out = static_cast<uInt>(out.size());
  size_t pos = 0;
  for (size_t i = 0; pos < data.size(); i++) {
    size_t n = std::min(block_sizes[i % block_sizes.size()], data.size() - pos);
    z.next_in = const_cast<Bytef*>(data.data() + pos);
    z.avail_in = static_cast<uInt>(n);
    deflate(&z, Z_BLOCK);
    EXPECT_EQ(z.avail_in, 0U);
    pos += n;
  }
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

Result<Bytes> Build(const Bytes& gz, const GzipIndexOptions& options, size_t step = 1 << 16,
                    Bytes* data = nullptr) {
  auto builder = GzipIndexBuilder::Create(options, [data](ByteSpan s) {
    if (data) data->insert(data->end(), s.begin(), s.end());
    return OkStatus();
  });
  EXPECT_TRUE(builder.ok());
  for (size_t i = 0; i < gz.size(); i += step)
    FASTOCI_CHECK_OK(builder->Update(ByteSpan(gz).subspan(i, std::min(step, gz.size() - i))));
  return builder->Finish();
}

// Decodes from an entry to the end with one stream, in pieces of `step`.
Result<Bytes> DecodeFrom(const GzipIndex& index, size_t entry, const Bytes& gz, size_t step,
                         size_t max_bytes = SIZE_MAX, GzipEngine engine = GzipEngine::kIsal) {
  FASTOCI_TRY(GzipStream stream, GzipStream::Open(index, entry, engine));
  ByteSpan in = ByteSpan(gz).subspan(index.entries()[entry].blob_offset());
  Bytes out;
  Bytes buf(step);
  for (;;) {
    FASTOCI_TRY(auto p, stream.Decode(in.first(std::min(in.size(), step)), buf));
    out.insert(out.end(), buf.begin(), buf.begin() + static_cast<ptrdiff_t>(p.produced));
    in = in.subspan(p.consumed);
    if (p.ended || out.size() >= max_bytes) return out;
    if (p.consumed == 0 && p.produced == 0) return InvalidError("no progress");
  }
}

void ExpectEveryEntryDecodes(const Bytes& index_file, const Bytes& gz, const Bytes& data,
                             size_t max_bytes = SIZE_MAX) {
  auto index = GzipIndex::Parse(index_file);
  ASSERT_TRUE(index.ok()) << index.error().message;
  EXPECT_EQ(index->uncompressed_bytes(), data.size());
  EXPECT_EQ(index->gzip_bytes(), gz.size());
  for (size_t n = 0; n < 2 * index->entries().size(); n++) {
    size_t i = n / 2;
    GzipEngine engine = n % 2 == 0 ? GzipEngine::kIsal : GzipEngine::kZlib;
    auto out = DecodeFrom(*index, i, gz, 50000, max_bytes, engine);
    ASSERT_TRUE(out.ok()) << i << ": " << out.error().message;
    size_t at = index->entries()[i].data_offset;
    ASSERT_TRUE(out->size() >= max_bytes || out->size() == data.size() - at) << i;
    ASSERT_TRUE(std::equal(out->begin(), out->end(), data.begin() + static_cast<ptrdiff_t>(at)))
        << "entry " << i;
  }
}

TEST(GzipIndexTest, EveryEntryDecodesToTheOriginal) {
  Bytes data = MakeData(3 << 20, 1);
  Bytes gz = Gzip(data, {1 << 17}, 6, "with a name");
  for (bool sparse : {false, true}) {
    GzipIndexOptions options{.span_bytes = 1 << 18, .sparse_windows = sparse};
    Bytes plain;
    auto file = Build(gz, options, 1 << 16, &plain);
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_EQ(plain, data);
    ExpectEveryEntryDecodes(*file, gz, data);
    auto index = GzipIndex::Parse(*file);
    EXPECT_GT(index->entries().size(), 8U);
    EXPECT_EQ(index->entries()[0].compressed_offset, 10U + strlen("with a name") + 1);
  }
}

// All optional fields of a header, alone and together; stored blocks and others.
TEST(GzipIndexTest, TakesEveryKindOfHeader) {
  Bytes data = MakeData(300000, 17);
  for (int flags = 0; flags < 32; flags += 2) {
    for (int level : {0, 9}) {
      Bytes gz = {0x1f, 0x8b, 8, static_cast<uint8_t>(flags), 1, 2, 3, 4, 0, 3};
      auto put = [&gz](std::string_view text) { gz.insert(gz.end(), text.begin(), text.end() + 1); };
      if (flags & 4) {  // extra field
        gz.insert(gz.end(), {0x2c, 1});
        gz.resize(gz.size() + 300, 0xaa);
      }
      if (flags & 8) put("layer.tar");
      if (flags & 16) put("a comment");
      if (flags & 2) {  // checksum of the header
        uLong crc = crc32(0, gz.data(), static_cast<uInt>(gz.size()));
        gz.insert(gz.end(), {static_cast<uint8_t>(crc), static_cast<uint8_t>(crc >> 8)});
      }
      const size_t header = gz.size();
      Bytes bare = Gzip(data, {50000}, level);
      gz.insert(gz.end(), bare.begin() + 10, bare.end());
      Bytes got;
      auto file = Build(gz, {.span_bytes = 60000}, 1000, &got);
      ASSERT_TRUE(file.ok()) << flags << ": " << file.error().message;
      EXPECT_EQ(got, data);
      auto index = GzipIndex::Parse(*file);
      ASSERT_TRUE(index.ok());
      EXPECT_EQ(index->entries()[0].compressed_offset, header) << flags;
      ExpectEveryEntryDecodes(*file, gz, data);
    }
  }
}

// Spans far shorter than a window, read across each end with one stream.
TEST(GzipIndexTest, SparseWindowsServeSpansOfAnyLength) {
  std::mt19937 rng(7);
  for (size_t longest : {3, 40, 700, 5000, 40960}) {
    std::vector<size_t> blocks;
    for (int i = 0; i < 64; i++) blocks.push_back(1 + rng() % longest);
    blocks.push_back(1);
    blocks.push_back(15);
    Bytes data = MakeData(std::min<size_t>(longest * 400, 400000), static_cast<uint32_t>(longest));
    if (longest < 1000) {  // short blocks behind enough history to refer to
      Bytes history = MakeData(70000, 3);
      data.insert(data.begin(), history.begin(), history.end());
      blocks.insert(blocks.begin(), 70000);
      blocks.resize(longest == 3 ? 300 : 66, 2);
    }
    Bytes gz = Gzip(data, blocks, 9);
    auto file = Build(gz, {.span_bytes = 1});
    ASSERT_TRUE(file.ok()) << file.error().message;
    ExpectEveryEntryDecodes(*file, gz, data, 200000);
  }
}

// A copy chain that runs from the window through megabytes of output.
TEST(GzipIndexTest, LongCopyChainsNeedNoLongTrace) {
  Bytes data = MakeData(32768, 5);
  while (data.size() < (2 << 20))
    data.insert(data.end(), data.end() - 32000, data.end() - 32000 + 16000);
  data.insert(data.end(), 2 << 20, 'x');
  Bytes gz = Gzip(data, {100000, 31, 5000}, 9);
  auto file = Build(gz, {.span_bytes = 20000});
  ASSERT_TRUE(file.ok());
  ExpectEveryEntryDecodes(*file, gz, data);
}

TEST(GzipIndexTest, KeepsJustWhatIsReached) {
  Bytes data = MakeData(1 << 20, 11);
  Bytes gz = Gzip(data, {50000}, 6);
  auto sparse_file = Build(gz, {.span_bytes = 100000});
  auto full_file = Build(gz, {.span_bytes = 100000, .sparse_windows = false});
  auto sparse = GzipIndex::Parse(*sparse_file);
  auto full = GzipIndex::Parse(*full_file);
  EXPECT_LT(sparse_file->size(), full_file->size());
  ASSERT_EQ(sparse->entries().size(), full->entries().size());
  for (size_t i = 1; i < full->entries().size(); i++) {
    GzipWindow a, b;
    ASSERT_TRUE(sparse->ReadWindow(i, &a).ok());
    ASSERT_TRUE(full->ReadWindow(i, &b).ok());
    size_t at = full->entries()[i].data_offset;
    EXPECT_TRUE(std::equal(b.begin(), b.end(), data.begin() + static_cast<ptrdiff_t>(at - 32768)));
    size_t zeroed = 0;
    for (size_t k = 0; k < a.size(); k++) {
      EXPECT_TRUE(a[k] == b[k] || a[k] == 0);
      zeroed += a[k] != b[k];
    }
    EXPECT_GT(zeroed, 100U);
  }
}

TEST(GzipIndexTest, ResultDoesNotDependOnTheCut) {
  Bytes data = MakeData(300000, 13);
  Bytes gz = Gzip(data, {7000, 1, 33000}, 6);
  auto whole = Build(gz, {.span_bytes = 10000}, gz.size());
  ASSERT_TRUE(whole.ok());
  for (size_t step : {1, 2, 7, 1000, 4096}) {
    Bytes plain;
    auto cut = Build(gz, {.span_bytes = 10000}, step, &plain);
    ASSERT_TRUE(cut.ok());
    EXPECT_EQ(*cut, *whole) << step;
    EXPECT_EQ(plain, data);
  }
}

TEST(GzipIndexTest, AThreadForTheWindowsChangesNothing) {
  Bytes data = MakeData(4 << 20, 11);
  Bytes gz = Gzip(data, {20000});
  for (uint32_t span : {1U, 20000U, 1U << 20}) {  // with more windows than may wait, and few
    auto alone = Build(gz, {.span_bytes = span});
    auto beside = Build(gz, {.span_bytes = span, .threaded = true});
    ASSERT_TRUE(alone.ok() && beside.ok());
    EXPECT_EQ(*alone, *beside) << span;
  }
  // Dropped in the middle, while windows wait.
  auto builder = GzipIndexBuilder::Create({.span_bytes = 1, .threaded = true}, [](ByteSpan) { return OkStatus(); });
  ASSERT_TRUE(builder.ok());
  EXPECT_TRUE(builder->Update(ByteSpan(gz).first(gz.size() / 2)).ok());
}

TEST(GzipIndexTest, TakesZerosBehindTheMember) {
  Bytes data = MakeData(50000, 17);
  Bytes gz = Gzip(data, {20000});
  Bytes padded = gz;
  padded.resize(gz.size() + 1000);
  auto file = Build(padded, {});
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)[8], 1);
  EXPECT_EQ(GzipIndex::Parse(*file)->gzip_bytes(), padded.size());
  padded.push_back('x');
  auto garbage = Build(padded, {});
  ASSERT_FALSE(garbage.ok());
  EXPECT_NE(garbage.error().message.find("at byte " + std::to_string(gz.size() + 1000)),
            std::string::npos) << garbage.error().message;
}

// Members, empty ones and zeros between them; an entry where each begins.
TEST(GzipIndexTest, DescribesManyMembers) {
  std::vector<Bytes> parts = {MakeData(300000, 1), {}, MakeData(1, 2), {}, {}, MakeData(700000, 3),
                              MakeData(40000, 4), {}};
  Bytes gz, data;
  std::vector<uint64_t> starts;
  for (size_t i = 0; i < parts.size(); i++) {
    if (!parts[i].empty()) starts.push_back(data.size());
    Bytes member = Gzip(parts[i], {30000}, 6, i % 2 ? "name" : nullptr);
    gz.insert(gz.end(), member.begin(), member.end());
    gz.insert(gz.end(), i * 3, 0);
    data.insert(data.end(), parts[i].begin(), parts[i].end());
  }
  for (uint32_t span : {1U << 20, 50000U, 1U}) {
    Bytes plain;
    auto file = Build(gz, {.span_bytes = span}, 777, &plain);
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_EQ(plain, data);
    EXPECT_EQ((*file)[8], 2);
    auto index = GzipIndex::Parse(*file);
    ASSERT_TRUE(index.ok()) << index.error().message;
    std::vector<uint64_t> offsets;
    for (size_t i = 0; i < index->entries().size(); i++) {
      offsets.push_back(index->entries()[i].data_offset);
      uint64_t end = i + 1 < index->entries().size() ? index->entries()[i + 1].data_offset : data.size();
      size_t n = static_cast<size_t>(end - offsets.back());
      auto out = DecodeFrom(*index, i, gz, 50000, n);
      ASSERT_TRUE(out.ok());
      ASSERT_GE(out->size(), n);
      ASSERT_TRUE(std::equal(out->begin(), out->begin() + static_cast<ptrdiff_t>(n),
                             data.begin() + static_cast<ptrdiff_t>(offsets.back())));
    }
    for (uint64_t start : starts) EXPECT_TRUE(std::count(offsets.begin(), offsets.end(), start)) << start;
  }
}

// Of the block ends to choose from, one whose window is small.
TEST(GzipIndexTest, ChoosesCheckpointsWithSmallWindows) {
  Bytes data = MakeData(1 << 20, 47);
  for (size_t at = 310000; at < data.size(); at += 300000)  // nothing before is referred to
    std::generate_n(data.begin() + static_cast<ptrdiff_t>(at), 40000, std::mt19937(1));
  std::vector<size_t> blocks(data.size() / 10000, 10000);
  Bytes gz = Gzip(data, blocks, 9);
  auto file = Build(gz, {.span_bytes = 256 << 10});
  ASSERT_TRUE(file.ok());
  ExpectEveryEntryDecodes(*file, gz, data);
  auto index = GzipIndex::Parse(*file);
  ASSERT_GE(index->entries().size(), 3U);
  EXPECT_EQ(index->entries()[1].data_offset, 310000U);
  uint64_t last = 0;
  for (const GzipIndexEntry& e : index->entries()) {
    EXPECT_TRUE(e.data_offset == 0 || (e.data_offset - last >= (256 << 10) && e.data_offset - last <= (320 << 10)));
    last = e.data_offset;
  }
}

TEST(GzipIndexTest, RefusesCorruptAndCutStreams) {
  Bytes data = MakeData(50000, 19);
  Bytes gz = Gzip(data, {20000});
  Bytes cut(gz.begin(), gz.end() - 3);
  EXPECT_FALSE(Build(cut, {}).ok());
  Bytes crc = gz;
  crc[crc.size() - 6] ^= 1;
  EXPECT_FALSE(Build(crc, {}).ok());
  EXPECT_FALSE(Build(data, {}).ok());
  EXPECT_FALSE(Build({}, {}).ok());
}

TEST(GzipIndexTest, SinkErrorEndsTheBuild) {
  Bytes gz = Gzip(MakeData(50000, 23), {20000});
  auto builder =
      GzipIndexBuilder::Create({}, [](ByteSpan) -> Status { return MismatchError("stop"); });
  EXPECT_EQ(builder->Update(gz).error().message, "stop");
}

// Both inflaters, input and output cut at any place.
TEST(GzipIndexTest, EnginesAgreeWhateverTheCut) {
  Bytes data = MakeData(400000, 41);
  data.insert(data.end(), 300000, 'z');  // an output far larger than its input
  for (int level : {0, 1, 9}) {
    Bytes gz = Gzip(data, {30000, 4, 60000}, level);
    auto file = Build(gz, {.span_bytes = 60000});
    auto index = GzipIndex::Parse(*file);
    ASSERT_TRUE(index.ok());
    std::mt19937 rng(static_cast<uint32_t>(level));
    for (size_t entry = 0; entry < index->entries().size(); entry++) {
      for (auto engine : {GzipEngine::kIsal, GzipEngine::kZlib}) {
        auto stream = GzipStream::Open(*index, entry, engine);
        ByteSpan in = ByteSpan(gz).subspan(index->entries()[entry].blob_offset());
        Bytes out, buf(70000);
        size_t longest = 4 << rng() % 15;
        bool ended = false;
        for (int rounds = 0; !ended && rounds < 10000000; rounds++) {
          auto p = stream->Decode(in.first(std::min<size_t>(in.size(), rng() % longest)),
                                  std::span(buf).first(rng() % longest));
          ASSERT_TRUE(p.ok()) << p.error().message;
          out.insert(out.end(), buf.begin(), buf.begin() + static_cast<ptrdiff_t>(p->produced));
          in = in.subspan(p->consumed);
          ended = p->ended;
        }
        size_t at = index->entries()[entry].data_offset;
        ASSERT_EQ(out.size(), data.size() - at);
        ASSERT_TRUE(std::equal(out.begin(), out.end(), data.begin() + static_cast<ptrdiff_t>(at)));
      }
    }
  }
}

// A stream with flipped bits: no engine writes past what it was given, and up to
// the first error both say the same.
TEST(GzipIndexTest, EnginesSurviveCorruptStreams) {
  Bytes data = MakeData(60000, 43);
  Bytes gz = Gzip(data, {9000}, 6);
  auto file = Build(gz, {.span_bytes = 9000});
  auto index = GzipIndex::Parse(*file);
  ASSERT_TRUE(index.ok());
  std::mt19937 rng(2);
  constexpr size_t kPiece = 5000;
  constexpr uint8_t kCanary = 0xc5;
  for (int i = 0; i < 1500; i++) {
    size_t entry = rng() % index->entries().size();
    Bytes bad(gz.begin() + static_cast<ptrdiff_t>(index->entries()[entry].blob_offset()), gz.end());
    for (int k = 0; k < 1 + i % 3; k++) {
      size_t at = rng() % std::min<size_t>(bad.size(), 12000);
      bad[at] = static_cast<uint8_t>(bad[at] ^ 1 << rng() % 8);
    }
    Bytes out[2];
    for (auto engine : {GzipEngine::kIsal, GzipEngine::kZlib}) {
      auto stream = GzipStream::Open(*index, entry, engine);
      Bytes& o = out[engine == GzipEngine::kZlib];
      ByteSpan in = bad;
      for (;;) {
        Bytes buf(kPiece + 512, kCanary);
        auto p = stream->Decode(in, std::span(buf).first(kPiece));
        ASSERT_EQ(std::count(buf.begin() + kPiece, buf.end(), kCanary), 512);
        if (!p.ok() || (p->consumed == 0 && p->produced == 0)) break;
        o.insert(o.end(), buf.begin(), buf.begin() + static_cast<ptrdiff_t>(p->produced));
        in = in.subspan(p->consumed);
        if (o.size() > 1000000) break;
      }
    }
    size_t common = std::min(out[0].size(), out[1].size());
    ASSERT_TRUE(std::equal(out[0].begin(), out[0].begin() + static_cast<ptrdiff_t>(common),
                           out[1].begin()));
  }
}

TEST(GzipIndexTest, FindEntry) {
  Bytes gz = Gzip(MakeData(500000, 29), {50000});
  auto file = Build(gz, {.span_bytes = 50000});
  auto index = GzipIndex::Parse(*file);
  const auto& entries = index->entries();
  ASSERT_GT(entries.size(), 4U);
  EXPECT_EQ(index->FindEntry(0), 0U);
  EXPECT_EQ(index->FindEntry(entries[2].data_offset - 1), 1U);
  EXPECT_EQ(index->FindEntry(entries[2].data_offset), 2U);
  EXPECT_EQ(index->FindEntry(UINT64_MAX), entries.size() - 1);
}

void FixCrc(Bytes* file) {
  uint32_t crc = Crc32cRaw(0, ByteSpan(*file).first(329));
  for (int i = 0; i < 4; i++) (*file)[329 + i] = static_cast<uint8_t>(crc >> (8 * i));
}

TEST(GzipIndexTest, ParseRefusesWhatIsWrong) {
  Bytes gz = Gzip(MakeData(500000, 31), {50000});
  Bytes file = *Build(gz, {.span_bytes = 50000});
  ASSERT_TRUE(GzipIndex::Parse(file).ok());
  struct Case {
    const char* what;
    size_t offset;
    std::vector<uint8_t> bytes;
  };
  const Case cases[] = {
      {"magic", 0, {'x'}},
      {"version", 8, {3}},
      {"window compression", 10, {2}},
      {"span", 13, {0, 0, 0, 0}},
      {"window", 17, {0, 0}},
      {"entry size", 21, {28}},
      {"number of entries", 25, {0, 0}},
      {"number of entries", 25, {255, 255, 255, 255, 255, 255, 255, 127}},
      {"entry table", 25, {0, 0, 8}},
      {"stream size", 40, {0x80}},
      {"file size", 41, {0}},
      {"entry table lies", 313, {0, 0, 0, 0}},
      {"entry table lies", 313, {0, 0, 0, 0, 0, 0, 0, 0x80}},
      {"entry table lies", 321, {0, 0, 0, 1}},
      {"compressed position", 33, {11, 0, 0, 0}},
      {"uncompressed position", 49, {1, 0, 0, 0}},
  };
  for (const Case& c : cases) {
    Bytes bad = file;
    std::copy(c.bytes.begin(), c.bytes.end(), bad.begin() + static_cast<ptrdiff_t>(c.offset));
    FixCrc(&bad);
    auto r = GzipIndex::Parse(bad);
    ASSERT_FALSE(r.ok()) << c.what;
    EXPECT_NE(r.error().message.find(c.what), std::string::npos) << r.error().message;
  }
  Bytes bad = file;
  bad[60] ^= 1;
  EXPECT_FALSE(GzipIndex::Parse(bad).ok());
}

// Any single flipped byte is refused or still keeps every read within bounds.
TEST(GzipIndexTest, ParseSurvivesEveryFlippedByteAndCut) {
  Bytes gz = Gzip(MakeData(100000, 37), {20000});
  Bytes file = *Build(gz, {.span_bytes = 20000});
  std::mt19937 rng(1);
  for (int i = 0; i < 3000; i++) {
    Bytes bad = file;
    size_t at = rng() % bad.size();
    if (rng() % 2) at = bad.size() - 1 - rng() % 150;
    bad[at] ^= static_cast<uint8_t>(1 << rng() % 8);
    if (rng() % 8 == 0) bad.resize(rng() % bad.size());
    if (bad.size() >= 333) FixCrc(&bad);
    auto index = GzipIndex::Parse(bad);
    if (!index.ok()) continue;
    for (size_t e = 0; e < index->entries().size(); e++) {
      ASSERT_LE(index->entries()[e].blob_offset(), index->gzip_bytes());
      if (index->entries()[e].blob_offset() < gz.size())
        for (auto engine : {GzipEngine::kIsal, GzipEngine::kZlib})
          (void)DecodeFrom(*index, e, gz, 4096, 100000, engine);
    }
  }
}

}  // namespace
}  // namespace fastoci
