// SPDX-License-Identifier: Apache-2.0
// Readahead across spans of one data space. Pure.
//
// A demanded span that follows a run's last one, or that is one of those wanted ahead of it or the
// next one behind them, continues the run. Those in between were there before the reader came, so
// nobody heard of them. Each time a run's reader gets on, the run's window grows, and as soon as a
// quarter of the window is free, more spans are wanted: so requests are large, and most of the
// window stays on its way. How the window grows depends on how the reader came to the span:
//   At the span's first chunk, and from a place farther before it than a usual readahead of the
//   kernel reaches: so a sequential reader comes. The window is half of max_bytes at least. With
//   a long delay to the server, each smaller step would cost a round trip.
//   Otherwise it may be chance. The window is one span at first, and doubles.
// A few runs are followed at a time, for readers that read several files. A new run replaces the
// one that was not continued for the longest time. After a seek, a run begins anew, with nothing
// wanted ahead.
#ifndef FASTOCI_MISS_READAHEAD_H_
#define FASTOCI_MISS_READAHEAD_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>

namespace fastoci {

class Readahead {
 public:
  struct Spans {
    uint32_t first = 0, end = 0;  // first == end: none
  };
  struct Demand {
    uint32_t span = 0;
    uint64_t data_offset = 0;  // of the chunk
    bool at_start = false;     // it is the span's first chunk
  };
  // bytes: input of a span. nr_spans: of the space.
  Spans OnDemand(const Demand& demand, uint32_t nr_spans, uint64_t max_bytes,
                 const std::function<uint64_t(uint32_t)>& bytes) {
    const uint32_t span = demand.span;
    Run* run = nullptr;
    for (Run& r : runs_)
      if (r.used != 0 && span >= r.last && span <= r.ahead_end) run = &r;
    if (run == nullptr) {
      run = &*std::min_element(runs_.begin(), runs_.end(),
                               [](const Run& a, const Run& b) { return a.used < b.used; });
      *run = {.begin = demand.data_offset, .last = span, .ahead_end = span + 1, .used = ++clock_};
      return {};
    }
    run->used = ++clock_;
    if (run->last == span) return {};
    run->last = span;
    run->ahead_end = std::max(run->ahead_end, span + 1);
    const bool sequential = demand.at_start && demand.data_offset >= run->begin + kFarBytes;
    const uint64_t least = sequential ? max_bytes / 2 : kFirstBytes;
    run->window_bytes = std::min(std::max(run->window_bytes * 2, least), max_bytes);
    uint64_t sum = 0;
    for (uint32_t s = span + 1; s < run->ahead_end && s < nr_spans; s++) sum += bytes(s);
    if (sum > run->window_bytes - run->window_bytes / 4) return {};
    Spans spans{run->ahead_end, run->ahead_end};
    while (spans.end < nr_spans) {
      sum += bytes(spans.end);
      const bool is_next = spans.end == span + 1;
      if (sum > (is_next ? max_bytes : run->window_bytes)) break;
      spans.end++;
    }
    run->ahead_end = spans.end;
    return spans;
  }

 private:
  static constexpr uint64_t kFarBytes = 192 << 10;    // the kernel's readahead is 128 KiB
  static constexpr uint64_t kFirstBytes = 256 << 10;  // or one span, if it is larger
  struct Run {
    uint64_t begin = 0;         // data offset of its first demand
    uint32_t last = 0;          // span that was demanded
    uint32_t ahead_end = 0;     // behind the last one that was wanted
    uint64_t window_bytes = 0;  // that may be wanted ahead
    uint64_t used = 0;          // 0: never
  };
  std::array<Run, 4> runs_{};
  uint64_t clock_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_READAHEAD_H_
