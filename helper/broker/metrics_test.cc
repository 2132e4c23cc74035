// SPDX-License-Identifier: Apache-2.0
#include "broker/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>

#include "miss/histogram.h"
#include "fastoci_netlink.h"

namespace fastoci {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

nlohmann::json Stat() {
  return nlohmann::json::parse(R"({
    "ok": true, "version": "0.1.0", "jobs": 3,
    "counters": {"misses": 12, "fills": 11, "bytes_fetched": 4096, "unheard_of": 1},
    "caches": [{"device": "/dev/loop0", "nr_slots": 100, "present": 7, "chunk_bytes": 65536},
               {"device": "/dev/a\"b\\c\nd", "nr_slots": 5, "present": 0, "chunk_bytes": 65536}],
    "causes": {"retry": {"unavailable": 2, "mismatch": 0}},
    "images": [{"image_id": "ab", "error": "", "hits": 5, "present": 4},
               {"image_id": "cd", "error": "no meta image"},
               {"image_id": "ab", "error": "", "hits": 2, "present": 4}]})");
}

nlohmann::json SomeLatency() {
  Histogram h;
  for (auto t : {std::chrono::microseconds(100), std::chrono::microseconds(101),
                 std::chrono::microseconds(1500000), std::chrono::microseconds(70000000)})
    h.Observe(t);
  return {{"buckets", h.buckets()}, {"sum_ns", h.sum_ns()}};
}

// One of at most 1,024 ns, two of more than 2^32 ns.
nlohmann::json SomeHitTimes() {
  std::array<uint64_t, FASTOCI_NR_HIT_TIMES> times{};
  times.front() = 1;
  times.back() = 2;
  return {{"buckets", times}, {"sum_ns", 10000001000U}};
}

nlohmann::json SomeHost(const std::string& name, const char* state) {
  return {{"host", name},      {"state", state}, {"window", 8U},
          {"in_flight", 2U},   {"requests", 5U}, {"bytes", 100U},
          {"fetches", {{"done", 3U}, {"transient", 2U}}}};
}

std::string WithoutSuffix(const std::string& sample) {
  return std::regex_replace(sample, std::regex("_(bucket|sum|count)$"), "");
}

// All that stat can have, so that all metrics come out.
std::string EveryMetric() {
  nlohmann::json stat = Stat();
  for (const char* key :
       {"restored", "mismatches", "rotten", "planted", "scrubbed", "evictions",
        "requests", "request_retries", "tokens", "retired", "missed_rows", "pieces_unverified",
        "bytes_background", "bytes_decoded"})
    stat["counters"][key] = 1U;
  for (const char* key : {"restorable", "durable", "evicting"}) stat["caches"][0][key] = 1U;
  for (const char* key : {"chunks", "present", "missed", "errors", "read_bytes", "waiting"})
    stat["images"][0][key] = 1U;
  stat["causes"]["fail"] = {{"io", 1U}};
  stat["images"][0]["hit_times"] = stat["images"][2]["hit_times"] = SomeHitTimes();
  stat["hosts"] = {SomeHost("http://a", "gated"), SomeHost("https://b", "open")};
  stat["latency"] = {{"miss", SomeLatency()}, {"phases", {{"queue", SomeLatency()}}}};
  return RenderMetrics(stat);
}

TEST(RenderMetrics, TellsCountersCachesAndImages) {
  const std::string text = RenderMetrics(Stat());
  EXPECT_THAT(text, HasSubstr("# TYPE fastoci_misses_total counter\nfastoci_misses_total 12\n"));
  EXPECT_THAT(text, HasSubstr("\nfastoci_fetched_bytes_total 4096\n"));
  EXPECT_THAT(text, HasSubstr("\nfastoci_build_info{version=\"0.1.0\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("\nfastoci_jobs 3\n"));
  EXPECT_THAT(text, HasSubstr("\nfastoci_cache_present_slots{device=\"/dev/loop0\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("{device=\"/dev/a\\\"b\\\\c\\nd\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("\nfastoci_image_unserved{image_id=\"ab\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("\nfastoci_image_unserved{image_id=\"cd\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("unheard_of")));
  EXPECT_THAT(text, Not(HasSubstr("fastoci_evictions_total")));  // stat does not have it
}

TEST(RenderMetrics, TellsLatencyAsCumulativeHistograms) {
  const std::string text = EveryMetric();
  EXPECT_THAT(text, HasSubstr("# TYPE fastoci_miss_seconds histogram\n"
                              "fastoci_miss_seconds_bucket{le=\"0.0001\"} 1\n"
                              "fastoci_miss_seconds_bucket{le=\"0.00025\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("\nfastoci_miss_seconds_bucket{le=\"1\"} 2\n"
                              "fastoci_miss_seconds_bucket{le=\"2.5\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("\nfastoci_miss_seconds_bucket{le=\"60\"} 3\n"
                              "fastoci_miss_seconds_bucket{le=\"+Inf\"} 4\n"
                              "fastoci_miss_seconds_sum 71.500201\n"
                              "fastoci_miss_seconds_count 4\n"));
  EXPECT_THAT(text, HasSubstr("\nfastoci_miss_phase_seconds_bucket{phase=\"queue\",le=\"0.0001\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("\nfastoci_miss_phase_seconds_count{phase=\"queue\"} 4\n"));
}

TEST(RenderMetrics, TellsTheKernelsHitTimesOfAnImageInOneSeries) {
  EXPECT_THAT(EveryMetric(),
              HasSubstr("# TYPE fastoci_image_hit_seconds histogram\n"
                        "fastoci_image_hit_seconds_bucket{image_id=\"ab\",le=\"0.000001024\"} 2\n"));
  EXPECT_THAT(EveryMetric(),
              HasSubstr("\nfastoci_image_hit_seconds_bucket{image_id=\"ab\",le=\"4.294967296\"} 2\n"
                        "fastoci_image_hit_seconds_bucket{image_id=\"ab\",le=\"+Inf\"} 6\n"
                        "fastoci_image_hit_seconds_sum{image_id=\"ab\"} 20.000002\n"
                        "fastoci_image_hit_seconds_count{image_id=\"ab\"} 6\n"));
}

TEST(RenderMetrics, AnImageThatIsAttachedTwiceIsOneSeries) {
  const std::string text = RenderMetrics(Stat());
  EXPECT_THAT(text, HasSubstr("counter\nfastoci_image_hits_total{image_id=\"ab\"} 7\n#"));
  EXPECT_THAT(text, HasSubstr("gauge\nfastoci_image_present_chunks{image_id=\"ab\"} 4\n#"));
  EXPECT_THAT(text, HasSubstr("\nfastoci_retries_total{cause=\"unavailable\"} 2\n"));
}

TEST(RenderMetrics, TellsHostsAndGathersThoseThatAreTooMany) {
  EXPECT_THAT(EveryMetric(), HasSubstr("\nfastoci_host_gated{host=\"http://a\"} 1\n"
                                       "fastoci_host_gated{host=\"https://b\"} 0\n"));
  EXPECT_THAT(EveryMetric(),
              HasSubstr("\nfastoci_host_fetches_total{host=\"http://a\",outcome=\"done\"} 3\n"));
  nlohmann::json stat = Stat();
  stat["hosts"] = nlohmann::json::array({1});
  for (int i = 0; i < 100; i++) stat["hosts"].push_back(SomeHost("h" + std::to_string(i), "open"));
  const std::string text = RenderMetrics(stat);
  EXPECT_THAT(text, HasSubstr("\nfastoci_host_requests_total{host=\"h31\"} 5\n"));
  EXPECT_THAT(text, Not(HasSubstr("host=\"h32\"")));
  EXPECT_THAT(text, HasSubstr("\nfastoci_host_requests_total{host=\"other\"} 340\n"));
}

TEST(RenderMetrics, EachMetricHasOneHeadBeforeItsSamples) {
  std::istringstream lines(EveryMetric());
  std::set<std::string> seen;
  std::string line, current;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string hash, what, name;
    if (line[0] == '#') {
      words >> hash >> what >> name;
      if (what == "HELP") {
        EXPECT_TRUE(seen.insert(name).second) << name << " twice";
      }
      current = name;
    } else {
      EXPECT_EQ(WithoutSuffix(line.substr(0, line.find_first_of("{ "))), current);
    }
  }
  EXPECT_GE(seen.size(), 8U);
}

TEST(RenderMetrics, TakesAStatWithNothingInIt) {
  EXPECT_THAT(RenderMetrics(nlohmann::json::object()), HasSubstr("fastoci_build_info"));
  const auto odd = nlohmann::json::parse(R"({"counters": 5, "caches": "x", "images": [1]})");
  EXPECT_THAT(RenderMetrics(odd), HasSubstr("fastoci_build_info"));
}

// What `promtool check metrics` asks of names and texts.
TEST(RenderMetrics, NamesFollowPrometheusConventions) {
  std::istringstream lines(EveryMetric());
  const std::regex legal("fastoci(_[a-z]+)+"), unit("_(seconds|bytes|ratio)(_total)?$");
  const std::regex other_unit("_(ms|us|kb|mb|kib|mib|minutes|percent)(_|$)");
  std::string line, type;
  size_t metrics = 0;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string hash, what, name;
    words >> hash >> what >> name >> type;
    if (hash != "#") continue;
    if (what == "HELP") {
      EXPECT_TRUE(line.ends_with(".")) << line;
      continue;
    }
    metrics++;
    EXPECT_TRUE(std::regex_match(name, legal)) << name;
    EXPECT_FALSE(std::regex_search(name, other_unit)) << name << ": not a base unit";
    EXPECT_EQ(name.ends_with("_total"), type == "counter") << name << " is a " << type;
    EXPECT_EQ(name.find("_" + type), std::string::npos) << name << " names its type";
    const bool has_unit = std::regex_search(name, std::regex("bytes|seconds"));
    EXPECT_EQ(has_unit, std::regex_search(name, unit)) << name << ": the unit is not at its end";
  }
  EXPECT_GT(metrics, 20U);
}

TEST(Monitoring, AlertsAndDashboardNameMetricsThatExist) {
  const std::string metrics = EveryMetric();
  for (const char* name : {"alerts.yml", "grafana-dashboard.json"}) {
    const std::string path = std::string("docs/monitoring/") + name;
    std::ifstream file(path);
    ASSERT_TRUE(file) << path << ": run from the top of the tree";
    std::stringstream text;
    text << file.rdbuf();
    const std::string all = text.str();
    const std::regex metric("fastoci_[a-z_]+");
    size_t found = 0;
    for (std::sregex_iterator it(all.begin(), all.end(), metric), end; it != end; ++it, found++)
      EXPECT_THAT(metrics, HasSubstr("# TYPE " + WithoutSuffix(it->str()) + " ")) << path;
    EXPECT_GT(found, 5U);
  }
}

}  // namespace
}  // namespace fastoci
