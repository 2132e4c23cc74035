// SPDX-License-Identifier: Apache-2.0
#include "codec/lsmt_writer.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <random>

namespace fastoci {
namespace {

Bytes Sectors(size_t n, uint8_t fill) { return Bytes(n * kSectorBytes, fill); }

TEST(Lsmt, ReadsWhatItWrote) {
  LsmtBuilder b;
  b.AddTar(100, 20000, 7);
  b.AddData(8, Sectors(2, 1));
  b.AddData(10, Sectors(3, 2));
  b.AddZero(20, 4);
  auto file = MakeFsMeta(*b.Finish(64 << 20), 64 << 20);
  ASSERT_TRUE(file.ok());
  MemoryFile f(*file);
  auto r = LsmtReader::Open(&f);
  ASSERT_TRUE(r.ok()) << r.error().message;
  EXPECT_EQ(r->virtual_bytes(), 64u << 20);
  LsmtSegments want = {{8, 5, 8, LsmtSource::kFile, 0},
                       {20, 4, 0, LsmtSource::kZero, 0},
                       {100, 20000, 7, LsmtSource::kTar, 0}};
  EXPECT_EQ(r->segments(), want);
  Bytes sector(kSectorBytes);
  ASSERT_TRUE(f.ReadAt(12 * kSectorBytes, sector).ok());
  EXPECT_EQ(sector, Sectors(1, 2));
}

// overlaybd refuses a file in which an entry is mapped outside of the file's data, and does not leave out those of zeros.
TEST(Lsmt, EntriesOfZerosHaveAPlaceWithinTheData) {
  LsmtBuilder b;
  b.AddZero(0, 4);
  b.AddData(8, Sectors(2, 1));
  b.AddZero(10, 40000);  // more than one entry
  b.AddTar(50010, 5, 700);
  b.AddZero(50020, 1);
  b.AddData(50021, Sectors(3, 1));
  b.AddZero(50024, 8);
  const Bytes file = *MakeFsMeta(*b.Finish(64 << 20), 64 << 20);
  ByteReader trailer(ByteSpan(file).last(kLsmtHeaderBytes));
  trailer.Skip(32);
  const uint64_t index_at = trailer.U64(), nr_entries = trailer.U64();
  ASSERT_EQ(index_at, (8 + 2 + 3) * kSectorBytes);
  ByteReader index(ByteSpan(file).subspan(index_at, nr_entries * 16));
  std::vector<uint64_t> mapped;
  for (uint64_t i = 0; i < nr_entries; i++) {
    index.U64();
    const uint64_t word = index.U64();
    if (word >> 55 & 1) mapped.push_back(word & ((1ULL << 55) - 1));
  }
  EXPECT_EQ(mapped, (std::vector<uint64_t>{8, 10, 10, 10, 10, 13}));
}

TEST(Lsmt, LooksUpParts) {
  LsmtBuilder b;
  b.AddTar(10, 10, 100);
  b.AddZero(30, 10);
  auto file = MakeFsMeta(*b.Finish(1 << 20), 1 << 20);
  MemoryFile f(*file);
  auto r = LsmtReader::Open(&f);
  ASSERT_TRUE(r.ok());
  LsmtSegments want = {{15, 5, 105, LsmtSource::kTar, 0}, {30, 5, 0, LsmtSource::kZero, 0}};
  EXPECT_EQ(r->Lookup(15, 20), want);
  EXPECT_TRUE(r->Lookup(0, 10).empty());
  EXPECT_TRUE(r->Lookup(40, 100).empty());
}

TEST(Lsmt, RefusesDamage) {
  LsmtBuilder b;
  b.AddData(8, Sectors(1, 1));
  b.AddTar(16, 1, 0);
  Bytes file = *MakeFsMeta(*b.Finish(1 << 20), 1 << 20);
  auto open = [](const Bytes& bytes) {
    MemoryFile f(bytes);
    return LsmtReader::Open(&f).ok();
  };
  EXPECT_TRUE(open(file));
  EXPECT_FALSE(open(Bytes(file.begin(), file.begin() + 5000)));
  EXPECT_FALSE(open({}));
  size_t trailer = file.size() - kLsmtHeaderBytes, index = trailer - 32;
  auto with = [&](size_t at, uint8_t value) {
    Bytes bad = file;
    bad[at] = value;
    return open(bad);
  };
  EXPECT_FALSE(with(0, 0));                // magic
  EXPECT_FALSE(with(trailer, 0));          // the trailer's
  EXPECT_FALSE(with(trailer + 47, 0x7f));  // index offset
  EXPECT_FALSE(with(trailer + 55, 0x7f));  // number of entries
  EXPECT_FALSE(with(trailer + 54, 1));
  EXPECT_FALSE(with(index + 4, 0xff));     // behind the device's end
  EXPECT_FALSE(with(index, 16));           // overlap
  EXPECT_FALSE(with(index + 8, 7));        // data in the header
  EXPECT_FALSE(with(index + 8, 200));      // data behind the file
  EXPECT_FALSE(with(index + 16 + 15, 9));  // tag
}

TEST(Lsmt, TagsMeanNothingInNativeLayers) {
  LsmtBuilder b;
  b.AddData(8, Sectors(8, 1));
  b.AddTar(16, 4, 10);  // tag 1
  Bytes file = *MakeFsMeta(*b.Finish(1 << 20), 1 << 20);
  MemoryFile f(file);
  auto r = LsmtReader::Open(&f, LsmtTags::kIgnored);
  ASSERT_TRUE(r.ok()) << r.error().message;
  LsmtSegments want = {{8, 8, 8, LsmtSource::kFile, 0}, {16, 4, 10, LsmtSource::kFile, 0}};
  EXPECT_EQ(r->segments(), want);
  LsmtBuilder outside;
  outside.AddData(8, Sectors(8, 1));
  outside.AddTar(16, 4, 99);
  file = *MakeFsMeta(*outside.Finish(1 << 20), 1 << 20);
  MemoryFile g(file);
  EXPECT_TRUE(LsmtReader::Open(&g).ok());
  EXPECT_FALSE(LsmtReader::Open(&g, LsmtTags::kIgnored).ok());
}

TEST(Lsmt, MapsWhatIsNoHoleOfASparseFile) {
  constexpr uint64_t kDeviceBytes = 1 << 20, kPage = 4096;
  LsmtBuilder b;
  Bytes header = *MakeFsMeta(*b.Finish(kDeviceBytes), kDeviceBytes);
  header.resize(kLsmtHeaderBytes);
  header[28] = 0x13;  // flags: header, data file, sparse
  UniqueFd fd(memfd_create("sparse", MFD_CLOEXEC));
  uint64_t size = kLsmtHeaderBytes + kDeviceBytes;
  ASSERT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  ASSERT_TRUE(PwriteFull(fd.get(), header, 0, "sparse").ok());
  for (uint64_t page : {3, 4, 9})
    ASSERT_TRUE(PwriteFull(fd.get(), Bytes(kPage, 7), kLsmtHeaderBytes + page * kPage, "sparse").ok());
  FdFile file(fd.get(), size);
  auto r = LsmtReader::Open(&file, LsmtTags::kIgnored);
  ASSERT_TRUE(r.ok()) << r.error().message;
  EXPECT_EQ(r->virtual_bytes(), kDeviceBytes);
  LsmtSegments want = {{24, 16, 32, LsmtSource::kFile, 0}, {72, 8, 80, LsmtSource::kFile, 0}};
  EXPECT_EQ(r->segments(), want);
  // Elsewhere nobody knows the holes.
  Bytes copy(size);
  ASSERT_TRUE(file.ReadAt(0, copy).ok());
  MemoryFile memory(copy);
  EXPECT_EQ(LsmtReader::Open(&memory).error().kind, ErrorKind::kUnsupported);
}

TEST(Lsmt, BuilderRefusesOverlaps) {
  LsmtBuilder b;
  b.AddTar(8, 8, 0);
  b.AddZero(15, 1);
  EXPECT_FALSE(b.Finish(1 << 20).ok());
}

TEST(Lsmt, OverlayAgreesWithASectorBySectorModel) {
  std::mt19937 random(2);
  constexpr uint64_t kSectors = 300;
  for (int round = 0; round < 300; round++) {
    struct Cell {
      LsmtSource source = LsmtSource::kZero;
      uint64_t mapped = 0;
      uint32_t layer = 0;
      bool set = false;
    };
    std::vector<Cell> model(kSectors);
    LsmtSegments merged;
    for (uint32_t layer = 0; layer < 4; layer++) {
      LsmtSegments upper;
      for (uint64_t at = random() % 20; at < kSectors - 30; at += random() % 30) {
        uint64_t n = 1 + random() % 25;
        auto source = static_cast<LsmtSource>(random() % 3);
        uint64_t mapped = source == LsmtSource::kZero ? 0 : random() % 1000;
        upper.push_back({at, n, mapped, source, 0});
        for (uint64_t i = 0; i < n; i++)
          model[at + i] = {source, source == LsmtSource::kZero ? 0 : mapped + i,
                           source == LsmtSource::kZero ? 0 : layer, true};
        at += n;
      }
      merged = Overlay(merged, upper, layer);
    }
    std::vector<Cell> got(kSectors);
    uint64_t end = 0;
    for (const LsmtSegment& s : merged) {
      ASSERT_GE(s.sector, end);
      ASSERT_GT(s.nr_sectors, 0u);
      end = s.end();
      for (uint64_t i = 0; i < s.nr_sectors; i++)
        got[s.sector + i] = {s.source, s.source == LsmtSource::kZero ? 0 : s.mapped + i, s.layer, true};
    }
    for (uint64_t i = 0; i < kSectors; i++) {
      ASSERT_EQ(got[i].set, model[i].set);
      ASSERT_EQ(got[i].source, model[i].source);
      ASSERT_EQ(got[i].mapped, model[i].mapped);
      ASSERT_EQ(got[i].layer, model[i].layer);
    }
  }
}

TEST(Lsmt, ZerosFollowATailThatNothingFollows) {
  LsmtSegments in = {{8, 3, 1, LsmtSource::kTar, 0},
                     {16, 3, 4, LsmtSource::kTar, 0},
                     {20, 1, 9, LsmtSource::kFile, 0},
                     {24, 8, 7, LsmtSource::kTar, 0}};
  LsmtSegments want = {{8, 3, 1, LsmtSource::kTar, 0},   {11, 5, 0, LsmtSource::kZero, 0},
                       {16, 3, 4, LsmtSource::kTar, 0},  {19, 1, 0, LsmtSource::kZero, 0},
                       {20, 1, 9, LsmtSource::kFile, 0}, {24, 8, 7, LsmtSource::kTar, 0}};
  EXPECT_EQ(ZeroTails(in), want);
}

}  // namespace
}  // namespace fastoci
