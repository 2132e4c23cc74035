// SPDX-License-Identifier: Apache-2.0
#include "codec/zstd_index.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "base/digest.h"
#include "testing/test_tar.h"

namespace fastoci {
namespace {

std::string MakeData(size_t bytes) {
  std::mt19937 random(3);
  std::string data;
  while (data.size() < bytes) data += static_cast<char>(random() % 30);
  return data;
}

std::string Skippable(size_t bytes) {
  std::string frame("\x53\x2a\x4d\x18", 4);
  for (int i = 0; i < 4; i++) frame += static_cast<char>(bytes >> (8 * i));
  return frame + std::string(bytes, 's');
}

struct Built {
  Status status = OkStatus();
  std::string data;
  Bytes file;
};
Built Build(const std::string& blob, uint64_t span, size_t step = 1 << 20) {
  Built b;
  auto builder = ZstdIndexBuilder::Create({.span_bytes = span}, [&b](ByteSpan part) {
    b.data.append(part.begin(), part.end());
    return OkStatus();
  });
  EXPECT_TRUE(builder.ok());
  for (size_t at = 0; at < blob.size() && b.status.ok(); at += step)
    b.status = builder->Update(AsBytes(blob).subspan(at, std::min(step, blob.size() - at)));
  if (!b.status.ok()) return b;
  auto file = builder->Finish();
  if (file.ok()) b.file = *file;
  else b.status = file.error();
  return b;
}

std::vector<ZstdIndexEntry> EntriesOf(const Bytes& file) {
  auto index = ZstdIndex::Parse(file);
  EXPECT_TRUE(index.ok());
  return index.ok() ? index->entries() : std::vector<ZstdIndexEntry>();
}

class ZstdIndexTest : public testing::Test {
 protected:
  void SetUp() override {
    data_ = MakeData(1000000);
    size_t begin = 0;
    for (size_t end : {300000, 300000, 310000, 600000, 1000000}) {
      starts_.push_back({begin, blob_.size()});
      blob_ += TestZstd(data_.substr(begin, end - begin));
      begin = end;
    }
    blob_ += Skippable(1000);
  }
  std::string data_, blob_;
  std::vector<ZstdIndexEntry> starts_;  // of all frames
};

TEST_F(ZstdIndexTest, NamesFramesThatAreFarEnoughApart) {
  Built b = Build(blob_, 1);
  ASSERT_TRUE(b.status.ok()) << b.status.error().message;
  EXPECT_EQ(b.data, data_);
  EXPECT_EQ(EntriesOf(b.file), (std::vector<ZstdIndexEntry>{starts_[0], starts_[2], starts_[3], starts_[4]}));
  EXPECT_EQ(EntriesOf(Build(blob_, 250000).file),
            (std::vector<ZstdIndexEntry>{starts_[0], starts_[2], starts_[4]}));
  EXPECT_EQ(EntriesOf(Build(TestZstd(data_), 1).file), (std::vector<ZstdIndexEntry>{{0, 0}}));
  for (size_t step : {1UL, 100UL, 70001UL}) EXPECT_EQ(Build(blob_, 1, step).file, b.file) << step;
}

TEST_F(ZstdIndexTest, EveryEntryDecodesToTheOriginal) {
  Bytes file = Build(blob_, 1).file;
  for (const ZstdIndexEntry& e : EntriesOf(file)) {
    for (size_t step : {1UL, 1000UL, 1UL << 20}) {
      auto stream = ZstdStream::Open();
      std::string out(data_.size() - e.data_offset, '\0');
      ByteSpan in = AsBytes(blob_).subspan(e.blob_offset);
      for (size_t done = 0; done < out.size();) {
        std::span<uint8_t> room(reinterpret_cast<uint8_t*>(out.data()) + done,
                                std::min(step, out.size() - done));
        auto p = stream->Decode(in.first(std::min(step, in.size())), room);
        ASSERT_TRUE(p.ok()) << p.error().message;
        in = in.subspan(p->consumed);
        done += p->produced;
      }
      EXPECT_EQ(out, data_.substr(e.data_offset)) << e.data_offset;
    }
  }
}

TEST_F(ZstdIndexTest, SaysWhatIsWrongAndWhere) {
  auto expect = [](const std::string& blob, const std::string& text) {
    Built b = Build(blob, 1);
    ASSERT_FALSE(b.status.ok()) << text;
    EXPECT_NE(b.status.error().message.find(text), std::string::npos) << b.status.error().message;
  };
  std::string third = "frame at byte " + std::to_string(starts_[3].blob_offset) + " of the blob";
  expect(blob_.substr(0, starts_[4].blob_offset - 1), "ends inside of the " + third);
  std::string bad = blob_;
  bad[starts_[3].blob_offset + 5000] ^= 4;
  expect(bad, third);
  expect(blob_ + "garbage", "frame at byte " + std::to_string(blob_.size()));
  // A frame that wants 2 GiB of memory.
  expect(std::string("\x28\xb5\x2f\xfd\x00\xa8", 6) + std::string(100, 'x'), "memory");
}

TEST_F(ZstdIndexTest, ParseRefusesWhatIsWrong) {
  Bytes file = Build(blob_, 1).file;
  ASSERT_TRUE(ZstdIndex::Parse(file).ok());
  for (size_t i = 0; i < file.size(); i++) {
    Bytes bad = file;
    bad[i] ^= 0x10;
    EXPECT_FALSE(ZstdIndex::Parse(bad).ok()) << i;
    EXPECT_FALSE(ZstdIndex::Parse(ByteSpan(file).first(i)).ok()) << i;
  }
  auto with = [&file](size_t at, uint64_t value) {
    Bytes bad(file.begin(), file.end() - 4);
    for (size_t i = 0; i < 8; i++) bad[at + i] = static_cast<uint8_t>(value >> (8 * i));
    ByteWriter crc;
    crc.U32(Crc32c(bad));
    bad.insert(bad.end(), crc.bytes().begin(), crc.bytes().end());
    return ZstdIndex::Parse(bad).ok();
  };
  EXPECT_TRUE(with(20, data_.size()));
  EXPECT_FALSE(with(20, 600000));        // data bytes: the last entry is behind them
  EXPECT_FALSE(with(20, 1ULL << 50));
  EXPECT_FALSE(with(28, 1ULL << 60));    // number of entries
  EXPECT_FALSE(with(36, 1));             // the first entry
  EXPECT_FALSE(with(36 + 16, 0));        // data offsets grow
  EXPECT_FALSE(with(36 + 16 + 8, 0));    // blob offsets, too
}

TEST_F(ZstdIndexTest, SinkErrorEndsTheBuild) {
  auto builder = ZstdIndexBuilder::Create({}, [](ByteSpan) { return Status(InvalidError("full")); });
  EXPECT_EQ(builder->Update(AsBytes(blob_)).error().message, "full");
}

}  // namespace
}  // namespace fastoci
