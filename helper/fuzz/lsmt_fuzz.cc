// SPDX-License-Identifier: Apache-2.0
// LSMT: segments in order and within the file; a merge of the file with a shifted
// copy of itself gives what looking up sector by sector gives.
#include <algorithm>

#include "codec/lsmt.h"
#include "fuzz/fuzz.h"

namespace fastoci {
namespace {

const LsmtSegment* At(const LsmtSegments& segments, uint64_t sector) {
  for (const LsmtSegment& s : segments)
    if (s.sector <= sector && sector < s.end()) return &s;
  return nullptr;
}

void CheckOrder(const LsmtSegments& segments) {
  uint64_t end = 0;
  for (const LsmtSegment& s : segments) {
    Require(s.nr_sectors > 0 && s.sector >= end);
    end = s.end();
  }
}

void CheckMerge(const LsmtSegments& lower, const LsmtSegments& upper) {
  LsmtSegments merged = Overlay(lower, upper, 1);
  CheckOrder(merged);
  std::vector<uint64_t> places;
  for (const LsmtSegments* list : {&lower, &upper, const_cast<const LsmtSegments*>(&merged)})
    for (size_t i = 0; i < std::min<size_t>(list->size(), 50); i++) {
      const LsmtSegment& s = (*list)[i];
      places.insert(places.end(), {s.sector, s.end() - 1, s.end()});
    }
  for (uint64_t sector : places) {
    const LsmtSegment *m = At(merged, sector), *u = At(upper, sector), *l = At(lower, sector);
    const LsmtSegment* want = u != nullptr ? u : l;
    Require((m == nullptr) == (want == nullptr));
    if (m == nullptr) continue;
    Require(m->source == want->source);
    if (m->source == LsmtSource::kZero) continue;
    Require(m->layer == (u != nullptr ? 1U : 0U) &&
            m->mapped + (sector - m->sector) == want->mapped + (sector - want->sector));
  }
}

}  // namespace
}  // namespace fastoci

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  if (size == 0) return 0;
  uint64_t shift = data[0];
  MemoryFile file({data + 1, size - 1});
  for (LsmtTags tags : {LsmtTags::kSource, LsmtTags::kIgnored}) {
    auto reader = LsmtReader::Open(&file, tags);
    if (!reader.ok()) continue;
    CheckOrder(reader->segments());
    for (const LsmtSegment& s : reader->segments())
      Require(s.source != LsmtSource::kFile || (s.mapped + s.nr_sectors) * kSectorBytes <= file.size());
    CheckOrder(ZeroTails(reader->segments()));
    LsmtSegments upper = reader->segments();
    for (LsmtSegment& s : upper) s.sector += shift;
    CheckMerge(reader->segments(), upper);
  }
  return 0;
}
