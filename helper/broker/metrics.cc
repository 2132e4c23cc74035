// SPDX-License-Identifier: Apache-2.0
#include "broker/metrics.h"

#include <array>
#include <cinttypes>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "base/json.h"
#include "miss/histogram.h"
#include "fastoci_netlink.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;
constexpr char kCounter[] = "counter", kGauge[] = "gauge", kHistogram[] = "histogram";
using Labels = std::vector<std::pair<std::string, std::string>>;

// A label's value: backslash, quote and newline are escaped.
std::string Escape(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') out += "\\n";
    else out += c;
  }
  return out;
}

const uint64_t* NumberIn(const Json& object, const char* key) {
  auto it = object.find(key);
  return it == object.end() ? nullptr : it->get_ptr<const uint64_t*>();
}

class Text {
 public:
  // The samples of one metric follow its Head().
  void Head(const std::string& name, const char* type, const char* help) {
    out_ += "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
    name_ = name;
  }
  void Sample(const Labels& labels, uint64_t value) { Sample("", labels, std::to_string(value)); }
  // h: "buckets", one by bound and one for what is larger, and "sum_ns".
  template <size_t N>
  void Durations(const Labels& labels, const Json& h, const std::array<uint64_t, N>& bounds_ns);
  void Sample(const char* suffix, const Labels& labels, const std::string& value) {
    out_ += name_ + suffix;
    for (size_t i = 0; i < labels.size(); i++) {
      out_ += (i == 0 ? "{" : ",") + labels[i].first + "=\"" + Escape(labels[i].second) + "\"";
    }
    out_ += (labels.empty() ? " " : "} ") + value + "\n";
  }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_, name_;
};

// Without digits that tell nothing: 0.25, not 0.250000.
std::string Seconds(uint64_t ns) {
  char text[40];
  std::snprintf(text, sizeof(text), "%" PRIu64 ".%09" PRIu64, ns / 1000000000, ns % 1000000000);
  std::string s = text;
  s.erase(s.find_last_not_of('0') + 1);
  if (s.back() == '.') s.pop_back();
  return s;
}

constexpr auto kHelperBoundsNs = [] {
  auto bounds = Histogram::kBoundsUs;
  for (uint64_t& b : bounds) b *= 1000;
  return bounds;
}();

constexpr auto kKernelBoundsNs = [] {
  std::array<uint64_t, FASTOCI_NR_HIT_TIMES - 1> bounds{};
  for (size_t i = 0; i < bounds.size(); i++) bounds[i] = uint64_t{1} << (FASTOCI_HIT_TIME_SHIFT + i);
  return bounds;
}();

template <size_t N>
void Text::Durations(const Labels& labels, const Json& h, const std::array<uint64_t, N>& bounds_ns) {
  auto buckets = h.find("buckets");
  const uint64_t* sum = NumberIn(h, "sum_ns");
  if (!sum || buckets == h.end() || buckets->size() != N + 1) return;
  uint64_t count = 0;
  for (size_t i = 0; i < buckets->size(); i++) {
    count += (*buckets)[i].get<uint64_t>();
    Labels with = labels;
    with.emplace_back("le", i < N ? Seconds(bounds_ns[i]) : "+Inf");
    Sample("_bucket", with, std::to_string(count));
  }
  Sample("_sum", labels, Seconds(*sum));
  Sample("_count", labels, std::to_string(count));
}

struct Counter {
  const char* key;  // in stat's "counters"
  const char* name;
  const char* help;
};
constexpr Counter kCounters[] = {
    {"misses", "fastoci_misses_total", "Chunks that the kernel asked for."},
    {"fills", "fastoci_fills_total", "Chunks that were handed to the kernel."},
    {"restored", "fastoci_restored_chunks_total",
     "Chunks served from verified slots of an earlier run."},
    {"mismatches", "fastoci_digest_mismatches_total",
     "Fetched pieces that did not match their digest."},
    {"rotten", "fastoci_rotten_chunks_total", "Cached chunks that did not match their digest."},
    {"planted", "fastoci_planted_chunks_total",
     "Cached chunks that differed from their blob as a whole."},
    {"scrubbed", "fastoci_scrubbed_chunks_total", "Cached chunks that were read and compared."},
    {"evictions", "fastoci_evictions_total", "Chunks that were evicted."},
    {"retired", "fastoci_retired_slots_total",
     "Slots that were taken out of use because the cache device refused them."},
    {"missed_rows", "fastoci_missed_rows_total",
     "Chunks that were not recorded because the cache database took no rows."},
    {"pieces_unverified", "fastoci_unverified_pieces_total", "Pieces that have no digest."},
    {"requests", "fastoci_registry_requests_total",
     "Requests for blobs, including redirects and requests to token servers."},
    {"request_retries", "fastoci_registry_retries_total",
     "Requests that were tried again before their blob's fetch ended."},
    {"tokens", "fastoci_registry_tokens_total", "Tokens that token servers gave."},
    {"bytes_fetched", "fastoci_fetched_bytes_total",
     "Bytes received from sources, in the compressed form that they have there."},
    {"bytes_background", "fastoci_background_fetched_bytes_total",
     "The part of fastoci_fetched_bytes_total that the background download fetched."},
    {"bytes_decoded", "fastoci_decoded_bytes_total", "Bytes of data spaces, decoded and verified."},
};

constexpr Counter kCacheGauges[] = {
    {"nr_slots", "fastoci_cache_slots", "Slots of the cache device."},
    {"present", "fastoci_cache_present_slots", "Slots whose chunks the kernel serves."},
    {"restorable", "fastoci_cache_restorable_slots",
     "Slots of an earlier run that are verified when they are read next."},
    {"durable", "fastoci_cache_durable_slots", "Slots that outlive a crash."},
    {"evicting", "fastoci_cache_evicting_slots", "Slots that wait for their last readers."},
    {"chunk_bytes", "fastoci_cache_chunk_bytes", "Size of a slot."},
};

constexpr Counter kCauses[] = {
    {"retry", "fastoci_retries_total", "Fetches that were tried again, by what had failed."},
    {"fail", "fastoci_fails_total", "Chunks whose reads were failed, by the last error."},
};

constexpr Counter kImageCounters[] = {
    {"hits", "fastoci_image_hits_total", "Reads of blob data that the kernel served itself."},
    {"missed", "fastoci_image_misses_total", "Reads of blob data that were not in the cache."},
    {"errors", "fastoci_image_read_errors_total", "Reads that the kernel failed."},
    {"read_bytes", "fastoci_image_read_bytes_total", "Bytes read of the image's device."},
};

constexpr Counter kImageGauges[] = {
    {"waiting", "fastoci_image_waiting_reads", "Reads that wait now."},
    {"chunks", "fastoci_image_chunks", "Chunks of the image's data spaces."},
    {"present", "fastoci_image_present_chunks", "Chunks of them in the cache."},
};

// An image that is attached twice has one series: the sum if the metric is counted by
// device, otherwise the last value.
template <size_t N>
void RenderEach(const Json& stat, const char* list, const Counter (&metrics)[N], const char* type,
                const std::function<Labels(const Json&)>& labels, Text* text) {
  auto all = stat.find(list);
  if (all == stat.end() || !all->is_array()) return;
  for (const Counter& m : metrics) {
    std::map<Labels, uint64_t> values;
    for (const Json& one : *all) {
      const uint64_t* value = NumberIn(one, m.key);
      if (!value) continue;
      uint64_t& sum = values[labels(one)];
      sum = type == kCounter ? sum + *value : *value;
    }
    if (!values.empty()) text->Head(m.name, type, m.help);
    for (const auto& [of, value] : values) text->Sample(of, value);
  }
}

const Json& In(const Json& object, const char* key) {
  static const Json kNone = Json::object();
  auto it = object.find(key);
  return it != object.end() && it->is_object() ? *it : kNone;
}

void RenderCauses(const Json& causes, Text* text) {
  for (const Counter& c : kCauses) {
    const Json& counts = In(causes, c.key);
    if (counts.empty()) continue;
    text->Head(c.name, kCounter, c.help);
    for (const auto& [cause, n] : counts.items())
      if (n.is_number_unsigned()) text->Sample({{"cause", cause}}, n.get<uint64_t>());
  }
}

constexpr Counter kHostCounters[] = {
    {"requests", "fastoci_host_requests_total", "HTTP requests to the host."},
    {"bytes", "fastoci_host_fetched_bytes_total", "Bytes of blobs that the host sent."},
};

constexpr Counter kHostGauges[] = {
    {"in_flight", "fastoci_host_fetches_in_flight", "Ranges that are fetched from the host now."},
    {"window", "fastoci_host_window", "Ranges that the host is asked for at a time; 0: it is gated."},
    {"gated", "fastoci_host_gated",
     "1 if the host is not asked for anything just now; fastoci status says why and until when."},
};

// So many hosts have a series of their own. The others share one, "other".
constexpr size_t kMaxHostLabels = 32;

void RenderHosts(const Json& stat, Text* text) {
  auto hosts = stat.find("hosts");
  if (hosts == stat.end() || !hosts->is_array() || hosts->empty()) return;
  Json shown = Json::array();
  std::map<std::string, std::map<std::string, uint64_t>> outcomes;
  for (const Json& host : *hosts) {
    if (!host.is_object()) continue;
    Json h = host;
    if (shown.size() >= kMaxHostLabels) h["host"] = "other";
    h["gated"] = JsonText(host, "state") == "gated" ? uint64_t{1} : uint64_t{0};
    for (const auto& [outcome, n] : In(h, "fetches").items())
      if (n.is_number_unsigned()) outcomes[JsonText(h, "host")][outcome] += n.get<uint64_t>();
    shown.push_back(std::move(h));
  }
  const Json of = {{"hosts", std::move(shown)}};
  auto labels = [](const Json& h) { return Labels{{"host", JsonText(h, "host")}}; };
  RenderEach(of, "hosts", kHostCounters, kCounter, labels, text);
  RenderEach(of, "hosts", kHostGauges, kGauge, labels, text);
  text->Head("fastoci_host_fetches_total", kCounter, "Ranges that were asked for, by outcome.");
  for (const auto& [host, counts] : outcomes)
    for (const auto& [outcome, n] : counts)
      text->Sample({{"host", host}, {"outcome", outcome}}, n);
}

void RenderLatency(const Json& latency, Text* text) {
  if (const Json& miss = In(latency, "miss"); !miss.empty()) {
    text->Head("fastoci_miss_seconds", kHistogram,
               "Time from the kernel's miss message to the chunk's FILL or FAIL.");
    text->Durations({}, miss, kHelperBoundsNs);
  }
  const Json& phases = In(latency, "phases");
  if (phases.empty()) return;
  text->Head("fastoci_miss_phase_seconds", kHistogram,
             "Time that each phase took for a run of adjacent spans that a reader waits for.");
  for (const auto& [phase, h] : phases.items()) 
    text->Durations({{"phase", phase}}, h, kHelperBoundsNs);
}

// One series for each image, as RenderEach does for counters: an image that is attached
// twice has the sum.
void RenderHitTimes(const Json& images, Text* text) {
  std::map<std::string, std::pair<std::vector<uint64_t>, uint64_t>> sums;
  for (const Json& image : images) {
    const Json& times = In(image, "hit_times");
    const uint64_t* ns = NumberIn(times, "sum_ns");
    auto buckets = times.find("buckets");
    if (!ns || buckets == times.end() || !buckets->is_array()) continue;
    auto& [counts, sum] = sums[JsonText(image, "image_id")];
    counts.resize(buckets->size());
    for (size_t i = 0; i < counts.size(); i++) counts[i] += (*buckets)[i].get<uint64_t>();
    sum += *ns;
  }
  if (sums.empty()) return;
  text->Head("fastoci_image_hit_seconds", kHistogram,
             "Time from the kernel's look-up to the end of the read from the cache device, for one "
             "hit in 64.");
  for (const auto& [id, of] : sums)
    text->Durations({{"image_id", id}}, {{"buckets", of.first}, {"sum_ns", of.second}},
                    kKernelBoundsNs);
}

}  // namespace

std::string RenderMetrics(const Json& stat) {
  Text text;
  text.Head("fastoci_build_info", kGauge, "The helper's version; always 1.");
  text.Sample({{"version", JsonText(stat, "version")}}, 1);
  if (const uint64_t* jobs = NumberIn(stat, "jobs")) {
    text.Head("fastoci_jobs", kGauge, "Spans that are fetched, or wait for it.");
    text.Sample({}, *jobs);
  }
  if (auto counters = stat.find("counters"); counters != stat.end()) {
    for (const Counter& c : kCounters) {
      const uint64_t* value = NumberIn(*counters, c.key);
      if (!value) continue;
      text.Head(c.name, kCounter, c.help);
      text.Sample({}, *value);
    }
  }
  RenderCauses(In(stat, "causes"), &text);
  RenderLatency(In(stat, "latency"), &text);
  RenderEach(stat, "caches", kCacheGauges,
             kGauge, [](const Json& c) { return Labels{{"device", JsonText(c, "device")}}; }, &text);
  auto image_labels = [](const Json& i) { return Labels{{"image_id", JsonText(i, "image_id")}}; };
  RenderEach(stat, "images", kImageCounters, kCounter, image_labels, &text);
  RenderEach(stat, "images", kImageGauges, kGauge, image_labels, &text);
  RenderHosts(stat, &text);
  auto images = stat.find("images");
  if (images != stat.end() && images->is_array() && !images->empty()) {
    text.Head("fastoci_image_unserved", kGauge,
              "1 if no miss of the image can be served; fastoci status says why.");
    std::map<Labels, uint64_t> unserved;
    for (const Json& i : *images) unserved[image_labels(i)] |= !JsonText(i, "error").empty();
    for (const auto& [of, value] : unserved) text.Sample(of, value);
    RenderHitTimes(*images, &text);
  }
  return text.Take();
}

}  // namespace fastoci
