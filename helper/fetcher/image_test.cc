// SPDX-License-Identifier: Apache-2.0
#include "fetcher/image.h"

#include <gtest/gtest.h>

namespace fastoci {
namespace {

std::string Digest() { return "sha256:" + std::string(64, 'a'); }

std::string Blob(const std::string& sources, const std::string& size = "10") {
  return R"({"version":1,"blobs":[{"digest":")" + Digest() + R"(","size":)" + size +
         R"(,"sources":[)" + sources + "]}]}";
}

TEST(FetchImage, Parses) {
  auto image = ParseFetchImage(
      Blob(R"({"type":"registry","scheme":"https","host":"h.io:5000","repository":"a/b"},
              {"type":"p2p","whatever":1},
              {"type":"file","path":"/b"})"));
  ASSERT_TRUE(image.ok()) << image.error().message;
  ASSERT_EQ(image->blobs.size(), 1U);
  const FetchBlob& b = image->blobs[0];
  EXPECT_EQ(b.digest, Digest());
  EXPECT_EQ(b.bytes, 10U);
  ASSERT_EQ(b.sources.size(), 2U);
  EXPECT_EQ(b.sources[0].scheme, "https");
  EXPECT_EQ(b.sources[0].ToString(), "h.io:5000/a/b");
  EXPECT_EQ(b.sources[1].ToString(), "file /b");
  EXPECT_TRUE(ParseFetchImage(R"({"version":1,"blobs":[]})").ok());
}

TEST(FetchImage, RefusesMalformed) {
  std::string many = R"({"type":"x"})", deep;
  for (size_t i = 0; i < kMaxSources; i++) many += R"(,{"type":"x"})";
  for (int i = 0; i < 100000; i++) deep += "[";
  std::string blobs = R"({"version":1,"blobs":[0)";
  for (int i = 0; i < 256; i++) blobs += ",0";
  for (const std::string& bad : {
           std::string(), std::string("[]"), std::string("{"), std::string(R"({"blobs":[]})"),
           std::string(R"({"version":2,"blobs":[]})"), std::string(R"({"version":1})"),
           std::string(R"({"version":1,"blobs":{}})"), std::string(R"({"version":1,"blobs":[1]})"),
           std::string(R"({"version":1,"blobs":[{}]})"), blobs + "]}", deep, Blob(many),
           std::string("{\"version\":1,\"blobs\":[],\"x\":\"\xff\"}"), Blob("", "0"),
           Blob("", "-1"),
           Blob("", "1.5"), Blob("", "\"10\""), Blob("", "18446744073709551615"), Blob("1"),
           Blob(R"({"type":"file","path":"relative"})"), Blob(R"({"type":"file"})"),
           Blob(R"({"type":"file","path":"/a\u0000b"})"), Blob(R"({"type":"file","path":5})"),
           Blob(R"({"type":"registry","scheme":"ftp","host":"h","repository":"a"})"),
           Blob(R"({"type":"registry","scheme":"https","host":"h/x","repository":"a"})"),
           Blob(R"({"type":"registry","scheme":"https","host":"u@h","repository":"a"})"),
           Blob(R"({"type":"registry","scheme":"https","host":"h.io","repository":"../a"})")})
    EXPECT_FALSE(ParseFetchImage(bad).ok()) << bad.substr(0, 200);
}

}  // namespace
}  // namespace fastoci
