// SPDX-License-Identifier: Apache-2.0
#include "broker/metrics.h"

#include <functional>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

namespace fastoci {
namespace {

using Json = nlohmann::json;
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

class Text {
 public:
  // The samples of one metric follow its Head().
  void Head(const std::string& name, const char* type, const char* help) {
    out_ += "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
    name_ = name;
  }
  void Sample(const Labels& labels, uint64_t value) {
    out_ += name_;
    for (size_t i = 0; i < labels.size(); i++) {
      out_ += (i == 0 ? "{" : ",") + labels[i].first + "=\"" + Escape(labels[i].second) + "\"";
    }
    out_ += (labels.empty() ? " " : "} ") + std::to_string(value) + "\n";
  }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_, name_;
};

const uint64_t* NumberIn(const Json& object, const char* key) {
  auto it = object.find(key);
  return it == object.end() ? nullptr : it->get_ptr<const uint64_t*>();
}

std::string StringIn(const Json& object, const char* key) {
  auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

struct Counter {
  const char* key;  // in stat's "counters"
  const char* name;
  const char* help;
};
constexpr Counter kCounters[] = {
    {"misses", "fastoci_misses_total", "Chunks that the kernel asked for."},
    {"fills", "fastoci_fills_total", "Chunks that were handed to the kernel."},
    {"fails", "fastoci_fails_total", "Chunks whose reads were failed."},
    {"retries", "fastoci_retries_total", "Fetches that were tried again."},
    {"restored", "fastoci_restored_chunks_total",
     "Chunks served from verified slots of an earlier run."},
    {"mismatches", "fastoci_digest_mismatches_total",
     "Fetched pieces that did not match their digest."},
    {"rotten", "fastoci_rotten_chunks_total", "Cached chunks that did not match their digest."},
    {"planted", "fastoci_planted_chunks_total",
     "Cached chunks that differed from their blob as a whole."},
    {"scrubbed", "fastoci_scrubbed_chunks_total", "Cached chunks that were read and compared."},
    {"evictions", "fastoci_evictions_total", "Chunks that were evicted."},
    {"retired", "fastoci_retired_slots_total", "Slots that the cache device refused."},
    {"pieces_unverified", "fastoci_unverified_pieces_total", "Pieces that have no digest."},
    {"bytes_fetched", "fastoci_fetched_bytes_total",
     "Bytes received from sources, as they are there: compressed."},
    {"bytes_background", "fastoci_background_fetched_bytes_total",
     "Bytes among fastoci_fetched_bytes_total of the background download."},
    {"bytes_decoded", "fastoci_decoded_bytes_total", "Bytes of data spaces, decoded and verified."},
};

constexpr Counter kCacheGauges[] = {
    {"nr_slots", "fastoci_cache_slots", "Slots of the cache device."},
    {"present", "fastoci_cache_present_slots", "Slots whose chunks the kernel serves."},
    {"restorable", "fastoci_cache_restorable_slots",
     "Slots of an earlier run, verified when they are wanted."},
    {"durable", "fastoci_cache_durable_slots", "Slots that outlive a crash."},
    {"evicting", "fastoci_cache_evicting_slots", "Slots that wait for their last readers."},
    {"chunk_bytes", "fastoci_cache_chunk_bytes", "Size of a slot."},
};

constexpr Counter kImageGauges[] = {
    {"chunks", "fastoci_image_chunks", "Chunks of the image's data spaces."},
    {"present", "fastoci_image_present_chunks", "Chunks of them in the cache."},
};

template <size_t N>
void RenderEach(const Json& stat, const char* list, const Counter (&gauges)[N],
                const std::function<Labels(const Json&)>& labels, Text* text) {
  auto all = stat.find(list);
  if (all == stat.end() || !all->is_array()) return;
  for (const Counter& g : gauges) {
    bool any = false;
    for (const Json& one : *all) {
      const uint64_t* value = NumberIn(one, g.key);
      if (!value) continue;
      if (!any) text->Head(g.name, "gauge", g.help);
      any = true;
      text->Sample(labels(one), *value);
    }
  }
}

}  // namespace

std::string RenderMetrics(const Json& stat) {
  Text text;
  text.Head("fastoci_build_info", "gauge", "The helper's version; always 1.");
  text.Sample({{"version", StringIn(stat, "version")}}, 1);
  if (const uint64_t* jobs = NumberIn(stat, "jobs")) {
    text.Head("fastoci_jobs", "gauge", "Spans that are fetched, or wait for it.");
    text.Sample({}, *jobs);
  }
  if (auto counters = stat.find("counters"); counters != stat.end()) {
    for (const Counter& c : kCounters) {
      const uint64_t* value = NumberIn(*counters, c.key);
      if (!value) continue;
      text.Head(c.name, "counter", c.help);
      text.Sample({}, *value);
    }
  }
  RenderEach(stat, "caches", kCacheGauges,
             [](const Json& c) { return Labels{{"device", StringIn(c, "device")}}; }, &text);
  auto image_labels = [](const Json& i) { return Labels{{"image_id", StringIn(i, "image_id")}}; };
  RenderEach(stat, "images", kImageGauges, image_labels, &text);
  auto images = stat.find("images");
  if (images != stat.end() && images->is_array() && !images->empty()) {
    text.Head("fastoci_image_unserved", "gauge",
              "1 if no miss of the image can be served; fastoci status says why.");
    for (const Json& i : *images)
      text.Sample(image_labels(i), StringIn(i, "error").empty() ? 0 : 1);
  }
  return text.Take();
}

}  // namespace fastoci
