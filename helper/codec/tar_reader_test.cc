// SPDX-License-Identifier: Apache-2.0
#include "codec/tar_reader.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "testing/test_tar.h"

namespace fastoci {
namespace {

class Recorder : public TarSink {
 public:
  Status OnEntry(const TarEntry& entry) override {
    entries.push_back(entry);
    data.emplace_back();
    return OkStatus();
  }
  Status OnData(uint64_t offset, ByteSpan part) override {
    EXPECT_EQ(offset, data.back().size());
    data.back().append(reinterpret_cast<const char*>(part.data()), part.size());
    return OkStatus();
  }
  Status OnEntryEnd(bool zero_padding) override {
    zero_paddings.push_back(zero_padding);
    return OkStatus();
  }
  std::vector<TarEntry> entries;
  std::vector<std::string> data;
  std::vector<bool> zero_paddings;
};

struct Parsed {
  Recorder r;
  Status status = OkStatus();
};

Parsed Parse(const std::string& tar, size_t step = 1 << 20) {
  Parsed p;
  TarReader reader(&p.r);
  for (size_t at = 0; at < tar.size() && p.status.ok(); at += step)
    p.status = reader.Update(AsBytes(tar).subspan(at, std::min(step, tar.size() - at)));
  if (p.status.ok()) p.status = reader.Finish();
  return p;
}

void ExpectRefused(const std::string& tar, const std::string& part_of_message) {
  Parsed p = Parse(tar);
  ASSERT_FALSE(p.status.ok()) << part_of_message;
  EXPECT_NE(p.status.error().message.find(part_of_message), std::string::npos)
      << p.status.error().message;
  EXPECT_NE(p.status.error().message.find("offset"), std::string::npos);
}

TEST(TarReader, ReadsEntriesWithTheirPlaces) {
  TestTar t;
  t.Dir("./");
  t.Dir("etc/");
  t.File("etc//./passwd", "root");
  t.Symlink("bin", "usr/bin");
  t.HardLink("etc/copy", "./etc/passwd");
  for (size_t step : {1UL, 511UL, 512UL, 100000UL}) {
    Parsed p = Parse(TestTar(t).Finish(), step);
    ASSERT_TRUE(p.status.ok()) << p.status.error().message;
    ASSERT_EQ(p.r.entries.size(), 5u);
    EXPECT_EQ(p.r.entries[0].path, "");
    EXPECT_EQ(p.r.entries[1].path, "etc");
    EXPECT_EQ(p.r.entries[2].path, "etc/passwd");
    EXPECT_EQ(p.r.entries[2].header_offset, 1024u);
    EXPECT_EQ(p.r.entries[2].data_offset, 1536u);
    EXPECT_EQ(p.r.data[2], "root");
    EXPECT_TRUE(p.r.zero_paddings[2]);
    EXPECT_EQ(p.r.entries[3].link, "usr/bin");
    EXPECT_EQ(p.r.entries[4].link, "etc/passwd");
    EXPECT_EQ(p.r.entries[4].type, TarType::kHardLink);
  }
}

TEST(TarReader, TellsPaddingThatIsNotZero) {
  TestTar t;
  t.File("a", "abc");
  std::string tar = t.Finish();
  tar[512 + 100] = 'x';
  Parsed p = Parse(tar);
  ASSERT_TRUE(p.status.ok());
  EXPECT_FALSE(p.r.zero_paddings[0]);
}

TEST(TarReader, AppliesPaxRecords) {
  TestTar t;
  t.Pax({{"path", "a/" + std::string(200, 'n')},
         {"uid", "3000000"},
         {"gid", "4000000000"},
         {"mtime", "-1.25"},
         {"SCHILY.xattr.user.x", std::string("\0=\n", 3)},
         {"LIBARCHIVE.xattr.user.b%3D", "AAEC"}});
  t.File("short", "1");
  t.File("plain", "2");
  Parsed p = Parse(t.Finish());
  ASSERT_TRUE(p.status.ok()) << p.status.error().message;
  const TarEntry& e = p.r.entries[0];
  EXPECT_EQ(e.path, "a/" + std::string(200, 'n'));
  EXPECT_EQ(e.uid, 3000000u);
  EXPECT_EQ(e.gid, 4000000000u);
  EXPECT_EQ(e.mtime_sec, -2);
  EXPECT_EQ(e.mtime_nsec, 750000000u);
  EXPECT_EQ(e.xattrs.at("user.x"), std::string("\0=\n", 3));
  EXPECT_EQ(e.xattrs.at("user.b="), std::string("\0\1\2", 3));
  EXPECT_EQ(e.header_offset, 0u);
  EXPECT_EQ(p.r.entries[1].path, "plain");
  EXPECT_TRUE(p.r.entries[1].xattrs.empty());
}

TEST(TarReader, IgnoresTheRecordsOfGlobalPaxHeaders) {
  TestTar t;
  t.Pax({{"uid", "7"}, {"path", "everywhere"}, {"GNU.sparse.map", "1,2"}, {"SCHILY.xattr.user.x", std::string(600000, 'x')}}, 'g');
  t.Pax({{"uid", "9"}});
  t.File("a", "");
  t.File("b", "");
  // A global header ends what belongs to the entry behind it, as in Go's reader.
  t.Pax({{"uid", "9"}});
  t.Pax({{"comment", "of git"}}, 'g');
  t.File("c", "");
  Parsed p = Parse(t.Finish());
  ASSERT_TRUE(p.status.ok()) << p.status.error().message;
  ASSERT_EQ(p.r.entries.size(), 3u);
  EXPECT_EQ(p.r.entries[0].uid, 9u);
  EXPECT_EQ(p.r.entries[1].uid, 0u);
  EXPECT_EQ(p.r.entries[1].path, "b");
  EXPECT_EQ(p.r.entries[2].uid, 0u);
  for (const TarEntry& e : p.r.entries) EXPECT_TRUE(e.xattrs.empty()) << e.path;
  TestTar bad;
  TestTar::Header h;
  h.type = 'g';
  bad.Add(h, "no record");
  ExpectRefused(bad.Finish(), "PAX record without a length");
}

TEST(TarReader, ReadsGnuLongNamesAndBase256) {
  TestTar t;
  std::string name = "d/" + std::string(250, 'n'), link = std::string(300, 'l');
  TestTar::Header h;
  h.type = 'L';
  t.Add(h, name + '\0');
  h.type = 'K';
  t.Add(h, link + '\0');
  size_t at = t.Symlink("short", "short");
  char* b = t.block(at);
  std::memset(b + 108, 0, 8);
  b[108] = static_cast<char>(0x80);
  b[113] = 0x2d;  // 0x2dc6c0 = 3000000
  b[114] = static_cast<char>(0xc6);
  b[115] = static_cast<char>(0xc0);
  std::memset(b + 136, 0xff, 12);  // -1
  t.FixChecksum(at);
  Parsed p = Parse(t.Finish());
  ASSERT_TRUE(p.status.ok()) << p.status.error().message;
  EXPECT_EQ(p.r.entries[0].path, name);
  EXPECT_EQ(p.r.entries[0].link, link);
  EXPECT_EQ(p.r.entries[0].uid, 3000000u);
  EXPECT_EQ(p.r.entries[0].mtime_sec, -1);
}

// Go before 1.8 wrote a prefix where GNU has times.
TEST(TarReader, APrefixUnderGnusMagicBelongsToThePath) {
  auto path = [](const std::string& prefix) {
    TestTar t;
    const size_t at = t.File("name", "1");
    std::memcpy(t.block(at) + 257, "ustar  ", 8);
    std::memset(t.block(at) + 345, 0, 155);
    std::memcpy(t.block(at) + 345, prefix.data(), prefix.size());
    t.FixChecksum(at);
    Parsed p = Parse(t.Finish());
    return p.status.ok() ? p.r.entries[0].path : p.status.error().message;
  };
  EXPECT_EQ(path("usr/share/" + std::string(80, 'd')), "usr/share/" + std::string(80, 'd') + "/name");
  EXPECT_EQ(path(""), "name");
  // Times are times, in octal and in base 256.
  EXPECT_EQ(path(std::string("14371234567\0" "14371234567\0", 24)), "name");
  EXPECT_EQ(path(std::string("\x80\0\0\0\0\0\0\0\x5f\0\0\1", 12)), "name");
  EXPECT_EQ(path("us\xc3\xa4/x"), "name");
}

TEST(TarReader, NamesOfSeveralKindsComeInGosOrder) {
  auto path = [](bool sparse) {
    TestTar t;
    TestTar::Header h;
    h.type = 'L';
    t.Add(h, std::string("long") + '\0');
    if (sparse) t.Pax({{"path", "pax"}, {"GNU.sparse.map", "0,1"}, {"GNU.sparse.size", "9"}, {"GNU.sparse.name", "sparse"}});
    else t.Pax({{"path", "pax"}});
    t.File("short", "1");
    return Parse(t.Finish()).r.entries.at(0).path;
  };
  EXPECT_EQ(path(false), "long");
  EXPECT_EQ(path(true), "sparse");
}

TEST(TarReader, ReadsSparseFilesOfPax) {
  std::string data(512, 'a');
  data += std::string(100, 'b');
  TestTar t;
  t.Pax({{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "s10"},
         {"GNU.sparse.realsize", "10000"}});
  std::string map = "2\n0\n512\n8192\n100\n";
  map.resize(512);
  t.File("x", map + data);
  t.Pax({{"GNU.sparse.map", "0,512,8192,100"}, {"GNU.sparse.size", "10000"},
         {"GNU.sparse.numblocks", "2"}, {"GNU.sparse.name", "s01"}});
  t.File("x", data);
  t.Raw("");
  std::string body = TestTar::PaxRecord("GNU.sparse.size", "10000") +
                     TestTar::PaxRecord("GNU.sparse.numblocks", "2") +
                     TestTar::PaxRecord("GNU.sparse.offset", "0") +
                     TestTar::PaxRecord("GNU.sparse.numbytes", "512") +
                     TestTar::PaxRecord("GNU.sparse.offset", "8192") +
                     TestTar::PaxRecord("GNU.sparse.numbytes", "100");
  TestTar::Header h;
  h.type = 'x';
  t.Add(h, body);
  t.File("s00", data);
  t.Pax({{"GNU.sparse.major", "0"}, {"GNU.sparse.minor", "1"}, {"GNU.sparse.map", "0,512,8192,100"},
         {"GNU.sparse.size", "10000"}});
  t.File("named01", data);
  Parsed p = Parse(t.Finish());
  ASSERT_TRUE(p.status.ok()) << p.status.error().message;
  ASSERT_EQ(p.r.entries.size(), 4u);
  for (size_t i = 0; i < 4; i++) {
    const TarEntry& e = p.r.entries[i];
    EXPECT_TRUE(e.sparse);
    EXPECT_EQ(e.size, 10000u);
    EXPECT_EQ(e.data_bytes, 612u);
    ASSERT_EQ(e.runs.size(), 2u);
    EXPECT_EQ(e.runs[1].file_offset, 8192u);
    EXPECT_EQ(e.runs[1].bytes, 100u);
    EXPECT_EQ(p.r.data[i], data);
  }
  EXPECT_EQ(p.r.entries[0].path, "s10");
  EXPECT_EQ(p.r.entries[1].path, "s01");
}

TEST(TarReader, ReadsOldGnuSparseFilesWithExtensionHeaders) {
  TestTar t;
  TestTar::Header h;
  h.name = "sparse";
  h.type = 'S';
  h.size = 6 * 512;
  size_t at = t.Add(h);
  char* b = t.block(at);
  std::memcpy(b + 257, "ustar  ", 8);
  std::memset(b + 345, 0, 155);
  for (int i = 0; i < 4; i++) {
    std::snprintf(b + 386 + 24 * i, 12, "%011o", i * 4096);
    std::snprintf(b + 398 + 24 * i, 12, "%011o", 512);
  }
  b[482] = 1;
  std::snprintf(b + 483, 12, "%011o", 40960);
  t.FixChecksum(at);
  std::string extension(512, '\0');
  for (int i = 0; i < 2; i++) {
    std::snprintf(&extension[24 * i], 12, "%011o", (4 + i) * 4096);
    std::snprintf(&extension[24 * i + 12], 12, "%011o", 512);
  }
  t.Raw(extension + std::string(6 * 512, 'd'));
  t.File("next", "n");
  Parsed p = Parse(t.Finish());
  ASSERT_TRUE(p.status.ok()) << p.status.error().message;
  ASSERT_EQ(p.r.entries.size(), 2u);
  EXPECT_EQ(p.r.entries[0].runs.size(), 6u);
  EXPECT_EQ(p.r.entries[0].runs[5].file_offset, 5u * 4096);
  EXPECT_EQ(p.r.entries[0].size, 40960u);
  EXPECT_EQ(p.r.entries[0].data_offset, 1024u);
}

TEST(TarReader, AcceptsAStreamWithoutEndMarkerAndIgnoresWhatFollowsOne) {
  TestTar t;
  t.File("a", "1");
  EXPECT_TRUE(Parse(t.bytes()).status.ok());
  t.Raw(std::string(512, '\0'));
  EXPECT_TRUE(Parse(t.bytes()).status.ok());
  t.Raw(std::string(512, '\0') + "garbage");
  EXPECT_TRUE(Parse(t.bytes()).status.ok());
}

TEST(TarReader, AnExtensionHeaderMayBeTheLastThing) {
  TestTar t;
  t.File("a", "1");
  t.Pax({{"path", "b"}});
  for (const std::string& tar : {t.bytes(), t.Finish()}) {
    Parsed p = Parse(tar);
    EXPECT_TRUE(p.status.ok()) << p.status.error().message;
    EXPECT_EQ(p.r.entries.size(), 1u);
  }
  ExpectRefused(t.bytes() + std::string(100, 'x'), "ends in the middle");
}

TEST(TarReader, AcceptsAStreamThatEndsRightBehindTheLastFilesData) {
  TestTar t;
  t.File("first", "1");
  const size_t begin = t.bytes().size();
  t.File("last", std::string(700, 'l'));
  const std::string tar = t.bytes();
  for (size_t end : {begin + 512 + 700, begin + 512 + 701, tar.size() - 1, tar.size()}) {
    Parsed p = Parse(tar.substr(0, end));
    ASSERT_TRUE(p.status.ok()) << end << ": " << p.status.error().message;
    ASSERT_EQ(p.r.zero_paddings.size(), 2u) << end;
    EXPECT_TRUE(p.r.zero_paddings[1]);
    EXPECT_EQ(p.r.data[1], std::string(700, 'l'));
  }
  for (size_t end : {begin + 1, begin + 511, begin + 512, begin + 512 + 699})
    ExpectRefused(tar.substr(0, end), "ends in the middle");
}

TEST(TarReader, CleansPathsThatStayBelowTheRoot) {
  TestTar t;
  t.File("./a/../dotdot", "");
  t.File("/../../etc/passwd", "");
  t.Dir("a/..");
  t.HardLink("a/b/../../c", "x/./../dotdot");
  t.Pax({{"path", std::string(300, 'x') + "/../short"}});
  t.File("a", "");
  Parsed p = Parse(t.Finish());
  ASSERT_TRUE(p.status.ok()) << p.status.error().message;
  EXPECT_EQ(p.r.entries[0].path, "dotdot");
  EXPECT_EQ(p.r.entries[1].path, "etc/passwd");
  EXPECT_EQ(p.r.entries[2].path, "");
  EXPECT_EQ(p.r.entries[3].path, "c");
  EXPECT_EQ(p.r.entries[3].link, "dotdot");
  EXPECT_EQ(p.r.entries[4].path, "short");
}

TEST(TarReader, RefusesHostilePaths) {
  for (const char* name : {"../etc/passwd", "a/../../b", "..", "a/../../a/b"}) {
    TestTar t;
    t.File(name, "");
    ExpectRefused(t.Finish(), "the path leaves the root");
  }
  TestTar link;
  link.HardLink("a", "../../etc/shadow");
  ExpectRefused(link.Finish(), "the link's target leaves the root");
  TestTar file;
  file.File("a/..", "");
  ExpectRefused(file.Finish(), "root is not a directory");
  TestTar component;
  component.Pax({{"path", std::string(256, 'x')}});
  component.File("a", "");
  ExpectRefused(component.Finish(), "too long");
  TestTar nul;
  nul.Pax({{"path", std::string("a\0b", 3)}});
  nul.File("a", "");
  ExpectRefused(nul.Finish(), "NUL");
  TestTar root;
  root.File("./", "");
  ExpectRefused(root.Finish(), "root");
}

TEST(TarReader, RefusesDamage) {
  TestTar t;
  t.File("a", "data");
  std::string tar = t.Finish();
  ExpectRefused(tar.substr(0, 514), "ends in the middle");
  ExpectRefused(tar.substr(0, 100), "ends in the middle");
  std::string bad = tar;
  bad[0] ^= 1;
  ExpectRefused(bad, "checksum");
  ExpectRefused(std::string(512, '\0') + tar, "end marker");
  TestTar type;
  TestTar::Header h;
  h.name = "a";
  h.type = 'V';
  type.Add(h);
  ExpectRefused(type.Finish(), "type 'V'");
  TestTar size;
  h.type = '0';
  size_t at = size.Add(h);
  size.block(at)[124] = 'z';
  size.FixChecksum(at);
  ExpectRefused(size.Finish(), "number");
  TestTar large;
  large.Pax({{"size", "18446744073709551615"}});
  large.File("a", "");
  ExpectRefused(large.Finish(), "larger than");
  TestTar header;
  h.type = 'x';
  h.size = 2 << 20;
  header.Add(h);
  ExpectRefused(header.Finish(), "extension header larger");
}

TEST(TarReader, RefusesDamagedPaxRecordsAndSparseMaps) {
  for (const char* body : {"x", "5 a=b\n", "99 path=a\n", "0 =\n", "12 path=abc", "7 path\n"}) {
    TestTar t;
    TestTar::Header h;
    h.type = 'x';
    t.Add(h, body);
    t.File("a", "");
    ExpectRefused(t.Finish(), "PAX");
  }
  for (const char* map : {"512,512,0,512", "0,600,512,512", "0,5000000000", "0,1,2", "a,b"}) {
    TestTar t;
    t.Pax({{"GNU.sparse.map", map}, {"GNU.sparse.size", "4096"}});
    t.File("a", std::string(1024, 'x'));
    ExpectRefused(t.Finish(), "sparse");
  }
}

// Nothing but errors may come of damaged input; run under a sanitizer.
TEST(TarReader, SurvivesMutations) {
  TestTar t;
  t.Pax({{"path", "p"}, {"SCHILY.xattr.user.a", "b"}});
  t.File("a", std::string(700, 'a'));
  t.Pax({{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.realsize", "4096"}});
  std::string map = "1\n0\n512\n";
  map.resize(512);
  t.File("s", map + std::string(512, 'd'));
  t.Symlink("l", "t");
  std::string tar = t.Finish();
  std::mt19937 random(1);
  for (int round = 0; round < 2000; round++) {
    std::string bad = tar;
    for (int i = 0; i < 3; i++) bad[random() % bad.size()] = static_cast<char>(random());
    TestTar fixed;
    fixed.Raw(bad);
    if (round % 2)
      for (size_t at = 0; at + 512 <= bad.size(); at += 512)
        if (std::memcmp(fixed.block(at) + 257, "ustar", 5) == 0) fixed.FixChecksum(at);
    (void)Parse(fixed.bytes(), 1000).status.ok();
  }
}

}  // namespace
}  // namespace fastoci
