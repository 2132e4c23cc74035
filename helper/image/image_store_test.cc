// SPDX-License-Identifier: Apache-2.0
#include "image/image_store.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "base/digest.h"

namespace fastoci {
namespace {

// Who wrote the layout may have written anything.
TEST(LayoutStore, MembersOfAnotherTypeCountAsAbsent) {
  char name[] = "/tmp/layout_test.XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string dir = name;
  {
    auto made = OpenLayoutStore(dir, true);
    ASSERT_TRUE(made.ok()) << made.error().message;
  }
  std::ofstream(dir + "/index.json")
      << R"({"manifests": [1, {"digest": 5}, {"digest": {}, "annotations":)"
         R"( {"org.opencontainers.image.ref.name": "t"}}, {"annotations": []}]})";
  auto store = OpenLayoutStore(dir);
  ASSERT_TRUE(store.ok());
  EXPECT_FALSE((*store)->GetManifest("t").ok());
  EXPECT_FALSE((*store)->Referrers("sha256:0").ok());
  auto put = (*store)->PutManifest("new", "application/json", R"({"subject": {"digest": 7}})");
  ASSERT_TRUE(put.ok()) << put.error().message;
  EXPECT_TRUE((*store)->GetManifest("new").ok());
  ASSERT_EQ(std::system(("rm -rf " + dir).c_str()), 0);
}

TEST(LayoutStore, ABlobThatIsNotWhatItsNameSaysIsRefused) {
  char name[] = "/tmp/layout_test.XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string dir = name, digest = DigestString(Sha256::Of(AsBytes(std::string(3 << 20, 'b'))));
  auto store = OpenLayoutStore(dir, true);
  ASSERT_TRUE(store.ok());
  ASSERT_TRUE((*store)->PutBlob(digest, AsBytes(std::string(3 << 20, 'b'))).ok());
  std::string got;
  auto get = [&](Status answer) {
    got.clear();
    return (*store)->GetBlob(digest, 3 << 20, [&](ByteSpan data) {
      got.append(data.begin(), data.end());
      return answer;
    });
  };
  EXPECT_TRUE(get(OkStatus()).ok());
  EXPECT_EQ(got, std::string(3 << 20, 'b'));
  EXPECT_EQ(get(InvalidError("enough")).error().message, "enough");
  std::fstream file(dir + "/blobs/sha256/" + digest.substr(7), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp((3 << 20) - 1);
  file << 'c';
  file.close();
  EXPECT_EQ(get(OkStatus()).error().kind, ErrorKind::kMismatch);
  ASSERT_EQ(std::system(("rm -rf " + dir).c_str()), 0);
}

}  // namespace
}  // namespace fastoci
