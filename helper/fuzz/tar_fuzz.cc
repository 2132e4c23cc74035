// SPDX-License-Identifier: Apache-2.0
// Tar headers in any cut: the same entries, clean paths, runs that fit their file, and
// extended attributes that can be set.
#include <algorithm>

#include "base/utf8.h"
#include "codec/tar_reader.h"
#include "fuzz/fuzz.h"
#include "image/xattrs.h"

namespace fastoci {
namespace {

class Checker : public TarSink {
 public:
  Status OnEntry(const TarEntry& e) override {
    Require(e.data_offset % kTarBlockBytes == 0 && e.data_bytes <= kMaxTarFileBytes);
    const std::string around = "/" + e.path + "/";
    Require(around.find("/../") == std::string::npos && around.find("/./") == std::string::npos);
    Require(e.path.empty() || around.find("//") == std::string::npos);
    const std::string text = ReplaceBadUtf8(e.path);
    Require(ReplaceBadUtf8(text) == text);
    if (auto set = SettableXattrs(e.xattrs, e.type); set.ok()) {
      auto again = SettableXattrs(*set, e.type);
      Require(again.ok() && *again == *set);
    }
    uint64_t end = 0, sum = 0;
    for (const TarRun& run : e.runs) {
      Require(run.bytes > 0 && run.file_offset >= end && run.bytes <= e.size - run.file_offset);
      end = run.file_offset + run.bytes;
      sum += run.bytes;
    }
    Require(!e.sparse || sum == e.data_bytes);
    left_ = e.data_bytes;
    seen.push_back(e.path);
    return OkStatus();
  }
  Status OnData(uint64_t, ByteSpan data) override {
    Require(data.size() <= left_);
    left_ -= data.size();
    return OkStatus();
  }
  Status OnEntryEnd(bool) override {
    Require(left_ == 0);
    return OkStatus();
  }
  std::vector<std::string> seen;

 private:
  uint64_t left_ = 0;
};

}  // namespace
}  // namespace fastoci

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  Checker whole, cut;
  TarReader a(&whole), b(&cut);
  bool ok = a.Update({data, size}).ok();
  bool cut_ok = true;
  for (size_t at = 0, step = 1; cut_ok && at < size; at += step, step = step * 7 % 1021)
    cut_ok = b.Update({data + at, std::min(step, size - at)}).ok();
  Require(ok == cut_ok && whole.seen == cut.seen);
  if (ok) (void)a.Finish().ok();
  return 0;
}
