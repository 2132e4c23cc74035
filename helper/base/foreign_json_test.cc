// SPDX-License-Identifier: Apache-2.0
#include "base/foreign_json.h"

#include <gtest/gtest.h>

namespace fastoci {
namespace {

std::string Nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

TEST(ForeignJson, DepthIsBounded) {
  EXPECT_TRUE(ParseForeignJson(Nested(kMaxForeignJsonDepth)).is_array());
  EXPECT_TRUE(ParseForeignJson(Nested(kMaxForeignJsonDepth + 1)).is_discarded());
  EXPECT_TRUE(ParseForeignJson(Nested(2 << 20)).is_discarded());
  EXPECT_TRUE(ParseForeignJson<nlohmann::ordered_json>(Nested(2 << 20)).is_discarded());
}

TEST(ForeignJson, OnlyWhatIsOpenCounts) {
  std::string wide = "[";
  for (int i = 0; i < 1000; i++) wide += "{\"a\":[]},";
  EXPECT_TRUE(ParseForeignJson(wide + "1]").is_array());
  EXPECT_FALSE(JsonIsDeeperThan(wide + "1]", 3));
  EXPECT_TRUE(JsonIsDeeperThan(wide + "1]", 2));
  // Brackets in strings are text, also behind an escaped quote.
  const std::string text = R"({"a\"[[[[":"\\","b":"]{{{{\""})";
  EXPECT_FALSE(JsonIsDeeperThan(text, 1));
  EXPECT_TRUE(ParseForeignJson(text).is_object());
  EXPECT_FALSE(JsonIsDeeperThan("]]}}[", 1));
}

TEST(ForeignJson, AnObjectIsNothingElse) {
  EXPECT_TRUE(ParseForeignObject("{}", "it").ok());
  for (const char* other : {"", "[]", "null", "{", "\"\""})
    EXPECT_EQ(ParseForeignObject(other, "it").error().message, "it is not a JSON object") << other;
}

TEST(ForeignJson, BadUtf8IsReplaced) {
  EXPECT_EQ(ParseForeignJson("{\"a\":\"x\xff\"}")["a"], "x\xef\xbf\xbd");
  EXPECT_EQ(ParseForeignJson("{\"a\":\"\xe4\"}")["a"], "\xef\xbf\xbd");  // takes no quote with it
  EXPECT_TRUE(ParseForeignJson("{").is_discarded());
}

}  // namespace
}  // namespace fastoci
