// SPDX-License-Identifier: Apache-2.0
#include "codec/zfile.h"

#include <gtest/gtest.h>

#include <random>

#include "base/digest.h"

namespace fastoci {
namespace {

Bytes MakeData(size_t n) {
  std::mt19937 rng(9);
  Bytes d(n);
  for (size_t i = 0; i < n; i++)
    d[i] = static_cast<uint8_t>((i / 8192) % 3 == 0 ? rng() : (i / 8192) % 3 == 1 ? i / 100 : 0);
  return d;
}

Bytes Write(const Bytes& data, const ZFileOptions& options, size_t step = 10000,
            bool overwrite = true) {
  Bytes file;
  auto w = ZFileWriter::Create(options, [&file](ByteSpan s) {
    file.insert(file.end(), s.begin(), s.end());
    return OkStatus();
  });
  EXPECT_TRUE(w.ok());
  for (size_t i = 0; i < data.size(); i += step)
    EXPECT_TRUE(w->Update(ByteSpan(data).subspan(i, std::min(step, data.size() - i))).ok());
  auto header = w->Finish();
  EXPECT_TRUE(header.ok());
  if (!overwrite) {  // as a stream writes it: flags without bit 3, no index fields
    (*header)[32] = 1 | 2 | 16;
    std::fill_n(header->begin() + 40, 24, 0);
  }
  std::copy(header->begin(), header->end(), file.begin());
  return file;
}

void ExpectReads(const Bytes& file, const Bytes& data) {
  MemoryFile memory(file);
  auto reader = ZFileReader::Open(&memory);
  ASSERT_TRUE(reader.ok()) << reader.error().message;
  ASSERT_EQ(reader->size(), data.size());
  Bytes all(data.size());
  ASSERT_TRUE(reader->ReadAt(0, all).ok());
  EXPECT_EQ(all, data);
  std::mt19937 rng(1);
  for (int i = 0; i < 200; i++) {
    size_t at = rng() % data.size();
    Bytes part(rng() % std::min<size_t>(data.size() - at, 20000) + 1);
    part.resize(std::min(part.size(), data.size() - at));
    ASSERT_TRUE(reader->ReadAt(at, part).ok());
    ASSERT_TRUE(std::equal(part.begin(), part.end(), data.begin() + static_cast<ptrdiff_t>(at)));
  }
  Bytes past(2);
  EXPECT_FALSE(reader->ReadAt(data.size() - 1, past).ok());
  EXPECT_FALSE(reader->ReadAt(UINT64_MAX, past).ok());
}

TEST(ZFileTest, ReadsWhatItWrote) {
  for (size_t n : {1, 4095, 4096, 4097, 300000}) {
    Bytes data = MakeData(n);
    for (auto algorithm : {ZFileAlgorithm::kLz4, ZFileAlgorithm::kZstd})
      for (uint32_t block : {512U, 4096U, 65536U})
        ExpectReads(Write(data, {.algorithm = algorithm, .block_bytes = block}), data);
  }
}

TEST(ZFileTest, ResultDoesNotDependOnTheCut) {
  Bytes data = MakeData(50000);
  EXPECT_EQ(Write(data, {}, 1), Write(data, {}, 50000));
  EXPECT_EQ(Write(data, {}, 4097), Write(data, {}, 50000));
}

uint32_t Le32(const Bytes& b, size_t at) { return ByteReader(ByteSpan(b).subspan(at)).U32(); }

void FixDigest(Bytes* file, size_t header) {
  std::fill_n(file->begin() + static_cast<ptrdiff_t>(header) + 28, 4, 0);
  uint32_t crc = Crc32cRaw(0, ByteSpan(*file).subspan(header, 512));
  for (size_t i = 0; i < 4; i++) (*file)[header + 28 + i] = static_cast<uint8_t>(crc >> (8 * i));
}

TEST(ZFileTest, FieldsAreWhereTheFormatSays) {
  Bytes data = MakeData(10000);
  Bytes file = Write(data, {});
  EXPECT_EQ(Le32(file, 24), 96U);
  EXPECT_EQ(file[32], 27);
  EXPECT_EQ(file[file.size() - 512 + 32], 22);
  EXPECT_EQ(Le32(file, 48), 3U);
  EXPECT_EQ(Le32(file, 56), 10000U);
  EXPECT_EQ(Le32(file, 40) + 12 + 512, file.size());
  EXPECT_EQ(Le32(file, 72), 4096U);
  EXPECT_EQ(file[76], 1);
  EXPECT_EQ(file[88], 1);
  uint32_t block0 = Le32(file, Le32(file, 40));
  EXPECT_EQ(Crc32cRaw(100007, ByteSpan(file).subspan(512, block0 - 4)),
            Le32(file, 512 + block0 - 4));
}

TEST(ZFileTest, UsesTheTrailerOfAStreamedFile) {
  Bytes data = MakeData(100000);
  Bytes file = Write(data, {}, 10000, false);
  EXPECT_FALSE(ZFileIndex::Read(MemoryFile(file)).ok());  // its digest is wrong now
  FixDigest(&file, 0);
  ExpectReads(file, data);
}

TEST(ZFileTest, OldFilesHaveGarbageFlagsAndNoDigest) {
  Bytes data = MakeData(100000);
  Bytes file = Write(data, {});
  file[32] = 0xe0 | 8 | 3;  // no digest
  std::fill_n(file.begin() + 33, 7, 0xa5);
  file[28] = 0;
  ExpectReads(file, data);
}

TEST(ZFileTest, SerializedIndexDecodesBlocks) {
  Bytes data = MakeData(100001);
  Bytes file = Write(data, {.algorithm = ZFileAlgorithm::kZstd});
  auto index = ZFileIndex::Read(MemoryFile(file));
  ASSERT_TRUE(index.ok());
  Bytes serialized = index->Serialize(1536);
  auto again = ZFileIndex::Parse(serialized);
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(again->payload_offset(), 1536U);
  EXPECT_EQ(again->data_bytes(), data.size());
  for (size_t i = 0; i < again->nr_blocks(); i++) {
    Bytes out(again->data_bytes_of(i));
    uint64_t at = again->block_offset(i);
    ByteSpan stored = ByteSpan(file).subspan(at, again->block_offset(i + 1) - at);
    ASSERT_TRUE(again->DecodeBlock(i, stored, out).ok());
    auto expected = data.begin() + static_cast<ptrdiff_t>(i * 4096);
    ASSERT_TRUE(std::equal(out.begin(), out.end(), expected));
  }
  serialized.pop_back();
  EXPECT_FALSE(ZFileIndex::Parse(serialized).ok());
  EXPECT_FALSE(ZFileIndex::Parse({}).ok());
}

TEST(ZFileTest, ReadsInsideAWrapper) {
  Bytes data = MakeData(20000);
  Bytes wrapped(1536, 0xee);
  Bytes file = Write(data, {});
  wrapped.insert(wrapped.end(), file.begin(), file.end());
  wrapped.resize(wrapped.size() + 1024);
  MemoryFile whole(wrapped);
  SubFile payload(&whole, 1536, file.size());
  auto reader = ZFileReader::Open(&payload);
  ASSERT_TRUE(reader.ok());
  Bytes out(data.size());
  ASSERT_TRUE(reader->ReadAt(0, out).ok());
  EXPECT_EQ(out, data);
}

TEST(ZFileTest, RefusesWhatIsWrong) {
  Bytes file = Write(MakeData(100000), {});
  struct {
    const char* what;
    size_t offset;
    std::vector<uint8_t> bytes;
  } const cases[] = {
      {"magic", 3, {'x'}},
      {"header size", 24, {97}},
      {"lies outside", 40, {0, 0, 0, 0, 1}},
      {"overlap", 40, {0, 2, 0, 0}},
      {"number of blocks", 48, {1}},
      {"number of blocks", 55, {0xff}},
      {"size out of range", 56, {0, 0, 0, 0, 0, 0, 0, 0}},
      {"size out of range", 63, {0xff}},
      {"index checksum", 64, {0, 0, 0, 0}},
      {"block size", 72, {1, 16, 0, 0}},
      {"number of blocks", 72, {0, 0, 0, 0}},
      {"algorithm", 76, {3}},
      {"dictionaries", 78, {1}},
      {"overlap", 84, {255, 255, 255, 255}},
  };
  for (const auto& c : cases) {
    Bytes bad = file;
    std::copy(c.bytes.begin(), c.bytes.end(), bad.begin() + static_cast<ptrdiff_t>(c.offset));
    FixDigest(&bad, 0);
    if (std::string(c.what) == "overlap" && c.offset == 40) {
      bad[32] &= ~16;  // without checksums: the index is read from elsewhere
      std::fill_n(bad.begin() + 512, 400, 1);
      for (size_t i = 512; i < 912; i++) bad[i] = i % 4 ? 0 : 200;
    }
    auto r = ZFileIndex::Read(MemoryFile(bad));
    ASSERT_FALSE(r.ok()) << c.what << c.offset;
    EXPECT_NE(r.error().message.find(c.what), std::string::npos) << c.what << r.error().message;
  }
}

TEST(ZFileTest, FlippedBytesNeverReadAsData) {
  Bytes data = MakeData(60000);
  Bytes file = Write(data, {});
  std::mt19937 rng(5);
  for (int i = 0; i < 2000; i++) {
    Bytes bad = file;
    size_t at = rng() % bad.size();
    bad[at] ^= static_cast<uint8_t>(1 << rng() % 8);
    if (rng() % 8 == 0) bad.resize(rng() % bad.size());
    MemoryFile memory(bad);
    auto reader = ZFileReader::Open(&memory);
    Bytes out(data.size());
    if (!reader.ok() || reader->size() != data.size() || !reader->ReadAt(0, out).ok()) continue;
    ASSERT_EQ(out, data) << at;
  }
}

}  // namespace
}  // namespace fastoci
