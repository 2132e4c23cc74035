// SPDX-License-Identifier: Apache-2.0
#include "image/assemble.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <regex>

#include "base/unique_fd.h"
#include "codec/lsmt_writer.h"
#include "codec/zfile.h"
#include "image/assemble_sandbox.h"
#include "image/layer_converter.h"
#include "image/meta_layer.h"
#include "testing/test_tar.h"

namespace fastoci {
namespace {

UniqueFd Memfd(ByteSpan data) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC));
  EXPECT_TRUE(WriteFull(fd.get(), data, "memfd").ok());
  return fd;
}

struct Extent {
  uint64_t sector, type, blob, mapped;
  bool operator==(const Extent&) const = default;
};

struct Assembled {
  Bytes bytes;
  fastoci_meta_sb sb;
  std::vector<Extent> extents;
  std::vector<fastoci_meta_blob> blobs;
};

// Checks what holds for each assembled meta image.
Assembled Read(int fd) {
  Assembled a;
  a.bytes.resize(static_cast<size_t>(lseek(fd, 0, SEEK_END)));
  EXPECT_TRUE(PreadFull(fd, a.bytes, 0, "assembled").ok());
  std::memcpy(&a.sb, a.bytes.data(), sizeof(a.sb));
  EXPECT_EQ(std::memcmp(a.sb.magic, FASTOCI_META_MAGIC, 8), 0);
  EXPECT_EQ(a.sb.total_bytes, a.bytes.size());
  fastoci_meta_sb zero = a.sb;
  zero.crc = 0;
  EXPECT_EQ(Crc32c({reinterpret_cast<uint8_t*>(&zero), sizeof(zero)}), a.sb.crc);
  for (const fastoci_meta_region* r : {&a.sb.blobs, &a.sb.keys, &a.sb.payloads, &a.sb.helper, &a.sb.json})
    EXPECT_EQ(r->crc, r->bytes == 0 ? 0 : Crc32c(ByteSpan(a.bytes).subspan(r->offset, r->bytes)));
  ByteReader keys(ByteSpan(a.bytes).subspan(a.sb.keys.offset, a.sb.keys.bytes));
  ByteReader payloads(ByteSpan(a.bytes).subspan(a.sb.payloads.offset, a.sb.payloads.bytes));
  for (uint32_t i = 0; i < a.sb.nr_extents; i++) {
    uint64_t p = payloads.U64();
    a.extents.push_back({keys.U32(), p >> FASTOCI_EXTENT_TYPE_SHIFT,
                         p >> FASTOCI_EXTENT_BLOB_SHIFT & FASTOCI_EXTENT_BLOB_MASK,
                         p & FASTOCI_EXTENT_SECTOR_MASK});
    EXPECT_TRUE(i == 0 ? a.extents[0].sector == 0 : a.extents[i - 1].sector < a.extents[i].sector);
  }
  for (uint32_t i = 0; i < a.sb.nr_blobs; i++) {
    fastoci_meta_blob blob;
    std::memcpy(&blob, a.bytes.data() + a.sb.blobs.offset + i * sizeof(blob), sizeof(blob));
    a.blobs.push_back(blob);
  }
  return a;
}

class AssembleTest : public testing::Test {
 protected:
  // A RAW layer of data_bytes with that file-system metadata.
  void AddLayer(LsmtBuilder* lsmt, uint64_t data_bytes, uint64_t device_bytes = 1 << 20) {
    MetaLayerFiles files;
    files.ext4_fs_meta = *MakeFsMeta(*lsmt->Finish(device_bytes), device_bytes);
    Add(files, data_bytes);
  }
  void Add(const MetaLayerFiles& files, uint64_t data_bytes,
           fastoci_codec codec = FASTOCI_CODEC_RAW) {
    auto packed = PackMetaLayer(files);
    ASSERT_TRUE(packed.ok());
    fds_.push_back(Memfd(packed->data));
    Sha256Digest target{};
    target[0] = static_cast<uint8_t>(fds_.size());
    input_.layers.push_back({fds_.back().get(), packed->digest, target, data_bytes, codec, nullptr, -1});
  }
  Status Run() {
    out_ = Memfd({});
    return Assemble(input_, {}, out_.get());
  }
  void ExpectRefused(const std::string& text) {
    Status s = Run();
    ASSERT_FALSE(s.ok()) << text;
    EXPECT_NE(s.error().message.find(text), std::string::npos) << s.error().message;
  }

  AssembleInput input_;
  std::vector<UniqueFd> fds_;
  UniqueFd out_;
};

TEST_F(AssembleTest, MergesLayersAndCoversTheDevice) {
  LsmtBuilder lower, upper;
  lower.AddData(0, Bytes(4096, 1));
  lower.AddTar(16, 16, 2);
  upper.AddData(8, Bytes(4096, 2));
  upper.AddTar(24, 3, 0);
  AddLayer(&lower, 100 * 512);
  AddLayer(&upper, 50 * 512);
  input_.image_id[5] = 7;
  input_.json_head = "{\"version\":1,\"blobs\":[";
  input_.json_tail = "]}";
  input_.layers[0].json = "\"lower\"";
  input_.layers[1].json = "\"upper\"";
  ASSERT_TRUE(Run().ok());
  Assembled a = Read(out_.get());
  EXPECT_EQ(a.sb.image_id[5], 7);
  EXPECT_EQ(a.sb.device_sectors, 2048u);
  uint64_t md = a.sb.metadata.offset / 512;
  EXPECT_EQ(a.sb.metadata.bytes, 8192u);
  std::vector<Extent> want = {{0, FASTOCI_EXTENT_META, 0, md},  // both layers' in one piece
                              {16, FASTOCI_EXTENT_BLOB, 0, 2},
                              {24, FASTOCI_EXTENT_BLOB, 1, 0},
                              {27, FASTOCI_EXTENT_ZERO, 0, 0}};
  EXPECT_EQ(a.extents, want);
  EXPECT_EQ(a.bytes[a.sb.metadata.offset + 4095], 1);
  EXPECT_EQ(a.bytes[a.sb.metadata.offset + 4096], 2);
  EXPECT_EQ(std::string(reinterpret_cast<char*>(a.bytes.data() + a.sb.json.offset), a.sb.json.bytes),
            R"({"version":1,"blobs":["lower","upper"]})");
}

TEST_F(AssembleTest, ZerosFollowTheDataSpacesEndAndPartialBlocks) {
  LsmtBuilder lower, upper;
  lower.AddData(32, Bytes(4096, 1));
  upper.AddData(64, Bytes(4096, 2));
  upper.AddTar(8, 16, 5);   // only 10 sectors are there
  upper.AddTar(32, 3, 0);   // the rest of the block must not show the layer below
  upper.AddTar(40, 8, 99);  // behind the end
  AddLayer(&lower, 512);
  AddLayer(&upper, 14 * 512 + 1);
  ASSERT_TRUE(Run().ok());
  std::vector<Extent> want = {{0, FASTOCI_EXTENT_ZERO, 0, 0},  {8, FASTOCI_EXTENT_BLOB, 1, 5},
                              {18, FASTOCI_EXTENT_ZERO, 0, 0}, {32, FASTOCI_EXTENT_BLOB, 1, 0},
                              {35, FASTOCI_EXTENT_ZERO, 0, 0}, {64, FASTOCI_EXTENT_META, 0, 8},
                              {72, FASTOCI_EXTENT_ZERO, 0, 0}};
  EXPECT_EQ(Read(out_.get()).extents, want);
}

TEST_F(AssembleTest, TakesAsManyLayersAsTheFormatHolds) {
  for (size_t i = 0; i < kMaxAssembleLayers; i++) {
    LsmtBuilder lsmt;
    lsmt.AddData(0, Bytes(512, 1));
    lsmt.AddTar(8 + i, 2, 0);  // the next layer covers the second sector
    AddLayer(&lsmt, 1024);
  }
  ASSERT_TRUE(Run().ok());
  Assembled a = Read(out_.get());
  EXPECT_EQ(a.sb.nr_blobs, 256u);
  for (const Extent& e : a.extents) {
    if (e.type == FASTOCI_EXTENT_BLOB) {
      EXPECT_EQ(e.blob, std::min<uint64_t>(e.sector - 8, 255));
    }
  }
  input_.layers.push_back(input_.layers.back());
  ExpectRefused("1 to 256 layers");
}

TEST_F(AssembleTest, RefusesAnIndexThatStopsBeforeTheData) {
  std::string blob = TestGzip(std::string(10 * 512, 'x'));
  auto builder = GzipIndexBuilder::Create({}, [](ByteSpan) { return OkStatus(); });
  ASSERT_TRUE(builder.ok() && builder->Update(AsBytes(blob)).ok());
  LsmtBuilder lsmt;
  lsmt.AddData(0, Bytes(4096, 1));
  lsmt.AddTar(8, 16, 0);
  MetaLayerFiles files;
  files.gzip_meta = *builder->Finish();
  files.ext4_fs_meta = *MakeFsMeta(*lsmt.Finish(1 << 20), 1 << 20);
  Add(files, blob.size(), FASTOCI_CODEC_GZIP);
  ExpectRefused("gzip.meta stops early, at byte 5120 of the tar");
}

TEST_F(AssembleTest, ReadsMetadataInAZFile) {
  LsmtBuilder lsmt;
  lsmt.AddData(0, Bytes(8192, 9));
  Bytes bare = *MakeFsMeta(*lsmt.Finish(1 << 20), 1 << 20), zfile;
  auto writer = ZFileWriter::Create({}, [&](ByteSpan data) {
    zfile.insert(zfile.end(), data.begin(), data.end());
    return OkStatus();
  });
  ASSERT_TRUE(writer.ok() && writer->Update(bare).ok());
  auto header = writer->Finish();
  std::copy(header->begin(), header->end(), zfile.begin());
  MetaLayerFiles files;
  files.ext4_fs_meta = zfile;
  Add(files, 512);
  ASSERT_TRUE(Run().ok());
  Assembled a = Read(out_.get());
  EXPECT_EQ(a.sb.metadata.bytes, 8192u);
  EXPECT_EQ(a.bytes[a.sb.metadata.offset + 8191], 9);
}

TEST_F(AssembleTest, DescribesGzipLayers) {
  TestTar t;
  std::mt19937 random(1);
  std::string noise(5 << 20, '\0');
  for (char& c : noise) c = static_cast<char>(random());
  t.File("noise", noise);
  std::string tar = t.Finish(), blob = TestGzip(tar);
  Sha256Digest digest = Sha256::Of(AsBytes(blob));
  auto builder = FsBuilder::Create(FsType::kExt4, digest);
  LayerOrder order(builder->get());
  auto converter = LayerConverter::Create(
      {DigestString(digest), blob.size(), "application/vnd.docker.image.rootfs.diff.tar.gzip", ""},
      {}, 0, &order);
  ASSERT_TRUE((*converter)->Update(AsBytes(blob)).ok());
  auto result = (*converter)->Finish();
  ASSERT_TRUE(result.ok());
  auto& packed = result->meta;
  fds_.push_back(Memfd(packed->data));
  input_.layers.push_back({fds_[0].get(), packed->digest, digest, blob.size(), FASTOCI_CODEC_GZIP, nullptr, -1});
  ASSERT_TRUE(Run().ok());
  Assembled a = Read(out_.get());
  const fastoci_meta_blob& b = a.blobs[0];
  EXPECT_EQ(b.data_bytes, tar.size());
  EXPECT_EQ(b.blob_bytes, blob.size());
  EXPECT_EQ(b.nr_digests, (tar.size() + 65535) / 65536);
  EXPECT_GE(b.nr_spans, 4u);
  ByteSpan helper = ByteSpan(a.bytes).subspan(a.sb.helper.offset, a.sb.helper.bytes);
  Sha256Digest first = Sha256::Of(AsBytes(tar).first(65536));
  EXPECT_EQ(std::memcmp(helper.data() + b.digests_offset, first.data(), 32), 0);
  ByteReader spans(helper.subspan(b.spans_offset, b.nr_spans * 16ULL));
  EXPECT_EQ(spans.U64(), 0u);
  EXPECT_EQ(spans.U64(), 10u);
  EXPECT_TRUE(GzipIndex::Parse(helper.subspan(b.index_offset, b.index_bytes)).ok());

  // The same meta layer for another blob, or with another digest.
  input_.layers[0].target_digest[0] ^= 1;
  ExpectRefused("made for another layer");
  input_.layers[0].target_bytes++;
  ExpectRefused("gzip.meta is for a blob of");
  input_.layers[0].meta_digest[0] ^= 1;
  ExpectRefused("instead of");
}

// A layer whose tar has no byte, in each form, below, between and above others: it is in neither table.
TEST_F(AssembleTest, LeavesOutTheBlobsOfEmptyLayers) {
  TestTar t;
  t.File("a", std::string(5000, 'a'));
  struct Layer {
    std::string blob, tar;
    fastoci_codec codec;
  };
  const std::vector<Layer> layers = {{"", "", FASTOCI_CODEC_RAW},
                                     {TestGzip(t.Finish()), t.Finish(), FASTOCI_CODEC_GZIP},
                                     {TestGzip(""), "", FASTOCI_CODEC_GZIP},
                                     {t.Finish(), t.Finish(), FASTOCI_CODEC_RAW},
                                     {TestZstd(""), "", FASTOCI_CODEC_ZSTD}};
  auto builder = FsBuilder::Create(FsType::kExt4, {});
  LayerOrder order(builder->get());
  for (const Layer& layer : layers) {
    const size_t number = input_.layers.size();
    const Sha256Digest digest = Sha256::Of(AsBytes(layer.blob));
    auto converter = LayerConverter::Create(
        {DigestString(digest), layer.blob.size(), "", DigestString(Sha256::Of(AsBytes(layer.tar)))}, {}, number, &order);
    ASSERT_TRUE(converter.ok() && (*converter)->Update(AsBytes(layer.blob)).ok());
    auto result = (*converter)->Finish();
    ASSERT_TRUE(result.ok()) << number << ": " << result.error().message;
    fds_.push_back(Memfd(result->meta->data));
    input_.layers.push_back({.fd = fds_.back().get(), .meta_digest = result->meta->digest, .target_digest = digest,
                             .target_bytes = layer.blob.size(), .codec = layer.codec, .json = std::to_string(number)});
  }
  input_.json_head = "[";
  input_.json_tail = "]";
  ASSERT_TRUE(Run().ok());
  Assembled a = Read(out_.get());
  ASSERT_EQ(a.blobs.size(), 2u);
  EXPECT_EQ(a.blobs[0].codec, FASTOCI_CODEC_GZIP);
  EXPECT_EQ(a.blobs[1].codec, FASTOCI_CODEC_RAW);
  EXPECT_EQ(std::string(reinterpret_cast<char*>(a.bytes.data() + a.sb.json.offset), a.sb.json.bytes), "[1,3]");
  std::vector<uint64_t> blobs;  // the lower file's place, and the upper one's
  for (const Extent& e : a.extents)
    if (e.type == FASTOCI_EXTENT_BLOB) blobs.push_back(e.blob);
  EXPECT_EQ(blobs, (std::vector<uint64_t>{0, 1}));
  input_.layers[2].target_digest[0] ^= 1;
  ExpectRefused("made for another layer");
}

TEST_F(AssembleTest, WithoutChunkDigestsADataSpaceIsPrivateToItsMetaLayer) {
  LsmtBuilder one, two;
  one.AddData(0, Bytes(512, 1));
  two.AddData(0, Bytes(512, 2));
  AddLayer(&one, 512);
  ASSERT_TRUE(Run().ok());
  fastoci_meta_blob first = Read(out_.get()).blobs[0];
  input_.layers.clear();
  fds_.clear();
  AddLayer(&two, 512);
  ASSERT_TRUE(Run().ok());
  fastoci_meta_blob second = Read(out_.get()).blobs[0];
  EXPECT_EQ(std::memcmp(first.blob_digest, second.blob_digest, 32), 0);
  EXPECT_NE(std::memcmp(first.data_space_id, second.data_space_id, 32), 0);
  EXPECT_EQ(first.nr_digests, 0u);
}

TEST_F(AssembleTest, RefusesHostileMetaLayers) {
  ExpectRefused("1 to 256 layers");
  LsmtBuilder lsmt;
  lsmt.AddData(0, Bytes(512, 1));
  MetaLayerFiles files;
  files.ext4_fs_meta = *MakeFsMeta(*lsmt.Finish(1 << 20), 1 << 20);
  files.chunk_digests = Bytes(31);
  Add(files, 512);
  ExpectRefused("fastoci.chunks does not fit");
  input_.layers.clear();
  Add(MetaLayerFiles(), 512);
  ExpectRefused("without ext4.fs.meta");
  input_.layers.clear();
  files.chunk_digests.clear();
  Add(files, 512, FASTOCI_CODEC_GZIP);
  ExpectRefused("no gzip.meta");
  input_.layers.clear();
  files.description = "[]";
  Add(files, 512);
  ExpectRefused("fastoci.json is damaged");
  input_.layers.clear();
  files.description.clear();
  Add(files, 0);
  ExpectRefused("out of range");
  input_.layers.clear();
  files.ext4_fs_meta.resize(5000);
  Add(files, 512);
  ExpectRefused("LSMT");
  fds_.push_back(Memfd(AsBytes(std::string("not gzip"))));
  input_.layers[0].fd = fds_.back().get();
  ExpectRefused("gzip");
}

TEST_F(AssembleTest, KeepsToItsLimits) {
  LsmtBuilder lsmt;
  lsmt.AddData(0, Bytes(1 << 20, 1));
  AddLayer(&lsmt, 512);
  out_ = Memfd({});
  AssembleOptions small;
  small.max_layer_bytes = 100000;
  EXPECT_FALSE(Assemble(input_, small, out_.get()).ok());
  small = AssembleOptions();
  small.max_output_bytes = 100000;
  EXPECT_FALSE(Assemble(input_, small, out_.get()).ok());
}

TEST_F(AssembleTest, TheSandboxGivesTheSameImageAndTheSameErrors) {
  constexpr char kDecoder[] = "bin/fastoci-decoderd";
  if (access(kDecoder, X_OK) != 0) GTEST_SKIP() << kDecoder << " is not built";
  LsmtBuilder lsmt;
  lsmt.AddData(0, Bytes(100000 / 512 * 512, 1));
  AddLayer(&lsmt, 512);
  ASSERT_TRUE(Run().ok());
  UniqueFd out = Memfd({});
  Status s = AssembleViaDecoder(kDecoder, input_, out.get());
  ASSERT_TRUE(s.ok()) << s.error().message;
  EXPECT_EQ(Read(out.get()).bytes, Read(out_.get()).bytes);
  input_.layers[0].meta_digest[0] ^= 1;
  s = AssembleViaDecoder(kDecoder, input_, out.get());
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().kind, ErrorKind::kMismatch);
  EXPECT_EQ(s.error().message, Run().error().message);
  EXPECT_FALSE(AssembleViaDecoder("/nonexistent", input_, out.get()).ok());
  EXPECT_FALSE(AssembleViaDecoder("/bin/true", input_, out.get()).ok());
}

// Says of the process that asks for it what /proc/PID/limits says.
class AskersLimits : public ReadAtFile {
 public:
  uint64_t size() const override { return 1 << 20; }
  Status ReadAt(uint64_t, std::span<uint8_t>) const override {
    FASTOCI_TRY(std::string children,
                ReadFile("/proc/self/task/" + std::to_string(gettid()) + "/children", 4096));
    FASTOCI_TRY(limits, ReadFile("/proc/" + children.substr(0, children.find(' ')) + "/limits", 65536));
    return InvalidError("seen");
  }
  mutable std::string limits;
};

TEST_F(AssembleTest, TheSandboxEndsWhenItIsLate) {
  constexpr char kDecoder[] = "bin/fastoci-decoderd";
  if (access(kDecoder, X_OK) != 0) GTEST_SKIP() << kDecoder << " is not built";
  LsmtBuilder lsmt;
  lsmt.AddData(0, Bytes(512, 1));
  AddLayer(&lsmt, 512);
  UniqueFd out = Memfd({});
  // It has the arguments of a decoder, and never ends.
  Status s = AssembleViaDecoder("/usr/bin/yes", input_, out.get(), LayerTask::kAssemble,
                                {.stall_ms = 100});
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().err, ETIMEDOUT) << s.error().message;
  AskersLimits file;
  input_.layers[0].file = &file;
  input_.layers[0].fd = -1;
  input_.layers[0].codec = FASTOCI_CODEC_ZFILE;
  input_.layers[0].target_bytes = file.size();
  s = AssembleViaDecoder(kDecoder, input_, out.get(), LayerTask::kAssemble, {.cpu_seconds = 77});
  EXPECT_FALSE(s.ok());
  EXPECT_TRUE(std::regex_search(file.limits, std::regex("Max cpu time +77 +77 "))) << file.limits;
}

TEST(MetaLayer, UnpacksWhatItPacked) {
  MetaLayerFiles files;
  files.ext4_fs_meta = Bytes(300000, 1);
  files.gzip_meta = Bytes(700, 2);
  files.chunk_digests = Bytes(64, 3);
  files.description = DescriptionJson({"sha256:x", 1, "type", 2});
  auto packed = PackMetaLayer(files);
  ASSERT_TRUE(packed.ok());
  MemoryFile f(packed->data);
  Sha256Digest digest;
  auto got = UnpackMetaLayer(f, 1 << 20, &digest);
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(digest, packed->digest);
  EXPECT_EQ(got->ext4_fs_meta, files.ext4_fs_meta);
  EXPECT_EQ(got->gzip_meta, files.gzip_meta);
  EXPECT_EQ(got->chunk_digests, files.chunk_digests);
  EXPECT_EQ(ParseDescription(got->description)->data_bytes, 2u);
  EXPECT_FALSE(UnpackMetaLayer(f, 100000, &digest).ok());
  Bytes cut(packed->data.begin(), packed->data.end() - 20);
  EXPECT_FALSE(UnpackMetaLayer(MemoryFile(cut), 1 << 20, &digest).ok());
}

TEST(MetaLayer, KnowsMediaTypes) {
  EXPECT_EQ(*CodecOfMediaType("application/vnd.oci.image.layer.v1.tar"), FASTOCI_CODEC_RAW);
  EXPECT_EQ(*CodecOfMediaType("application/vnd.oci.image.layer.v1.tar+gzip"), FASTOCI_CODEC_GZIP);
  EXPECT_EQ(*CodecOfMediaType("application/vnd.docker.image.rootfs.diff.tar.gzip"), FASTOCI_CODEC_GZIP);
  EXPECT_EQ(*CodecOfMediaType("application/vnd.oci.image.layer.v1.tar+zstd"), FASTOCI_CODEC_ZSTD);
  EXPECT_FALSE(CodecOfMediaType("application/vnd.oci.image.layer.v1.tar+bzip2").ok());
}

}  // namespace
}  // namespace fastoci
