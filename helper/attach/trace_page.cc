// SPDX-License-Identifier: Apache-2.0
// Places on the time axis are percents of it, so that the page fits any width.
#include "attach/trace_page.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>

#include "base/format.h"

namespace fastoci {
namespace {

constexpr size_t kMaxRows = 250;
constexpr size_t kMaxLongest = 20;
constexpr int kMarks = 1000;  // places on the axis: what is closer becomes one mark

constexpr char kStyle[] = R"css(
:root { color-scheme: light dark; --bg: #fff; --fg: #1c2128; --soft: #59636e; --line: #d8dee4;
  --band: #f4f6f8; --hit: #5a9e6f; --meta: #8b949e; --miss: #c4432b; --queue: #b08800; --network: #2f6feb;
  --decode: #8250df; --verify: #1b8a8f; --write: #bf5700; --bad: #c4432b; }
@media (prefers-color-scheme: dark) { :root { --bg: #0f1318; --fg: #e3e8ee; --soft: #9aa5b1; --line: #2c343d;
  --band: #171c23; --hit: #57ab6a; --meta: #7a848f; --miss: #f0694f; --queue: #d4a72c; --network: #6ca4ff;
  --decode: #b083f0; --verify: #39b5ba; --write: #f0883e; --bad: #f0694f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 90rem; background: var(--bg); color: var(--fg);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
p { margin: .3rem 0; color: var(--soft); overflow-wrap: anywhere; }
.note { border-left: 3px solid var(--queue); padding-left: .6rem; color: var(--fg); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .5rem; margin: 1rem 0; }
.tile { background: var(--band); border: 1px solid var(--line); border-radius: 6px; padding: .5rem .7rem; }
.tile b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .82rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; color: var(--soft); margin: .4rem 0; }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .35rem; vertical-align: -.08rem; }
.phases { display: flex; height: 1.4rem; border-radius: 4px; overflow: hidden; background: var(--band); }
.phases i { min-width: 1px; }
.row { display: grid; grid-template-columns: minmax(0, 22rem) minmax(0, 1fr); column-gap: .8rem; align-items: center; }
.row:nth-child(even) { background: var(--band); }
.label { font-size: .82rem; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; direction: rtl; text-align: left; }
.label bdi { unicode-bidi: isolate; direction: ltr; }
.track { position: relative; height: 1.25rem; border-left: 1px solid var(--line); border-right: 1px solid var(--line); }
.track i { position: absolute; top: 20%; bottom: 20%; min-width: 2px; border-radius: 1px; }
.track .part { display: flex; overflow: hidden; background: var(--line); }
.track .part i { position: static; min-width: 0; border-radius: 0; }
.axis { position: sticky; top: 0; background: var(--bg); z-index: 1; border-bottom: 1px solid var(--line); }
.axis .track { height: 1.5rem; border: 0; }
.axis em { position: absolute; font: .75rem/1.5rem inherit; font-size: .75rem; line-height: 1.5rem; color: var(--soft);
  white-space: nowrap; transform: translateX(-50%); font-style: normal; }
.axis em:first-child { transform: none; } .axis em:last-child { transform: translateX(-100%); }
.hit { background: var(--hit); } .meta { background: var(--meta); } .miss { background: var(--miss); opacity: .85; }
.queue { background: var(--queue); } .network { background: var(--network); } .decode { background: var(--decode); }
.verify { background: var(--verify); } .write { background: var(--write); } .bad { outline: 2px solid var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; min-width: 100%; }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 11rem; }
@media (max-width: 720px) { body { padding: .7rem; } .row { grid-template-columns: minmax(0, 1fr); padding-bottom: .2rem; }
  .label { font-size: .78rem; } .track { height: 1rem; } .axis em.odd { display: none; } .axis .label { display: none; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
)css";

struct Span {
  int64_t begin, end;
};

// Of one file, or of what has no path.
struct Row {
  std::string label;
  int64_t first = 0;
  uint64_t reads = 0, misses = 0, bytes = 0;
  std::set<int> hits, metas;  // marks
  std::vector<Span> waits;
  std::string programs;
  int64_t waited = 0;
};

std::string Time(int64_t ns) {
  const double ms = static_cast<double>(ns) / 1e6;
  return ms < 10 ? Format("%.2f ms", ms) : ms < 1000 ? Format("%.0f ms", ms) : Format("%.2f s", ms / 1000);
}

// Sorted, joined where they overlap.
std::vector<Span> Union(std::vector<Span> spans) {
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  std::vector<Span> out;
  for (const Span& s : spans) {
    if (!out.empty() && s.begin <= out.back().end) out.back().end = std::max(out.back().end, s.end);
    else out.push_back(s);
  }
  return out;
}

int64_t Length(const std::vector<Span>& spans) {
  int64_t sum = 0;
  for (const Span& s : spans) sum += s.end - s.begin;
  return sum;
}

class Page {
 public:
  Page(const Trace& trace, const ExtentMap* extents, const FileMap* files)
      : t_(trace), extents_(extents), files_(files), length_(std::max<int64_t>(t_.end_ns - t_.begin_ns, 1)) {}
  std::string Render();

 private:
  double Percent(int64_t at) const {
    return 100.0 * static_cast<double>(std::clamp<int64_t>(at - t_.begin_ns, 0, length_)) /
           static_cast<double>(length_);
  }
  int Mark(int64_t at) const { return static_cast<int>(Percent(at) * kMarks / 100); }
  std::string Bar(const char* kind, Span s, const std::string& title) const {
    const double left = std::min(Percent(s.begin), 99.8);
    return Format("<i class=\"%s\" style=\"left:%.2f%%;width:%.2f%%\"", kind, left,
                  std::max(Percent(s.end) - left, 0.0)) +
           (title.empty() ? "" : " title=\"" + HtmlText(title) + "\"") + "></i>";
  }
  std::string LabelOf(const TraceRead& read) const;
  int64_t EndOf(const TraceRead& miss) const;
  void Gather();
  void Head();
  void Tiles();
  void Phases();
  void Axis();
  void Requests();
  void Files();
  void Longest();
  void Track(const std::string& label, const std::string& title, const std::string& bars) {
    out_ += "<div class=\"row\"><div class=\"label\" title=\"" + HtmlText(title) + "\"><bdi>" +
            HtmlText(label) + "</bdi></div><div class=\"track\">" + bars + "</div></div>\n";
  }

  const Trace& t_;
  const ExtentMap* const extents_;
  const FileMap* const files_;
  const int64_t length_;
  std::map<std::pair<std::string, uint32_t>, std::vector<const TraceChunk*>> chunks_;
  std::vector<Row> rows_;
  std::vector<Span> waits_;  // of all
  std::string out_;
};

std::string Page::LabelOf(const TraceRead& read) const {
  if (read.kind == TraceRead::kMeta) return "(file system metadata)";
  std::string path = files_ ? files_->Find(read.sector) : "";
  if (!path.empty()) return path;
  if (files_) return "(no file's data)";
  return Format("(MiB %llu of the device)", static_cast<unsigned long long>(read.sector >> 11));
}

// When the chunk came, or the end of the trace.
int64_t Page::EndOf(const TraceRead& miss) const {
  auto place = extents_ ? extents_->Find(miss.sector) : std::nullopt;
  if (!place || t_.chunk_bytes == 0) return miss.at_ns;
  auto it = chunks_.find({place->blob, static_cast<uint32_t>(place->data_sector * 512 / t_.chunk_bytes)});
  if (it == chunks_.end()) return t_.end_ns;
  for (const TraceChunk* c : it->second)
    if (c->end_ns >= miss.at_ns) return std::min(c->end_ns, t_.end_ns);
  return t_.end_ns;
}

void Page::Gather() {
  for (const TraceChunk& c : t_.chunks) chunks_[{c.blob, c.chunk_no}].push_back(&c);
  std::map<std::string, size_t> by_label;
  for (const TraceRead& read : t_.reads) {
    if (read.kind == TraceRead::kZero) continue;
    const std::string label = LabelOf(read);
    auto [it, is_new] = by_label.try_emplace(label, rows_.size());
    if (is_new) rows_.emplace_back();
    Row& row = rows_[it->second];
    if (is_new) row.label = label, row.first = read.at_ns;
    row.reads++;
    row.bytes += read.nr_sectors * 512;
    if (row.programs.find(read.program) == std::string::npos && row.programs.size() < 100)
      row.programs += (row.programs.empty() ? "" : ", ") + read.program;
    if (read.kind == TraceRead::kMiss) {
      row.misses++;
      row.waits.push_back({read.at_ns, EndOf(read)});
    } else {
      (read.kind == TraceRead::kMeta ? row.metas : row.hits).insert(Mark(read.at_ns));
    }
  }
  for (Row& row : rows_) {
    row.waits = Union(std::move(row.waits));
    row.waited = Length(row.waits);
    waits_.insert(waits_.end(), row.waits.begin(), row.waits.end());
  }
  // Without the kernel's reads, what the helper knows.
  if (t_.reads.empty())
    for (const TraceChunk& c : t_.chunks) waits_.push_back({c.since_ns, c.end_ns});
  waits_ = Union(std::move(waits_));
  std::sort(rows_.begin(), rows_.end(), [](const Row& a, const Row& b) { return a.first < b.first; });
}

void Page::Head() {
  out_ += "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
          "style-src 'unsafe-inline'\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
          "<meta name=\"color-scheme\" content=\"light dark\">\n<title>" +
          HtmlText(t_.image) + ": a start</title>\n<style>" + kStyle + "</style></head><body>\n<h1>" +
          HtmlText(t_.image) + "</h1>\n";
  if (!t_.ref.empty()) out_ += "<p>" + HtmlText(t_.ref) + "</p>\n";
  for (const std::string& note : t_.notes) out_ += "<p class=\"note\">" + HtmlText(note) + "</p>\n";
  if (t_.lost > 0)
    out_ += Format("<p class=\"note\">%s missing: there was no room for them.</p>\n",
                   (Counted(t_.lost, "event") + (t_.lost == 1 ? " is" : " are")).c_str());
}

void Page::Tiles() {
  uint64_t reads = 0, misses = 0, bytes = 0, fetched = 0, requests = 0, running = 0, failed = 0;
  for (const Row& row : rows_) {
    bytes += row.bytes;
    if (row.label == "(file system metadata)") continue;
    reads += row.reads;
    misses += row.misses;
  }
  for (const TraceRequest& r : t_.requests) fetched += r.bytes, requests++, running += r.end_ns == 0;
  int64_t longest = 0;
  for (const TraceChunk& c : t_.chunks) {
    longest = std::max(longest, c.end_ns - c.since_ns);
    failed += !c.ok;
  }
  auto tile = [&](const std::string& value, const std::string& what) {
    out_ += "<div class=\"tile\"><b>" + value + "</b><span>" + what + "</span></div>\n";
  };
  out_ += "<div class=\"tiles\">\n";
  tile(Time(length_), "traced");
  tile(Time(Length(waits_)), "of it somebody waited for data");
  tile(std::to_string(reads), std::string(reads == 1 ? "read" : "reads") + " of file data, " +
                                  Format("%.1f %% missed", reads ? 100.0 * static_cast<double>(misses) /
                                                                       static_cast<double>(reads)
                                                                 : 0.0));
  tile(HumanBytes(bytes), "read of the device");
  tile(HumanBytes(fetched), "fetched in " + Counted(requests, "request") +
                           (running > 0 ? ", " + std::to_string(running) + " of them still running" : ""));
  tile(Time(longest), "the longest of " + Counted(t_.chunks.size(), "miss", "misses"));
  if (failed > 0) tile(std::to_string(failed), failed == 1 ? "miss failed" : "misses failed");
  out_ += "</div>\n";
}

void Page::Phases() {
  int64_t queue = 0, network = 0, decode = 0, verify = 0, write = 0;
  for (const TraceChunk& c : t_.chunks) queue += c.picked_ns - c.since_ns;
  for (const TraceRequest& r : t_.requests) {
    if (r.background) continue;
    network += r.network_ns, decode += r.decode_ns, verify += r.verify_ns, write += r.write_ns;
  }
  const std::pair<const char*, int64_t> parts[] = {
      {"network", network}, {"decode", decode}, {"verify", verify}, {"write", write}};
  int64_t sum = 0;
  for (const auto& part : parts) sum += part.second;
  out_ += "<h2>Where the requests spent their time</h2>\n";
  if (sum > 0) {
    out_ += "<div class=\"phases\">";
    for (const auto& [name, ns] : parts)
      out_ += Format("<i class=\"%s\" style=\"flex:%.4f\"></i>", name,
                     static_cast<double>(ns) / static_cast<double>(sum));
    out_ += "</div>\n";
  }
  out_ += "<div class=\"legend\">";
  for (const auto& [name, ns] : parts)
    out_ += Format("<span><i class=\"%s\"></i>%s ", name, name) + Time(ns) + "</span>";
  out_ += "<span><i class=\"queue\"></i>misses in the queue, together " + Time(queue) +
          "</span></div>\n<p>Of all requests together, several of which run at a time. Network and decode: a "
          "request waited for bytes, or for the decoder; verify: digests; write: the cache.</p>\n";
}

// 1, 2 or 5 times a power of ten, so that there are five to ten of them.
void Page::Axis() {
  double step = std::pow(10, std::floor(std::log10(static_cast<double>(length_) / 5)));
  for (double factor : {1.0, 2.0, 5.0})
    if (step * factor * 10 >= static_cast<double>(length_)) {
      step *= factor;
      break;
    }
  out_ += "<div class=\"row axis\"><div class=\"label\"></div><div class=\"track\">";
  for (int i = 0; step * i <= static_cast<double>(length_) * 0.95 || i == 0; i++) {
    const auto at = static_cast<int64_t>(step * i);
    out_ += Format("<em%s style=\"left:%.2f%%\">", i % 2 ? " class=\"odd\"" : "", Percent(t_.begin_ns + at)) +
            (i == 0 ? "0" : Time(at)) + "</em>";
  }
  out_ += "<em style=\"left:100%\"></em></div></div>\n";
}

// In as many lines as run at a time.
void Page::Requests() {
  std::vector<const TraceRequest*> sorted;
  for (const TraceRequest& r : t_.requests) sorted.push_back(&r);
  std::sort(sorted.begin(), sorted.end(),
            [](const TraceRequest* a, const TraceRequest* b) { return a->begin_ns < b->begin_ns; });
  std::vector<std::pair<int64_t, std::string>> lines;  // end of the last, bars
  for (const TraceRequest* r : sorted) {
    auto line = std::find_if(lines.begin(), lines.end(), [&](const auto& l) { return l.first <= r->begin_ns; });
    if (line == lines.end()) line = lines.insert(lines.end(), {0, ""});
    const bool runs = r->end_ns == 0;
    const int64_t end = runs ? t_.end_ns : r->end_ns;
    line->first = end;
    const double left = std::min(Percent(r->begin_ns), 99.8);
    std::string title = r->blob.substr(0, 19) + ", span " + std::to_string(r->span) +
                        (r->spans > 1 ? " to " + std::to_string(r->span + r->spans - 1) : "") + ": " +
                        (runs ? "not ended yet"
                              : HumanBytes(r->bytes) + " in " + Time(end - r->begin_ns) + ", network " +
                        Time(r->network_ns) + ", decode " + Time(r->decode_ns) + ", verify " +
                        Time(r->verify_ns) + ", write " + Time(r->write_ns)) +
                        (r->background ? ", background" : "") +
                        (r->attempt > 1 ? ", try " + std::to_string(r->attempt) : "") +
                        (r->error.empty() ? "" : ": " + r->error);
    line->second += Format("<i class=\"part%s\" style=\"left:%.2f%%;width:%.2f%%\" title=\"",
                           r->error.empty() ? "" : " bad", left, std::max(Percent(end) - left, 0.0)) +
                    HtmlText(title) + "\">";
    for (const auto& [name, ns] : {std::pair<const char*, int64_t>{"network", r->network_ns},
                                   {"decode", r->decode_ns}, {"verify", r->verify_ns}, {"write", r->write_ns}})
      line->second += Format("<i class=\"%s\" style=\"flex:%.4f\"></i>", name,
                             static_cast<double>(std::max<int64_t>(ns, 0)) / 1e6);
    line->second += "</i>";
  }
  for (size_t i = 0; i < lines.size(); i++)
    Track(i == 0 ? "requests" : "", "requests that run at a time, each by its parts", lines[i].second);
}

void Page::Files() {
  std::vector<const Row*> shown;
  for (const Row& row : rows_) shown.push_back(&row);
  if (shown.size() > kMaxRows) {
    std::stable_sort(shown.begin(), shown.end(), [](const Row* a, const Row* b) { return a->waited > b->waited; });
    shown.resize(kMaxRows);
    std::sort(shown.begin(), shown.end(), [](const Row* a, const Row* b) { return a->first < b->first; });
  }
  for (const Row* row : shown) {
    std::string bars;
    for (int mark : row->metas) bars += Format("<i class=\"meta\" style=\"left:%.1f%%\"></i>", std::min(mark * 100.0 / kMarks, 99.8));
    for (int mark : row->hits) bars += Format("<i class=\"hit\" style=\"left:%.1f%%\"></i>", std::min(mark * 100.0 / kMarks, 99.8));
    for (const Span& s : row->waits) bars += Bar("miss", s, "missed at " + Time(s.begin - t_.begin_ns) + ", waited " + Time(s.end - s.begin));
    Track(row->label, row->label + ": " + std::to_string(row->reads) + " reads, " + std::to_string(row->misses) +
                          " missed, " + HumanBytes(row->bytes) + ", by " + row->programs, bars);
  }
  if (shown.size() < rows_.size())
    out_ += Format("<p>and %zu more files that waited less</p>\n", rows_.size() - shown.size());
}

void Page::Longest() {
  std::vector<const Row*> rows;
  for (const Row& row : rows_)
    if (row.misses > 0) rows.push_back(&row);
  std::sort(rows.begin(), rows.end(), [](const Row* a, const Row* b) { return a->waited > b->waited; });
  if (rows.size() > kMaxLongest) rows.resize(kMaxLongest);
  if (rows.empty()) return;
  out_ += "<h2>Files that waited longest</h2>\n<div class=\"scroll\"><table><tr><th>file</th><th>waited</th>"
          "<th>missed</th><th>reads</th><th>read</th></tr>\n";
  for (const Row* row : rows)
    out_ += "<tr><td><bdi>" + HtmlText(row->label) + "</bdi></td><td>" + Time(row->waited) + "</td><td>" +
            std::to_string(row->misses) + "</td><td>" + std::to_string(row->reads) + "</td><td>" +
            HumanBytes(row->bytes) + "</td></tr>\n";
  out_ += "</table></div>\n";
}

std::string Page::Render() {
  Gather();
  Head();
  Tiles();
  Phases();
  out_ += "<h2>Timeline</h2>\n<div class=\"legend\"><span><i class=\"miss\"></i>a read that missed, until its data "
          "came</span><span><i class=\"hit\"></i>a read from the cache</span><span><i class=\"meta\"></i>of "
          "metadata</span></div>\n<div>\n";
  Axis();
  std::string waiting;
  for (const Span& s : waits_) waiting += Bar("miss", s, Time(s.end - s.begin));
  Track("somebody waits", "times at which at least one read waited", waiting);
  Requests();
  Files();
  out_ += "</div>\n";
  Longest();
  out_ += "</body></html>\n";
  return std::move(out_);
}

}  // namespace

std::string HtmlText(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    const auto c = static_cast<unsigned char>(text[i]);
    // Length of a sequence by its first byte; its range is checked by the second.
    const size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : 9;
    bool good = more < 9 && i + more < text.size();
    for (size_t k = 1; good && k <= more; k++) good = (text[i + k] & 0xc0) == 0x80;
    const auto next = static_cast<unsigned char>(good && more ? text[i + 1] : 0);
    if ((c == 0xe0 && next < 0xa0) || (c == 0xed && next >= 0xa0) || (c == 0xf0 && next < 0x90) ||
        (c == 0xf4 && next >= 0x90) || (c == 0xc2 && next < 0xa0))
      good = false;
    if (!good || c < 0x20 || c == 0x7f) out += "\xef\xbf\xbd";  // U+FFFD
    else if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else if (c == '\'') out += "&#39;";
    else out += text.substr(i, more + 1), i += more;
  }
  return out;
}

std::string RenderTracePage(const Trace& trace, const ExtentMap* extents, const FileMap* files) {
  return Page(trace, extents, files).Render();
}

}  // namespace fastoci
