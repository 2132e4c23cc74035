// SPDX-License-Identifier: Apache-2.0
#include "image/seed_data.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "fastoci_meta.h"

namespace fastoci {
namespace {

constexpr uint64_t kDataBytes = 9 * kSeedPieceBytes + 1000;

class SeedDataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/seed_test.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    std::mt19937 rng(1);
    data_.resize(kDataBytes);
    for (uint8_t& b : data_) b = static_cast<uint8_t>(rng());
    blob_.data_space_id[3] = 7;
    blob_.data_bytes = kDataBytes;
    for (size_t at = 0; at < data_.size(); at += kSeedPieceBytes) blob_.digests.push_back(Sha256::Of(Piece(at / kSeedPieceBytes)));
  }
  void TearDown() override { ASSERT_EQ(std::system(("rm -rf " + dir_).c_str()), 0); }
  ByteSpan Piece(size_t n) const {
    const size_t at = n * kSeedPieceBytes;
    return ByteSpan(data_).subspan(at, std::min<size_t>(kSeedPieceBytes, data_.size() - at));
  }
  std::string path() const { return dir_ + "/data"; }
  void Write(const std::vector<uint32_t>& pieces) {
    UniqueFd fd(::open(path().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    SeedDataWriter writer(fd.get());
    for (uint32_t n : pieces) ASSERT_TRUE(writer.Add(n, Piece(n)).ok());
    auto written = writer.Finish(blob_.data_space_id, kDataBytes);
    ASSERT_TRUE(written.ok());
    EXPECT_EQ(written->bytes, std::filesystem::file_size(path()));
    digest_ = written->digest;
  }
  Status Check() {
    FASTOCI_TRY(const SeedDataFile file, SeedDataFile::Open(path()));
    return file.Check(blob_, digest_, [this](uint64_t bytes) { told_ += bytes; });
  }
  void Flip(uint64_t at) {
    std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
  }
  std::string dir_, digest_;
  Bytes data_;
  BlobInfo blob_;
  uint64_t told_ = 0;
};

TEST_F(SeedDataTest, HoldsSomePiecesAndTheShortLastOne) {
  Write({0, 1, 2, 5, 9});
  auto file = SeedDataFile::Open(path());
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->table().runs, (std::vector<SeedRun>{{0, 3}, {5, 1}, {9, 1}}));
  EXPECT_EQ(file->table().piece_bytes(), 4 * kSeedPieceBytes + 1000);
  Bytes got(1000);
  ASSERT_TRUE(file->Read(4 * kSeedPieceBytes, got).ok());
  EXPECT_TRUE(std::equal(got.begin(), got.end(), Piece(9).begin()));
  Status s = Check();
  EXPECT_TRUE(s.ok()) << s.error().message;
  EXPECT_EQ(told_, 4 * kSeedPieceBytes + 1000);
}

TEST_F(SeedDataTest, ManyPiecesAreReadInLargeParts) {
  Write({0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_TRUE(Check().ok());
  Write({});
  EXPECT_TRUE(Check().ok()) << "none is a number of pieces, too";
}

TEST_F(SeedDataTest, AFlippedBitIsFoundWhereItIs) {
  Write({0, 1, 2, 5, 9});
  Flip(3 * kSeedPieceBytes + 17);  // of piece 5
  Status s = Check();
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().kind, ErrorKind::kMismatch);
  EXPECT_NE(s.error().message.find(path()), std::string::npos) << s.error().message;
  EXPECT_NE(s.error().message.find("data bytes 327680+65536"), std::string::npos) << s.error().message;
  EXPECT_NE(s.error().message.find("at 196608 in the file"), std::string::npos) << s.error().message;
}

TEST_F(SeedDataTest, EachFlippedBitBehindTheDataIsFound) {
  Write({0, 5});
  const uint64_t begin = 2 * kSeedPieceBytes, end = std::filesystem::file_size(path());
  for (uint64_t at = begin; at < end; at++) {
    Flip(at);
    EXPECT_FALSE(Check().ok()) << at;
    Flip(at);
  }
  EXPECT_TRUE(Check().ok());
}

TEST_F(SeedDataTest, AFileThatIsCutShortIsRefused) {
  Write({0, 1, 2, 5, 9});
  const uint64_t size = std::filesystem::file_size(path());
  for (uint64_t cut : {size - 1, size - 8, size - kSeedTrailerBytes, size - kSeedTrailerBytes - 8, uint64_t{70000}, uint64_t{63}, uint64_t{0}}) {
    std::filesystem::resize_file(path(), cut);
    auto file = SeedDataFile::Open(path());
    ASSERT_FALSE(file.ok()) << cut;
    EXPECT_NE(file.error().message.find(path()), std::string::npos) << file.error().message;
  }
}

TEST_F(SeedDataTest, DataOfAnotherLayerIsRefused) {
  Write({0, 1});
  blob_.data_space_id[3] = 8;
  EXPECT_EQ(Check().error().kind, ErrorKind::kMismatch);
  blob_.data_space_id[3] = 7;
  blob_.digests.clear();
  EXPECT_FALSE(Check().ok()) << "there is nothing to compare with";
}

TEST_F(SeedDataTest, WhatTheFileNamesButIsNotOneIsRefused) {
  std::filesystem::create_directory(path());
  EXPECT_FALSE(SeedDataFile::Open(path()).ok());
  std::filesystem::remove(path());
  ASSERT_EQ(::mkfifo(path().c_str(), 0600), 0);
  EXPECT_FALSE(SeedDataFile::Open(path()).ok()) << "and nobody waits for its other end";
  std::filesystem::remove(path());
  std::filesystem::create_symlink("/etc/passwd", path());
  EXPECT_FALSE(SeedDataFile::Open(path()).ok());
  std::filesystem::remove(path());
  EXPECT_EQ(SeedDataFile::Open(path()).error().kind, ErrorKind::kNotFound);
}

struct Lie {
  const char* what;
  std::vector<SeedRun> runs;
  uint64_t data_bytes = kDataBytes;
  int64_t size_off = 0;
};

TEST(ParseSeedTable, RefusesTablesThatLie) {
  const Lie lies[] = {
      {"an empty run", {{0, 0}}},
      {"runs out of order", {{5, 1}, {0, 1}}},
      {"runs that overlap", {{0, 3}, {2, 2}}},
      {"runs that touch", {{0, 2}, {2, 1}}},
      {"a run past the end", {{9, 2}}},
      {"a run behind the end", {{10, 1}}},
      {"a run that wraps around", {{1, 0xffffffff}}},
      {"no data space", {{0, 1}}, 0},
      {"a data space larger than any", {{0, 1}}, FASTOCI_MAX_DATA_BYTES + 1},
      {"a data space with more chunks than any", {{0, 1}}, FASTOCI_MAX_DATA_BYTES},
      {"a byte too many", {{0, 1}}, kDataBytes, 1},
      {"a byte too few", {{0, 1}}, kDataBytes, -1},
  };
  for (const Lie& lie : lies) {
    const SeedTable table{{}, lie.data_bytes, lie.runs};
    const Bytes end = EncodeSeedTable(table);
    uint64_t bytes = end.size();
    for (const SeedRun& run : lie.runs) bytes += std::min<uint64_t>(run.count, 1000) * kSeedPieceBytes;
    auto parsed = ParseSeedTable(end, bytes + static_cast<uint64_t>(lie.size_off));
    EXPECT_FALSE(parsed.ok()) << lie.what;
  }
  const Bytes end = EncodeSeedTable({{}, kDataBytes, {{0, 1}}});
  EXPECT_TRUE(ParseSeedTable(end, kSeedPieceBytes + end.size()).ok()) << "so the lies are why";
}

TEST(ParseSeedTable, NamesAnotherVersion) {
  Bytes end = EncodeSeedTable({{}, kDataBytes, {}});
  end[end.size() - 20]++;
  auto parsed = ParseSeedTable(end, end.size());
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.error().kind, ErrorKind::kUnsupported);
  EXPECT_NE(parsed.error().message.find("version 2"), std::string::npos) << parsed.error().message;
}

TEST(ParseSeedTrailer, ALargeNumberOfRunsReservesNothing) {
  Bytes end = EncodeSeedTable({{}, kDataBytes, {}});
  for (size_t i = 0; i < 4; i++) end[end.size() - 24 + i] = 0xff;
  EXPECT_FALSE(ParseSeedTrailer(end, end.size()).ok());
  EXPECT_FALSE(ParseSeedTrailer(end, 1ULL << 60).ok());
}

}  // namespace
}  // namespace fastoci
