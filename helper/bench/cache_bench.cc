// SPDX-License-Identifier: Apache-2.0
// make bench-cache: hit ratios of eviction policies on one recorded trace.
//
//   cache_bench TRACE OUT.json      (TRACE: see selftests/lib/record-trace, unpacked)
//
// "fastoci" is EvictionPolicy as the broker drives it: fills with the kernel's
// access bit set, victims in batches, bits read and cleared once per
// slots / 32 fills from the moment on when half of the slots are used. The others know every access at once: CLOCK and LRU by
// chunk, LRU of whole blobs (what a cache of files can do: a blob's chunks go
// together) and OPT, which knows the future and cannot be beaten.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <list>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "cache/eviction.h"

namespace fastoci {
namespace {

using Trace = std::vector<uint64_t>;  // space << 32 | chunk

bool Load(const char* path, Trace* trace) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (line[0] == '+' && !trace->empty()) {
      for (int n = std::atoi(line.c_str() + 1); n > 0; n--) trace->push_back(trace->back() + 1);
      continue;
    }
    std::istringstream s(line);
    uint64_t space, chunk;
    if (!(s >> space >> chunk)) return false;
    trace->push_back(space << 32 | chunk);
  }
  return !trace->empty();
}

size_t Fastoci(const Trace& trace, uint32_t slots) {
  const uint32_t batch = std::clamp(slots / 32, 1U, 64U);
  EvictionPolicy policy(slots);
  std::unordered_map<uint64_t, uint32_t> map;
  std::vector<uint64_t> key(slots);
  std::vector<bool> accessed(slots);
  std::vector<uint32_t> free;
  for (uint32_t s = slots; s-- > 0;) free.push_back(s);
  size_t hits = 0;
  uint32_t since_sweep = 0;
  for (uint64_t k : trace) {
    if (auto it = map.find(k); it != map.end()) {
      hits++;
      accessed[it->second] = true;
      continue;
    }
    if (++since_sweep > slots / 32 && map.size() >= slots / 2) {
      since_sweep = 0;
      for (uint32_t s = 0; s < slots; s++)
        if (accessed[s]) policy.Accessed(s), accessed[s] = false;
    }
    if (free.empty()) {
      for (uint32_t s : policy.Pick(batch, [](uint32_t) { return false; })) {
        map.erase(key[s]);
        accessed[s] = false;
        free.push_back(s);
      }
    }
    const uint32_t s = free.back();
    free.pop_back();
    map[k] = s;
    key[s] = k;
    accessed[s] = true;
    uint64_t hash = k * 0x9e3779b97f4a7c15ULL;
    policy.Filled(s, hash ^ hash >> 31);
  }
  return hits;
}

size_t Clock(const Trace& trace, uint32_t slots) {
  std::unordered_map<uint64_t, uint32_t> map;
  std::vector<uint64_t> key(slots);
  std::vector<bool> bit(slots);
  size_t hits = 0;
  uint32_t hand = 0;
  for (uint64_t k : trace) {
    if (auto it = map.find(k); it != map.end()) {
      hits++;
      bit[it->second] = true;
      continue;
    }
    uint32_t s = static_cast<uint32_t>(map.size());
    if (s == slots) {
      for (; bit[hand]; hand = (hand + 1) % slots) bit[hand] = false;
      s = hand;
      hand = (hand + 1) % slots;
      map.erase(key[s]);
    }
    map[k] = s;
    key[s] = k;
    bit[s] = false;
  }
  return hits;
}

size_t Lru(const Trace& trace, uint32_t slots) {
  std::list<uint64_t> order;
  std::unordered_map<uint64_t, std::list<uint64_t>::iterator> map;
  size_t hits = 0;
  for (uint64_t k : trace) {
    if (auto it = map.find(k); it != map.end()) {
      hits++;
      order.splice(order.begin(), order, it->second);
      continue;
    }
    if (map.size() == slots) {
      map.erase(order.back());
      order.pop_back();
    }
    order.push_front(k);
    map[k] = order.begin();
  }
  return hits;
}

// The blob that was used longest ago goes as a whole; the one in use may lose
// everything, as it does when it alone is larger than the cache.
size_t BlobLru(const Trace& trace, uint32_t slots) {
  std::map<uint64_t, std::set<uint64_t>> chunks;
  std::list<uint64_t> order;  // of blobs
  size_t hits = 0, used = 0;
  for (uint64_t k : trace) {
    const uint64_t blob = k >> 32;
    order.remove(blob);
    order.push_front(blob);
    if (chunks[blob].count(k)) {
      hits++;
      continue;
    }
    if (used == slots) {
      used -= chunks[order.back()].size();
      chunks.erase(order.back());
      order.pop_back();
    }
    if (order.empty()) order.push_front(blob);
    chunks[blob].insert(k);
    used++;
  }
  return hits;
}

size_t Opt(const Trace& trace, uint32_t slots) {
  std::vector<size_t> next(trace.size());
  std::unordered_map<uint64_t, size_t> seen;
  for (size_t i = trace.size(); i-- > 0;) {
    auto it = seen.find(trace[i]);
    next[i] = it == seen.end() ? trace.size() + i : it->second;
    seen[trace[i]] = i;
  }
  std::unordered_map<uint64_t, size_t> map;         // chunk -> its next use
  std::set<std::pair<size_t, uint64_t>> by_next;
  size_t hits = 0;
  for (size_t i = 0; i < trace.size(); i++) {
    const uint64_t k = trace[i];
    if (auto it = map.find(k); it != map.end()) {
      hits++;
      by_next.erase({it->second, k});
    } else if (map.size() == slots) {
      auto last = std::prev(by_next.end());
      map.erase(last->second);
      by_next.erase(last);
    }
    map[k] = next[i];
    by_next.insert({next[i], k});
  }
  return hits;
}

int Main(int argc, char** argv) {
  Trace trace;
  if (argc != 3 || !Load(argv[1], &trace)) {
    std::fprintf(stderr, "usage: cache_bench TRACE OUT.json\n");
    return 2;
  }
  const size_t distinct = std::set<uint64_t>(trace.begin(), trace.end()).size();
  std::ofstream out(argv[2]);
  out << "{\"accesses\":" << trace.size() << ",\"distinct_chunks\":" << distinct << ",\"sizes\":[";
  std::printf("%zu accesses to %zu chunks (%.0f MB); hit ratios:\n", trace.size(), distinct,
              static_cast<double>(distinct) / 16);
  std::printf("%8s %9s %9s %9s %9s %9s\n", "cache", "fastoci", "CLOCK", "LRU", "blob LRU", "OPT");
  const char* sep = "";
  for (int percent : {2, 5, 10, 20, 40, 80}) {
    const auto slots = static_cast<uint32_t>(std::max<size_t>(distinct * percent / 100, 16));
    const std::pair<const char*, size_t> hits[] = {{"fastoci", Fastoci(trace, slots)},
                                                   {"clock", Clock(trace, slots)},
                                                   {"lru", Lru(trace, slots)},
                                                   {"blob_lru", BlobLru(trace, slots)},
                                                   {"opt", Opt(trace, slots)}};
    std::printf("%7d%%", percent);
    out << sep << "{\"percent\":" << percent << ",\"slots\":" << slots;
    for (const auto& [name, n] : hits) {
      const double ratio = static_cast<double>(n) / static_cast<double>(trace.size());
      std::printf(" %9.4f", ratio);
      out << ",\"" << name << "\":" << ratio;
    }
    std::printf("\n");
    out << "}";
    sep = ",";
  }
  out << "]}\n";
  return out.flush() ? 0 : 1;
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) { return fastoci::Main(argc, argv); }
