// SPDX-License-Identifier: Apache-2.0
#include "attach/start_trace.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "attach/start_artifact.h"
#include "attach/start_record.h"
#include "base/digest.h"
#include "base/unique_fd.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

const std::string kA = "sha256:" + std::string(64, 'a'), kB = "sha256:" + std::string(64, 'b');
const std::string kImage = "sha256:" + std::string(64, 'c');

StartTrace Sample() { return {{kA, kB}, {{1, 896, 128}, {0, 0, 256}}}; }

std::string Text(const std::string& runs) { return "fastoci-start 2\nblob " + kA + "\n" + runs; }

TEST(StartTraceTest, WhatIsKeptIsReadAgain) {
  const std::string text = StartToText(Sample());
  EXPECT_EQ(text, "fastoci-start 2\nblob " + kA + "\nblob " + kB + "\n1 896 128\n0 0 256\n");
  auto read = StartFromText(text);
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->blobs, Sample().blobs);
  EXPECT_EQ(read->runs, Sample().runs);
  EXPECT_EQ(read->bytes(), 384U * 512);
}

TEST(StartTraceTest, WhatIsDamagedIsRefused) {
  for (const std::string runs :
       {"x\n", "0 1\n", "0 1 0\n", "1 0 1\n", "0 99999999999999999999 1\n", "0 34359738368 1\n", "0 34359738367 2\n",
        "0 0 262145\n", "0 0 262144\n0 0 1\n", "0 0 -1\n", "0 0 1 1\n", "0 0 0x1\n", "\n",
        "0 18446744073709551615 1\n", "0 0 18446744073709551616\n"})
    EXPECT_FALSE(StartFromText(Text(runs)).ok()) << runs;
  EXPECT_TRUE(StartFromText(Text("0 34359738367 1\n")).ok());
  EXPECT_FALSE(StartFromText("").ok());
  EXPECT_FALSE(StartFromText("fastoci-start 1 abc\n0 1\n").ok()) << "of a version before";
  EXPECT_FALSE(StartFromText("fastoci-start 2\n0 0 1\n").ok()) << "of no blob";
  EXPECT_FALSE(StartFromText(Text("blob " + kA + "\n")).ok()) << "a blob twice";
  EXPECT_FALSE(StartFromText(Text("0 0 1\nblob " + kB + "\n")).ok()) << "a blob too late";
  EXPECT_FALSE(StartFromText(Text("blob sha256:00\n")).ok());
  EXPECT_FALSE(StartFromText(Text(std::string(kMaxStartBytes, '\n'))).ok());
}

TEST(StartTraceTest, WorkloadsHaveShortPlainNames) {
  for (const char* good : {"default", "a", "Import-2.x_y", "0"}) EXPECT_TRUE(IsWorkloadName(good)) << good;
  for (const std::string& bad : {std::string(), std::string("-a"), std::string(".a"), std::string("a/b"), std::string("a b"),
                                std::string("\xc3\xa9"), std::string(64, 'a')})
    EXPECT_FALSE(IsWorkloadName(bad)) << bad;
}

// A record of overlaybd's trace as its C structure lies in memory.
void AddRecord(char op, uint32_t layer, uint64_t bytes, uint64_t offset, ByteWriter* out) {
  out->U32(0xaabbcc00U | static_cast<uint8_t>(op));  // three bytes of padding that nobody has cleared
  out->U32(layer);
  out->U64(bytes);
  out->U64(offset);
}

Bytes OverlaybdFile(const Bytes& records) {
  ByteWriter file;
  file.U32(0xc2ef1820);
  file.U32(0);
  file.U64(records.size());
  file.U32(Crc32cRaw(0, records));
  file.U32(0);
  file.Append(records);
  return file.bytes();
}

TEST(OverlaybdTraceTest, ReadsOfLayersAreTaken) {
  ByteWriter records;
  AddRecord('R', 2, 4096, 1 << 20, &records);
  AddRecord('W', 0, 4096, 0, &records);
  AddRecord('R', 0, 0, 5, &records);
  const Bytes file = OverlaybdFile(records.bytes());
  EXPECT_TRUE(IsOverlaybdTrace(file));
  auto reads = ParseOverlaybdTrace(file);
  ASSERT_TRUE(reads.ok()) << reads.error().message;
  ASSERT_EQ(reads->size(), 1U);
  EXPECT_EQ((*reads)[0].layer, 2U);
  EXPECT_EQ((*reads)[0].bytes, 4096U);
  EXPECT_EQ((*reads)[0].offset, 1U << 20);
}

TEST(OverlaybdTraceTest, WhatIsDamagedIsRefused) {
  ByteWriter records;
  AddRecord('R', 0, 4096, 0, &records);
  const Bytes good = OverlaybdFile(records.bytes());
  ASSERT_TRUE(ParseOverlaybdTrace(good).ok());
  for (size_t size = 0; size < good.size(); size++)
    EXPECT_FALSE(ParseOverlaybdTrace(ByteSpan(good).first(size)).ok()) << size;
  for (size_t at : {0, 8, 16, 24, 40}) {
    Bytes bad = good;
    bad[at] ^= 1;
    EXPECT_FALSE(ParseOverlaybdTrace(bad).ok()) << at;
  }
  for (const auto& [layer, bytes, offset] :
       {std::tuple(256U, uint64_t{1}, uint64_t{0}), {0U, UINT64_MAX, 1}, {0U, uint64_t{1}, UINT64_MAX}}) {
    ByteWriter bad;
    AddRecord('R', layer, bytes, offset, &bad);
    EXPECT_FALSE(ParseOverlaybdTrace(OverlaybdFile(bad.bytes())).ok());
  }
}

// An assembled meta image, as far as an extent map needs it.
class StartRecordTest : public ::testing::Test {
 protected:
  ~StartRecordTest() override { ::unlink(path_.c_str()); }
  static uint64_t Of(uint64_t blob, uint64_t sector) {
    return FASTOCI_EXTENT_BLOB << FASTOCI_EXTENT_TYPE_SHIFT | blob << FASTOCI_EXTENT_BLOB_SHIFT | sector;
  }
  ExtentMap Map(const std::vector<std::pair<uint32_t, uint64_t>>& extents, uint64_t device_sectors) {
    Bytes image(4 * 4096, 0);
    auto put = [&](size_t at, uint64_t value, size_t bytes) {
      for (size_t i = 0; i < bytes; i++) image[at + i] = static_cast<uint8_t>(value >> (8 * i));
    };
    std::copy_n(FASTOCI_META_MAGIC, 8, image.begin());
    put(offsetof(struct fastoci_meta_sb, device_sectors), device_sectors, 8);
    put(offsetof(struct fastoci_meta_sb, nr_blobs), 2, 4);
    put(offsetof(struct fastoci_meta_sb, nr_extents), extents.size(), 4);
    put(offsetof(struct fastoci_meta_sb, blobs), 4096, 8);
    put(offsetof(struct fastoci_meta_sb, keys), 8192, 8);
    put(offsetof(struct fastoci_meta_sb, payloads), 12288, 8);
    for (size_t i = 0; i < 32; i++) image[4096 + 32 + i] = 0xaa, image[4096 + 128 + 32 + i] = 0xbb;
    for (size_t i = 0; i < extents.size(); i++) {
      put(8192 + 4 * i, extents[i].first, 4);
      put(12288 + 8 * i, extents[i].second, 8);
    }
    EXPECT_TRUE(WriteFileAtomic(path_, image).ok());
    auto map = ExtentMap::Read(path_);
    EXPECT_TRUE(map.ok());
    return std::move(*map);
  }
  // Device: a hole; blob a from 1000 on; blob b from 0 on; blob a from 0 on.
  ExtentMap Usual() {
    return Map({{0, 0}, {100, Of(0, 1000)}, {200, Of(1, 0)}, {1000, Of(0, 0)}}, 1500);
  }
  static TraceRead Read(uint64_t sector, uint64_t nr_sectors, TraceRead::Kind kind = TraceRead::kMiss,
                        const std::string& program = "app") {
    TraceRead read;
    read.sector = sector;
    read.nr_sectors = nr_sectors;
    read.kind = kind;
    read.program = program;
    return read;
  }
  const std::string path_ = ::testing::TempDir() + "/start-trace-" + std::to_string(::getpid());
};

TEST_F(StartRecordTest, DataIsFoundOnTheDevice) {
  const ExtentMap map = Usual();
  EXPECT_EQ(map.SectorOf(kA, 0, 1), 1000U);
  EXPECT_EQ(map.SectorOf(kA, 499, 1), 1499U);
  EXPECT_EQ(map.SectorOf(kA, 500, 100), std::nullopt) << "between its extents";
  EXPECT_EQ(map.SectorOf(kA, 900, 128), 100U) << "it begins in the range";
  EXPECT_EQ(map.SectorOf(kA, 1099, 1), 199U);
  EXPECT_EQ(map.SectorOf(kA, 1100, 1 << 20), std::nullopt);
  EXPECT_EQ(map.SectorOf(kB, 0, 1), 200U);
  EXPECT_EQ(map.SectorOf(kB, 800, 1 << 20), std::nullopt);
  EXPECT_EQ(map.SectorOf(kImage, 0, 1), std::nullopt) << "no blob of the device";
  EXPECT_EQ(map.SectorOf(kB, UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(map.Find(150)->nr_sectors, 50U);
  EXPECT_EQ(map.Find(1499)->nr_sectors, 1U);
}

TEST_F(StartRecordTest, FirstTouchesKeepTheirOrderAndJoin) {
  const ExtentMap map = Usual();
  FirstTouches touches(&map);
  for (const TraceRead& read :
       {Read(200, 8), Read(1000, 8), Read(1130, 8), Read(1004, 4, TraceRead::kHit), Read(0, 8, TraceRead::kZero),
        Read(600, 8, TraceRead::kMeta), Read(50, 8), Read(328, 300), Read(100, 1, TraceRead::kHit, kReplayProgram)})
    touches.Add(read);
  EXPECT_EQ(touches.trace().blobs, (std::vector<std::string>{kB, kA}));
  EXPECT_EQ(touches.trace().runs, (std::vector<DataRun>{{0, 0, 128}, {1, 0, 256}, {0, 128, 384}}));
  EXPECT_EQ(touches.bytes(), 6U * 65536);
  EXPECT_TRUE(StartFromText(StartToText(touches.trace())).ok());
}

TEST_F(StartRecordTest, ThereIsALimit) {
  const ExtentMap map = Map({{0, Of(0, 0)}}, 2 * kMaxStartSectors);
  FirstTouches touches(&map);
  touches.Add(Read(0, 2 * kMaxStartSectors));
  EXPECT_EQ(touches.bytes(), kMaxStartSectors * 512);
  EXPECT_TRUE(StartFromText(StartToText(touches.trace())).ok());
}

TEST_F(StartRecordTest, WhatAReplayBroughtIsCounted) {
  const ExtentMap map = Usual();
  // Blob a: two pieces of the device, and one that it has not; blob b: one.
  StartReplay replay({{kB, kA, kImage}, {{0, 0, 1}, {1, 0, 256}, {1, 640, 128}, {2, 0, 128}}}, &map);
  EXPECT_EQ(replay.count().asked(), 3U * 65536);
  EXPECT_EQ(replay.count().unmapped, 2U * 65536);
  EXPECT_EQ(replay.count().unused, 3U * 65536);
  replay.Add(Read(200, 8, TraceRead::kHit, kReplayProgram));
  replay.Add(Read(1000, 8, TraceRead::kMiss, kReplayProgram));
  EXPECT_EQ(replay.count().present, 65536U);
  EXPECT_EQ(replay.count().unused, 2U * 65536);
  replay.Add(Read(1000, 8, TraceRead::kHit));
  replay.Add(Read(100, 8));  // not of it
  EXPECT_EQ(replay.count().used, 65536U);
  EXPECT_EQ(replay.count().unused, 65536U);
}

// A meta image of one overlaybd layer, whose file lies 1536 bytes into the blob.
Bytes MetaOfOverlaybd() {
  ByteWriter helper, blob, w;
  for (const uint64_t offset : {0, 2048, 262144, 100000, 524288, 200000}) helper.U64(offset);  // spans
  helper.Append(AsBytes("index"));
  blob.Zeros(32), blob.Append(Bytes(32, 0xaa));
  blob.U64(600000), blob.U64(300000), blob.U32(FASTOCI_CODEC_ZFILE), blob.U32(3);
  blob.U64(0), blob.U64(48), blob.U64(5), blob.U64(0), blob.U32(0), blob.U32(0);
  w.Append(AsBytes(FASTOCI_META_MAGIC));
  w.U32(1), w.U32(4096), w.Zeros(16), w.Zeros(32);
  w.U64(8), w.U64(12288 + 2), w.U32(1), w.U32(1);
  auto region = [&](uint64_t at, ByteSpan data) {
    w.U64(data.empty() ? 0 : at), w.U64(data.size()), w.U32(data.empty() ? 0 : Crc32c(data)), w.U32(0);
  };
  region(4096, blob.bytes());
  for (int i = 0; i < 3; i++) region(0, {});
  region(8192, helper.bytes());
  region(12288, AsBytes("{}"));
  w.Zeros(4096 - w.size());
  const uint32_t crc = Crc32c(w.bytes());
  for (int i = 0; i < 4; i++) w.bytes()[28 + i] = static_cast<uint8_t>(crc >> (8 * i));
  w.Append(blob.bytes()), w.Zeros(8192 - w.size());
  w.Append(helper.bytes()), w.Zeros(12288 - w.size());
  w.Append(AsBytes("{}"));
  return std::move(w.bytes());
}

TEST_F(StartRecordTest, OverlaybdsReadsAreTheDataOfTheirBlocks) {
  ASSERT_TRUE(WriteFileAtomic(path_, MetaOfOverlaybd()).ok());
  auto of = [&](const std::vector<OverlaybdRead>& reads) {
    auto trace = StartOfOverlaybd(reads, {kB, kA}, path_);
    EXPECT_TRUE(trace.ok()) << trace.error().message;
    return trace->runs;
  };
  // The second layer's; the offset is one of its file.
  EXPECT_EQ(of({{1, 512, 4096}}), (std::vector<DataRun>{{0, 0, 512}}));
  EXPECT_EQ(of({{1, 200000 - 1536, 10}, {1, 512, 1}}), (std::vector<DataRun>{{0, 1024, 256}, {0, 0, 512}}));
  EXPECT_EQ(of({{1, 100000 - 1536 - 1, 2}}), (std::vector<DataRun>{{0, 0, 1024}})) << "of two spans";
  EXPECT_EQ(of({{1, 512, 1}, {1, 600, 1}}).size(), 1U);
  EXPECT_TRUE(of({{1, 0, 512}}).empty()) << "the header";
  EXPECT_TRUE(of({{0, 512, 1}, {2, 512, 1}}).empty()) << "layers that are not there, or of another format";
  EXPECT_EQ(of({{1, 1 << 30, 1 << 30}}), (std::vector<DataRun>{{0, 1024, 256}})) << "behind the end";
}

// The artifact in a layout.
class StartArtifactTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto store = OpenLayoutStore(dir_, true);
    ASSERT_TRUE(store.ok()) << store.error().message;
    store_ = std::move(*store);
  }
  ~StartArtifactTest() override { std::filesystem::remove_all(dir_); }
  const Descriptor image_ = {kOciManifest, kImage, 500};
  const std::string dir_ = ::testing::TempDir() + "/start-artifact-" + std::to_string(::getpid());
  std::unique_ptr<ImageStore> store_;
};

TEST_F(StartArtifactTest, WhatIsPushedIsFoundByItsWorkload) {
  auto pushed = PushStart(store_.get(), image_, "default", Sample());
  ASSERT_TRUE(pushed.ok()) << pushed.error().message;
  auto found = FetchStart(store_.get(), kImage, "default");
  ASSERT_TRUE(found.ok()) << found.error().message;
  EXPECT_EQ(found->runs, Sample().runs);
  EXPECT_EQ(FetchStart(store_.get(), kImage, "other").error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(FetchStart(store_.get(), kA, "default").error().kind, ErrorKind::kNotFound);
}

TEST_F(StartArtifactTest, OfADamagedOneTheReasonIsTold) {
  const std::string text = "no trace";
  const Descriptor blob = {kStartType, DigestString(Sha256::Of(AsBytes(text))), text.size()};
  ASSERT_TRUE(store_->PutBlob(blob.digest, AsBytes(text)).ok());
  ASSERT_TRUE(store_->PutManifest("", kOciManifest, StartManifest(image_, blob, "default", "2026-01-01T00:00:00Z")).ok());
  auto bad = FetchStart(store_.get(), kImage, "default");
  EXPECT_EQ(bad.error().kind, ErrorKind::kInvalid) << bad.error().message;
  ASSERT_TRUE(PushStart(store_.get(), image_, "default", Sample()).ok());
  EXPECT_TRUE(FetchStart(store_.get(), kImage, "default").ok()) << "a sound one is taken";
}

TEST(StartManifestTest, WhatIsNotOfThisImageAndWorkloadIsRefused) {
  const Descriptor image = {kOciManifest, kImage, 500};
  const Descriptor blob = {kStartType, kA, 100};
  const std::string good = StartManifest(image, blob, "w", "2026-01-01T00:00:00Z");
  auto parsed = ParseStartManifest(good, kImage, "w");
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->digest, kA);
  EXPECT_EQ(parsed->bytes, 100U);
  EXPECT_EQ(ParseStartManifest(good, kB, "w").error().kind, ErrorKind::kMismatch);
  EXPECT_EQ(ParseStartManifest(good, kImage, "v").error().kind, ErrorKind::kMismatch);
  const auto bad = [&](const char* pointer, const nlohmann::json& value) {
    auto j = nlohmann::json::parse(good);
    j[nlohmann::json::json_pointer(pointer)] = value;
    return !ParseStartManifest(j.dump(), kImage, "w").ok();
  };
  EXPECT_TRUE(bad("/artifactType", "x"));
  EXPECT_TRUE(bad("/subject", nullptr));
  EXPECT_TRUE(bad("/annotations", 3));
  EXPECT_TRUE(bad("/layers", nlohmann::json::array()));
  EXPECT_TRUE(bad("/layers/1", {{"digest", kB}}));
  EXPECT_TRUE(bad("/layers/0/mediaType", "x"));
  EXPECT_TRUE(bad("/layers/0/digest", "sha256:../../x"));
  EXPECT_TRUE(bad("/layers/0/size", 0));
  EXPECT_TRUE(bad("/layers/0/size", -1));
  EXPECT_TRUE(bad("/layers/0/size", kMaxStartBytes + 1));
  EXPECT_FALSE(ParseStartManifest("[]", kImage, "w").ok());
  EXPECT_FALSE(ParseStartManifest("{", kImage, "w").ok());
}

TEST(StartManifestTest, TheNewestIsTakenFirst) {
  auto entry = [](const std::string& digest, const std::string& workload, const std::string& created) {
    nlohmann::json j = {{"artifactType", kStartArtifact}, {"digest", digest}};
    if (!workload.empty()) j["annotations"] = {{kWorkloadAnnotation, workload}, {kCreatedAnnotation, created}};
    return j;
  };
  const std::string d = "sha256:" + std::string(64, 'd');
  nlohmann::json index = {{"manifests",
                           {entry(kA, "w", "2026-01-01T00:00:00Z"), entry(kB, "w", "2026-02-01T00:00:00Z"),
                            entry(kImage, "v", "2026-03-01T00:00:00Z"), entry(d, "", ""), entry("x", "w", ""),
                            {{"artifactType", "other"}, {"digest", kA}}, 5}}};
  auto found = StartArtifacts(index.dump(), "w");
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(*found, (std::vector<std::string>{kB, kA, d}));
  for (int i = 0; i < 100; i++) index["manifests"].push_back(entry(kA, "w", "2026-01-01T00:00:00Z"));
  EXPECT_EQ(StartArtifacts(index.dump(), "w")->size(), kMaxStartArtifacts);
  EXPECT_FALSE(StartArtifacts("[]", "w").ok());
  EXPECT_TRUE(StartArtifacts("{}", "w")->empty());
}

}  // namespace
}  // namespace fastoci
