// SPDX-License-Identifier: Apache-2.0
// WholeBlob: the check of one blob as a whole. It can be interrupted at any point, and goes on
// from a point shortly before that. Pure: no I/O, no clock, no threads; one thread at a time.
//
// A blob has one digest, that of all its bytes. To trust what is decoded from it, one must read
// the blob once from end to end, hash the bytes that go in, and note the digest of each 64 KiB
// that comes out:
//
//   for (;;) {
//     const auto point = whole.Resume();
//     a decode begins at point.span; the input from point.input_offset on goes to Input(), then to
//     the decoder; each piece from point.data_offset on goes to Piece()
//     when it broke off: Resume() again; after an error of this object: Restart() first
//   }
//   digests = whole.Finish();
//
// If a transfer breaks off, or the fetcher dies, the decode itself can go on and nothing is lost:
// ask any source for the input from next_input() on. Resume() is for a decode that is lost, or that
// was given up to make room for a read that waits.
//
// How a decode goes on in the middle: the state of the hash is kept for the begins of some spans.
// Resume() picks one that lies at least one whole piece before the last piece, and takes hash and
// pieces back to it. Two checks make the result as good as that of one decode from end to end:
//  - The input that comes again must be the same as before. At the place where the hash stood
//    before, the old and the new state of the hash are compared. So each piece stems from bytes
//    that are in the hash in the end, whatever a source sends the second time.
//  - The pieces that are decoded again must be the same as before. That shows that the span's entry
//    of the index is right. From then on the decoder's window holds what it has decoded itself, and
//    no longer what the index says.
//
// Input() must get the very bytes that the decoder gets: memory that the fetcher can no longer
// write, or a copy.
#ifndef FASTOCI_VERIFY_WHOLE_BLOB_H_
#define FASTOCI_VERIFY_WHOLE_BLOB_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "base/digest.h"
#include "base/result.h"
#include "image/meta_image.h"

namespace fastoci {

class WholeBlob {
 public:
  // Copies what it needs of the blob: its sizes, its digest, its spans.
  explicit WholeBlob(const BlobInfo& blob);

  struct Point {
    uint32_t span = 0;          // the decode begins at its entry
    uint64_t input_offset = 0;  // of the first input byte: the span's, 0 for the first span
    uint64_t data_offset = 0;   // of the first piece that is wanted: a multiple of 64 KiB
  };
  Point Resume();
  // Forgets everything, to begin anew with another source. For use after an error below: one of
  // the sources has sent wrong bytes.
  void Restart();

  // The next bytes of the blob; offset is next_input(). kMismatch: they differ from what came
  // before, or go past the blob's end. kInternal: another offset.
  Status Input(uint64_t offset, ByteSpan bytes);
  // The digest of the next piece of data, of DataBytesAt(offset) bytes; offset is next_data().
  // kMismatch: it differs from what came before. kInternal: another offset.
  Status Piece(uint64_t offset, const Sha256Digest& digest);

  uint64_t next_input() const { return next_input_; }
  uint64_t next_data() const { return next_data_; }
  // 64 KiB, or what is left of the data space.
  uint64_t DataBytesAt(uint64_t offset) const;
  bool complete() const { return next_input_ == blob_bytes_ && next_data_ == data_bytes_; }

  // Once it is complete: the digests of all pieces in order. kMismatch: the input as a whole is
  // not what the blob's digest says.
  Result<std::vector<Sha256Digest>> Finish();

 private:
  // A state of the hash before the first byte of a span.
  struct State {
    uint32_t span = 0;
    Sha256 hash;
  };
  uint64_t InputOffsetOf(uint32_t span) const { return span == 0 ? 0 : spans_[span].blob_offset; }
  uint64_t FirstPieceOf(uint32_t span) const;
  bool IsUsable(const State& state) const;
  void KeepState();
  void DropOldStates();
  uint64_t BytesToNextStop() const;
  // No input has come again that was not compared yet.
  bool IsSure() const { return next_input_ >= known_input_; }

  const uint64_t blob_bytes_, data_bytes_;
  const Sha256Digest digest_;
  const std::vector<Span> spans_;
  Sha256 hash_;  // of the input up to next_input_
  uint64_t next_input_ = 0;
  uint64_t next_data_ = 0;
  std::vector<Sha256Digest> pieces_;  // of all that came; those past next_data_ come again
  size_t nr_sure_ = 0;                // of them, if not IsSure(): those of input that was compared
  uint32_t next_span_ = 1;            // the first one that no input has reached
  std::deque<State> states_;          // in order; the first one is the best to resume from
  // Where input that comes again ends, and the digest up to there; 0: none comes again.
  uint64_t known_input_ = 0;
  Sha256Digest known_digest_{};
};

}  // namespace fastoci

#endif  // FASTOCI_VERIFY_WHOLE_BLOB_H_
