// SPDX-License-Identifier: Apache-2.0
// GzipIndexBuilder. Blocks of input go to the DeflateDecoder, which stops at
// every block end, because a checkpoint can be there. After span_bytes the builder
// looks at the block ends of the next span_bytes / 4, and takes the one with the
// smallest window. The output buffer keeps 32 KiB of history before the new
// output, so a window is always the 32 KiB before the write position.
//
// The decoder tells which bytes before a checkpoint the stream refers to. After
// 32 KiB of output all of them are known (see gzip_index.h). Until then the
// checkpoint is traced, and keeps its window.
#define ZLIB_CONST
#include <isa-l/crc.h>
#include <zlib.h>

#include <algorithm>
#include <bitset>
#include <cstring>
#include <optional>

#include "base/digest.h"
#include "codec/deflate_decoder.h"
#include "codec/gzip_format.h"
#include "codec/gzip_index.h"
#include "codec/window_deflater.h"

namespace fastoci {
namespace {

constexpr size_t kInputBytes = 128 << 10, kOutputBytes = 256 << 10;
constexpr size_t kMaxGzipHeaderBytes = 1 << 20;
constexpr size_t kTrailerBytes = 8;
// The block ends that are compared are at least this far apart, so they are few.
constexpr uint64_t kCandidateStep = 8 << 10;
// Shorter spans leave no room for a choice.
constexpr uint32_t kMinSpanToChoose = 128 << 10;
// Header flags.
constexpr uint8_t kHeaderCrc = 2, kExtra = 4, kName = 8, kComment = 16, kReserved = 0xe0;

// Length of the gzip header at the begin of `in`; 0: it is not complete.
Result<size_t> HeaderBytes(ByteSpan in) {
  static constexpr uint8_t kMagic[] = {0x1f, 0x8b, 8};
  if (!std::equal(kMagic, kMagic + std::min(in.size(), sizeof(kMagic)), in.begin()))
    return InvalidError("no gzip header");
  if (in.size() < kMinGzipHeaderBytes) return size_t{0};
  uint8_t flags = in[3];
  if ((flags & kReserved) != 0) return InvalidError("gzip header with unknown flags");
  size_t at = kMinGzipHeaderBytes;
  if ((flags & kExtra) != 0) {
    if (in.size() < at + 2) return size_t{0};
    at += 2 + (in[at] | size_t{in[at + 1]} << 8);
  }
  for (uint8_t text : {kName, kComment}) {
    if ((flags & text) == 0) continue;
    if (at >= in.size()) return size_t{0};
    auto end = std::find(in.begin() + static_cast<ptrdiff_t>(at), in.end(), 0);
    if (end == in.end()) {
      if (in.size() > kMaxGzipHeaderBytes) return InvalidError("gzip header is too long");
      return size_t{0};
    }
    at = static_cast<size_t>(end - in.begin()) + 1;
  }
  if ((flags & kHeaderCrc) != 0) at += 2;
  return at <= in.size() ? at : 0;
}

struct Trace {
  GzipWindow window;
  std::bitset<kGzipWindowBytes> reached;
};

struct Checkpoint {
  uint64_t data_offset;
  uint64_t compressed_offset;
  uint8_t bits;
  std::unique_ptr<Trace> trace;  // until 32 KiB have followed
  size_t nr_reached = 0;         // known then
  size_t window = 0;             // of an entry: its number in windows
};

}  // namespace

struct GzipIndexBuilder::State {
  enum class Part { kHeader, kDeflate, kTrailer, kBetween };

  GzipIndexOptions options;
  Sink sink;
  Part part = Part::kHeader;
  uint64_t nr_members = 0;        // whose header was seen
  uint64_t compressed_bytes = 0;  // used so far
  uint64_t data_bytes = 0;
  uint64_t member_start = 0;  // in the data
  uint32_t crc = 0;           // of the member's data that went to the sink
  DeflateDecoder decoder;
  // [0, kGzipWindowBytes) history; [sent, out.fill) not yet given to the sink.
  Bytes buffer = Bytes(kGzipWindowBytes + kOutputBytes);
  DeflateDecoder::Output out;
  size_t sent = kGzipWindowBytes;
  std::vector<DeflateCopy> copies;
  Bytes input;  // of which less than a symbol or a header is kept
  std::vector<Checkpoint> entries, candidates;
  std::vector<size_t> traced;  // entries with a trace
  std::unique_ptr<WindowDeflater> windows;
  std::optional<size_t> no_window;  // the number of the one of zeros

  bool Chooses() const { return options.span_bytes >= kMinSpanToChoose; }
  Status Process(bool last);
  Status Step(ByteSpan* in, bool last, bool* more);
  Status InflateSome(ByteSpan* in, bool last, bool* more);
  Status Drain();
  Checkpoint Here();
  void FeedTrace(Checkpoint* c);
  void FinishTrace(Checkpoint* c);
  void EndTraces(bool all);
  void OnBlockEnd();
  void Choose();
  void BeginMember();
  Status EndMember(ByteSpan trailer);
};

// Gives the new output to the sink; makes room when the buffer is full.
Status GzipIndexBuilder::State::Drain() {
  if (out.fill > sent) {
    ByteSpan data = ByteSpan(buffer).subspan(sent, out.fill - sent);
    crc = crc32_gzip_refl(crc, data.data(), data.size());
    FASTOCI_CHECK_OK(sink(data));
  }
  sent = out.fill;
  if (buffer.size() - out.fill < DeflateDecoder::kOutputMargin) {
    std::memmove(buffer.data(), buffer.data() + out.fill - kGzipWindowBytes, kGzipWindowBytes);
    sent = out.fill = kGzipWindowBytes;
  }
  return OkStatus();
}

Checkpoint GzipIndexBuilder::State::Here() {
  Checkpoint c{data_bytes, compressed_bytes, static_cast<uint8_t>(decoder.bits()),
               std::make_unique<Trace>(), 0, 0};
  std::memcpy(c.trace->window.data(), buffer.data() + out.fill - kGzipWindowBytes, kGzipWindowBytes);
  // A window holds no output of another member.
  uint64_t own = data_bytes - member_start;
  if (own < kGzipWindowBytes) std::memset(c.trace->window.data(), 0, kGzipWindowBytes - own);
  if (!options.sparse_windows) c.trace->reached.set();
  return c;
}

// Before out.fill changes hands: the copies of the last call to the decoder.
void GzipIndexBuilder::State::FeedTrace(Checkpoint* c) {
  if (!c->trace) return;
  // Place of the checkpoint in the buffer; it may have moved out.
  auto place = static_cast<ptrdiff_t>(out.fill) - static_cast<ptrdiff_t>(data_bytes - c->data_offset);
  for (const DeflateCopy& copy : copies) {
    ptrdiff_t from = copy.from, end = std::min<ptrdiff_t>(from + copy.length, place);
    for (ptrdiff_t i = from; i < end; i++)
      c->trace->reached.set(static_cast<size_t>(i - place) + kGzipWindowBytes);
  }
}

void GzipIndexBuilder::State::FinishTrace(Checkpoint* c) {
  for (size_t i = 0; i < kGzipWindowBytes; i++)
    if (!c->trace->reached[i]) c->trace->window[i] = 0;
  c->window = windows->Add(c->trace->window);
  c->trace.reset();
}

// Ends the traces that have seen enough.
void GzipIndexBuilder::State::EndTraces(bool all) {
  auto ended = [&](const Checkpoint& c) {
    return all || data_bytes - c.data_offset >= kGzipWindowBytes;
  };
  for (size_t i : traced)
    if (ended(entries[i])) FinishTrace(&entries[i]);
  std::erase_if(traced, [&](size_t i) { return !entries[i].trace; });
}

// The best candidate becomes an entry; of equal ones, the first.
void GzipIndexBuilder::State::Choose() {
  if (candidates.empty()) return;
  for (Checkpoint& c : candidates) c.nr_reached = c.trace->reached.count();
  auto best = std::min_element(
      candidates.begin(), candidates.end(),
      [](const Checkpoint& a, const Checkpoint& b) { return a.nr_reached < b.nr_reached; });
  FinishTrace(&*best);
  entries.push_back(std::move(*best));
  candidates.clear();
}

void GzipIndexBuilder::State::OnBlockEnd() {
  uint64_t since = data_bytes - entries.back().data_offset;
  if (!Chooses()) {
    if (since < options.span_bytes) return;
    traced.push_back(entries.size());
    entries.push_back(Here());
    return;
  }
  uint64_t latest = uint64_t{options.span_bytes} + options.span_bytes / 4;
  if (!candidates.empty()) {
    uint64_t last = candidates.back().data_offset;
    if (since <= latest && data_bytes - last < kCandidateStep) return;
    // Chosen long before another span can have passed.
    if (since > latest) {
      if (data_bytes - last < kGzipWindowBytes) return;
      Choose();
      since = data_bytes - entries.back().data_offset;
    }
  }
  if (since >= options.span_bytes) candidates.push_back(Here());
}

// There is an entry where each member's first block begins, so decoding from one
// entry to the next never meets another member.
void GzipIndexBuilder::State::BeginMember() {
  nr_members++;
  member_start = data_bytes;
  crc = 0;
  decoder.Restart();
  // Nothing begins at an empty member's entry.
  if (!entries.empty() && entries.back().data_offset == data_bytes) entries.pop_back();
  if (!no_window) no_window = windows->Add(GzipWindow{});
  entries.push_back({data_bytes, compressed_bytes, 0, nullptr, 0, *no_window});
}

Status GzipIndexBuilder::State::EndMember(ByteSpan trailer) {
  FASTOCI_CHECK_OK(Drain());
  ByteReader r(trailer);
  const bool same = r.U32() == crc;
  if (same && r.U32() == static_cast<uint32_t>(data_bytes - member_start)) return OkStatus();
  return InvalidError(std::string("gzip stream: wrong ") + (same ? "length" : "checksum") + " of member " +
                      std::to_string(nr_members) + ", bytes " + std::to_string(member_start) + " to " +
                      std::to_string(data_bytes) + " of the data");
}

// To the next block end, to the end of *in or of the buffer.
Status GzipIndexBuilder::State::InflateSome(ByteSpan* in, bool last, bool* more) {
  size_t in_before = in->size(), fill_before = out.fill;
  out.buffer = buffer;
  uint64_t own = data_bytes - member_start;
  out.first = out.fill - std::min<uint64_t>(own, out.fill);
  // Only bytes before the newest checkpoint matter.
  const Checkpoint* newest = !candidates.empty() ? &candidates.back()
                             : !traced.empty()   ? &entries[traced.back()]
                                                 : nullptr;
  uint64_t since = newest != nullptr ? data_bytes - newest->data_offset : kGzipWindowBytes;
  out.watch_below = options.sparse_windows && since < kGzipWindowBytes ? out.fill - since : 0;
  out.copies = &copies;
  copies.clear();
  auto event = decoder.Decode(in, last, &out);
  if (!event.ok())
    return event.error().Wrap("gzip stream is corrupt after byte " + std::to_string(compressed_bytes));
  compressed_bytes += in_before - in->size();
  data_bytes += out.fill - fill_before;
  if (data_bytes > kMaxGzipBytes) return InvalidError("gzip stream is too large");
  if (!copies.empty()) {
    for (size_t i : traced) FeedTrace(&entries[i]);
    for (Checkpoint& c : candidates) FeedTrace(&c);
  }
  EndTraces(*event == DeflateDecoder::Event::kStreamEnd);
  switch (*event) {
    case DeflateDecoder::Event::kBlockEnd:
      OnBlockEnd();
      break;
    case DeflateDecoder::Event::kStreamEnd:
      std::erase_if(candidates, [&](const Checkpoint& c) { return c.data_offset == data_bytes; });
      Choose();
      while (entries.back().data_offset == data_bytes && data_bytes != member_start) entries.pop_back();
      part = Part::kTrailer;
      break;
    case DeflateDecoder::Event::kNeedInput: *more = false; break;
    case DeflateDecoder::Event::kOutputFull: break;
  }
  return buffer.size() - out.fill < DeflateDecoder::kOutputMargin ? Drain() : OkStatus();
}

// One step; *more: another one may go on without more input.
Status GzipIndexBuilder::State::Step(ByteSpan* in, bool last, bool* more) {
  auto use = [&](size_t n) {
    *in = in->subspan(n);
    compressed_bytes += n;
  };
  switch (part) {
    case Part::kHeader: {
      auto n = HeaderBytes(*in);
      if (!n.ok())
        return n.error().Wrap("at byte " + std::to_string(compressed_bytes));
      if (*n == 0) {
        *more = false;
        return last ? Status(InvalidError("gzip stream is cut off")) : OkStatus();
      }
      use(*n);
      part = Part::kDeflate;
      BeginMember();
      return OkStatus();
    }
    case Part::kDeflate: return InflateSome(in, last, more);
    case Part::kTrailer:
      if (in->size() < kTrailerBytes) {
        *more = false;
        return last ? Status(InvalidError("gzip stream is cut off")) : OkStatus();
      }
      FASTOCI_CHECK_OK(EndMember(in->first(kTrailerBytes)));
      use(kTrailerBytes);
      part = Part::kBetween;
      return OkStatus();
    case Part::kBetween:
      use(static_cast<size_t>(std::find_if(in->begin(), in->end(), [](uint8_t b) { return b != 0; }) -
                              in->begin()));
      *more = !in->empty();
      if (*more) part = Part::kHeader;
      return OkStatus();
  }
  return OkStatus();
}

Status GzipIndexBuilder::State::Process(bool last) {
  ByteSpan rest = input;
  for (bool more = true; more;) FASTOCI_CHECK_OK(Step(&rest, last, &more));
  input.erase(input.begin(), input.end() - static_cast<ptrdiff_t>(rest.size()));
  return Drain();
}

GzipIndexBuilder::GzipIndexBuilder(std::unique_ptr<State> state) : state_(std::move(state)) {}
GzipIndexBuilder::GzipIndexBuilder(GzipIndexBuilder&&) noexcept = default;
GzipIndexBuilder& GzipIndexBuilder::operator=(GzipIndexBuilder&&) noexcept = default;
GzipIndexBuilder::~GzipIndexBuilder() = default;
uint64_t GzipIndexBuilder::uncompressed_bytes() const { return state_->data_bytes; }
uint64_t GzipIndexBuilder::nr_members() const { return state_->nr_members; }

Result<GzipIndexBuilder> GzipIndexBuilder::Create(const GzipIndexOptions& options, Sink sink) {
  if (options.span_bytes == 0 || options.span_bytes > INT32_MAX || options.level < 1 ||
      options.level > 9)
    return InvalidError("gzip index: option out of range");
  auto state = std::make_unique<State>();
  state->options = options;
  state->sink = std::move(sink);
  state->windows = std::make_unique<WindowDeflater>(options.level, options.threaded);
  state->out.fill = kGzipWindowBytes;
  state->input.reserve(kInputBytes * 2);
  return GzipIndexBuilder(std::move(state));
}

Status GzipIndexBuilder::Update(ByteSpan compressed) {
  State& s = *state_;
  while (!compressed.empty()) {
    ByteSpan part = compressed.first(std::min(compressed.size(), kInputBytes));
    s.input.insert(s.input.end(), part.begin(), part.end());
    compressed = compressed.subspan(part.size());
    FASTOCI_CHECK_OK(s.Process(false));
  }
  return OkStatus();
}

Result<Bytes> GzipIndexBuilder::Finish() {
  State& s = *state_;
  if (s.part != State::Part::kBetween) FASTOCI_CHECK_OK(s.Process(true));
  // A last member that is empty.
  while (s.entries.size() > 1 && s.entries.back().data_offset >= s.data_bytes) s.entries.pop_back();

  FASTOCI_TRY(std::vector<Bytes> stored, s.windows->Finish());
  ByteWriter windows, table;
  const Bytes* last = nullptr;
  uint64_t last_at = 0;
  for (const Checkpoint& c : s.entries) {
    const Bytes& window = stored[c.window];
    if (last == nullptr || *last != window) {  // equal ones in a row are stored once
      last_at = kGzipIndexHeaderBytes + windows.size();
      windows.Append(window);
      last = &window;
    }
    table.U64(c.data_offset);
    table.U64(c.compressed_offset);
    table.U64(last_at);
    table.U8(c.bits);
    table.U32(static_cast<uint32_t>(window.size()));
  }
  FASTOCI_TRY(Bytes area, DeflateBytes(table.bytes(), s.options.level));
  uint64_t index_start = kGzipIndexHeaderBytes + windows.size();

  ByteWriter w;
  w.Append(kGzipIndexMagic);
  w.U8(s.nr_members > 1 ? kGzipIndexMembers : kGzipIndexVersion);
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
