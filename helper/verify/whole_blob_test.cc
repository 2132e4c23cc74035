// SPDX-License-Identifier: Apache-2.0
// A made-up codec: a span's data is its input, each byte four times, mixed with the data byte 32 KiB
// before it. So data depends on the input and on the window, as with deflate, and a wrong window
// gives wrong data without an error.
#include "verify/whole_blob.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "verify/chunk_check.h"

namespace fastoci {
namespace {

constexpr uint64_t kRatio = 4, kWindow = 32768;

class WholeBlobTest : public ::testing::Test {
 protected:
  // Spans of span_bytes of data each, whose begins are no multiples of 64 KiB.
  void Make(uint64_t data_bytes, uint64_t span_bytes, uint32_t seed = 1) {
    std::mt19937 rng(seed);
    input_.resize(data_bytes / kRatio);
    for (uint8_t& b : input_) b = static_cast<uint8_t>(rng());
    data_.clear();
    Decode(input_, &data_);
    blob_.blob_bytes = input_.size();
    blob_.data_bytes = data_.size();
    blob_.blob_digest = Sha256::Of(input_);
    blob_.spans.clear();
    for (uint64_t at = 0; at < data_.size(); at += span_bytes)
      blob_.spans.push_back({at, at / kRatio + (at == 0 ? 3 : 0)});  // a header before the first
    digests_.clear();
    for (uint64_t at = 0; at < data_.size(); at += kDigestBytes)
      digests_.push_back(Sha256::Of(PieceAt(data_, at)));
  }
  // Appends to what was decoded before.
  static void Decode(ByteSpan input, Bytes* data) {
    for (uint8_t b : input)
      for (uint64_t i = 0; i < kRatio; i++)
        data->push_back(static_cast<uint8_t>(
            b + i + (data->size() >= kWindow ? (*data)[data->size() - kWindow] : 0)));
  }
  static ByteSpan PieceAt(const Bytes& data, uint64_t at) {
    return ByteSpan(data).subspan(at, std::min<uint64_t>(kDigestBytes, data.size() - at));
  }

  // A decode from a point on. The windows are what the index has: of window, the blob's data.
  class Job {
   public:
    Job(WholeBlobTest* t, WholeBlob* whole, const Bytes& window)
        : t_(*t), whole_(*whole), point_(whole->Resume()) {
      const uint64_t begin = point_.input_offset * kRatio;
      offset_ = begin - std::min(begin, kWindow);
      decoded_.assign(window.begin() + static_cast<ptrdiff_t>(offset_),
                      window.begin() + static_cast<ptrdiff_t>(begin));
      next_piece_ = point_.data_offset;
    }
    // Passes n bytes of a source on, then the pieces that they make but for `behind` of them.
    Status Pass(const Bytes& source, uint64_t n, uint64_t behind = 0) {
      const uint64_t at = whole_.next_input();
      const ByteSpan bytes = ByteSpan(source).subspan(at, std::min(n, source.size() - at));
      FASTOCI_CHECK_OK(whole_.Input(at, bytes));
      Decode(bytes, &decoded_);
      while (next_piece_ < t_.data_.size()) {
        const uint64_t n_piece = whole_.DataBytesAt(next_piece_), from = next_piece_ - offset_;
        if (from + n_piece + behind * kDigestBytes > decoded_.size()) break;
        FASTOCI_CHECK_OK(
            whole_.Piece(next_piece_, Sha256::Of(ByteSpan(decoded_).subspan(from, n_piece))));
        next_piece_ += n_piece;
      }
      return OkStatus();
    }
    const WholeBlob::Point& point() const { return point_; }

   private:
    WholeBlobTest& t_;
    WholeBlob& whole_;
    const WholeBlob::Point point_;
    Bytes decoded_;  // with the window before it
    uint64_t offset_, next_piece_;
  };

  BlobInfo blob_;
  Bytes input_, data_;
  std::vector<Sha256Digest> digests_;
};

constexpr uint64_t kMiB = 1 << 20;

TEST_F(WholeBlobTest, OneDecodeFromEndToEnd) {
  Make(5 * kMiB + 1000, kMiB + 4096);
  WholeBlob whole(blob_);
  Job job(this, &whole, data_);
  EXPECT_EQ(job.point().input_offset, 0u) << "the header before the first span, too";
  while (!whole.complete()) ASSERT_TRUE(job.Pass(input_, 100000).ok());
  auto digests = whole.Finish();
  ASSERT_TRUE(digests.ok()) << digests.error().message;
  EXPECT_EQ(*digests, digests_);
}

// The fetcher dies, or the transfer breaks off: the decode goes on with the next byte.
TEST_F(WholeBlobTest, ATransferThatBreaksOffCostsNothing) {
  Make(3 * kMiB, kMiB + 4096);
  WholeBlob whole(blob_);
  Job job(this, &whole, data_);
  uint64_t passed = 0;
  std::mt19937 rng(3);
  while (!whole.complete()) {
    const uint64_t before = whole.next_input();
    ASSERT_TRUE(job.Pass(input_, 1 + rng() % 70000).ok());  // and breaks off
    passed += whole.next_input() - before;
  }
  EXPECT_EQ(passed, input_.size());
  EXPECT_TRUE(whole.Finish().ok());
}

TEST_F(WholeBlobTest, ADecodeThatIsLostGoesOnNearby) {
  Make(20 * kMiB + 777, kMiB + 4096);
  WholeBlob whole(blob_);
  uint64_t passed = 0;
  for (int jobs = 0; !whole.complete(); jobs++) {
    ASSERT_LT(jobs, 100);
    Job job(this, &whole, data_);
    EXPECT_EQ(job.point().data_offset % kDigestBytes, 0u);
    EXPECT_EQ(job.point().input_offset,
              job.point().span == 0 ? 0 : blob_.spans[job.point().span].blob_offset);
    for (int i = 0; i < 8 && !whole.complete(); i++) {  // 2 MiB of data, then it is lost
      const uint64_t before = whole.next_input();
      ASSERT_TRUE(job.Pass(input_, 65536, 2).ok());
      passed += whole.next_input() - before;
    }
    if (whole.next_input() == input_.size() && !whole.complete()) {
      ASSERT_TRUE(job.Pass(input_, 0).ok());
    }
  }
  auto digests = whole.Finish();
  ASSERT_TRUE(digests.ok()) << digests.error().message;
  EXPECT_EQ(*digests, digests_);
  EXPECT_LT(passed, 4 * input_.size()) << "a part is read again, not all that came before";
}

TEST_F(WholeBlobTest, ABlobWithoutUsableSpansBeginsAgain) {
  Make(3 * kMiB, 100 * kMiB);
  WholeBlob whole(blob_);
  {
    Job job(this, &whole, data_);
    ASSERT_TRUE(job.Pass(input_, 500000).ok());
  }
  Job job(this, &whole, data_);
  EXPECT_EQ(job.point().input_offset, 0u);
  while (!whole.complete()) ASSERT_TRUE(job.Pass(input_, 100000).ok());
  EXPECT_EQ(*whole.Finish(), digests_);
}

TEST_F(WholeBlobTest, AnotherBlobIsAMismatch) {
  Make(2 * kMiB, kMiB + 4096);
  Bytes lie = input_;
  lie[lie.size() / 2] ^= 1;
  WholeBlob whole(blob_);
  {
    Job job(this, &whole, data_);
    while (!whole.complete()) ASSERT_TRUE(job.Pass(lie, 100000).ok());
  }
  auto digests = whole.Finish();
  ASSERT_FALSE(digests.ok());
  EXPECT_EQ(digests.error().kind, ErrorKind::kMismatch);
  whole.Restart();  // another source
  Job job(this, &whole, data_);
  EXPECT_EQ(job.point().input_offset, 0u);
  while (!whole.complete()) ASSERT_TRUE(job.Pass(input_, 100000).ok());
  EXPECT_EQ(*whole.Finish(), digests_);
}

// A source sends wrong bytes first and right ones when they are asked for again, so that the hash
// of all input would be right and the pieces wrong: wherever it does that, it is found.
TEST_F(WholeBlobTest, AnInputThatComesAgainMustBeTheSame) {
  Make(8 * kMiB, kMiB + 4096);
  for (uint64_t at = 1000; at < 1200000; at += 44444) {
    Bytes lie = input_;
    lie[at] ^= 0x10;
    WholeBlob whole(blob_);
    {
      Job job(this, &whole, data_);
      for (int i = 0; i < 12; i++) ASSERT_TRUE(job.Pass(lie, 100000, 1).ok());
    }
    Status s = OkStatus();
    {
      Job job(this, &whole, data_);
      while (s.ok() && !whole.complete()) s = job.Pass(input_, 100000);
    }
    if (s.ok()) {  // it lies before what came again: the hash is wrong
      auto digests = whole.Finish();
      s = digests.ok() ? OkStatus() : Status(digests.error());
    }
    ASSERT_FALSE(s.ok()) << at;
    EXPECT_EQ(s.error().kind, ErrorKind::kMismatch) << s.error().message;
  }
}

// The same with a decode in between whose input was never compared: its pieces do not count.
TEST_F(WholeBlobTest, PiecesOfInputThatWasNotComparedDoNotCount) {
  Make(12 * kMiB, kMiB + 4096);
  WholeBlob whole(blob_);
  {
    Job job(this, &whole, data_);  // the input is 3 MiB of data ahead of its pieces
    ASSERT_TRUE(job.Pass(input_, 2 * kMiB, 48).ok());
  }
  const uint64_t known = whole.next_data();
  ASSERT_LT(known, 6 * kMiB);
  Bytes lie = input_;
  lie[known / kRatio + 50000] ^= 0x10;
  {
    Job job(this, &whole, data_);  // lies, and ends before its input was compared
    for (uint64_t i = 0; i < 5; i++) ASSERT_TRUE(job.Pass(lie, 100000).ok());
    ASSERT_GT(whole.next_data(), known) << "the test does not reach what it is for";
    ASSERT_LT(whole.next_input(), 2 * kMiB);
  }
  Job job(this, &whole, data_);
  while (!whole.complete()) ASSERT_TRUE(job.Pass(input_, 100000).ok());
  auto digests = whole.Finish();
  ASSERT_TRUE(digests.ok()) << digests.error().message;
  EXPECT_EQ(*digests, digests_);
}

// An index whose windows are wrong gives wrong data only where nobody decodes from end to end.
TEST_F(WholeBlobTest, AWrongEntryOfTheIndexIsFound) {
  Make(8 * kMiB, kMiB + 4096);
  Bytes windows = data_;
  for (uint8_t& b : windows) b ^= 1;
  WholeBlob whole(blob_);
  {
    Job job(this, &whole, windows);  // the first span needs none
    ASSERT_TRUE(job.Pass(input_, kMiB).ok());
  }
  Job job(this, &whole, windows);
  ASSERT_GT(job.point().span, 0u);
  Status s = OkStatus();
  while (s.ok() && !whole.complete()) s = job.Pass(input_, 100000);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().kind, ErrorKind::kMismatch);
}

TEST_F(WholeBlobTest, RefusesWhatIsOutOfOrder) {
  Make(kMiB, kMiB + 4096);
  WholeBlob whole(blob_);
  whole.Resume();
  EXPECT_EQ(whole.Input(1, input_).error().kind, ErrorKind::kInternal);
  EXPECT_EQ(whole.Piece(kDigestBytes, {}).error().kind, ErrorKind::kInternal);
  EXPECT_EQ(whole.Finish().error().kind, ErrorKind::kInternal);
  Bytes more = input_;
  more.push_back(0);
  EXPECT_EQ(whole.Input(0, more).error().kind, ErrorKind::kMismatch);
}

// Spans of a few bytes, several of which begin in the same byte: few states, the same result.
TEST_F(WholeBlobTest, TinySpans) {
  Make(3 * kMiB, kMiB + 4096);
  blob_.spans.clear();
  for (uint64_t at = 0; at < data_.size(); at += 15) blob_.spans.push_back({at, at / kRatio});
  WholeBlob whole(blob_);
  {
    Job job(this, &whole, data_);
    ASSERT_TRUE(job.Pass(input_, 600000).ok());
  }
  Job job(this, &whole, data_);
  EXPECT_GT(job.point().input_offset, 200000u);
  while (!whole.complete()) ASSERT_TRUE(job.Pass(input_, 100000).ok());
  EXPECT_EQ(*whole.Finish(), digests_);
}

}  // namespace
}  // namespace fastoci
