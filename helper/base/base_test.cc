// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>

#include "base/base64.h"
#include "base/byte_reader.h"
#include "base/digest.h"
#include "base/format.h"
#include "base/json.h"
#include "base/kernel_dev.h"
#include "base/parallel.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

// Where std::thread throws.
TEST(Thread, ThatCannotBeStartedIsAnError) {
  auto child = [] {
    const rlimit none{0, 0};
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) _exit(0);  // root has no limit
    if (setrlimit(RLIMIT_NPROC, &none) != 0) _exit(2);
    auto thread = StartThread([] {});
    if (thread.ok()) _exit(3);
    const bool right = thread.error().kind == ErrorKind::kUnavailable && thread.error().err == EAGAIN;
    int ran = 0;
    for (const Status& s : RunParallel(4, 4, [&](size_t) { return ran++, OkStatus(); }))
      if (!s.ok()) _exit(4);
    _exit(right && ran == 4 ? 0 : 5);
  };
  EXPECT_EXIT(child(), testing::ExitedWithCode(0), "");
}

TEST(ByteReader, ReadPastTheEndFailsForGood) {
  const uint8_t data[] = {1, 2, 3, 4, 5};
  ByteReader r(data);
  EXPECT_EQ(r.U32(), 0x04030201U);
  EXPECT_TRUE(r.ok());
  EXPECT_EQ(r.U16(), 0U);
  EXPECT_FALSE(r.ok());
  EXPECT_EQ(r.U8(), 0U) << "a failed reader gives nothing more";
}

TEST(Json, MembersThatAreNotThereOrOfAnotherTypeAreEmpty) {
  const auto j = nlohmann::json::parse(R"({"t": "x", "n": 7, "m": -7, "o": {}})");
  EXPECT_EQ(JsonText(j, "t"), "x");
  EXPECT_EQ(JsonNumber(j, "n"), 7U);
  for (const char* key : {"n", "o", "none"}) EXPECT_EQ(JsonText(j, key), "") << key;
  for (const char* key : {"t", "m", "o", "none"}) EXPECT_EQ(JsonNumber(j, key), 0U) << key;
  for (const char* no_object : {"[]", "7", "null", "\"t\""}) {
    EXPECT_EQ(JsonText(nlohmann::json::parse(no_object), "t"), "") << no_object;
    EXPECT_EQ(JsonNumber(nlohmann::ordered_json::parse(no_object), "n"), 0U) << no_object;
  }
}

TEST(RunParallel, RunsAsManyAtATimeAsItMay) {
  std::mutex mutex;
  std::condition_variable all_here;
  int running = 0, most = 0;
  auto results = RunParallel(9, 3, [&](size_t i) {
    std::unique_lock lock(mutex);
    most = std::max(most, ++running);
    all_here.notify_all();
    // The first three wait for each other: only together do they go on.
    bool met = i >= 3 || all_here.wait_for(lock, std::chrono::seconds(30), [&] { return most == 3; });
    running--;
    return met ? OkStatus() : Status(InvalidError("alone"));
  });
  EXPECT_EQ(most, 3);
  EXPECT_EQ(results.size(), 9U);
  EXPECT_TRUE(FirstError(results).ok());
  EXPECT_TRUE(FirstError(RunParallel(0, 3, [](size_t) { return OkStatus(); })).ok());
}

TEST(RunParallel, BeginsNothingAfterAFailure) {
  std::vector<size_t> begun;
  auto results = RunParallel(5, 1, [&](size_t i) {
    begun.push_back(i);
    return i == 2 ? Status(InvalidError("two")) : OkStatus();
  });
  EXPECT_EQ(begun, (std::vector<size_t>{0, 1, 2}));
  EXPECT_TRUE(results[1].ok() && results[3].ok());
  EXPECT_EQ(FirstError(results).error().message, "two");
}

TEST(ByteWriter, RoundTripsThroughTheReader) {
  ByteWriter w;
  w.U8(0xab);
  w.U16(0x1234);
  w.U32(0xdeadbeef);
  w.U64(0x0102030405060708ULL);
  ByteReader r(w.bytes());
  EXPECT_EQ(r.U8(), 0xab);
  EXPECT_EQ(r.U16(), 0x1234);
  EXPECT_EQ(r.U32(), 0xdeadbeefU);
  EXPECT_EQ(r.U64(), 0x0102030405060708ULL);
  EXPECT_TRUE(r.ok());
  EXPECT_EQ(r.remaining(), 0U);
}

TEST(Digest, Sha256OfFips180Vector) {
  EXPECT_EQ(DigestString(Sha256::Of(AsBytes(std::string("abc")))),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Digest, FinishStartsAnew) {
  Sha256 h;
  const std::string abc = "abc";
  h.Update(AsBytes(abc));
  const Sha256Digest first = h.Finish();
  h.Update(AsBytes(abc));
  EXPECT_EQ(h.Finish(), first);
}

TEST(Digest, ParseRefusesWhatIsNoDigest) {
  const std::string hex(64, 'a');
  EXPECT_TRUE(ParseDigest("sha256:" + hex).ok());
  for (const std::string& bad : {std::string(), "sha256:" + hex + "a", "sha512:" + hex,
                                 "sha256:" + std::string(64, 'A'), "sha256:" + std::string(63, 'a') + "g"})
    EXPECT_FALSE(ParseDigest(bad).ok()) << bad;
}

// RFC 3720 B.4 and the check value of the CRC catalogue.
TEST(Crc32c, KnownVectors) {
  EXPECT_EQ(Crc32c(AsBytes(std::string("123456789"))), 0xe3069283U);
  EXPECT_EQ(Crc32c(Bytes(32, 0)), 0x8a9136aaU);
  EXPECT_EQ(Crc32c(Bytes(32, 0xff)), 0x62a8ab43U);
}

TEST(Crc32c, RawContinues) {
  const std::string s = "the quick brown fox jumps over the lazy dog";
  const ByteSpan all = AsBytes(s);
  for (size_t cut = 0; cut <= all.size(); cut++)
    EXPECT_EQ(Crc32cRaw(Crc32cRaw(7, all.first(cut)), all.subspan(cut)), Crc32cRaw(7, all));
}

TEST(Base64, IsThatOfTheRfc) {
  const std::pair<const char*, const char*> vectors[] = {
      {"", ""},         {"f", "Zg=="},         {"fo", "Zm8="},        {"foo", "Zm9v"},
      {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}, {"\xff\xfe\xfd", "//79"}};
  for (const auto& [plain, coded] : vectors) {
    EXPECT_EQ(Base64Encode(plain), coded);
    EXPECT_EQ(*Base64Decode(coded), plain);
    const std::string text = coded;
    EXPECT_EQ(*Base64Decode(text.substr(0, text.find('='))), plain) << "without padding";
    EXPECT_EQ(*Base64Decode(text + "\n"), plain);
  }
  EXPECT_EQ(*Base64Decode(Base64Encode(std::string("\0a\0", 3))), std::string("\0a\0", 3));
  for (const char* bad : {"Zg=x", "Z g", "Zm9v!", "-_-_"}) EXPECT_FALSE(Base64Decode(bad).ok()) << bad;
}

TEST(Files, AtomicWriteReplacesAndReadIsBounded) {
  char dir[] = "/tmp/fastoci-test.XXXXXX";
  ASSERT_NE(::mkdtemp(dir), nullptr);
  const std::string path = std::string(dir) + "/a/b/file";
  ASSERT_TRUE(MakeDirs(std::string(dir) + "/a/b").ok());
  ASSERT_TRUE(WriteFileAtomic(path, AsBytes(std::string("one"))).ok());
  ASSERT_TRUE(WriteFileAtomic(path, AsBytes(std::string("three"))).ok());
  EXPECT_EQ(*ReadFile(path, 5), "three");
  EXPECT_FALSE(ReadFile(path, 4).ok());
  EXPECT_EQ(ReadFile(path + "x", 1).error().kind, ErrorKind::kNotFound);
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  Bytes buf(6);
  const Status s = PreadFull(fd.get(), buf, 0, "file");
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().message, "file: ends at byte 5");
  (void)!std::system(("rm -rf " + std::string(dir)).c_str());
}

TEST(HumanBytes, HasOneDigitBehindThePoint) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(uint64_t{3} << 40), "3.0 TiB");
}

TEST(KernelDev, IsNotStatsNumber) {
  const dev_t dev = makedev(259, 0x12345);  // a minor of more than 8 bits, where the layouts differ
  EXPECT_EQ(KernelDev(dev), 259U << 20 | 0x12345);
  EXPECT_EQ(UserDev(KernelDev(dev)), dev);
  EXPECT_EQ(DevName(KernelDev(7, 3)), "7:3");
}

}  // namespace
}  // namespace fastoci
