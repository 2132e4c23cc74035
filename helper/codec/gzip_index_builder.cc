// SPDX-License-Identifier: Apache-2.0
// GzipIndexBuilder. zlib inflates with Z_BLOCK and stops at every block end,
// where a checkpoint is made once span_bytes of output have passed since the
// last. The output buffer keeps 32 KiB of history in front of what is new, so a
// checkpoint's window is always the 32 KiB before the write position.
//
// Each new checkpoint gets a WindowTrace, fed with the compressed bytes from
// the checkpoint on: it inflates them twice, with dictionaries in which window
// position p is the p-th pair of two different bytes. Where the outputs differ
// the byte came from the window, and the pair names the position.
#define ZLIB_CONST
#include <zlib.h>

#include <algorithm>
#include <bitset>

#include "base/digest.h"
#include "codec/gzip_format.h"
#include "codec/gzip_index.h"

namespace fastoci {
namespace {

constexpr size_t kOutputBytes = 256 * 1024;

struct PairCode {
  GzipWindow first, second;
  std::vector<uint16_t> position;  // by first << 8 | second
  PairCode() : position(65536) {
    size_t p = 0;
    for (unsigned a = 0; a < 256 && p < kGzipWindowBytes; a++) {
      for (unsigned b = 0; b < 256 && p < kGzipWindowBytes; b++) {
        if (a == b) continue;
        first[p] = static_cast<uint8_t>(a);
        second[p] = static_cast<uint8_t>(b);
        position[a << 8 | b] = static_cast<uint16_t>(p++);
      }
    }
  }
};

const PairCode& Pairs() {
  static const PairCode* const code = new PairCode;
  return *code;
}

class RawInflate {
 public:
  RawInflate() = default;
  RawInflate(const RawInflate&) = delete;
  RawInflate& operator=(const RawInflate&) = delete;
  ~RawInflate() { inflateEnd(&z_); }
  bool Start(const GzipWindow& dictionary, int bits, int value) {
    return inflateInit2(&z_, -MAX_WBITS) == Z_OK &&
           inflateSetDictionary(&z_, dictionary.data(), dictionary.size()) == Z_OK &&
           (bits == 0 || inflatePrime(&z_, bits, value) == Z_OK);
  }
  // Returns the number of bytes put out; ends on the stream's end or an error.
  size_t Run(ByteSpan in, std::span<uint8_t> out, bool* ended) {
    z_.next_in = in.data();
    z_.avail_in = static_cast<uInt>(in.size());
    z_.next_out = out.data();
    z_.avail_out = static_cast<uInt>(out.size());
    int rc = inflate(&z_, Z_NO_FLUSH);
    *ended = rc != Z_OK && rc != Z_BUF_ERROR;
    return out.size() - z_.avail_out;
  }

 private:
  z_stream z_{};
};

class WindowTrace {
 public:
  // start: position in the blob of the first byte to feed.
  WindowTrace(size_t entry, uint64_t start) : entry_(entry), start_(start) {}
  bool Start(int bits, int value) {
    return first_.Start(Pairs().first, bits, value) && second_.Start(Pairs().second, bits, value);
  }
  size_t entry() const { return entry_; }
  uint64_t start() const { return start_; }
  bool done() const { return done_; }
  const std::bitset<kGzipWindowBytes>& reached() const { return reached_; }

  void Feed(ByteSpan in) {
    if (done_) return;
    std::array<uint8_t, kGzipWindowBytes> a, b;
    size_t room = kGzipWindowBytes - produced_;
    bool ended_a, ended_b;
    size_t n = first_.Run(in, std::span(a).first(room), &ended_a);
    size_t m = second_.Run(in, std::span(b).first(room), &ended_b);
    const PairCode& pairs = Pairs();
    for (size_t i = 0; i < std::min(n, m); i++)
      if (a[i] != b[i]) reached_.set(pairs.position[a[i] << 8 | b[i]]);
    produced_ += n;
    // See gzip_index.h: 32 KiB of output name every byte that is ever reached.
    done_ = ended_a || ended_b || produced_ == kGzipWindowBytes;
  }

 private:
  size_t entry_;
  uint64_t start_;
  size_t produced_ = 0;
  bool done_ = false;
  RawInflate first_, second_;
  std::bitset<kGzipWindowBytes> reached_;
};

Result<Bytes> Deflate(ByteSpan in, int level) {
  uLongf n = compressBound(in.size());
  Bytes out(n);
  if (compress2(out.data(), &n, in.data(), in.size(), level) != Z_OK)
    return Error{ErrorKind::kInternal, ENOMEM, "zlib cannot compress"};
  out.resize(n);
  return out;
}

struct BuilderEntry {
  uint64_t data_offset;
  uint64_t compressed_offset;
  uint8_t bits;
  std::unique_ptr<GzipWindow> window;  // until its trace is done
  Bytes stored;
};

}  // namespace

struct GzipIndexBuilder::State {
  GzipIndexOptions options;
  Sink sink;
  z_stream z{};
  bool member_ended = false;
  bool multi_member = false;
  uint64_t compressed_bytes = 0;  // fed and consumed so far
  uint64_t data_bytes = 0;
  uint8_t last_byte = 0;  // the one before the input position
  // [0, kGzipWindowBytes) history; [sent, fill) not yet given to the sink.
  std::vector<uint8_t> out = std::vector<uint8_t>(kGzipWindowBytes + kOutputBytes);
  size_t sent = kGzipWindowBytes;
  size_t fill = kGzipWindowBytes;
  std::vector<BuilderEntry> entries;
  std::vector<std::unique_ptr<WindowTrace>> traces;

  ~State() { inflateEnd(&z); }
  Status Drain();
  Status AddEntry();
  Status FeedTraces(ByteSpan input, uint64_t input_start);
  Status StoreWindow(BuilderEntry* e);
  Status InflateSome(ByteSpan* in);
  Status CheckTail(ByteSpan in);
};

// Gives the new output to the sink; makes room when the buffer is full.
Status GzipIndexBuilder::State::Drain() {
  if (fill > sent) FASTOCI_CHECK_OK(sink(ByteSpan(out).subspan(sent, fill - sent)));
  sent = fill;
  if (fill == out.size()) {
    std::copy(out.end() - kGzipWindowBytes, out.end(), out.begin());
    sent = fill = kGzipWindowBytes;
  }
  return OkStatus();
}

Status GzipIndexBuilder::State::AddEntry() {
  BuilderEntry e{data_bytes, compressed_bytes, static_cast<uint8_t>(z.data_type & 7), {}, {}};
  e.window = std::make_unique<GzipWindow>();
  auto end = out.begin() + static_cast<ptrdiff_t>(fill);
  std::copy(end - kGzipWindowBytes, end, e.window->begin());
  if (!options.sparse_windows) {
    FASTOCI_CHECK_OK(StoreWindow(&e));
  } else {
    auto trace = std::make_unique<WindowTrace>(entries.size(), compressed_bytes);
    if (!trace->Start(e.bits, last_byte >> (8 - e.bits)))
      return Error{ErrorKind::kInternal, ENOMEM, "zlib cannot start"};
    traces.push_back(std::move(trace));
  }
  entries.push_back(std::move(e));
  return OkStatus();
}

Status GzipIndexBuilder::State::StoreWindow(BuilderEntry* e) {
  FASTOCI_TRY(e->stored, Deflate(*e->window, options.level));
  e->window.reset();
  return OkStatus();
}

Status GzipIndexBuilder::State::FeedTraces(ByteSpan input, uint64_t input_start) {
  for (auto& trace : traces) {
    uint64_t skip = trace->start() > input_start ? trace->start() - input_start : 0;
    trace->Feed(input.subspan(skip));
    if (!trace->done() && !member_ended) continue;
    BuilderEntry& e = entries[trace->entry()];
    for (size_t i = 0; i < kGzipWindowBytes; i++)
      if (!trace->reached()[i]) (*e.window)[i] = 0;
    FASTOCI_CHECK_OK(StoreWindow(&e));
    trace.reset();
  }
  std::erase(traces, nullptr);
  return OkStatus();
}

// Inflates to the next block end, to the end of *in or of the buffer.
Status GzipIndexBuilder::State::InflateSome(ByteSpan* in) {
  z.next_in = in->data();
  z.avail_in = static_cast<uInt>(in->size());
  z.next_out = out.data() + fill;
  z.avail_out = static_cast<uInt>(out.size() - fill);
  int rc = inflate(&z, Z_BLOCK);
  if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
    return InvalidError("gzip stream is corrupt at byte " +
                        std::to_string(compressed_bytes + in->size() - z.avail_in) + ": " +
                        (z.msg ? z.msg : "zlib error " + std::to_string(rc)));
  size_t consumed = in->size() - z.avail_in;
  if (consumed > 0) last_byte = (*in)[consumed - 1];
  *in = in->subspan(consumed);
  compressed_bytes += consumed;
  size_t produced = out.size() - z.avail_out - fill;
  fill += produced;
  data_bytes += produced;
  if (data_bytes > kMaxGzipBytes) return InvalidError("gzip stream is too large");
  if (rc == Z_STREAM_END) {
    member_ended = true;
    return OkStatus();
  }
  bool block_end = (z.data_type & 128) != 0 && (z.data_type & 64) == 0;
  bool due = entries.empty() || data_bytes - entries.back().data_offset >= options.span_bytes;
  if (block_end && due) FASTOCI_CHECK_OK(AddEntry());
  if (fill == out.size()) FASTOCI_CHECK_OK(Drain());
  return OkStatus();
}

Status GzipIndexBuilder::State::CheckTail(ByteSpan in) {
  compressed_bytes += in.size();
  if (std::any_of(in.begin(), in.end(), [](uint8_t b) { return b != 0; })) multi_member = true;
  if (multi_member)
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP,
                 "gzip blob holds more than one member (or data behind its end), which the gzip "
                 "index cannot describe"};
  return OkStatus();
}

GzipIndexBuilder::GzipIndexBuilder(std::unique_ptr<State> state) : state_(std::move(state)) {}
GzipIndexBuilder::GzipIndexBuilder(GzipIndexBuilder&&) noexcept = default;
GzipIndexBuilder& GzipIndexBuilder::operator=(GzipIndexBuilder&&) noexcept = default;
GzipIndexBuilder::~GzipIndexBuilder() = default;
uint64_t GzipIndexBuilder::uncompressed_bytes() const { return state_->data_bytes; }
bool GzipIndexBuilder::multi_member() const { return state_->multi_member; }

Result<GzipIndexBuilder> GzipIndexBuilder::Create(const GzipIndexOptions& options, Sink sink) {
  if (options.span_bytes == 0 || options.span_bytes > INT32_MAX || options.level < 1 ||
      options.level > 9)
    return InvalidError("gzip index: option out of range");
  auto state = std::make_unique<State>();
  state->options = options;
  state->sink = std::move(sink);
  if (inflateInit2(&state->z, 16 + MAX_WBITS) != Z_OK)
    return Error{ErrorKind::kInternal, ENOMEM, "zlib cannot start"};
  return GzipIndexBuilder(std::move(state));
}

Status GzipIndexBuilder::Update(ByteSpan compressed) {
  State& s = *state_;
  constexpr size_t kSlice = 1 << 20;  // zlib counts in 32 bits, traces hold no input
  while (!compressed.empty() && !s.member_ended) {
    ByteSpan slice = compressed.first(std::min(compressed.size(), kSlice));
    ByteSpan rest = slice;
    uint64_t start = s.compressed_bytes;
    // A full buffer or a block end may leave output pending with no input left.
    bool more = true;
    while (more && !s.member_ended) {
      size_t fill_before = s.fill, rest_before = rest.size();
      FASTOCI_CHECK_OK(s.InflateSome(&rest));
      more = !rest.empty() || s.fill != fill_before || rest.size() != rest_before;
    }
    size_t consumed = slice.size() - rest.size();
    FASTOCI_CHECK_OK(s.FeedTraces(slice.first(consumed), start));
    FASTOCI_CHECK_OK(s.Drain());
    compressed = compressed.subspan(consumed);
  }
  return s.member_ended ? s.CheckTail(compressed) : OkStatus();
}

Result<Bytes> GzipIndexBuilder::Finish() {
  State& s = *state_;
  FASTOCI_CHECK_OK(s.CheckTail({}));
  if (!s.member_ended) return InvalidError("gzip stream is cut off");
  // An entry behind the last byte, before empty blocks, starts nothing.
  while (s.entries.size() > 1 && s.entries.back().data_offset >= s.data_bytes) s.entries.pop_back();

  ByteWriter windows, table;
  for (const BuilderEntry& e : s.entries) {
    table.U64(e.data_offset);
    table.U64(e.compressed_offset);
    table.U64(kGzipIndexHeaderBytes + windows.size());
    table.U8(e.bits);
    table.U32(static_cast<uint32_t>(e.stored.size()));
    windows.Append(e.stored);
  }
  FASTOCI_TRY(Bytes area, Deflate(table.bytes(), s.options.level));
  uint64_t index_start = kGzipIndexHeaderBytes + windows.size();

  ByteWriter w;
  w.Append(kGzipIndexMagic);
  w.U8(1);  // major
  w.U8(0);  // minor
  w.U8(1);  // windows are zlib streams
  w.U8(static_cast<uint8_t>(s.options.level));
  w.U8(0);  // flag
  w.U32(s.options.span_bytes);
  w.U32(kGzipWindowBytes);
  w.U32(kGzipIndexEntryBytes);
  w.U64(s.entries.size());
  w.U64(s.compressed_bytes);
  w.U64(index_start + area.size());
  w.U64(s.data_bytes);
  w.Zeros(256);
  w.U64(index_start);
  w.U64(area.size());
  w.U32(Crc32cRaw(0, w.bytes()));
  w.Append(windows.bytes());
  w.Append(area);
  return std::move(w.bytes());
}

}  // namespace fastoci
