// SPDX-License-Identifier: Apache-2.0
#include "http/range.h"

#include <algorithm>

#include "http/number.h"

namespace fastoci {

Result<ContentRange> ParseContentRange(const std::string& value) {
  Error bad = MismatchError("the server's Content-Range header is malformed");
  constexpr char kUnit[] = "bytes ";
  if (!value.starts_with(kUnit)) return bad;
  std::string rest = value.substr(sizeof(kUnit) - 1);
  size_t dash = rest.find('-');
  size_t slash = rest.find('/');
  if (dash == std::string::npos || slash == std::string::npos || slash < dash) return bad;
  ContentRange r;
  if (!ParseDecimal(rest.substr(0, dash), &r.first) ||
      !ParseDecimal(rest.substr(dash + 1, slash - dash - 1), &r.last) || r.last < r.first)
    return bad;
  std::string total = rest.substr(slash + 1);
  if (total == "*") return r;
  r.total_known = true;
  if (!ParseDecimal(total, &r.total) || r.last >= r.total) return bad;
  return r;
}

Status RangeReader::CheckRange() const {
  if (range_.length == 0 || range_.offset + range_.length < range_.offset ||
      (range_.total_bytes != 0 && range_.offset + range_.length > range_.total_bytes))
    return InvalidError("the byte range is empty or ends after the blob");
  return OkStatus();
}

void RangeReader::Ask(HttpRequest* request, const Sink& sink) {
  request->headers.emplace_back("Range",
                                "bytes=" + std::to_string(range_.offset + done_) + "-" +
                                    std::to_string(range_.offset + range_.length - 1));
  request->headers.emplace_back("Accept-Encoding", "identity");
  request->on_head = [this](const HttpResponse& head) { return OnHead(head); };
  request->on_body = [this, &sink](ByteSpan bytes) { return OnBody(bytes, sink); };
  request->stop = &stop_;
}

Error RangeReader::ShortBody() const {
  return {ErrorKind::kUnavailable, EIO,
          "short body: the server sent " + std::to_string(done_) + " of " +
              std::to_string(range_.length) + " bytes"};
}

Status RangeReader::CheckTotal(uint64_t total) const {
  if (range_.total_bytes != 0 && total != range_.total_bytes)
    return MismatchError("the blob has " + std::to_string(total) + " bytes, not " +
                         std::to_string(range_.total_bytes));
  return OkStatus();
}

Status RangeReader::OnHead(const HttpResponse& response) {
  skip_ = 0;
  whole_ = stop_ = false;
  uint64_t begin = range_.offset + done_;
  if (response.status == 206) {
    FASTOCI_TRY(ContentRange got, ParseContentRange(response.Header("content-range")));
    if (got.first != begin || got.last != range_.offset + range_.length - 1)
      return MismatchError("the server sent another range: Content-Range is " +
                           response.Header("content-range").substr(0, 80));
    return got.total_known ? CheckTotal(got.total) : OkStatus();
  }
  if (response.status != 200)
    return MismatchError("the server answered a range request with HTTP " +
                         std::to_string(response.status));
  if (begin > kMaxSkipBytes) return MismatchError("the server does not support range requests");
  uint64_t total = 0;
  if (ParseDecimal(response.Header("content-length"), &total)) {
    FASTOCI_CHECK_OK(CheckTotal(total));
    if (total < range_.offset + range_.length)
      return MismatchError("the blob ends at byte " + std::to_string(total) +
                           ", before the end of the range");
  }
  skip_ = begin;
  whole_ = true;
  return OkStatus();
}

Status RangeReader::OnBody(ByteSpan bytes, const Sink& sink) {
  size_t drop = std::min<uint64_t>(skip_, bytes.size());
  skip_ -= drop;
  bytes = bytes.subspan(drop);
  bool excess = bytes.size() > range_.length - done_;
  if (excess) bytes = bytes.first(range_.length - done_);
  if (!bytes.empty()) FASTOCI_CHECK_OK(sink(bytes));
  done_ += bytes.size();
  // A 206 is read to its end, which keeps the connection in the pool.
  stop_ = complete() && (whole_ || excess);
  return OkStatus();
}

}  // namespace fastoci
