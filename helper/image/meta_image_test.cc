// SPDX-License-Identifier: Apache-2.0
#include "image/meta_image.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>

#include "base/digest.h"
#include "base/unique_fd.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

class MetaTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kData = 200000;
  Bytes Make(const std::function<void(Bytes* blob, Bytes* helper)>& change = {}) {
    ByteWriter helper, blob;
    helper.U64(0), helper.U64(10), helper.U64(100000), helper.U64(5000);  // spans
    helper.Append(AsBytes("index"));
    for (int i = 0; i < 4 * 32; i++) helper.U8(static_cast<uint8_t>(i / 32));
    const Sha256Digest id = DataSpaceId({}, kData, FASTOCI_CODEC_GZIP,
                                        Sha256::Of(ByteSpan(helper.bytes()).subspan(37)));
    blob.Append(id), blob.Zeros(32);
    blob.U64(kData), blob.U64(9000), blob.U32(FASTOCI_CODEC_GZIP), blob.U32(2);
    blob.U64(0), blob.U64(32), blob.U64(5), blob.U64(37), blob.U32(4), blob.U32(0);
    if (change) change(&blob.bytes(), &helper.bytes());
    const std::string json = "{}";
    ByteWriter w;
    w.Append(AsBytes(FASTOCI_META_MAGIC));
    w.U32(1), w.U32(4096), w.Zeros(16), w.Zeros(32);
    w.U64(8), w.U64(12288 + 2), w.U32(static_cast<uint32_t>(blob.size() / 128)), w.U32(1);
    auto region = [&](uint64_t at, ByteSpan data) {
      w.U64(data.empty() ? 0 : at), w.U64(data.size()), w.U32(data.empty() ? 0 : Crc32c(data)),
          w.U32(0);
    };
    region(4096, blob.bytes());
    for (int i = 0; i < 3; i++) region(0, {});
    region(8192, helper.bytes());
    region(12288, AsBytes(json));
    w.Zeros(4096 - w.size());
    const uint32_t crc = Crc32c(w.bytes());
    for (int i = 0; i < 4; i++) w.bytes()[28 + i] = static_cast<uint8_t>(crc >> (8 * i));
    w.Append(blob.bytes()), w.Zeros(8192 - w.size());
    w.Append(helper.bytes()), w.Zeros(12288 - w.size());
    w.Append(AsBytes(json));
    return std::move(w.bytes());
  }
  Result<MetaImage> Read(const Bytes& image) {
    char name[] = "/tmp/meta_test.XXXXXX";
    UniqueFd fd(::mkstemp(name));
    ::unlink(name);
    EXPECT_TRUE(WriteFull(fd.get(), image, name).ok());
    return ReadMetaImage(fd.get(), image.size());
  }
};

TEST_F(MetaTest, ReadsWhatTheBrokerNeeds) {
  auto m = Read(Make());
  ASSERT_TRUE(m.ok()) << m.error().message;
  ASSERT_EQ(m->blobs.size(), 1u);
  EXPECT_EQ(m->blobs[0].spans.size(), 2u);
  EXPECT_EQ(m->blobs[0].spans[1].blob_offset, 5000u);
  EXPECT_EQ(m->blobs[0].index.size(), 5u);
  ASSERT_EQ(m->blobs[0].digests.size(), 4u);
  EXPECT_EQ(m->blobs[0].digests[3][0], 3);
  EXPECT_EQ(m->json.size(), 2u);
}

TEST_F(MetaTest, EachFlippedByteOfAReadRegionIsSeen) {
  const Bytes good = Make();
  for (size_t at = 0; at < good.size(); at += at < 4300 || (at >= 8192 && at < 8400) ? 1 : 97) {
    Bytes bad = good;
    bad[at] ^= 0x40;
    const bool padding = (at >= 4096 + 128 && at < 8192) || (at >= 8192 + 165 && at < 12288);
    EXPECT_EQ(Read(bad).ok(), padding) << at;
  }
}

TEST_F(MetaTest, RefusesBadTablesWithRightChecksums) {
  auto set = [](Bytes* b, size_t at, uint64_t v, int n) {
    for (int i = 0; i < n; i++)
      (*b)[at + static_cast<size_t>(i)] = static_cast<uint8_t>(v >> (8 * i));
  };
  struct Case {
    const char* name;
    bool in_blob;
    size_t at;
    uint64_t value;
    int bytes;
  };
  const Case cases[] = {
      {"data_bytes 0", true, 64, 0, 8},         {"data_bytes too large", true, 64, 1ULL << 45, 8},
      {"blob_bytes 0", true, 72, 0, 8},         {"codec", true, 80, 7, 4},
      {"raw with spans", true, 80, 0, 4},       {"no spans", true, 84, 0, 4},
      {"many spans", true, 84, UINT32_MAX, 4},  {"spans offset", true, 88, ~0ULL, 8},
      {"index offset", true, 96, ~0ULL - 2, 8}, {"index bytes", true, 104, ~0ULL, 8},
      {"digests offset", true, 112, 40, 8},     {"number of digests", true, 120, 3, 4},
      {"flags", true, 124, 1, 4},               {"first span", false, 0, 1, 8},
      {"span order", false, 16, 0, 8},          {"span behind the end", false, 16, kData, 8},
      {"blob offset order", false, 24, 9, 8},   {"blob offset behind the end", false, 24, 9000, 8},
  };
  for (const Case& c : cases)
    EXPECT_FALSE(Read(Make([&](Bytes* blob, Bytes* helper) {
                   set(c.in_blob ? blob : helper, c.at, c.value, c.bytes);
                 })).ok())
        << c.name;
}

TEST_F(MetaTest, RefusesDigestsOfItsOwnForAnothersDataSpace) {
  auto m = Read(Make([](Bytes*, Bytes* helper) { (*helper)[37] ^= 1; }));
  ASSERT_FALSE(m.ok());
  EXPECT_EQ(m.error().kind, ErrorKind::kMismatch) << m.error().message;
  m = Read(Make([](Bytes* blob, Bytes*) { (*blob)[0] ^= 1; }));
  ASSERT_FALSE(m.ok());
  EXPECT_EQ(m.error().kind, ErrorKind::kMismatch) << m.error().message;
}

TEST_F(MetaTest, RefusesAnImageThatIsCutShort) {
  const Bytes good = Make();
  for (size_t n : {0, 100, 4095, 4096, 8191, 12289})
    EXPECT_FALSE(Read(Bytes(good.begin(), good.begin() + n)).ok()) << n;
}

}  // namespace
}  // namespace fastoci
