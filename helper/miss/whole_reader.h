// SPDX-License-Identifier: Apache-2.0
// WholeReader: reads one blob from end to end through a decoder, for the whole check. Of one thread.
//
// The decoder gets a copy of the input, because the fetcher could change what it wrote. The copy is
// hashed, and so are the 64 KiB pieces that come out. While its blob cannot be read, a reader is
// kept, and later goes on near where it was (verify/whole_blob.h). If a transfer breaks off, it
// continues with the next byte, from any location. A decoder that is lost or stalls is replaced.
//
// The first attempt takes each range from whichever location can be asked. If the result is not what
// the blob's digest says, one of the locations lied, or the index is wrong. Then each pair of index
// and location is tried alone. Only if all of them gave wrong bytes, in kMinAttempts attempts at
// least, is the blob wrong. If a pair cannot be asked, that stays open, and all begins anew.
#ifndef FASTOCI_MISS_WHOLE_READER_H_
#define FASTOCI_MISS_WHOLE_READER_H_

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "miss/fetch_stage.h"
#include "verify/whole_blob.h"

namespace fastoci {

class WholeReader {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kMinAttempts = 3;

  struct Parts {
    DecodeOptions decode;
    Dispatcher* dispatcher = nullptr;
    FetchStage* fetch = nullptr;
    Counters* counters = nullptr;
    std::function<bool()> stop;
    // Waits until more may be read; bytes were, since begin. An error ends Run().
    std::function<Status(Clock::time_point begin, uint64_t bytes)> pace;
  };
  explicit WholeReader(Parts parts) : parts_(std::move(parts)) {}

  // Returns the digests of the pieces if the blob fits its own digest. kMismatch: it does not, from
  // no source. Any other error: it was not read to its end; call it again later. Does not keep the
  // view. cache: caches what comes. Until the end that is only as sure as a range of the blob.
  Result<std::vector<Sha256Digest>> Run(std::shared_ptr<const SpaceView> view, bool cache);

 private:
  Result<std::vector<Sha256Digest>> RunAttempts();
  Status BeginAttempt();
  void Reset();
  Status ReadOn();
  Status StartDecoder();
  Status Pump();
  Status FeedNext();
  Status Take(uint64_t at, uint64_t length);
  void BeginCaching();
  void EndCaching();

  const Parts parts_;
  UniqueFd memory_;  // the decoder's input: a copy
  Bytes copy_, piece_;
  // Of the attempt:
  size_t attempt_ = 0;
  Dispatcher::Ways ways_;  // from the second one on
  FetchChoice choice_;
  std::shared_ptr<const SpanIndex> index_;  // another image's may have other spans
  std::unique_ptr<WholeBlob> whole_;        // null: it is to begin
  Error lie_;                               // of the last one that came to its end
  std::optional<Error> undecided_;          // why a pair could not be asked
  // Of a call of Run():
  std::shared_ptr<const SpaceView> view_;
  bool cache_ = false;
  Clock::time_point begin_;
  uint64_t read_ = 0;
  // Of a decoder:
  std::unique_ptr<DecoderClient> decoder_;
  uint32_t job_ = 0;
  bool input_free_ = true;
  uint64_t fed_ = 0;
  std::shared_ptr<SpanWork> keep_;  // null: what comes is not cached
  std::unique_ptr<ChunkBuilder> builder_;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_WHOLE_READER_H_
