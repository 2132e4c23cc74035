// SPDX-License-Identifier: Apache-2.0
#include "base/utf8.h"

#include <gtest/gtest.h>

namespace fastoci {
namespace {

constexpr char kBad[] = "\xef\xbf\xbd";

TEST(Utf8, LeavesCharactersAlone) {
  for (const char* text : {"", "a", "\xc3\xa9", "\xe4\xb8\xad", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf", "x\xed\x9f\xbfy", kBad})
    EXPECT_EQ(ReplaceBadUtf8(text), text);
  EXPECT_EQ(ReplaceBadUtf8(std::string("a\0b", 3)), std::string("a\0b", 3));
}

TEST(Utf8, ReplacesEachByteThatBelongsToNone) {
  const std::string bad = kBad;
  EXPECT_EQ(ReplaceBadUtf8("a\xff" "b"), "a" + bad + "b");
  EXPECT_EQ(ReplaceBadUtf8("\x80"), bad);
  EXPECT_EQ(ReplaceBadUtf8("\xe4\xb8"), bad + bad);          // cut off
  EXPECT_EQ(ReplaceBadUtf8("\xc0\xaf"), bad + bad);          // overlong
  EXPECT_EQ(ReplaceBadUtf8("\xed\xa0\x80"), bad + bad + bad);  // a surrogate
  EXPECT_EQ(ReplaceBadUtf8("\xf4\x90\x80\x80"), bad + bad + bad + bad);
  EXPECT_EQ(ReplaceBadUtf8("\xc3" "a"), bad + "a");
}

}  // namespace
}  // namespace fastoci
