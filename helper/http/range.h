// SPDX-License-Identifier: Apache-2.0
// Ranges of something that a server may serve in part or whole, or wrongly.
#ifndef FASTOCI_HTTP_RANGE_H_
#define FASTOCI_HTTP_RANGE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "base/byte_reader.h"
#include "base/result.h"
#include "http/http_client.h"

namespace fastoci {

struct ByteRange {
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t total_bytes = 0;  // size of the whole; 0: not known
};

struct ContentRange {
  uint64_t first = 0, last = 0, total = 0;
  bool total_known = false;
};
Result<ContentRange> ParseContentRange(const std::string& value);

// Of an answer with the whole, bytes before the range that are skipped at most.
inline constexpr uint64_t kMaxSkipBytes = 64 << 20;

// Reads one range, strictly: from a 206 with this very Content-Range, or from a 200
// with the bytes before it skipped. Another total size, another range, or a server
// without ranges where kMaxSkipBytes do not reach are kMismatch. What one attempt
// left out the next one asks for.
class RangeReader {
 public:
  using Sink = std::function<Status(ByteSpan)>;
  explicit RangeReader(ByteRange range) : range_(range) {}
  // kInvalid for a range that cannot be.
  Status CheckRange() const;
  // Sets up a GET for what is still missing. The reader and sink must live until it
  // has ended.
  void Ask(HttpRequest* request, const Sink& sink);
  uint64_t done() const { return done_; }  // bytes given to the sink
  bool complete() const { return done_ == range_.length; }
  Error ShortBody() const;  // kUnavailable

 private:
  Status OnHead(const HttpResponse& response);
  Status OnBody(ByteSpan bytes, const Sink& sink);
  Status CheckTotal(uint64_t total) const;

  const ByteRange range_;
  uint64_t done_ = 0;
  uint64_t skip_ = 0;   // bytes of a 200 answer before the first wanted one
  bool whole_ = false;  // a 200 answer: more may follow the wanted bytes
  bool stop_ = false;
};

}  // namespace fastoci

#endif  // FASTOCI_HTTP_RANGE_H_
