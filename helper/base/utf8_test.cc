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

TEST(Utf8, PrintableTextForgesNoLineAndCommandsNoTerminal) {
  EXPECT_EQ(Printable("a\033[2Jb\rc\x7f\nd\te"), "a?[2Jb?c? d e");
  EXPECT_EQ(Printable("\xc2\x9b" "2J \xc2\xa0 \xc3\xa4 \x9b"), "?2J \xc2\xa0 \xc3\xa4 \xef\xbf\xbd");
  EXPECT_EQ(PrintableLines("a\n\tb\033c"), "a\n\tb?c");
  EXPECT_EQ(Printable(""), "");
}

}  // namespace
}  // namespace fastoci
