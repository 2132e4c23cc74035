// SPDX-License-Identifier: Apache-2.0
// BlobSource: the places that have the bytes of one data space, and the indexes to decode them, of
// all images that have it. Pure; the dispatcher guards it with its lock. Times are of
// CLOCK_MONOTONIC, ms.
//
// Each image that has the data space brings locations (numbers of the fetcher's) and an index.
// Equal ones count as one. A pair of an index and a location is one way to get the bytes. A pair
// that gave wrong bytes is tried after the others from then on, until it gives right ones. So an
// image with a bad index or a bad mirror breaks no other image.
//
// A location may be held until a time: its repository refuses us, or it has no such blob. A blob
// that no location has is lost after two rounds, kGoneRetryMs apart. What is wanted after that asks
// each of them once more.
#ifndef FASTOCI_MISS_BLOB_SOURCE_H_
#define FASTOCI_MISS_BLOB_SOURCE_H_

#include <functional>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "fetcher/client.h"
#include "image/meta_image.h"
#include "miss/scheduler.h"

namespace fastoci {

// The spans of a blob and its index, which all decoders map. Immutable.
struct SpanIndex {
  BlobInfo table;         // without index bytes and digests
  UniqueFd memfd;         // sealed; the index bytes
  Sha256Digest digest{};  // of spans and index
  uint64_t key = 0;       // of the decoders: never used again
};

// One SpanIndex of each kind, however many images have it: each takes a descriptor. Not
// thread-safe.
class SpanIndexes {
 public:
  // Moves the spans and the index out of *blob.
  Result<std::shared_ptr<const SpanIndex>> Take(BlobInfo* blob);

 private:
  std::map<Sha256Digest, std::weak_ptr<const SpanIndex>> all_;
};

class BlobSource {
 public:
  static constexpr int64_t kGoneRetryMs = 60000;
  static constexpr uint32_t kGoneRounds = 2;

  struct Pair {
    uint32_t id = 0;
    std::shared_ptr<const SpanIndex> index;
    FetchLocation location;
    uint32_t failures = 0;  // since its bytes were last right
  };

  // gone_retry_ms: another one than kGoneRetryMs, for tests.
  explicit BlobSource(int64_t gone_retry_ms = kGoneRetryMs) : gone_retry_ms_(gone_retry_ms) {}

  void AddImage(uint32_t image, std::shared_ptr<const SpanIndex> index);
  // Replaces the locations of an image that was added.
  void SetLocations(uint32_t image, const std::vector<FetchLocation>& locations);
  void RemoveImage(uint32_t image);
  // All locations are gone, with what was known of them: the fetcher was replaced.
  void ForgetLocations();
  bool empty() const { return images_.empty(); }
  const std::set<uint32_t>& images() const { return images_; }
  // The first index that came; it stays while the source lives. Spans are numbered by it.
  const std::shared_ptr<const SpanIndex>& primary() const { return primary_; }

  // What may be tried now, the best first.
  std::vector<Scheduler::Source> Usable(int64_t now) const;
  // When a held location may be tried again; none: nothing is held.
  std::optional<int64_t> NextChange(int64_t now) const;
  // Whether a pair that is held now fulfils the condition. Leaves out locations that are held
  // because they do not have the blob.
  bool AnyHeld(int64_t now, const std::function<bool(uint32_t pair)>& condition) const;
  // When this location may be tried again; a time that is over: now.
  int64_t HeldUntil(uint32_t location) const;
  const Pair* Find(uint32_t pair) const;
  const std::vector<Pair>& pairs() const { return pairs_; }
  std::vector<FetchLocation> Locations() const;
  // Why a location gave no bytes when it was last asked. Empty: it gave some, or was not asked.
  std::string TroubleOf(uint32_t location) const;

  void OnGood(uint32_t pair);
  void OnFound(uint32_t location);  // it has the blob
  void OnBad(uint32_t pair);
  void SetTrouble(uint32_t location, std::string why);
  // The location refuses us until then.
  void Hold(uint32_t location, int64_t until);
  // A gate of this host was opened before its time.
  void ReleaseHost(uint32_t host);
  // The location has no such blob. True: no location has it, the blob is lost.
  bool OnGone(uint32_t location, int64_t now);

 private:
  struct Location {
    uint32_t host = 0;
    std::set<uint32_t> images;
    int64_t held_until = 0;
    uint32_t gone_rounds = 0;
    int64_t gone_at = 0;
    std::string trouble;
  };
  void MakePairs();
  void DropFrom(uint32_t image);

  const int64_t gone_retry_ms_;
  std::set<uint32_t> images_;
  std::shared_ptr<const SpanIndex> primary_;
  std::vector<std::pair<uint32_t, std::shared_ptr<const SpanIndex>>> indexes_;  // by image
  std::map<uint32_t, Location> locations_;
  std::vector<uint32_t> order_;  // of locations, as the images have them
  std::vector<Pair> pairs_;
  uint32_t next_pair_ = 1;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_BLOB_SOURCE_H_
