// SPDX-License-Identifier: Apache-2.0
// Runs the real decoder process behind its client, fed through a real arena.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <zlib.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "codec/gzip_index.h"
#include "codec/zstd_index.h"
#include "decoder/client.h"
#include "decoder/message.h"
#include "decoder/space.h"
#include "fastoci_meta.h"
#include "testing/test_tar.h"

namespace fastoci {
namespace {

constexpr uint64_t kArenaBytes = 8 << 20;

std::string DecoderPath() {
  // build/test/decoder -> bin/fastoci-decoderd
  auto self = std::filesystem::read_symlink("/proc/self/exe");
  return (self.parent_path().parent_path().parent_path() / "bin/fastoci-decoderd").string();
}

Bytes MakeData(size_t n) {
  std::mt19937 rng(42);
  Bytes d;
  while (d.size() < n) {
    size_t len = 1 + rng() % 400;
    if (d.size() < 40000 || rng() % 3 == 0) {
      for (size_t i = 0; i < len; i++) d.push_back(static_cast<uint8_t>(rng()));
    } else {
      size_t distance = 1 + rng() % 32000;
      for (size_t i = 0; i < len; i++) d.push_back(d[d.size() - distance]);
    }
  }
  d.resize(n);
  return d;
}

Bytes Gzip(const Bytes& data) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  Bytes out(deflateBound(&z, data.size()));
  z.next_in = const_cast<Bytef*>(data.data());
  z.avail_in = static_cast<uInt>(data.size());
  z.next_out = out.data();
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

Bytes IndexOf(const Bytes& gz, uint32_t span) {
  auto b = GzipIndexBuilder::Create({.span_bytes = span}, [](ByteSpan) { return OkStatus(); });
  EXPECT_TRUE(b->Update(gz).ok());
  auto file = b->Finish();
  EXPECT_TRUE(file.ok());
  return *file;
}

class DecoderTest : public testing::Test {
 protected:
  void SetUp() override {
    arena_fd_ = UniqueFd(memfd_create("arena", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(arena_fd_.get(), kArenaBytes), 0);
    arena_ = static_cast<uint8_t*>(
        mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, arena_fd_.get(), 0));
    ASSERT_NE(arena_, MAP_FAILED);
    Restart();
  }
  void TearDown() override { munmap(arena_, kArenaBytes); }
  void Restart() {
    auto c = DecoderClient::Spawn(DecoderPath(), arena_fd_.get());
    ASSERT_TRUE(c.ok()) << c.error().message;
    client_ = std::move(*c);
  }
  Status OpenSpace(uint64_t space, uint32_t codec, uint64_t data_bytes, uint64_t blob_bytes,
                   ByteSpan index) {
    auto fd = MakeSealedMemfd("index", index);
    return client_->OpenSpace(space, codec, data_bytes, blob_bytes, fd->get());
  }

  struct Outcome {
    Bytes data;
    int err = 0;
    std::string text;
    std::vector<uint32_t> told;  // lengths of the Outputs
  };
  // Feeds `input` in steps, each to another place; acknowledges Outputs in groups. What a step
  // brought is overwritten once the decoder said that it is done.
  Outcome Run(const DecoderClient::Request& request, ByteSpan input, size_t step = 100000,
              unsigned ack_every = 1) {
    Outcome o;
    Status s = client_->Decode(request);
    EXPECT_TRUE(s.ok()) << s.error().message;
    uint64_t fed = 0, done = 0;
    bool eof_sent = false;
    unsigned unacked = 0;
    auto place = [](uint64_t at) { return at % kArenaBytes; };
    while (client_->busy()) {
      while (!eof_sent && client_->inputs_open() < kMaxInputs && fed - done < kArenaBytes / 2) {
        size_t n = std::min<size_t>({step, input.size() - fed, kArenaBytes - place(fed)});
        std::copy_n(input.begin() + static_cast<ptrdiff_t>(fed), n, arena_ + place(fed));
        fed += n;
        eof_sent = fed == input.size();
        EXPECT_TRUE(client_->Input(place(fed - n), n, eof_sent).ok());
      }
      auto m = client_->Receive(20000);
      if (!m.ok()) {
        ADD_FAILURE() << m.error().message;
        return o;
      }
      if (m->op == DecodeOp::kInputDone) {
        for (; done < m->total; done++) arena_[place(done)] = 0xee;
      }
      if (m->op == DecodeOp::kOutput) {
        EXPECT_EQ(m->data_offset, request.out_begin + o.data.size());
        size_t at = o.data.size();
        o.data.resize(at + m->length);
        o.told.push_back(m->length);
        client_->Copy(m->data_offset, std::span(o.data).subspan(at));
        if (++unacked == ack_every) {
          EXPECT_TRUE(client_->OutputDone().ok());
          unacked = 0;
        }
      }
      if (m->op == DecodeOp::kFailed) {
        o.err = m->err;
        o.text = m->text;
      }
    }
    return o;
  }

  UniqueFd arena_fd_;
  uint8_t* arena_ = nullptr;
  std::unique_ptr<DecoderClient> client_;
};

ByteSpan Slice(const Bytes& d, uint64_t begin, uint64_t end) {
  return ByteSpan(d).subspan(begin, end - begin);
}

TEST_F(DecoderTest, RawRangesOfAnyLength) {
  Bytes data = MakeData((5 << 20) + 777);
  ASSERT_TRUE(OpenSpace(7, FASTOCI_CODEC_RAW, data.size(), data.size(), {}).ok());
  struct {
    uint64_t span, begin, end, blob;
  } cases[] = {{0, 0, 65536, 0},
               {0, 0, data.size(), 0},
               {1 << 20, 1 << 20, 2 << 20, 1 << 20},
               {1 << 20, (1 << 20) + 65536, 2 << 20, (1 << 20) - 100},
               {5 << 20, 5 << 20, data.size(), 5 << 20}};
  uint32_t job = 1;
  for (auto& c : cases) {
    for (unsigned ack : {1U, 2U}) {
      auto o = Run({job++, 7, c.span, c.blob, c.begin, c.end}, Slice(data, c.blob, data.size()),
                   70001, ack);
      EXPECT_EQ(o.err, 0) << o.text;
      EXPECT_TRUE(std::ranges::equal(o.data, Slice(data, c.begin, c.end))) << c.begin;
    }
  }
}

TEST_F(DecoderTest, GzipSpansAcrossCheckpoints) {
  Bytes data = MakeData((4 << 20) + 12345);
  Bytes gz = Gzip(data);
  Bytes file = IndexOf(gz, 300000);
  auto index = GzipIndex::Parse(file);
  ASSERT_TRUE(index.ok());
  ASSERT_GT(index->entries().size(), 5U);
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_GZIP, data.size(), gz.size(), file).ok());
  uint32_t job = 1;
  for (const auto& e : index->entries()) {
    uint64_t begin = (e.data_offset + kPieceBytes - 1) / kPieceBytes * kPieceBytes;
    for (uint64_t end : {std::min<uint64_t>(begin + 5 * kPieceBytes, data.size()), data.size()}) {
      if (begin >= end) continue;
      for (size_t step : {1000UL, 1UL << 20}) {
        auto o = Run({job++, 1, e.data_offset, e.blob_offset(), begin, end},
                     Slice(gz, e.blob_offset(), gz.size()), step);
        EXPECT_EQ(o.err, 0) << o.text;
        EXPECT_TRUE(std::ranges::equal(o.data, Slice(data, begin, end))) << e.data_offset;
      }
    }
  }
}

// A range over the ends of members, empty ones and zeros between them.
TEST_F(DecoderTest, GzipMembersAreOneStream) {
  Bytes data = MakeData(500000), gz;
  for (auto [begin, end] : {std::pair<int, int>{0, 100000}, {100000, 100000}, {100000, 100003}, {100003, 500000}}) {
    Bytes member = Gzip(Bytes(data.begin() + begin, data.begin() + end));
    gz.insert(gz.end(), member.begin(), member.end());
    gz.insert(gz.end(), 5, 0);
  }
  Bytes file = IndexOf(gz, 1 << 20);
  auto index = GzipIndex::Parse(file);
  ASSERT_TRUE(index.ok());
  ASSERT_EQ(index->entries().size(), 3U);
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_GZIP, data.size(), gz.size(), file).ok());
  uint32_t job = 1;
  for (const auto& e : index->entries()) {
    uint64_t begin = (e.data_offset + kPieceBytes - 1) / kPieceBytes * kPieceBytes;
    for (size_t step : {7UL, 1000UL, 1UL << 20}) {
      auto o = Run({job++, 1, e.data_offset, e.blob_offset(), begin, data.size()},
                   Slice(gz, e.blob_offset(), gz.size()), step);
      EXPECT_EQ(o.err, 0) << o.text;
      EXPECT_TRUE(std::ranges::equal(o.data, Slice(data, begin, data.size()))) << e.data_offset;
    }
  }
}

// A range over the ends of frames; blocks straddle pieces and input steps.
TEST_F(DecoderTest, ZstdFramesAreOneStream) {
  Bytes data = MakeData(900000);
  std::string blob;
  for (auto [begin, end] : {std::pair<int, int>{0, 400000}, {400000, 400000}, {400000, 400003}, {400003, 900000}})
    blob += TestZstd(std::string(data.begin() + begin, data.begin() + end));
  auto b = ZstdIndexBuilder::Create({.span_bytes = 1000}, [](ByteSpan) { return OkStatus(); });
  ASSERT_TRUE(b->Update(AsBytes(blob)).ok());
  Bytes file = *b->Finish();
  auto index = ZstdIndex::Parse(file);
  ASSERT_TRUE(index.ok());
  ASSERT_EQ(index->entries().size(), 2U);  // the frame of 3 bytes is part of a span
  Bytes in(blob.begin(), blob.end());
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_ZSTD, data.size(), blob.size(), file).ok());
  uint32_t job = 1;
  for (const auto& e : index->entries()) {
    uint64_t begin = (e.data_offset + kPieceBytes - 1) / kPieceBytes * kPieceBytes;
    for (uint64_t end : {begin + 2 * kPieceBytes, data.size()}) {
      for (size_t step : {100UL, 1UL << 20}) {
        auto o = Run({job++, 1, e.data_offset, e.blob_offset, begin, end},
                     Slice(in, e.blob_offset, in.size()), step);
        EXPECT_EQ(o.err, 0) << o.text;
        EXPECT_TRUE(std::ranges::equal(o.data, Slice(data, begin, end))) << e.data_offset;
      }
    }
  }
  EXPECT_EQ(Run({job++, 1, 65536, 0, 65536, 131072}, {}).err, EINVAL);
  in[in.size() - 50] ^= 1;
  EXPECT_EQ(Run({job++, 1, 0, 0, 0, data.size()}, in).err, EBADMSG);
}

TEST_F(DecoderTest, ZFileInATarWrapper) {
  Bytes data = MakeData((2 << 20) + 4321);
  Bytes blob(1536, 0xee);
  for (uint32_t block : {4096U, 65536U}) {
    blob.resize(1536);
    auto w = ZFileWriter::Create({.block_bytes = block}, [&blob](ByteSpan s) {
      blob.insert(blob.end(), s.begin(), s.end());
      return OkStatus();
    });
    ASSERT_TRUE(w->Update(data).ok());
    auto header = w->Finish();
    ASSERT_TRUE(header.ok());
    std::copy(header->begin(), header->end(), blob.begin() + 1536);
    MemoryFile whole(blob);
    auto index = ZFileIndex::Read(SubFile(&whole, 1536, blob.size() - 1536));
    ASSERT_TRUE(index.ok()) << index.error().message;
    Bytes file = index->Serialize(1536);
    ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_ZFILE, data.size(), blob.size(), file).ok());
    for (uint64_t span : {uint64_t{0}, uint64_t{1} << 20, uint64_t{2} << 20}) {
      uint64_t from = 1536 + index->block_offset(span / block);
      auto o = Run({1, 1, span, from, span, data.size()}, Slice(blob, from, blob.size()), 777);
      EXPECT_EQ(o.err, 0) << o.text;
      EXPECT_TRUE(std::ranges::equal(o.data, Slice(data, span, data.size())));
    }
    EXPECT_EQ(Run({1, 1, 100, 1536, 65536, 131072}, {}).err, EINVAL);
    Bytes bad = blob;
    bad[1536 + index->block_offset(3) + 5] ^= 1;
    auto o = Run({1, 1, 0, 0, 0, data.size()}, bad);
    EXPECT_EQ(o.err, EBADMSG);
    EXPECT_NE(o.text.find("block 3: wrong checksum"), std::string::npos) << o.text;
  }
}

TEST_F(DecoderTest, StopsWithoutRoomAndGoesOn) {
  Bytes data = MakeData(4 << 20);
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_RAW, data.size(), data.size(), {}).ok());
  ASSERT_TRUE(client_->Decode({1, 1, 0, 0, 0, 2 << 20}).ok());
  std::copy_n(data.begin(), 2 << 20, arena_);
  ASSERT_TRUE(client_->Input(0, 2 << 20, true).ok());
  uint64_t bytes = 0;
  for (;;) {
    auto m = client_->Receive(300);
    if (!m.ok()) {
      EXPECT_EQ(m.error().err, ETIMEDOUT);
      break;
    }
    EXPECT_EQ(m->op, DecodeOp::kOutput);
    bytes += m->length;
  }
  EXPECT_EQ(bytes, kOutputPieces * kPieceBytes);
  ASSERT_TRUE(client_->OutputDone().ok());
  while (client_->busy()) {
    auto m = client_->Receive(5000);
    ASSERT_TRUE(m.ok()) << m.error().message;
    if (m->op == DecodeOp::kOutput) {
      Bytes piece(m->length);
      client_->Copy(m->data_offset, piece);
      EXPECT_TRUE(std::ranges::equal(piece, Slice(data, m->data_offset, m->data_offset + m->length)));
      bytes += m->length;
    }
  }
  EXPECT_EQ(bytes, 2 * kOutputPieces * kPieceBytes);
}

TEST_F(DecoderTest, TellsPiecesInBulkAndUrgentOnesEach) {
  Bytes data = MakeData((20 * kPieceBytes) + 100);
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_RAW, data.size(), data.size(), {}).ok());
  constexpr uint32_t kPiece = kPieceBytes;
  auto o = Run({1, 1, 0, 0, 0, data.size()}, data, 4 << 20);
  EXPECT_EQ(o.told, (std::vector<uint32_t>{8 * kPiece, 8 * kPiece, 4 * kPiece + 100}));
  EXPECT_EQ(o.data, data);
  o = Run({2, 1, 0, 0, 0, data.size(), 3 * kPieceBytes, 5 * kPieceBytes}, data, 4 << 20);
  ASSERT_GE(o.told.size(), 4U);
  uint64_t end = 0;
  std::set<uint64_t> ends;
  for (uint32_t length : o.told) ends.insert(end += length);
  EXPECT_TRUE(ends.count(4 * kPieceBytes) && ends.count(5 * kPieceBytes)) << "at once";
  EXPECT_EQ(o.data, data);
  // What comes before it is told in small parts, so that it does not wait for their hashes.
  o = Run({4, 1, 0, 0, 0, data.size(), 6 * kPieceBytes, 7 * kPieceBytes}, data, 4 << 20);
  EXPECT_EQ(o.told, (std::vector<uint32_t>{4 * kPiece, 2 * kPiece, kPiece, kPiece, 8 * kPiece,
                                           4 * kPiece + 100}));
  // A decoder that has to wait for input keeps nothing back.
  ASSERT_TRUE(client_->Decode({3, 1, 0, 0, 0, data.size()}).ok());
  ASSERT_TRUE(client_->Input(0, 2 * kPieceBytes + 5, false).ok());
  uint64_t got = 0;
  while (got < 2 * kPieceBytes) {
    auto m = client_->Receive(5000);
    ASSERT_TRUE(m.ok()) << m.error().message;
    if (m->op == DecodeOp::kOutput) got += m->length;
  }
  EXPECT_EQ(got, 2 * kPieceBytes);
}

TEST_F(DecoderTest, RefusesInputOutsideOfTheArena) {
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_RAW, 1 << 20, 1 << 20, {}).ok());
  uint32_t job = 1;
  for (auto [offset, length] : {std::pair<uint64_t, uint64_t>{kArenaBytes, 1},
                                {kArenaBytes - 1, 2},
                                {UINT64_MAX, 1},
                                {UINT64_MAX - 10, 65536}}) {
    ASSERT_TRUE(client_->Decode({job++, 1, 0, 0, 0, 65536}).ok());
    ASSERT_TRUE(client_->Input(offset, length, true).ok());
    auto m = client_->Receive(5000);
    ASSERT_TRUE(m.ok()) << m.error().message;
    EXPECT_EQ(m->op, DecodeOp::kFailed);
    EXPECT_EQ(m->err, EINVAL);
  }
}

TEST_F(DecoderTest, SaysWhyAJobFailed) {
  Bytes data = MakeData(1 << 20);
  Bytes gz = Gzip(data);
  Bytes file = IndexOf(gz, 100000);
  auto index = GzipIndex::Parse(file);
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_GZIP, data.size(), gz.size(), file).ok());
  EXPECT_EQ(Run({1, 99, 0, 0, 0, 65536}, gz).err, ESTALE);
  EXPECT_EQ(Run({2, 1, 12345, 0, 0, 65536}, gz).err, EINVAL);    // span behind the range
  EXPECT_EQ(Run({3, 1, 0, 11, 0, 65536}, gz).err, EINVAL);       // input behind the checkpoint
  EXPECT_EQ(Run({4, 1, 0, 0, 0, 65535}, gz).err, EINVAL);        // not aligned
  EXPECT_EQ(Run({5, 1, 0, 0, 65536, 65536}, gz).err, EINVAL);    // empty
  EXPECT_EQ(Run({6, 1, 0, 0, 0, 2 << 20}, gz).err, EINVAL);      // behind the end
  EXPECT_EQ(Run({7, 1, 12345, 0, 65536, 131072}, gz).err, EINVAL);  // no checkpoint

  auto cut = Run({8, 1, 0, 0, 0, data.size()}, Slice(gz, 0, gz.size() / 2));
  EXPECT_EQ(cut.err, EBADMSG);
  EXPECT_NE(cut.text.find("data offset "), std::string::npos) << cut.text;
  EXPECT_NE(cut.text.find("input ends too early"), std::string::npos) << cut.text;
  EXPECT_EQ(Run({9, 1, 0, 0, 0, 65536}, {}).err, EBADMSG);

  Bytes bad = gz;
  for (size_t i = 5000; i < 200000; i++) bad[i] = static_cast<uint8_t>(i * 7);
  auto corrupt = Run({10, 1, 0, 0, 0, data.size()}, bad);
  EXPECT_EQ(corrupt.err, EBADMSG);
  EXPECT_NE(corrupt.text.find("deflate stream"), std::string::npos) << corrupt.text;

  EXPECT_EQ(Run({11, 1, 0, 0, 0, data.size()}, gz).err, 0);  // and it still works
}

TEST_F(DecoderTest, BadIndexIsToldByDecode) {
  Bytes gz = Gzip(MakeData(200000));
  Bytes file = IndexOf(gz, 100000);
  Bytes bad = file;
  bad[50] ^= 1;
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_GZIP, 200000, gz.size(), bad).ok());
  auto o = Run({1, 1, 0, 0, 0, 65536}, gz);
  EXPECT_EQ(o.err, EINVAL);
  EXPECT_NE(o.text.find("gzip index"), std::string::npos) << o.text;
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_GZIP, 200001, gz.size(), file).ok());
  EXPECT_EQ(Run({2, 1, 0, 0, 0, 65536}, gz).err, EINVAL);
  ASSERT_TRUE(OpenSpace(1, 77, 200000, gz.size(), file).ok());
  EXPECT_EQ(Run({3, 1, 0, 0, 0, 65536}, gz).err, EOPNOTSUPP);
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_GZIP, 200000, gz.size(), {}).ok());
  EXPECT_EQ(Run({4, 1, 0, 0, 0, 65536}, gz).err, EINVAL);
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_GZIP, 200000, gz.size(), file).ok());
  EXPECT_EQ(Run({5, 1, 0, 0, 0, 65536}, gz).err, 0);
}

TEST_F(DecoderTest, ForgetsTheLeastRecentlyUsedSpace) {
  Bytes data(65536, 'x');
  for (uint64_t s = 0; s < kMaxSpaces; s++)
    ASSERT_TRUE(OpenSpace(s, FASTOCI_CODEC_RAW, data.size(), data.size(), {}).ok());
  EXPECT_EQ(Run({1, 0, 0, 0, 0, 65536}, data).err, 0);  // now space 1 is the oldest
  ASSERT_TRUE(OpenSpace(1000, FASTOCI_CODEC_RAW, data.size(), data.size(), {}).ok());
  EXPECT_EQ(Run({2, 0, 0, 0, 0, 65536}, data).err, 0);
  EXPECT_EQ(Run({3, 1, 0, 0, 0, 65536}, data).err, ESTALE);
  EXPECT_EQ(Run({4, 1000, 0, 0, 0, 65536}, data).err, 0);
}

// A decoder that reads nothing must not hold up the broker.
TEST_F(DecoderTest, OneThatDoesNotReadBreaksTheProtocol) {
  ASSERT_EQ(kill(client_->pid(), SIGSTOP), 0);
  auto index = MakeSealedMemfd("index", {});
  Status s = OkStatus();
  for (int i = 0; s.ok() && i < 100000; i++)
    s = client_->OpenSpace(1, FASTOCI_CODEC_RAW, 1, 1, index->get());
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().err, EPROTO) << s.error().message;
}

TEST_F(DecoderTest, Cancel) {
  Bytes data = MakeData(1 << 20);
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_RAW, data.size(), data.size(), {}).ok());
  ASSERT_TRUE(client_->Decode({1, 1, 0, 0, 0, 65536}).ok());
  ASSERT_TRUE(client_->Cancel().ok());
  auto m = client_->Receive(5000);
  ASSERT_TRUE(m.ok());
  EXPECT_EQ(m->op, DecodeOp::kFailed);
  EXPECT_EQ(m->err, ECANCELED);
  EXPECT_FALSE(client_->busy());
  // A message for the job that is gone is nobody's.
  ASSERT_TRUE(client_->Input(0, 5, true).ok());
  auto o = Run({2, 1, 0, 0, 0, data.size()}, data);
  EXPECT_EQ(o.err, 0) << o.text;
  EXPECT_EQ(o.data, data);
}

TEST_F(DecoderTest, EndsWithItsSocketAndHoldsNothingElse) {
  UniqueFd leak(open("/dev/zero", O_RDONLY));  // without O_CLOEXEC
  Restart();
  pid_t pid = client_->pid();
  ASSERT_TRUE(OpenSpace(1, FASTOCI_CODEC_RAW, 65536, 65536, {}).ok());
  EXPECT_EQ(Run({1, 1, 0, 0, 0, 65536}, Bytes(65536)).err, 0);  // the sandbox stands
  std::string proc = "/proc/" + std::to_string(pid);
  unsigned fds = 0;
  for (const auto& f : std::filesystem::directory_iterator(proc + "/fd")) {
    fds++;
    int n = std::stoi(f.path().filename().string());
    EXPECT_LE(n, 5) << std::filesystem::read_symlink(f.path());
  }
  EXPECT_GE(fds, 4U);
  std::ifstream status(proc + "/status");
  std::string line;
  unsigned seen = 0;
  while (std::getline(status, line)) {
    auto is = [&](const char* key, const char* value) {
      if (line.rfind(key, 0) != 0) return;
      seen++;
      EXPECT_NE(line.find(value), std::string::npos) << line;
    };
    is("CapEff:", "0000000000000000");
    is("CapPrm:", "0000000000000000");
    is("NoNewPrivs:", "1");
    is("Seccomp:", "2");
    if (geteuid() == 0) {
      is("Uid:", "65534\t65534\t65534\t65534");
      is("Gid:", "65534\t65534\t65534\t65534");
      is("Groups:", "Groups:");
      is("CapBnd:", "0000000000000000");
    }
  }
  EXPECT_EQ(seen, geteuid() == 0 ? 8U : 4U);
  ASSERT_EQ(shutdown(client_->socket_fd(), SHUT_RDWR), 0);
  for (int i = 0; i < 500; i++) {  // a zombie until the client reaps it
    std::ifstream stat(proc + "/stat");
    std::getline(stat, line);
    if (line.find(") Z ") != std::string::npos) return;
    usleep(10000);
  }
  ADD_FAILURE() << "decoder is still there";
}

TEST_F(DecoderTest, DecoderDeathIsNoticed) {
  ASSERT_EQ(kill(client_->pid(), SIGKILL), 0);
  auto m = client_->Receive(5000);
  ASSERT_FALSE(m.ok());
  EXPECT_EQ(m.error().err, EPIPE);
}

TEST(DecoderClientTest, SpawnTellsWhatFailed) {
  UniqueFd ring(memfd_create("arena", MFD_CLOEXEC));
  auto c = DecoderClient::Spawn("/nonexistent/decoder", ring.get());
  ASSERT_FALSE(c.ok());
  EXPECT_EQ(c.error().err, ENOENT);
  // An empty arena: the decoder gives up before it serves.
  auto d = DecoderClient::Spawn(DecoderPath(), ring.get());
  ASSERT_TRUE(d.ok());
  EXPECT_EQ((*d)->Receive(5000).error().err, EPIPE);
}

// Random requests and totals: each is answered, none kills the decoder.
TEST_F(DecoderTest, SurvivesRandomMessages) {
  std::mt19937 rng(3);
  Bytes gz = Gzip(MakeData(300000));
  Bytes file = IndexOf(gz, 50000);
  auto number = [&]() -> uint64_t {
    const uint64_t some[] = {0, 1, 65536, 131072, 300000, 1 << 20, UINT64_MAX, UINT64_MAX - 65535};
    return some[rng() % std::size(some)];
  };
  auto index_fd = MakeSealedMemfd("index", file);
  for (int i = 0; i < 3000; i++) {
    DecodeMessage m{};
    m.op = static_cast<DecodeOp>(1 + rng() % 5);
    m.job = rng() % 2;
    m.space = rng() % 3;
    m.codec = rng() % 3;
    m.eof = rng() % 4 == 0;
    m.data_bytes = rng() % 2 ? 300000 : number();
    m.blob_bytes = rng() % 2 ? gz.size() : number();
    m.span_data_offset = number();
    m.blob_offset = number();
    m.out_begin = number();
    m.out_end = number();
    m.total = number();
    m.arena_offset = number();
    m.length = static_cast<uint32_t>(number());
    int fd = rng() % 4 ? index_fd->get() : -1;
    ASSERT_TRUE(SendDecodeMessage(client_->socket_fd(), m, fd).ok()) << i;
    // Now and then until it is quiet, so that not both ends wait to send.
    while (ReceiveDecodeMessage(client_->socket_fd(), i % 50 == 0 ? 20 : 0).ok()) {
    }
  }
  DecodeMessage m{};
  m.op = DecodeOp::kCancel;
  m.job = 12345;
  EXPECT_TRUE(SendDecodeMessage(client_->socket_fd(), m).ok());
  for (;;) {  // quiet, and not gone
    auto r = ReceiveDecodeMessage(client_->socket_fd(), 100);
    if (r.ok()) continue;
    EXPECT_EQ(r.error().err, ETIMEDOUT);
    break;
  }
}

}  // namespace
}  // namespace fastoci
