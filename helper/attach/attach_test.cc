// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "attach/fs_check.h"
#include "attach/manifest.h"
#include "attach/mounts.h"
#include "attach/overlaybd_config.h"
#include "attach/state.h"
#include "base/unique_fd.h"
#include "image/assemble.h"
#include "image/oci_image.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

std::string Digest(char c) { return "sha256:" + std::string(64, c); }

Json TurboLayer(char meta, char target, const std::string& kind = "turbo-oci") {
  std::string p = "containerd.io/snapshot/overlaybd/";
  return {{"mediaType", "application/vnd.oci.image.layer.v1.tar+gzip"},
          {"digest", Digest(meta)},
          {"size", 1000},
          {"annotations",
           {{p + "version", "0.1.0-turbo.ociv1"},
            {p + "blob-digest", Digest(meta)},
            {p + kind + "/target-digest", Digest(target)},
            {p + kind + "/target-media-type", "application/vnd.oci.image.layer.v1.tar+gzip"}}}};
}

Json TurboManifest() {
  return {{"schemaVersion", 2},
          {"subject", {{"digest", Digest('5')}}},
          {"layers", {TurboLayer('a', '1'), TurboLayer('b', '2', "fastoci")}}};
}

TEST(ParseFastociManifest, ReadsCurrentAndLegacyAnnotations) {
  auto m = ParseFastociManifest(TurboManifest().dump());
  ASSERT_TRUE(m.ok()) << m.error().message;
  ASSERT_EQ(m->layers.size(), 2U);
  EXPECT_EQ(m->layers[0].digest, Digest('a'));
  EXPECT_EQ(m->layers[0].bytes, 1000U);
  EXPECT_EQ(m->layers[0].target_digest, Digest('1'));
  EXPECT_EQ(m->layers[1].target_digest, Digest('2'));
  EXPECT_EQ(m->subject, Digest('5'));
}

TEST(ParseFastociManifest, SaysWhatAnOrdinaryImageIs) {
  Json j = TurboManifest();
  j["layers"][1].erase("annotations");
  auto m = ParseFastociManifest(j.dump());
  ASSERT_FALSE(m.ok());
  EXPECT_EQ(m.error().kind, ErrorKind::kUnsupported);
  EXPECT_NE(m.error().message.find("convertor"), std::string::npos);
}

Json NativeLayer(char digest) {
  std::string p = "containerd.io/snapshot/overlaybd/";
  return {{"mediaType", "application/vnd.docker.image.rootfs.diff.tar"},
          {"digest", Digest(digest)},
          {"size", 7000},
          {"annotations", {{p + "version", "0.1.0"}, {p + "blob-digest", Digest(digest)}, {p + "blob-size", "7000"}}}};
}

TEST(ParseFastociManifest, TakesNativeLayersAmongOthers) {
  Json j = TurboManifest();
  j["layers"].insert(j["layers"].begin(), NativeLayer('e'));
  j["layers"][0]["annotations"]["containerd.io/snapshot/overlaybd/blob-fs-type"] = "xfs";
  auto m = ParseFastociManifest(j.dump());
  ASSERT_TRUE(m.ok()) << m.error().message;
  ASSERT_EQ(m->layers.size(), 3U);
  EXPECT_TRUE(m->layers[0].native);
  EXPECT_EQ(m->layers[0].target_digest, Digest('e'));
  EXPECT_EQ(m->layers[0].target_bytes, 7000U);
  EXPECT_FALSE(m->layers[1].native);
  EXPECT_EQ(m->fs_type, "xfs");
  EXPECT_EQ(m->acceleration_layer, "");
}

TEST(ParseFastociManifest, LeavesAnAccelerationLayerOut) {
  Json j = TurboManifest(), trace = NativeLayer('e');
  trace["annotations"]["containerd.io/snapshot/overlaybd/acceleration-layer"] = "yes";
  j["layers"].push_back(trace);
  auto m = ParseFastociManifest(j.dump());
  ASSERT_TRUE(m.ok()) << m.error().message;
  EXPECT_EQ(m->layers.size(), 2U);
  EXPECT_EQ(m->acceleration_layer, Digest('e'));
  j["layers"].push_back(NativeLayer('f'));  // it is the top one, or the image is broken
  EXPECT_FALSE(ParseFastociManifest(j.dump()).ok());
  j["layers"] = {trace};
  EXPECT_FALSE(ParseFastociManifest(j.dump()).ok());
}

TEST(ParseFastociManifest, RefusesHostileManifests) {
  auto broken = [](auto change) {
    Json j = TurboManifest();
    change(j);
    return !ParseFastociManifest(j.dump()).ok();
  };
  EXPECT_FALSE(ParseFastociManifest("").ok());
  EXPECT_FALSE(ParseFastociManifest("[]").ok());
  EXPECT_FALSE(ParseFastociManifest("{\"layers\": 5}").ok());
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0]["digest"] = "sha256:../../x"; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0]["size"] = -1; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0]["size"] = 1ULL << 40; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0] = "x"; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"][0]["annotations"] = 7; }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"] = Json::array(); }));
  EXPECT_TRUE(broken([](Json& j) { j["layers"] = Json(300, j["layers"][0]); }));
  EXPECT_TRUE(broken([](Json& j) {
    j["layers"][0]["annotations"]["containerd.io/snapshot/overlaybd/blob-digest"] = Digest('f');
  }));
}

class OverlaybdConfigTest : public testing::Test {
 protected:
  OverlaybdConfigTest() { dir_ = ::mkdtemp(pattern_); }
  ~OverlaybdConfigTest() override { std::filesystem::remove_all(dir_); }
  std::string Put(const std::string& name) {
    std::string path = dir_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    EXPECT_TRUE(WriteFileAtomic(path, AsBytes(std::string("x"))).ok());
    return path;
  }
  Result<OverlaybdConfig> Parse(const Json& lowers, const Json& more = Json::object()) {
    Json j = {{"repoBlobUrl", "https://registry.example/v2/a/b/blobs"}, {"lowers", lowers}};
    j.update(more);
    return ParseOverlaybdConfig(j.dump());
  }
  char pattern_[40] = "/tmp/fastoci-config.XXXXXX";
  std::string dir_;
};

TEST_F(OverlaybdConfigTest, FindsLocalFilesInTheirOrderAndBlobsInTheRepository) {
  std::string commit = Put("1/overlaybd.commit"), sealed = Put("2/overlaybd.sealed");
  std::string fs = Put("3/ext4.fs.meta"), index = Put("3/gzip.meta");
  Put("1/overlaybd.sealed");
  auto c = Parse({{{"digest", Digest('a')}, {"size", 77}, {"dir", dir_ + "/none"}},
                  {{"digest", Digest('b')}, {"size", 77}, {"dir", dir_ + "/1"}},
                  {{"dir", dir_ + "/2"}},
                  {{"file", fs}, {"gzipIndex", index}, {"targetDigest", Digest('c')}},
                  {{"file", fs}, {"gzipIndex", dir_ + "/none"}, {"targetFile", commit}}});
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->location.host, "registry.example");
  EXPECT_EQ(c->location.repository, "a/b");
  const auto& l = c->layers.layers;
  ASSERT_EQ(l.size(), 5U);
  EXPECT_TRUE(l[0].native && l[0].blob_path.empty() && l[0].target_bytes == 77);
  EXPECT_TRUE(l[1].native);
  EXPECT_EQ(l[1].blob_path, commit);
  EXPECT_EQ(l[2].blob_path, sealed);
  EXPECT_FALSE(l[3].native);
  EXPECT_EQ(l[3].gzip_meta_path, index);
  EXPECT_EQ(*CodecOfMediaType(l[3].target_media_type), FASTOCI_CODEC_GZIP);
  EXPECT_EQ(l[4].blob_path, commit);
  EXPECT_EQ(*CodecOfMediaType(l[4].target_media_type), FASTOCI_CODEC_RAW);
}

TEST_F(OverlaybdConfigTest, LeavesTheTraceOutAndNamesWhatIsWrong) {
  Json lower = {{"digest", Digest('a')}, {"size", 77}};
  auto c = Parse({lower, lower}, {{"accelerationLayer", true}});
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->layers.layers.size(), 1U);
  auto says = [](const Result<OverlaybdConfig>& r, const std::string& text) {
    return !r.ok() && r.error().message.find(text) != std::string::npos;
  };
  EXPECT_TRUE(says(Parse(Json::array({lower}), {{"accelerationLayer", true}}), "no lowers, or too many"));
  EXPECT_TRUE(says(Parse(Json::array()), "no lowers"));
  EXPECT_TRUE(says(Parse({lower, {{"digest", Digest('a')}}}), "lower 2: it is in a registry, but has no size"));
  EXPECT_TRUE(says(Parse({{{"dir", "/none"}}}), "lower 1: none of its files"));
  EXPECT_TRUE(says(Parse({{{"file", "/none"}, {"targetDigest", Digest('a')}}}), "lower 1: its fs.meta"));
  EXPECT_TRUE(says(Parse(Json::array({lower}), {{"repoBlobUrl", ""}}), "no repoBlobUrl"));
  EXPECT_TRUE(says(Parse(Json::array({lower}), {{"repoBlobUrl", "ftp://x/v2/y/blobs"}}), "repoBlobUrl"));
  EXPECT_TRUE(says(Parse(Json::array({lower}), {{"repoBlobUrl", "https://x/v2/../blobs"}}), "repoBlobUrl"));
  EXPECT_TRUE(says(Parse({{{"digest", "sha256:../x"}, {"size", 1}}}), "lower 1"));
  EXPECT_FALSE(ParseOverlaybdConfig("[]").ok());
}

TEST(CheckBelongsTo, WantsSubjectAndLayersOfTheOriginal) {
  auto m = ParseFastociManifest(TurboManifest().dump());
  ASSERT_TRUE(m.ok());
  Json original = {{"layers", {{{"digest", Digest('1')}}, {{"digest", Digest('2')}}}}};
  EXPECT_TRUE(CheckBelongsTo(*m, Digest('5'), original.dump()).ok());
  EXPECT_FALSE(CheckBelongsTo(*m, Digest('6'), original.dump()).ok());
  // A base layer below is none of the original's; two are too many, and so is one above.
  MetaLayer base;
  base.native = true;
  FastociManifest on_base = *m, above = *m;
  on_base.layers.insert(on_base.layers.begin(), base);
  EXPECT_TRUE(CheckBelongsTo(on_base, Digest('5'), original.dump()).ok());
  on_base.layers.insert(on_base.layers.begin(), base);
  EXPECT_FALSE(CheckBelongsTo(on_base, Digest('5'), original.dump()).ok());
  above.layers.push_back(base);
  EXPECT_FALSE(CheckBelongsTo(above, Digest('5'), original.dump()).ok());
  std::swap(original["layers"][0], original["layers"][1]);
  EXPECT_FALSE(CheckBelongsTo(*m, Digest('5'), original.dump()).ok());
  original["layers"].erase(1);
  EXPECT_FALSE(CheckBelongsTo(*m, Digest('5'), original.dump()).ok());
}

// What a registry can send: 4 MiB of brackets.
TEST(ForeignManifests, DepthEndsNoProcess) {
  const std::string deep = std::string(2 << 20, '[') + std::string(2 << 20, ']');
  EXPECT_FALSE(ParseFastociManifest(R"({"layers":)" + deep + "}").ok());
  EXPECT_FALSE(ReferrersOfType(R"({"manifests":[{"x":)" + deep + "}]}", "t/x").ok());
  FastociManifest m;
  EXPECT_FALSE(TakeDigests(R"({"layers":)" + deep + "}", Digest('a'), &m).ok());
  EXPECT_FALSE(ParseIndex(R"({"manifests":[)" + deep + "]}").ok());
  EXPECT_FALSE(ParseOriginalManifest(R"({"schemaVersion":2,"layers":[)" + deep + "]}").ok());
  EXPECT_FALSE(KeeperManifest(R"({"x":)" + deep + "}", Digest('a')).ok());
}

TEST(ForeignManifests, AnnotationsOfAnotherTypeAreReplaced) {
  for (const char* notes : {"\"x\"", "[1]", "null", "7", "{}"}) {
    auto kept = KeeperManifest(std::string(R"({"annotations":)") + notes + "}", Digest('a'));
    ASSERT_TRUE(kept.ok()) << notes;
    EXPECT_EQ(Json::parse(*kept)["annotations"], Json({{"org.fastoci.original-of", Digest('a')}})) << notes;
  }
}

TEST(ForeignManifests, BytesThatAreNoUtf8HideNothing) {
  auto bad = [](Json j) {
    std::string text = j.dump();
    return text.replace(text.find("HERE"), 4, "\xff\xfe");
  };
  Json manifest = TurboManifest();
  manifest["annotations"] = {{"author", "HERE"}};
  EXPECT_TRUE(ParseFastociManifest(bad(manifest)).ok());
  const Json index = {{"manifests", {{{"digest", Digest('1')}, {"artifactType", "t/x"}, {"annotations", {{"a", "HERE"}}}}}}};
  auto found = ReferrersOfType(bad(index), "t/x");
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(*found, std::vector<std::string>{Digest('1')});
}

TEST(ReferrersOfType, FindsOursOnly) {
  Json index = {{"manifests",
                 {{{"digest", Digest('1')}, {"artifactType", "application/x"}},
                  {{"digest", Digest('2')},
                   {"artifactType", "application/vnd.containerd.overlaybd.turbo.v1+json"}}}}};
  auto found = ReferrersOfType(index.dump(), ArtifactType(ImageFormat::kTurboOci));
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->size(), 1U);
  EXPECT_EQ((*found)[0], Digest('2'));
}

FastociManifest NativeLayers(std::initializer_list<char> digests) {
  FastociManifest m;
  for (char d : digests) {
    MetaLayer layer;
    layer.native = d != '0';
    layer.digest = Digest(d);
    m.layers.push_back(layer);
  }
  return m;
}

TEST(TakeDigests, AreThoseOfTheImageThatTheArtifactIsAbout) {
  const std::string image = Digest('e');
  std::vector<ConvertedLayer> layers = {{{"", Digest('a'), 9}, "", {}}, {{"", Digest('b'), 9}, "", {}}};
  const std::string body =
      DigestsManifest({"", image, 100}, layers, {{"", Digest('1'), 64}, {"", Digest('2'), 32}});
  FastociManifest m = NativeLayers({'b', '0', 'a', 'c', 'b'});
  ASSERT_TRUE(TakeDigests(body, image, &m).ok());
  EXPECT_EQ(m.layers[0].digests_digest, Digest('2'));
  EXPECT_EQ(m.layers[0].digests_bytes, 32U);
  EXPECT_EQ(m.layers[1].digests_digest, "");
  EXPECT_EQ(m.layers[2].digests_digest, Digest('1'));
  EXPECT_EQ(m.layers[3].digests_digest, "");
  EXPECT_EQ(m.layers[4].digests_digest, Digest('2'));
  // A second one changes nothing.
  ASSERT_TRUE(TakeDigests(DigestsManifest({"", image, 100}, layers,
                                          {{"", Digest('3'), 64}, {"", Digest('4'), 32}}), image, &m).ok());
  EXPECT_EQ(m.layers[2].digests_digest, Digest('1'));
  // One about another image, of another kind, or of a wrong size is none.
  FastociManifest none = NativeLayers({'a', 'b'});
  EXPECT_EQ(TakeDigests(body, Digest('f'), &none).error().kind, ErrorKind::kMismatch);
  Json j = Json::parse(body);
  j["artifactType"] = "application/x";
  EXPECT_FALSE(TakeDigests(j.dump(), image, &none).ok());
  j = Json::parse(body);
  j["layers"][0]["size"] = 63;
  EXPECT_FALSE(TakeDigests(j.dump(), image, &none).ok());
  EXPECT_EQ(none.layers[0].digests_digest + none.layers[1].digests_digest, "");
}

TEST(SourcesJson, NamesEachBlobInOrder) {
  auto m = ParseFastociManifest(TurboManifest().dump());
  m->layers[1].target_bytes = 77;
  const SourcesJson made = MakeSourcesJson("h:1/r:t", Digest('9'), *m, {"http", "h:1", "r"});
  std::string text = made.head;
  for (const std::string& blob : made.blobs) text += (blob == made.blobs.front() ? "" : ",") + blob;
  Json j = Json::parse(text + made.tail);
  EXPECT_EQ(j["version"], 1);
  EXPECT_EQ(j["image"], "h:1/r:t");
  ASSERT_EQ(j["blobs"].size(), 2U);
  EXPECT_EQ(j["blobs"][1]["digest"], Digest('2'));
  EXPECT_EQ(j["blobs"][1]["size"], 77);
  EXPECT_EQ(j["blobs"][1]["sources"][0]["type"], "registry");
  EXPECT_EQ(j["blobs"][1]["sources"][0]["scheme"], "http");
  EXPECT_EQ(j["blobs"][1]["sources"][0]["host"], "h:1");
  EXPECT_EQ(j["blobs"][1]["sources"][0]["repository"], "r");
}

// A stack's layers may come from several registries.
TEST(SourcesJson, EachHostHasItsOwnScheme) {
  auto m = ParseFastociManifest(TurboManifest().dump());
  auto scheme = [&](const std::string& repository, const BlobLocation& location) {
    m->layers[0].repository = repository;
    const SourcesJson made = MakeSourcesJson("h:1/r:t", Digest('9'), *m, location);
    return Json::parse(made.blobs[0])["sources"][0]["scheme"].get<std::string>();
  };
  const BlobLocation local = {"http", "127.0.0.1:5000", "r"}, remote = {"https", "h.example", "r"};
  EXPECT_EQ(scheme("h.example/base", local), "https") << "the top layer's registry is this machine";
  EXPECT_EQ(scheme("127.0.0.1:5000/base", local), "http");
  EXPECT_EQ(scheme("localhost:5001/base", remote), "http");
  EXPECT_EQ(scheme("other.example/base", remote), "https");
  EXPECT_EQ(scheme("", remote), "https");
  EXPECT_EQ(scheme("other.example/base", {"http", "h.example", "r", true}), "http") << "--plain";
  EXPECT_EQ(scheme("h.example/base", {"http", "h.example", "r"}), "http") << "that host's own";
}

TEST(DefaultImageName, IsAlwaysAValidName) {
  EXPECT_EQ(DefaultImageName("a/demo", "latest"), "demo-latest");
  EXPECT_EQ(DefaultImageName("demo", Digest('a')), "demo-aaaaaaaaaaaa");
  EXPECT_EQ(DefaultImageName("demo", "a/b c"), "demo-a_b_c");
  EXPECT_LE(DefaultImageName(std::string(200, 'x'), "t").size(), 100U);
}

// --- superblocks ---

void Put32(Bytes* sb, size_t at, uint32_t v) {
  for (size_t i = 0; i < 4; i++) (*sb)[at + i] = static_cast<uint8_t>(v >> (8 * i));
}

// What mke2fs -O ^has_journal makes.
Bytes GoodExt4() {
  Bytes sb(kSuperblockBytes);
  Put32(&sb, 0x4, 2048);
  Put32(&sb, 0x18, 2);
  Put32(&sb, 0x38, 0x0001ef53);
  Put32(&sb, 0x4c, 1);
  Put32(&sb, 0x58, 256);
  Put32(&sb, 0x5c, 0x38);
  Put32(&sb, 0x60, 0x2c2);
  Put32(&sb, 0x64, 0x6b);
  Put32(&sb, 0x100, 0xc);
  return sb;
}
constexpr uint64_t kDevice = 2048 * 4096;

TEST(CheckSuperblock, TakesPlainExt4) {
  auto type = CheckSuperblock(GoodExt4(), kDevice);
  ASSERT_TRUE(type.ok()) << type.error().message;
  EXPECT_EQ(*type, FsType::kExt4);
}

TEST(CheckSuperblock, RefusesWhatIsNotOnTheList) {
  struct Case {
    const char* what;
    size_t offset;
    uint32_t value;
  };
  const Case cases[] = {{"journal", 0x5c, 0x3c},          {"orphan file", 0x5c, 0x1038},
                        {"needs recovery", 0x60, 0x2c6},  {"inline data", 0x60, 0x82c2},
                        {"encryption", 0x60, 0x102c2},    {"casefold", 0x60, 0x202c2},
                        {"mmp", 0x60, 0x3c2},             {"unknown incompat", 0x60, 0x800002c2},
                        {"bigalloc", 0x64, 0x26b},        {"verity", 0x64, 0x806b},
                        {"journal inode", 0xe0, 8},       {"journal device", 0xe4, 1},
                        {"orphans", 0xe8, 12},            {"data=journal default", 0x100, 0x2c},
                        {"mount options", 0x200, 'e'},    {"too many blocks", 0x4, 2049},
                        {"64-bit block count", 0x150, 1}, {"64 KiB blocks", 0x18, 6},
                        {"inode size 0", 0x58, 0},        {"odd inode size", 0x58, 200},
                        {"revision", 0x4c, 2},            {"no blocks", 0x4, 0}};
  for (const Case& c : cases) {
    Bytes sb = GoodExt4();
    Put32(&sb, c.offset, c.value);
    EXPECT_FALSE(CheckSuperblock(sb, kDevice).ok()) << c.what;
  }
  EXPECT_FALSE(CheckSuperblock(Bytes(kSuperblockBytes), kDevice).ok());
  EXPECT_FALSE(CheckSuperblock(Bytes(10), kDevice).ok());
}

TEST(CheckSuperblock, TakesPlainErofsOnly) {
  Bytes sb(kSuperblockBytes);
  Put32(&sb, 0, 0xe0f5e1e2);
  Put32(&sb, 8, 3);
  sb[12] = 12;
  Put32(&sb, 36, 2048);
  auto type = CheckSuperblock(sb, kDevice);
  ASSERT_TRUE(type.ok()) << type.error().message;
  EXPECT_EQ(*type, FsType::kErofs);
  Put32(&sb, 80, 1);  // compressed with padding
  EXPECT_FALSE(CheckSuperblock(sb, kDevice).ok());
}

// --- mounts ---

TEST(ParseMountInfo, ReadsFieldsAndEscapes) {
  auto m = ParseMountInfo(
      "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
      "rubbish\n"
      "40 35 253:3 / /mnt/a\\040b ro - ext4 /dev/mapper/fastoci-t ro\n");
  ASSERT_EQ(m.size(), 2U);
  EXPECT_EQ(m[0].dir, "/mnt2");
  EXPECT_EQ(m[0].fs_type, "ext3");
  EXPECT_EQ(m[1].major, 253U);
  EXPECT_EQ(m[1].minor, 3U);
  EXPECT_EQ(m[1].dir, "/mnt/a b");
}

// --- state ---

class StateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/fastoci-state.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    root_ = name;
  }
  void TearDown() override { ::rmdir(root_.c_str()); }
  std::string root_;
};

TEST_F(StateTest, KeepsAndRemoves) {
  auto dir = StateDir::Open(root_, "demo", 1000);
  ASSERT_TRUE(dir.ok());
  EXPECT_EQ(dir->Load().error().kind, ErrorKind::kNotFound);
  ImageState state;
  state.name = "demo";
  state.ref = "h/r:t";
  state.meta_sha256 = "ab";
  ASSERT_TRUE(dir->Save(state).ok());
  auto loaded = ReadState(root_, "demo");
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded->ref, "h/r:t");
  EXPECT_EQ(loaded->meta_sha256, "ab");
  EXPECT_EQ(StateNames(root_), std::vector<std::string>{"demo"});
  ASSERT_TRUE(dir->Remove().ok());
  EXPECT_TRUE(StateNames(root_).empty());
}

TEST_F(StateTest, OneAtATime) {
  auto first = StateDir::Open(root_, "demo", 1000);
  ASSERT_TRUE(first.ok());
  auto second = StateDir::Open(root_, "demo", 100);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().err, EBUSY);
  ASSERT_TRUE(first->Remove().ok());
  // The directory is gone, its lock means nothing to whoever makes a new one.
  auto third = StateDir::Open(root_, "demo", 1000);
  ASSERT_TRUE(third.ok());
  ASSERT_TRUE(third->Remove().ok());
}

TEST_F(StateTest, UpdatesWhatIsKeptAndOnlyThat) {
  ASSERT_TRUE(UpdateState(root_, "demo", 1000, [](ImageState*) { FAIL(); }).ok());
  EXPECT_TRUE(StateNames(root_).empty());
  {
    auto dir = StateDir::Open(root_, "demo", 1000);
    ASSERT_TRUE(dir.ok());
    ImageState state;
    state.attached = true;
    state.policy = "fail_after_ms 5";
    state.cache_device = "/dev/vg/cache";
    ASSERT_TRUE(dir->Save(state).ok());
  }
  ASSERT_TRUE(UpdateState(root_, "demo", 1000, [](ImageState* s) {
                s->mounts = {"/mnt/a", "/mnt/b"};
              }).ok());
  auto state = ReadState(root_, "demo");
  ASSERT_TRUE(state.ok());
  EXPECT_TRUE(state->attached);
  EXPECT_EQ(state->policy, "fail_after_ms 5");
  EXPECT_EQ(state->cache_device, "/dev/vg/cache");
  EXPECT_EQ(state->mounts, (std::vector<std::string>{"/mnt/a", "/mnt/b"}));
  auto dir = StateDir::Open(root_, "demo", 1000);
  ASSERT_TRUE(dir.ok());
  ASSERT_TRUE(dir->Remove().ok());
}

TEST(StateFromJson, RefusesDamage) {
  EXPECT_FALSE(StateFromJson("").ok());
  EXPECT_FALSE(StateFromJson("{}").ok());
  EXPECT_FALSE(StateFromJson("{\"version\": 2}").ok());
  EXPECT_FALSE(StateFromJson("{\"version\": \"1\"}").ok());
  EXPECT_TRUE(StateFromJson("{\"version\": 1, \"name\": 5}").ok());
  // As the version before wrote it, and with entries of wrong types.
  auto old = StateFromJson("{\"version\": 1, \"attached\": 1, \"mounts\": [1, \"/m\"]}");
  ASSERT_TRUE(old.ok());
  EXPECT_FALSE(old->attached);
  EXPECT_EQ(old->mounts, std::vector<std::string>{"/m"});
}

}  // namespace
}  // namespace fastoci
