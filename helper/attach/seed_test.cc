// SPDX-License-Identifier: Apache-2.0
// Imports that only check: seeds of a real conversion, made here, right ones and others. The rest of an import needs the kernel;
// selftests/cases/seed.sh has it.
#include "attach/seed.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/durable.h"
#include "image/convert.h"
#include "image/copy.h"
#include "image/meta_image_file.h"
#include "image/seed_data.h"
#include "testing/signing_key.h"
#include "testing/silent_progress.h"
#include "testing/stub_registry.h"
#include "testing/test_tar.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

class Quiet : public ConvertObserver {
 public:
  void OnImage(const OriginalImage&) override {}
  void OnLayer(size_t, uint64_t) override {}
  void OnKnownLayer(size_t) override {}
  void OnLayerDone(size_t, ImageFormat, const ConvertedLayer&, uint64_t) override {}
  void OnWarning(const std::string&) override {}
};

class SeedImportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/seed_test.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    std::ofstream(dir_ + "/config.json") << "{}";
    paths_.config = dir_ + "/config.json";
    paths_.state_dir = dir_ + "/images";
    // build/test/attach -> bin/fastoci-decoderd
    const auto self = std::filesystem::read_symlink("/proc/self/exe");
    request_.directory = dir_ + "/seed";
    request_.check_only = true;
    request_.access.decoder = (self.parent_path().parent_path().parent_path() / "bin/fastoci-decoderd").string();
    Convert();
    MakeSeed();
  }
  void TearDown() override { ASSERT_EQ(std::system(("rm -rf " + dir_).c_str()), 0); }

  void Convert() {
    TestTar tar;
    std::string text;
    for (int i = 0; text.size() < 300000; i++) text += std::to_string(i * 2654435761U) + "\n";
    tar.File("etc/motd", text);
    tar_ = tar.Finish();
    const std::string blob = TestGzip(tar_);
    const std::string layer = stub_.AddBlob(blob);
    const Json config = {{"architecture", HostArch()},
                         {"os", "linux"},
                         {"rootfs", {{"type", "layers"}, {"diff_ids", {DigestString(Sha256::Of(AsBytes(tar_)))}}}}};
    const Json manifest = {{"schemaVersion", 2},
                           {"mediaType", kOciManifest},
                           {"config",
                            {{"mediaType", "application/vnd.oci.image.config.v1+json"},
                             {"digest", stub_.AddBlob(config.dump())},
                             {"size", config.dump().size()}}},
                           {"layers",
                            {{{"mediaType", "application/vnd.oci.image.layer.v1.tar+gzip"},
                              {"digest", layer},
                              {"size", blob.size()}}}}};
    stub_.AddManifest("demo", "latest", kOciManifest, manifest.dump());
    auto store = OpenRegistryStore(stub_.host() + "/demo", RegistryOptions(), Credentials());
    ASSERT_TRUE(store.ok());
    registry_ = std::move(*store);
    ConvertOptions options;
    options.source = "latest";
    options.turbo_tag = "fast";
    options.oci = true;
    options.scratch_dir = dir_;
    Quiet quiet;
    auto images = ConvertImage(registry_.get(), options, &quiet);
    ASSERT_TRUE(images.ok()) << images.error().message;
    image_ = images->front().manifest;
    config_ = {stub_.host() + "/demo:fast", {{layer, blob.size()}}};
  }

  // As an export has it; the first and the third piece and what follows them.
  void MakeSeed() {
    std::filesystem::remove_all(request_.directory);
    auto layout = OpenLayoutStore(request_.directory, true);
    ASSERT_TRUE(layout.ok());
    CopyOptions options;
    options.originals = false;
    options.signatures = true;
    options.scratch_dir = dir_;
    auto copied = CopyImage(registry_.get(), image_.digest, layout->get(), config_.ref, options);
    ASSERT_TRUE(copied.ok()) << copied.error().message;
    auto puller = ImagePuller::Open(request_.access);
    auto resolved = puller->ResolveSeed(request_.directory, image_.digest, config_, &silence_);
    ASSERT_TRUE(resolved.ok()) << resolved.error().message;
    Status made = puller->Assemble(*resolved, dir_, dir_ + "/meta.img", &silence_);
    ASSERT_TRUE(made.ok()) << made.error().message;
    auto meta = ReadMetaImageFile(dir_ + "/meta.img");
    ASSERT_TRUE(meta.ok()) << meta.error().message;
    blob_ = meta->blobs.at(0);
    ASSERT_EQ(blob_.data_bytes, tar_.size());
    PutData(tar_);
  }
  // data: what the file of data claims to be the data space.
  void PutData(const std::string& data) {
    auto layout = OpenLayoutStore(request_.directory);
    std::string made;
    auto fd = CreateBeside(LayoutBlobPath(request_.directory, "data"), 0644, &made);
    ASSERT_TRUE(fd.ok());
    SeedDataWriter writer(fd->get());
    for (uint32_t n = 0; n * kSeedPieceBytes < data.size(); n++) {
      const std::string piece = data.substr(n * kSeedPieceBytes, kSeedPieceBytes);
      if (n != 1) {
        ASSERT_TRUE(writer.Add(n, AsBytes(piece)).ok());
      }
    }
    auto file = writer.Finish(space_of(blob_), blob_.data_bytes);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(Publish(*fd, made, LayoutBlobPath(request_.directory, file->digest)).ok());
    data_path_ = LayoutBlobPath(request_.directory, file->digest);
    const std::string text = SeedConfigText(config_);
    const Descriptor config = {kSeedConfigType, DigestString(Sha256::Of(AsBytes(text))), text.size()};
    ASSERT_TRUE((*layout)->PutBlob(config.digest, AsBytes(text)).ok());
    auto put = (*layout)->PutManifest("", kOciManifest,
                                      SeedManifestText(image_, config, {{{kSeedDataType, file->digest, file->bytes}, space_of(blob_)}}, "now"));
    ASSERT_TRUE(put.ok());
  }
  // The last that the index names.
  void DropSeedManifest() {
    Json index = Json::parse(std::ifstream(request_.directory + "/index.json"));
    index["manifests"].erase(index["manifests"].size() - 1);
    std::ofstream(request_.directory + "/index.json") << index.dump();
  }
  Sha256Digest space_of(const BlobInfo& blob) const { return other_space_ ? Sha256Digest{1} : blob.data_space_id; }
  Error Refused() {
    auto images = ImportSeed(paths_, request_, &silence_);
    EXPECT_FALSE(images.ok());
    EXPECT_FALSE(std::filesystem::exists(paths_.state_dir));
    return images.ok() ? Error{} : images.error();
  }
  static bool Says(const Error& e, const std::string& text) { return e.message.find(text) != std::string::npos; }

  std::string dir_, tar_, data_path_;
  AttachPaths paths_;
  SeedImportRequest request_;
  SilentProgress silence_;
  StubRegistry stub_;
  std::unique_ptr<ImageStore> registry_;
  Descriptor image_;
  SeedConfig config_;
  BlobInfo blob_;
  bool other_space_ = false;
};

TEST_F(SeedImportTest, ASeedThatIsRightIsTold) {
  const int requests = stub_.CountRequests("GET", "");
  auto images = ImportSeed(paths_, request_, &silence_);
  ASSERT_TRUE(images.ok()) << images.error().message;
  ASSERT_EQ(images->size(), 1U);
  EXPECT_EQ(images->front().name, "demo-fast");
  EXPECT_EQ(images->front().manifest_digest, image_.digest);
  EXPECT_EQ(images->front().data_bytes, tar_.size());
  EXPECT_EQ(images->front().seeded_bytes, tar_.size() - kSeedPieceBytes);
  EXPECT_EQ(stub_.CountRequests("GET", ""), requests) << "no registry is asked";
  EXPECT_FALSE(std::filesystem::exists(paths_.state_dir));
  request_.images = {config_.ref};
  request_.digests = {image_.digest};
  EXPECT_TRUE(ImportSeed(paths_, request_, &silence_).ok());
  request_.images = {"registry.example/other:1"};
  EXPECT_EQ(Refused().kind, ErrorKind::kNotFound);
}

TEST_F(SeedImportTest, AnotherManifestThanExpectedIsRefused) {
  request_.digests = {"sha256:" + std::string(64, '0')};
  EXPECT_TRUE(Says(Refused(), image_.digest));
}

TEST_F(SeedImportTest, EachDamagedBlobIsNamed) {
  for (const auto& entry : std::filesystem::directory_iterator(request_.directory + "/blobs/sha256")) {
    const std::string path = entry.path(), name = entry.path().filename();
    const auto size = static_cast<std::streamoff>(entry.file_size());
    for (std::streamoff at : {std::streamoff{0}, size / 2, size - 1}) {
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(at);
      const char byte = static_cast<char>(file.get());
      file.seekp(at);
      file.put(static_cast<char>(byte ^ 1));
      file.flush();
      const Error e = Refused();
      EXPECT_TRUE(Says(e, name)) << name << " at " << at << ": " << e.message;
      file.seekp(at);
      file.put(byte);
    }
    std::filesystem::copy_file(path, dir_ + "/whole", std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(path, entry.file_size() - 1);
    EXPECT_TRUE(Says(Refused(), name)) << name << " cut short";
    std::filesystem::remove(path);
    EXPECT_TRUE(Says(Refused(), name)) << name << " missing";
    std::filesystem::copy_file(dir_ + "/whole", path);
  }
  EXPECT_TRUE(ImportSeed(paths_, request_, &silence_).ok()) << "all was put right again";
}

TEST_F(SeedImportTest, DataThatLiesUnderARightDigestIsRefused) {
  std::string lie = tar_;
  lie[2 * kSeedPieceBytes + 9] ^= 1;
  DropSeedManifest();
  PutData(lie);
  const Error e = Refused();
  EXPECT_EQ(e.kind, ErrorKind::kMismatch);
  EXPECT_TRUE(Says(e, data_path_) && Says(e, "data bytes 131072+65536")) << e.message;
}

TEST_F(SeedImportTest, WhatItsImageHasNotIsRefused) {
  DropSeedManifest();
  other_space_ = true;
  PutData(tar_);
  EXPECT_TRUE(Says(Refused(), "the image has no data space"));
  other_space_ = false;
  DropSeedManifest();
  const SeedConfig right = config_;
  config_.layers[0].digest = "sha256:" + std::string(64, '5');
  PutData(tar_);
  EXPECT_TRUE(Says(Refused(), "another layer 1"));
  DropSeedManifest();
  config_ = right;
  config_.layers.push_back(config_.layers[0]);
  PutData(tar_);
  EXPECT_TRUE(Says(Refused(), "2 layers"));
  DropSeedManifest();
  EXPECT_TRUE(Says(Refused(), "is no seed"));
}

TEST_F(SeedImportTest, ThePolicyOfSignaturesHolds) {
  const SigningKey key = SigningKey::Ec(), other = SigningKey::Ec();
  std::ofstream(dir_ + "/keys.pem") << key.Pem();
  std::ofstream(paths_.config) << Json{{"signatures", {{stub_.host() + "/demo", dir_ + "/keys.pem"}}}}.dump();
  EXPECT_EQ(Refused().err, EKEYREJECTED);
  SignManifest(&stub_, "demo", image_.digest, other);
  MakeSeed();
  EXPECT_EQ(Refused().err, EKEYREJECTED);
  SignManifest(&stub_, "demo", image_.digest, key);
  MakeSeed();
  auto images = ImportSeed(paths_, request_, &silence_);
  EXPECT_TRUE(images.ok()) << images.error().message;
}

}  // namespace
}  // namespace fastoci
