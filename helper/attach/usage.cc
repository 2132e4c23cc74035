// SPDX-License-Identifier: Apache-2.0
#include "attach/usage.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "control/client.h"
#include "kernel/disk_use.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr int64_t kStatMs = 1000;

std::optional<uint64_t> Number(const Json& object, const char* key) {
  if (!JsonChild(object, key).is_number_unsigned()) return std::nullopt;
  return JsonNumber(object, key);
}

void AddHelper(const Json& stat, UsageSample* sample) {
  sample->helper = true;
  auto list = [&](const char* key) {
    auto it = stat.find(key);
    return it != stat.end() && it->is_array() ? *it : Json::array();
  };
  for (const Json& cache : list("caches")) {
    sample->slots += JsonNumber(cache, "nr_slots");
    sample->present_slots += JsonNumber(cache, "present");
    sample->slot_bytes = JsonNumber(cache, "chunk_bytes");
  }
  sample->fetched_bytes = JsonNumber(JsonChild(stat, "counters"), "bytes_fetched");
  for (const Json& image : list("images")) {
    for (ImageUsage& usage : sample->images) {
      if (JsonText(image, "name") != usage.name) continue;
      usage.in_flight = Number(image, "in_flight");
      usage.oldest_ms = Number(image, "oldest_ms");
      usage.fetched_bytes = Number(image, "bytes_fetched");
      for (const Json& w : JsonChild(image, "waits_for"))
        usage.waits_for.push_back({JsonText(w, "host"), JsonText(w, "cause"),
                                   JsonNumber(w, "since_ms"), JsonNumber(w, "next_try_ms")});
    }
  }
}

}  // namespace

std::string Describe(const HostWait& w) {
  std::string text = (w.host.empty() ? "" : w.host + ": ") + w.cause;
  if (w.since_ms > 0) text += ", for " + std::to_string(w.since_ms / 1000) + " s";
  return text + "; next try in " + std::to_string((w.next_try_ms + 999) / 1000) + " s";
}

Result<UsageSample> SampleUsage(const AttachPaths& paths) {
  UsageSample sample;
  FASTOCI_TRY(auto images, ListImages(paths));
  const auto disks = FastociDisks();
  sample.at = std::chrono::steady_clock::now();
  for (const ImageReport& r : images) {
    if (!r.attached || !r.status) continue;
    const ImageStatus& s = *r.status;
    ImageUsage usage;
    usage.name = r.name;
    usage.chunks = s.chunks_total;
    usage.present = s.chunks_cached;
    usage.hits = s.hits;
    usage.misses = s.misses;
    usage.errors = s.errors;
    usage.waiting = s.pending;
    usage.helper = s.helper;
    usage.policy = s.policy;
    for (const DiskUse& disk : disks)
      if (disk.major == r.major && disk.minor == r.minor) usage.read_bytes = disk.read_bytes;
    sample.images.push_back(std::move(usage));
  }
  auto stat = CallHelper(paths.control_socket, {{"op", "stat"}}, kStatMs);
  if (stat.ok()) AddHelper(*stat, &sample);
  return sample;
}

double RateOf(uint64_t before, uint64_t now, double seconds) {
  if (seconds <= 0) return 0;
  return static_cast<double>(now >= before ? now - before : now) / seconds;
}

std::vector<ImageRate> Compare(const UsageSample& before, const UsageSample& now) {
  const double seconds = std::chrono::duration<double>(now.at - before.at).count();
  std::vector<ImageRate> out;
  for (const ImageUsage& usage : now.images) {
    ImageUsage old;
    auto it = std::find_if(before.images.begin(), before.images.end(),
                           [&](const ImageUsage& u) { return u.name == usage.name; });
    const bool known = it != before.images.end() && it->hits <= usage.hits &&
                       it->misses <= usage.misses && it->read_bytes <= usage.read_bytes;
    if (known) old = *it;
    ImageRate rate;
    rate.now = usage;
    // An image that was not in the sample before has no rate yet.
    if (known) rate.read_per_s = RateOf(old.read_bytes, usage.read_bytes, seconds);
    if (known && usage.fetched_bytes && old.fetched_bytes)
      rate.fetched_per_s = RateOf(*old.fetched_bytes, *usage.fetched_bytes, seconds);
    uint64_t hits = usage.hits - old.hits, all = hits + usage.misses - old.misses;
    if (all == 0) hits = usage.hits, all = usage.hits + usage.misses;
    if (all > 0) rate.hit_ratio = static_cast<double>(hits) / static_cast<double>(all);
    out.push_back(std::move(rate));
  }
  return out;
}

}  // namespace fastoci
