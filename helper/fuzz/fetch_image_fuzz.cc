// SPDX-License-Identifier: Apache-2.0
// The JSON part of an assembled meta image, as the fetcher reads it.
#include "base/digest.h"
#include "fetcher/image.h"
#include "fetcher/locations.h"
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  std::string json(reinterpret_cast<const char*>(data), size);
  auto image = ParseFetchImage(json);
  if (!image.ok()) return 0;
  for (const FetchBlob& b : image->blobs) {
    Require(ParseDigest(b.digest).ok() && b.bytes > 0 && b.sources.size() <= kMaxSources);
    for (const BlobLocation& l : b.sources) {
      if (l.type == BlobLocation::Type::kFile) {
        Require(l.path.starts_with("/") && l.path.find('\0') == std::string::npos);
      }
    }
  }
  // Opened twice, its locations are the same; closed twice, they are gone.
  Locations locations;
  auto first = locations.Open(1, *image);
  auto second = locations.Open(2, *image);
  Require(first.ok() == second.ok());
  if (!first.ok()) return 0;  // plain HTTP
  Require(second->new_hosts.empty());
  for (size_t i = 0; i < first->blobs.size(); i++) {
    Require(first->blobs[i].size() == second->blobs[i].size());
    for (size_t k = 0; k < first->blobs[i].size(); k++) {
      const Location& l = *first->blobs[i][k];
      Require(l.number == second->blobs[i][k]->number);
      Require((l.host == kLocalHost) == l.url.empty());
      Require(l.url.empty() || UrlOrigin(l.url).ok());
      Require(!l.url.starts_with("http:") || IsLoopbackHost(l.scope.host));
    }
  }
  Require(locations.Close(1).empty());
  (void)locations.Close(2);
  for (const auto& blob : first->blobs)
    for (const auto& l : blob) Require(locations.Find(l->number) == nullptr);
  return 0;
}
