// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/metrics.h"

#include <iterator>

#include "base/format.h"

namespace fastoci {
namespace {

constexpr double kBounds[] = {0.001, 0.005, 0.025, 0.1, 0.5, 2, 10, 60};  // seconds

void Head(const char* name, const char* type, const char* help, std::string* out) {
  *out += Format("# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

std::string Join(const std::string& labels, const std::string& more) {
  return labels.empty() ? more : labels + "," + more;
}

}  // namespace

void SnapshotterMetrics::Timing::Add(Duration took) {
  const double s = std::chrono::duration<double>(took).count();
  count++;
  seconds += s;
  for (size_t i = 0; i < std::size(kBounds); i++) buckets[i] += s <= kBounds[i];
}

void SnapshotterMetrics::Timing::Render(const std::string& name, const std::string& labels, std::string* out) const {
  for (size_t i = 0; i < std::size(kBounds); i++)
    *out += name + "_bucket{" + Join(labels, Format("le=\"%g\"", kBounds[i])) + "} " + std::to_string(buckets[i]) + "\n";
  *out += name + "_bucket{" + Join(labels, "le=\"+Inf\"") + "} " + std::to_string(count) + "\n";
  const std::string set = labels.empty() ? "" : "{" + labels + "}";
  *out += name + "_sum" + set + Format(" %.6f\n", seconds);
  *out += name + "_count" + set + " " + std::to_string(count) + "\n";
}

void SnapshotterMetrics::Answered(const std::string& method, const std::string& code, Duration took) {
  std::lock_guard lock(mutex_);
  methods_[method].Add(took);
  answers_[{method, code}]++;
}

void SnapshotterMetrics::Layer(const std::string& kind) {
  std::lock_guard lock(mutex_);
  layers_[kind]++;
}

void SnapshotterMetrics::Fallback(const std::string& reason) {
  std::lock_guard lock(mutex_);
  fallbacks_[reason]++;
}

void SnapshotterMetrics::Attached(bool ok, Duration took) {
  std::lock_guard lock(mutex_);
  if (ok) attach_.Add(took);
  else attach_failures_++;
}

void SnapshotterMetrics::Prefetched(uint64_t present, uint64_t used, uint64_t unused) {
  std::lock_guard lock(mutex_);
  prefetch_present_ += present;
  prefetch_used_ += used;
  prefetch_unused_ += unused;
}

std::string SnapshotterMetrics::Render(const std::string& gauges) const {
  std::lock_guard lock(mutex_);
  std::string out = gauges;
  Head("fastoci_snapshotter_layers_total", "counter", "Layers committed, by kind.", &out);
  for (const auto& [kind, n] : layers_)
    out += "fastoci_snapshotter_layers_total{kind=\"" + kind + "\"} " + std::to_string(n) + "\n";
  Head("fastoci_snapshotter_fallbacks_total", "counter", "Layers or images taken in the ordinary way, by reason.", &out);
  for (const auto& [reason, n] : fallbacks_)
    out += "fastoci_snapshotter_fallbacks_total{reason=\"" + reason + "\"} " + std::to_string(n) + "\n";
  Head("fastoci_snapshotter_attach_failures_total", "counter", "Devices that could not be attached or mounted.", &out);
  out += "fastoci_snapshotter_attach_failures_total " + std::to_string(attach_failures_) + "\n";
  Head("fastoci_snapshotter_attach_seconds", "histogram", "Time to attach and mount a device.", &out);
  attach_.Render("fastoci_snapshotter_attach_seconds", "", &out);
  Head("fastoci_snapshotter_prefetch_bytes_total", "counter",
       "Bytes that start traces named: in the cache before, used within prefetch.seconds, not used.", &out);
  for (const auto& [result, bytes] : {std::pair("present", prefetch_present_), {"used", prefetch_used_}, {"unused", prefetch_unused_}})
    out += "fastoci_snapshotter_prefetch_bytes_total{result=\"" + std::string(result) + "\"} " + std::to_string(bytes) + "\n";
  Head("fastoci_snapshotter_requests_total", "counter", "Requests of containerd, by method and status.", &out);
  for (const auto& [key, n] : answers_)
    out += "fastoci_snapshotter_requests_total{method=\"" + key.first + "\",code=\"" + key.second + "\"} " +
           std::to_string(n) + "\n";
  Head("fastoci_snapshotter_request_seconds", "histogram", "Time to answer, by method.", &out);
  for (const auto& [method, timing] : methods_)
    timing.Render("fastoci_snapshotter_request_seconds", "method=\"" + method + "\"", &out);
  return out;
}

}  // namespace fastoci
