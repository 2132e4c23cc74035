// SPDX-License-Identifier: Apache-2.0
// What the reference implementation made of selftests/fixtures/layers reads back
// equal: each file of the layers, with the contents that their lists name.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <zlib.h>

#include <list>
#include <map>
#include <nlohmann/json.hpp>

#include "base/unique_fd.h"
#include "codec/lsmt_writer.h"
#include "codec/overlaybd_layer.h"
#include "image/assemble.h"
#include "image/assemble_sandbox.h"
#include "image/meta_layer.h"
#include "testing/test_image.h"
#include "testing/test_tar.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;
constexpr char kFixtures[] = "selftests/fixtures/";
constexpr uint64_t kMaxFixture = 64 << 20;

std::string Fixture(const std::string& name) {
  auto data = ReadFile(kFixtures + name, kMaxFixture);
  EXPECT_TRUE(data.ok()) << name;
  return data.ok() ? *data : "";
}

UniqueFd Memfd(ByteSpan data) {
  UniqueFd fd(memfd_create("fixture", MFD_CLOEXEC));
  EXPECT_TRUE(WriteFull(fd.get(), data, "memfd").ok());
  return fd;
}

std::string Gunzip(const std::string& in) {
  std::string out(64 << 20, '\0');
  z_stream z{};
  EXPECT_EQ(inflateInit2(&z, 15 + 16), Z_OK);
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
  z.avail_in = static_cast<uInt>(in.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(inflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  inflateEnd(&z);
  return out;
}

// name -> sha256 of each file that the layers leave, hard links aside.
std::map<std::string, std::string> FilesOf(const std::vector<std::string>& layers) {
  std::map<std::string, std::string> files;
  auto remove_below = [&files](const std::string& dir) {
    std::erase_if(files, [&dir](const auto& f) { return f.first.starts_with(dir + "/"); });
  };
  for (const std::string& layer : layers) {
    std::map<std::string, std::string> added;
    const Json list = Json::parse(Fixture("layers/" + layer + ".tar.list.json"));
    for (const Json& e : list["entries"]) {
      std::string name = e["name"], type = e["type"];
      size_t slash = name.rfind('/', name.size() - 2);
      std::string dir = slash == std::string::npos ? "" : name.substr(0, slash);
      std::string base = slash == std::string::npos ? name : name.substr(slash + 1);
      if (base == ".wh..wh..opq") {
        remove_below(dir);
      } else if (base.starts_with(".wh.")) {
        std::string victim = (dir.empty() ? "" : dir + "/") + base.substr(4);
        files.erase(victim);
        remove_below(victim);
      } else if (type != "5") {
        files.erase(name);
        remove_below(name);
        // A backslash stands for a byte that is not UTF-8.
        if (e.contains("sha256") && name.find('\\') == std::string::npos) added[name] = e["sha256"];
      }
    }
    for (auto& [name, sha] : added) files[name] = sha;
  }
  return files;
}

std::string InZFile(const std::string& data, ZFileAlgorithm algorithm) {
  std::string file;
  auto writer = ZFileWriter::Create({.algorithm = algorithm}, [&file](ByteSpan part) {
    file.append(part.begin(), part.end());
    return OkStatus();
  });
  EXPECT_TRUE(writer.ok() && writer->Update(AsBytes(data)).ok());
  auto header = writer->Finish();
  EXPECT_TRUE(header.ok());
  std::copy(header->begin(), header->end(), file.begin());
  return file;
}

// As the reference does it: the size in a PAX record, 0 in the header.
std::string InWrapper(const std::string& payload) {
  std::string wrapper = Fixture("native/0002.overlaybd.commit").substr(0, 1536);
  std::string record = "size=" + std::to_string(payload.size()) + "\n";
  size_t length = record.size() + 3;  // "NN "
  record = std::to_string(length) + " " + record;
  EXPECT_EQ(record.size(), length);
  std::string made = wrapper;
  std::fill(made.begin() + 512, made.begin() + 1024, '\0');
  std::copy(record.begin(), record.end(), made.begin() + 512);
  char digits[12];
  std::snprintf(digits, sizeof(digits), "%011zo", record.size());
  std::copy_n(digits, 12, made.begin() + 124);
  std::copy_n("        ", 8, made.begin() + 148);
  unsigned sum = 0;
  for (size_t i = 0; i < 512; i++) sum += static_cast<uint8_t>(made[i]);
  std::snprintf(digits, sizeof(digits), "%06o", sum);
  std::copy_n(digits, 7, made.begin() + 148);
  return made + payload + std::string(-payload.size() % 512 + 1024, '\0');
}

class FixturesTest : public testing::Test {
 protected:
  void AddTurbo(const std::string& meta, const std::string& layer, bool zipped = true) {
    std::string packed = Fixture(meta), blob = Fixture("layers/" + layer + ".tar.gz");
    std::string tar = Gunzip(blob);
    if (!zipped) blob = tar;
    fds_.push_back(Memfd(AsBytes(packed)));
    input_.layers.push_back({fds_.back().get(), Sha256::Of(AsBytes(packed)),
                             Sha256::Of(AsBytes(blob)), blob.size(),
                             zipped ? FASTOCI_CODEC_GZIP : FASTOCI_CODEC_RAW, nullptr, -1});
    data_spaces_.push_back(tar);
  }
  void AddNative(const std::string& name) { AddNativeBlob(Fixture(name)); }
  void AddNativeBlob(const std::string& data) {
    blobs_.push_back(data);
    const std::string& blob = blobs_.back();
    files_.emplace_back(AsBytes(blob));
    input_.layers.push_back({-1, {}, Sha256::Of(AsBytes(blob)), blob.size(), FASTOCI_CODEC_ZFILE,
                             &files_.back(), -1});
    auto layer = OverlaybdLayer::Open(&files_.back());
    ASSERT_TRUE(layer.ok()) << layer.error().message;
    std::string space = blob;
    if ((*layer)->zfile_index() != nullptr) {
      SubFile payload(&files_.back(), (*layer)->payload_offset(),
                      blob.size() - (*layer)->payload_offset());
      auto index = ZFileIndex::Parse((*layer)->zfile_index()->Serialize((*layer)->payload_offset()));
      ASSERT_TRUE(index.ok()) << index.error().message;
      space.assign(index->data_bytes(), '\0');
      for (size_t i = 0; i < index->nr_blocks(); i++) {
        uint64_t begin = index->payload_offset() + index->block_offset(i);
        uint64_t end = index->payload_offset() + index->block_offset(i + 1);
        std::span<uint8_t> out(reinterpret_cast<uint8_t*>(space.data()) + i * index->block_bytes(),
                               index->data_bytes_of(i));
        ASSERT_TRUE(index->DecodeBlock(i, AsBytes(blob).subspan(begin, end - begin), out).ok());
      }
    }
    data_spaces_.push_back(std::move(space));
  }
  // The last layer again, as a native one: an LSMT file that holds its own data.
  std::string TakeLastAsNative() {
    AssembleLayer last = input_.layers.back();
    FdFile file(last.fd, static_cast<uint64_t>(lseek(last.fd, 0, SEEK_END)));
    Sha256Digest digest;
    auto members = UnpackMetaLayer(file, kMaxFixture, &digest);
    MemoryFile stored(members->ext4_fs_meta);
    auto zfile = ZFileReader::Open(&stored);
    auto lsmt = LsmtReader::Open(&*zfile);
    EXPECT_TRUE(lsmt.ok());
    LsmtBuilder out;
    for (const LsmtSegment& s : lsmt->segments()) {
      Bytes data(s.nr_sectors * kSectorBytes);
      uint64_t at = s.mapped * kSectorBytes;
      if (s.source == LsmtSource::kFile) {
        EXPECT_TRUE(zfile->ReadAt(at, data).ok());
      } else if (s.source == LsmtSource::kTar && at < data_spaces_.back().size()) {
        ByteSpan tar = AsBytes(data_spaces_.back()).subspan(at);
        std::copy_n(tar.begin(), std::min(tar.size(), data.size()), data.begin());
      }
      out.AddData(s.sector, data);
    }
    input_.layers.pop_back();
    data_spaces_.pop_back();
    Bytes native = *MakeFsMeta(*out.Finish(lsmt->virtual_bytes()), lsmt->virtual_bytes());
    return std::string(native.begin(), native.end());
  }
  void ExpectFilesOf(const std::vector<std::string>& layers) {
    auto image = TestImage::Assembled(input_, data_spaces_);
    ASSERT_TRUE(image.ok()) << image.error().message;
    auto files = FilesOf(layers);
    EXPECT_GT(files.size(), 100u);
    for (auto& [name, sha] : files) {
      auto found = image->Find(name);
      ASSERT_TRUE(found.has_value()) << name;
      EXPECT_EQ(HexEncode(Sha256::Of(AsBytes(found->data))), sha) << name;
    }
    assembled_ = image->assembled();
  }

  AssembleInput input_;
  std::vector<UniqueFd> fds_;
  std::list<std::string> blobs_;
  std::list<MemoryFile> files_;
  std::vector<std::string> data_spaces_;
  Bytes assembled_;
};

TEST_F(FixturesTest, TurboOciWithExt4) {
  AddTurbo("turbo-ext4/0000.turboOCIv1.tar.gz", "layer1");
  AddTurbo("turbo-ext4/0001.turboOCIv1.tar.gz", "layer2", false);
  AddTurbo("turbo-ext4/0002.turboOCIv1.tar.gz", "layer3");
  ExpectFilesOf({"layer1", "layer2", "layer3"});
}

TEST_F(FixturesTest, NativeLayers) {
  for (const char* name : {"native/0000", "native/0001", "native/0002"})
    AddNative(name + std::string(".overlaybd.commit"));
  ExpectFilesOf({"layer1", "layer2", "layer3"});
}

TEST_F(FixturesTest, NativeAndTurboOciLayersInOneImage) {
  AddTurbo("turbo-ext4/0000.turboOCIv1.tar.gz", "layer1");
  AddNativeBlob(InWrapper(InZFile(TakeLastAsNative(), ZFileAlgorithm::kZstd)));
  AddTurbo("turbo-ext4/0001.turboOCIv1.tar.gz", "layer2");
  AddNativeBlob(InWrapper(TakeLastAsNative()));  // the tar is the data space
  AddTurbo("turbo-ext4/0002.turboOCIv1.tar.gz", "layer3");
  ExpectFilesOf({"layer1", "layer2", "layer3"});
  AddNativeBlob(TakeLastAsNative());
  ExpectFilesOf({"layer1", "layer2", "layer3"});
}

TEST_F(FixturesTest, BareZFilesAndPlainTarHeaders) {
  AddTurbo("turbo-ext4/0000.turboOCIv1.tar.gz", "layer1");
  AddNativeBlob(InZFile(TakeLastAsNative(), ZFileAlgorithm::kLz4));
  AddTurbo("turbo-ext4/0001.turboOCIv1.tar.gz", "layer2");
  TestTar tar;
  tar.File("overlaybd.commit", TakeLastAsNative());
  AddNativeBlob(tar.Finish());
  AddTurbo("turbo-ext4/0002.turboOCIv1.tar.gz", "layer3");
  ExpectFilesOf({"layer1", "layer2", "layer3"});
}

TEST_F(FixturesTest, ErrorsNameTheLayerAndTheReason) {
  AddTurbo("turbo-ext4/0000.turboOCIv1.tar.gz", "layer1");
  std::string bare = TakeLastAsNative();
  for (auto& [blob, reason] : std::vector<std::pair<std::string, std::string>>{
           {std::string(4096, 'x'), "tar entry at offset 0"},
           {std::string(100, 'x'), "too short"},
           {bare.substr(0, bare.size() - 4096), "LSMT"},
           {InZFile(bare, ZFileAlgorithm::kLz4).substr(0, 5000), "ZFile"},
           {InWrapper(bare).substr(0, 100000), "tar wrapper"}}) {
    files_.emplace_back(AsBytes(blob));
    input_.layers = {{-1, {}, {}, blob.size(), FASTOCI_CODEC_ZFILE, &files_.back(), -1}};
    UniqueFd out = Memfd({});
    Status s = Assemble(input_, {}, out.get());
    ASSERT_FALSE(s.ok()) << reason;
    EXPECT_NE(s.error().message.find("layer 1 (sha256:"), std::string::npos) << s.error().message;
    EXPECT_NE(s.error().message.find(reason), std::string::npos) << s.error().message;
  }
}

TEST_F(FixturesTest, TheSandboxAsksForTheRangesOfNativeLayers) {
  constexpr char kDecoder[] = "bin/fastoci-decoderd";
  if (access(kDecoder, X_OK) != 0) GTEST_SKIP() << kDecoder << " is not built";
  for (const char* name : {"native/0000", "native/0001", "native/0002"})
    AddNative(name + std::string(".overlaybd.commit"));
  ExpectFilesOf({"layer1", "layer2", "layer3"});
  UniqueFd out = Memfd({});
  input_.json_head = "{}";
  Status s = AssembleViaDecoder(kDecoder, input_, out.get());
  ASSERT_TRUE(s.ok()) << s.error().message;
  Bytes got(static_cast<size_t>(lseek(out.get(), 0, SEEK_END)));
  ASSERT_TRUE(PreadFull(out.get(), got, 0, "assembled").ok());
  input_.json_head = "{}";
  UniqueFd here = Memfd({});
  ASSERT_TRUE(Assemble(input_, {}, here.get()).ok());
  Bytes want(static_cast<size_t>(lseek(here.get(), 0, SEEK_END)));
  ASSERT_TRUE(PreadFull(here.get(), want, 0, "assembled").ok());
  EXPECT_EQ(got, want);
}

}  // namespace
}  // namespace fastoci
