// SPDX-License-Identifier: Apache-2.0
#include "attach/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <random>

#include "attach/trace_page.h"
#include "base/unique_fd.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(ParseTraceLine, ReadsWhatBothKernelsPrint) {
  auto r = ParseTraceLine("  Web Content-x-1234    [000] ..... 12345.000789: fastoci_map: image=3 "
                          "sector=2048 nr_sectors=8 miss");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->at_ns, 12345000789000);
  EXPECT_EQ(r->sector, 2048U);
  EXPECT_EQ(r->nr_sectors, 8U);
  EXPECT_EQ(r->kind, TraceRead::kMiss);
  EXPECT_EQ(r->program, "Web Content-x");
  EXPECT_EQ(ParseTraceLine("cat-1 [001] d..2. 1.5: fastoci_map: image=3 sector=0 nr_sectors=8 hit\n")->kind,
            TraceRead::kHit);
  EXPECT_EQ(ParseTraceLine("cat-1 [001] .... 1.5: fastoci_map: image=3 sector=0 nr_sectors=8 meta")->at_ns,
            1500000000);
  for (const char* bad : {"", "CPU:0 [LOST 12 EVENTS]", ": fastoci_map: ", "x: fastoci_map: hit",
                          "cat-1 [0] x: fastoci_map: ", "cat-1 [0] 1.5: fastoci_fill: cache=1"})
    EXPECT_FALSE(ParseTraceLine(bad)) << bad;
}

// Two images at a time are two instances. Of a process that was killed none stays.
TEST(MakeTraceInstance, IsNewAndReplacesThoseOfTheDead) {
  char name[] = "/tmp/fastoci-instances.XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string dir = name;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  const std::string dead = "fastoci-" + std::to_string(child);
  const std::vector<std::string> kept = {"fastoci-1", "fastoci-1-2", "fastoci-x", "others-" + std::to_string(child)};
  for (const std::string& instance : kept) ASSERT_EQ(::mkdir((dir + "/" + instance).c_str(), 0700), 0);
  for (const std::string& instance : {dead, dead + "-0"}) ASSERT_EQ(::mkdir((dir + "/" + instance).c_str(), 0700), 0);
  auto one = MakeTraceInstance(dir), two = MakeTraceInstance(dir);
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_NE(*one, *two);
  for (const std::string& path : {*one, *two}) EXPECT_EQ(::rmdir(path.c_str()), 0);
  for (const std::string& instance : kept) EXPECT_EQ(::rmdir((dir + "/" + instance).c_str()), 0) << instance;
  EXPECT_EQ(::rmdir(dir.c_str()), 0) << "something is left";
  EXPECT_FALSE(MakeTraceInstance(dir).ok());
}

// As in containers, where each process is number 1.
TEST(MakeTraceInstance, AnEarlierProcessMayHaveHadTheSameNumber) {
  char name[] = "/tmp/fastoci-instances.XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string dir = name, own = dir + "/fastoci-" + std::to_string(::getpid()) + "-";
  auto before = MakeTraceInstance(dir);
  ASSERT_TRUE(before.ok());
  const int next = std::stoi(before->substr(own.size())) + 1;
  // In a directory that is not empty somebody is at work.
  const std::string busy = own + std::to_string(next), left = own + std::to_string(next + 1);
  for (const std::string& path : {busy, busy + "/x", left}) ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
  auto made = MakeTraceInstance(dir);
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ(*made, left);
  for (const std::string& path : {busy + "/x", busy, left, *before, dir}) EXPECT_EQ(::rmdir(path.c_str()), 0) << path;
}

TEST(TraceBufferKb, IsNotMuchForAllCpusTogether) {
  EXPECT_EQ(TraceBufferKb(0), 4096U);
  EXPECT_EQ(TraceBufferKb(8), 4096U);
  EXPECT_EQ(TraceBufferKb(32), 1024U);
  EXPECT_EQ(TraceBufferKb(256), 512U);
}

TEST(AddHelperLine, TakesChunksAndRequests) {
  Trace t;
  AddHelperLine(R"({"event":"chunk","blob":"sha256:ab","chunk":7,"since":5,"picked":6,"end":9,"ok":true})", &t);
  AddHelperLine(R"({"event":"begun","blob":"sha256:ab","span":1,"begin":6,"end":0})", &t);
  AddHelperLine(R"({"event":"begun","blob":"sha256:ab","span":9,"begin":6,"end":0})", &t);
  AddHelperLine(R"({"event":"progress","blob":"sha256:ab","span":9,"begin":6,"end":0,"bytes":70000})", &t);
  AddHelperLine(R"({"event":"request","blob":"sha256:ab","span":1,"spans":2,"try":1,"bytes":10,"begin":6,)"
                R"("end":9,"network":2,"decode":1,"verify":0,"write":0,"background":false,"error":""})", &t);
  AddHelperLine(R"({"event":"lost","count":3})", &t);
  for (const char* odd : {"", "[]", "{\"event\":3}", R"({"event":"chunk","chunk":"x"})", "{\"ok\":true}"})
    AddHelperLine(odd, &t);
  ASSERT_EQ(t.chunks.size(), 2U);
  EXPECT_EQ(t.chunks[0].chunk_no, 7U);
  EXPECT_EQ(t.chunks[0].end_ns, 9);
  ASSERT_EQ(t.requests.size(), 2U);
  EXPECT_EQ(t.requests[0].network_ns, 2);
  EXPECT_EQ(t.requests[0].end_ns, 9);
  EXPECT_EQ(t.requests[1].end_ns, 0) << "it runs";
  EXPECT_EQ(t.requests[1].bytes, 70000U) << "what it has brought so far";
  EXPECT_EQ(t.lost, 3U);
}

TEST(FileMap, FindsTheFileOfASector) {
  FileMap map;
  map.Add(100, 8, "/b");
  map.Add(8, 8, "/a");
  map.Add(16, 4, "/a");
  map.Sort();
  EXPECT_EQ(map.Find(7), "");
  EXPECT_EQ(map.Find(8), "/a");
  EXPECT_EQ(map.Find(19), "/a");
  EXPECT_EQ(map.Find(20), "");
  EXPECT_EQ(map.Find(107), "/b");
  EXPECT_EQ(FileMap().Find(0), "");
}

TEST(HtmlText, LetsNoMarkupThrough) {
  EXPECT_EQ(HtmlText("<script>&\"'"), "&lt;script&gt;&amp;&quot;&#39;");
  EXPECT_EQ(HtmlText("a\nb\x7f"), "a\xef\xbf\xbd" "b\xef\xbf\xbd");
  EXPECT_EQ(HtmlText("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"), "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
  EXPECT_EQ(HtmlText("\xff\xc3"), "\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(HtmlText("\xc0\xbc"), "\xef\xbf\xbd\xef\xbf\xbd");          // "<", too long
  EXPECT_EQ(HtmlText("\xe0\x80\xbc").find('<'), std::string::npos);
}

// The first 40000 sectors are one blob's data space, the rest is metadata.
std::string MetaImageFile() {
  std::string file(4096 * 4, '\0');
  auto put = [&](size_t at, uint64_t v, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) file[at + i] = static_cast<char>(v >> (8 * i));
  };
  file.replace(0, 8, FASTOCI_META_MAGIC);
  put(offsetof(fastoci_meta_sb, nr_blobs), 1, 4);
  put(offsetof(fastoci_meta_sb, nr_extents), 2, 4);
  put(offsetof(fastoci_meta_sb, blobs), 4096, 8);
  put(offsetof(fastoci_meta_sb, keys), 8192, 8);
  put(offsetof(fastoci_meta_sb, payloads), 12288, 8);
  file.replace(4096 + 32, 32, std::string(32, '\xaa'));
  put(8192 + 4, 40000, 4);
  put(12288, FASTOCI_EXTENT_BLOB << FASTOCI_EXTENT_TYPE_SHIFT | 128, 8);
  put(12288 + 8, FASTOCI_EXTENT_META << FASTOCI_EXTENT_TYPE_SHIFT | 9, 8);
  return file;
}

Result<ExtentMap> MapOf(const std::string& file) {
  char path[] = "/tmp/trace_test.XXXXXX";
  UniqueFd fd(::mkstemp(path));
  EXPECT_EQ(::write(fd.get(), file.data(), file.size()), static_cast<ssize_t>(file.size()));
  auto map = ExtentMap::Read(path);
  ::unlink(path);
  return map;
}

TEST(ExtentMap, FindsTheChunkOfASector) {
  auto map = MapOf(MetaImageFile());
  ASSERT_TRUE(map.ok()) << map.error().message;
  EXPECT_EQ(map->Find(0)->data_sector, 128U);
  EXPECT_EQ(map->Find(39999)->data_sector, 40127U);
  EXPECT_EQ(map->Find(7)->blob, "sha256:" + std::string(64, 'a'));
  EXPECT_FALSE(map->Find(40000));
  const std::string good = MetaImageFile();
  auto with = [&](size_t at, const std::string& bytes) { return std::string(good).replace(at, bytes.size(), bytes); };
  EXPECT_FALSE(MapOf("").ok());
  EXPECT_FALSE(MapOf(with(0, "x")).ok());
  EXPECT_FALSE(MapOf(good.substr(0, 12288)).ok());
  EXPECT_FALSE(MapOf(with(offsetof(fastoci_meta_sb, nr_blobs), "\xff\xff")).ok());
  EXPECT_FALSE(MapOf(with(offsetof(fastoci_meta_sb, nr_extents), "\xff\xff\xff\xff")).ok());
  EXPECT_FALSE(MapOf(with(offsetof(fastoci_meta_sb, keys), std::string(8, '\xff'))).ok());
  EXPECT_FALSE(MapOf(with(12288, std::string(8, '\xff')))->Find(0)) << "a blob that is not there";
}

// A start of two seconds or so. TRACE_PAGE names a file to look at it.
Trace Sample(FileMap* files) {
  Trace t;
  t.image = "app-1.0_fastoci";
  t.ref = "registry.example/team/app:1.0_fastoci";
  t.begin_ns = 1000000000;
  t.end_ns = 3400000000;
  t.chunk_bytes = 65536;
  std::mt19937 rng(7);
  auto pick = [&](int64_t from, int64_t to) { return from + static_cast<int64_t>(rng()) % (to - from); };
  const char* dirs[] = {"/usr/lib/python3.11/", "/usr/lib/x86_64-linux-gnu/", "/opt/app/plugins/enabled/"};
  int64_t at = t.begin_ns;
  for (uint64_t f = 0; f < 40; f++) {
    const std::string path = f == 3 ? "/opt/<script>alert(1)</script>\n.py"
                                    : dirs[f % 3] + std::string("module_") + std::to_string(f * f) +
                                          (f % 5 ? ".py" : ".cpython-311-x86_64-linux-gnu.so.1.2.3");
    files->Add(f * 1000, 900, path);
    for (int i = 0; i < static_cast<int>(f % 7) + 2; i++) {
      at += pick(1000000, 20000000);
      const bool miss = i == 0 && f % 4 != 1;
      t.reads.push_back({at, f * 1000 + static_cast<uint64_t>(i) * 64, 64, miss ? TraceRead::kMiss : TraceRead::kHit, "python3"});
      if (i == 1) t.reads.push_back({at + 100, 90000, 8, TraceRead::kMeta, "python3"});
    }
    if (f % 2) continue;
    const int64_t begin = at - 15000000, took = pick(8000000, 90000000);
    t.chunks.push_back({"sha256:" + std::string(64, 'a'), static_cast<uint32_t>((f * 1000 + 128) / 128), begin, begin + 1000000, begin + took, true});
    t.requests.push_back({"sha256:" + std::string(64, 'a'), f, 2, 1, 400000, f == 30, begin + 1000000, begin + took,
                          took / 2, took / 5, took / 20, took / 10, f == 8 ? "fetch: timeout" : ""});
  }
  files->Sort();
  return t;
}

TEST(RenderTracePage, IsOneSafePageOfItsOwn) {
  FileMap files;
  const Trace trace = Sample(&files);
  auto extents = MapOf(MetaImageFile());
  ASSERT_TRUE(extents.ok());
  const std::string page = RenderTracePage(trace, &*extents, &files);
  if (const char* out = std::getenv("TRACE_PAGE")) std::ofstream(out) << page;
  EXPECT_EQ(page.find("<!DOCTYPE html>"), 0U);
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("http:")));
  EXPECT_THAT(page, Not(HasSubstr("https:")));
  EXPECT_THAT(page, Not(HasSubstr("url(")));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_THAT(page, HasSubstr("/usr/lib/python3.11/module_0.cpython-311"));
  EXPECT_THAT(page, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(page, HasSubstr("fetch: timeout"));
  EXPECT_THAT(page, HasSubstr(" ms\"></i>")) << "a miss has a length";
  EXPECT_THAT(page, HasSubstr("(file system metadata)"));
  auto count = [&](const std::string& tag) {
    size_t n = 0;
    for (size_t i = page.find(tag); i != std::string::npos; i = page.find(tag, i + 1)) n++;
    return n;
  };
  for (const char* tag : {"div", "i", "table", "tr", "td", "bdi", "em", "span", "p", "h2", "style"}) {
    const std::string name = tag;
    EXPECT_EQ(count("<" + name + ">") + count("<" + name + " "), count("</" + name + ">")) << name;
  }
}

TEST(RenderTracePage, CountsARequestThatStillRuns) {
  Trace t;
  t.end_ns = 1000000;
  TraceRequest request;
  request.bytes = 3 << 20;
  request.begin_ns = 5;
  t.requests.push_back(request);
  t.chunks.push_back({"sha256:ab", 1, 10, 20, 30, true});
  const std::string page = RenderTracePage(t, nullptr, nullptr);
  EXPECT_THAT(page, HasSubstr("<b>3.0 MiB</b><span>fetched in 1 request, 1 of them still running<"));
  EXPECT_THAT(page, HasSubstr("the longest of 1 miss<"));
}

TEST(RenderTracePage, TakesTracesInWhichMuchIsMissing) {
  Trace t;
  EXPECT_THAT(RenderTracePage(t, nullptr, nullptr), HasSubstr("</html>"));
  t.begin_ns = 10;
  t.end_ns = 5;
  t.lost = 3;
  t.notes = {"no <b>reads"};
  t.reads.push_back({0, 1, 1, TraceRead::kMiss, ""});
  t.reads.push_back({1000000000000000, 1, 1, TraceRead::kHit, ""});
  const std::string page = RenderTracePage(t, nullptr, nullptr);
  EXPECT_THAT(page, HasSubstr("no &lt;b&gt;reads"));
  EXPECT_THAT(page, HasSubstr("3 events are missing"));
  EXPECT_THAT(page, Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace fastoci
