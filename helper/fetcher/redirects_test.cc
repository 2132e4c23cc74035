// SPDX-License-Identifier: Apache-2.0
#include "fetcher/redirects.h"

#include <gtest/gtest.h>

#include <vector>

namespace fastoci {
namespace {

constexpr int64_t kNow = 1700000000;  // 2023-11-14T22:13:20Z

TEST(Redirects, TheUrlSaysUntilWhenItIsGood) {
  struct Case {
    const char* url;
    int64_t expiry;
  };
  const std::string cdn = "https://cdn.example/x";
  for (const Case& c : std::vector<Case>{
           {"", kNow + 60},
           {"?a=b", kNow + 60},
           {"?X-Amz-Date=20231114T221000Z&X-Amz-Expires=1200", kNow - 200 + 1200 - 15},
           {"?x-amz-expires=1200&x-amz-date=20231114T221320Z#f", kNow + 1200 - 15},
           {"?X-Goog-Date=20231114T221320Z&X-Goog-Expires=600", kNow + 600 - 15},
           {"?Expires=1700000900&Signature=a%3D", 1700000900 - 15},
           {"?se=2023-11-14T22%3A23%3A20Z&sp=r", kNow + 600 - 15},
           {"?Expires=1699999999", 1699999999 - 15},
           {"?Expires=99999999999", kNow + 3600},
           {"?X-Amz-Date=20231114T221320Z&X-Amz-Expires=99999999999999999", kNow + 3600},
           {"?X-Amz-Date=yesterday&X-Amz-Expires=600", kNow + 60},
           {"?Expires=18446744073709551615", kNow + 60},
           {"?Expires=soon", kNow + 60},
           {"?se=%", kNow + 60},
           {"?&&=&se", kNow + 60},
       })
    EXPECT_EQ(UrlExpiry(cdn + c.url, kNow), c.expiry) << c.url;
}

TEST(Redirects, AreUsedUntilTheyExpireOrAreDropped) {
  Redirects r;
  EXPECT_EQ(r.Find(1, kNow), "");
  r.Put(1, "https://cdn/1", kNow);
  r.Put(2, "https://cdn/2?Expires=" + std::to_string(kNow + 10), kNow);
  EXPECT_EQ(r.Find(1, kNow + 59), "https://cdn/1");
  EXPECT_EQ(r.Find(1, kNow + 60), "");
  EXPECT_EQ(r.Find(2, kNow), "") << "too short a life to be of use";
  r.Put(1, "https://cdn/1", kNow);
  r.Drop(1);
  EXPECT_EQ(r.Find(1, kNow), "");
}

}  // namespace
}  // namespace fastoci
