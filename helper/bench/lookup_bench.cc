// SPDX-License-Identifier: Apache-2.0
// make bench GROUP=lookup: million look-ups a second in the module's extent table
// (kmod/extent.h, the same code), beside std::lower_bound over extents in one array and
// a B-tree (absl::btree_map, nodes of 256 bytes, 20 to 30 keys each).
//
//   lookup_bench OUT.json
//
// Extents are of 4 KiB to 256 KiB, most of them small, as files are; look-ups at random.
// "dependent": the next place is known once the last one was found, so a look-up's whole
// latency counts; else the processor overlaps several, as for a queue of reads.
#include <absl/container/btree_map.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

extern "C" {
#include "kmod/extent.h"
}

namespace {

constexpr uint32_t kSizes[] = {1000, 10000, 100000, 1000000};
constexpr const char* kNames[] = {"1k", "10k", "100k", "1m"};
constexpr uint32_t kLookups = 1 << 20;  // places that are looked up, again and again
constexpr uint32_t kBatch = 4096;       // of them are timed: too short for others to get between
constexpr int kRounds = 15;

using Find = std::function<double(const uint32_t* places, bool dependent)>;

// Seconds for a batch. find: sector -> number of its extent.
template <typename F>
double Run(const uint32_t* places, bool dependent, const F& find) {
  const auto begin = std::chrono::steady_clock::now();
  uint32_t sum = 0;
  if (dependent) {
    for (uint32_t i = 0; i < kBatch; i++) sum = find(places[(i + sum) % kBatch]);
  } else {
    for (uint32_t i = 0; i < kBatch; i++) sum += find(places[i]);
  }
  asm volatile("" : : "r"(sum));
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

struct Table {
  std::vector<uint32_t> keys;  // and the device's size
  std::vector<uint32_t> starts;
  fastoci_extents extents{};
};

void MakeTable(uint32_t nr, std::mt19937* random, Table* t) {
  constexpr uint32_t kBlocks[] = {1, 1, 1, 2, 2, 4, 8, 64};
  uint32_t sector = 0;
  for (uint32_t i = 0; i < nr; i++) {
    t->keys.push_back(sector);
    sector += kBlocks[(*random)() % 8] * 8;
  }
  t->keys.push_back(sector);
  t->extents.nr = nr;
  t->extents.keys = t->keys.data();
  t->starts.resize(fastoci_extents_plan_starts(&t->extents));
  t->extents.starts = t->starts.data();
  fastoci_extents_fill_starts(&t->extents);
}

struct Extent {
  uint32_t first;
  uint32_t unused;
  uint64_t payload;
};

// Each round visits all places, so no batch finds its own lines in the cache; of each
// batch the best round counts, as others on the machine only disturb.
double MillionPerSecond(const Find& find, const std::vector<uint32_t>& places, bool dependent) {
  std::vector<double> least(kLookups / kBatch, 1e9);
  for (int i = 0; i < kRounds; i++)
    for (size_t b = 0; b < least.size(); b++)
      least[b] = std::min(least[b], find(&places[b * kBatch], dependent));
  return kLookups / std::accumulate(least.begin(), least.end(), 0.0) / 1e6;
}

}  // namespace

int main(int argc, char** argv) {
  FILE* out = argc == 2 ? std::fopen(argv[1], "w") : nullptr;
  if (out == nullptr) {
    std::fprintf(stderr, "usage: lookup_bench OUT.json\n");
    return 2;
  }
  std::mt19937 random(1);
  std::fprintf(out, "{");
  std::printf("million look-ups a second      ours       lower_bound  B-tree     dependent: ours  lower_bound  B-tree\n");
  for (size_t s = 0; s < std::size(kSizes); s++) {
    Table table;
    MakeTable(kSizes[s], &random, &table);
    std::vector<Extent> array;
    absl::btree_map<uint32_t, uint32_t> tree;
    for (uint32_t i = 0; i < kSizes[s]; i++) {
      array.push_back({table.keys[i], 0, 0});
      tree.emplace_hint(tree.end(), table.keys[i], i);
    }
    std::vector<uint32_t> places(kLookups);
    for (uint32_t& p : places) p = random() % table.keys.back();
    auto ours = [&](uint32_t sector) { return fastoci_extent_find(&table.extents, sector); };
    auto bound = [&](uint32_t sector) {
      auto it = std::upper_bound(array.begin(), array.end(), sector,
                                 [](uint32_t at, const Extent& e) { return at < e.first; });
      return static_cast<uint32_t>(it - array.begin() - 1);
    };
    auto btree = [&](uint32_t sector) { return std::prev(tree.upper_bound(sector))->second; };
    for (uint32_t p : places) {
      if (ours(p) != bound(p) || ours(p) != btree(p)) {
        std::fprintf(stderr, "lookup_bench: they differ at sector %u\n", p);
        return 1;
      }
    }
    const Find finds[] = {[&](const uint32_t* p, bool d) { return Run(p, d, ours); },
                          [&](const uint32_t* p, bool d) { return Run(p, d, bound); },
                          [&](const uint32_t* p, bool d) { return Run(p, d, btree); }};
    constexpr const char* kKeys[] = {"mps", "lower_bound", "btree"};
    std::printf("%-10s extents      ", kNames[s]);
    for (bool dependent : {false, true}) {
      for (size_t f = 0; f < 3; f++) {
        const double mps = MillionPerSecond(finds[f], places, dependent);
        std::printf("  %10.1f", mps);
        std::fprintf(out, "%s\"%s_%s%s\":%.2f", s + f + dependent > 0 ? "," : "", kKeys[f], kNames[s],
                     dependent ? "_dependent" : "", mps);
      }
    }
    std::printf("\n");
  }
  std::fprintf(out, "}\n");
  return std::fclose(out) == 0 ? 0 : 1;
}
