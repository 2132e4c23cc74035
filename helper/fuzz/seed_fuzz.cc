// SPDX-License-Identifier: Apache-2.0
// What an import reads of a seed itself: the end of a file of data, the seed's manifest and its config. The first byte says which.
#include <algorithm>

#include "fastoci_meta.h"
#include "fuzz/fuzz.h"
#include "image/seed_data.h"
#include "image/seed_manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  if (size == 0) return 0;
  const ByteSpan rest(data + 1, size - 1);
  const std::string text(reinterpret_cast<const char*>(rest.data()), rest.size());
  if (data[0] % 4 == 0) {
    if (auto seed = ParseSeedManifest(text); seed.ok()) {
      Require(seed->data.size() <= FASTOCI_MAX_BLOBS);
      for (const SeedManifest::Data& d : seed->data) Require(ParseDigest(d.file.digest).ok());
    }
    return 0;
  }
  if (data[0] % 4 == 1) {
    auto config = ParseSeedConfig(text);
    if (!config.ok()) return 0;
    auto again = ParseSeedConfig(SeedConfigText(*config));
    Require(again.ok() && again->layers == config->layers);
    return 0;
  }
  // The pieces before the table: as many bytes as it says, or others.
  const uint64_t before = data[0] % 4 == 2 ? 0 : uint64_t{data[0]} << 16;
  auto table = ParseSeedTable(rest, rest.size() + before);
  if (!table.ok()) return 0;
  uint64_t next = 0;
  for (const SeedRun& run : table->runs) {
    Require(run.count > 0 && run.first >= next);
    next = uint64_t{run.first} + run.count;
    Require((next - 1) * kSeedPieceBytes < table->data_bytes && table->BytesOf(run) > 0);
  }
  Require(table->piece_bytes() == before && table->data_bytes <= FASTOCI_MAX_DATA_BYTES);
  const Bytes again = EncodeSeedTable(*table);
  Require(std::equal(again.begin(), again.end(), rest.begin(), rest.end()));
  return 0;
}
