// SPDX-License-Identifier: Apache-2.0
#include "miss/blob_source.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "decoder/client.h"

namespace fastoci {

Result<std::shared_ptr<const SpanIndex>> SpanIndexes::Take(BlobInfo* blob) {
  static std::atomic<uint64_t> next_key{1};
  auto made = std::make_shared<SpanIndex>();
  BlobInfo& t = made->table;
  t.data_space_id = blob->data_space_id;
  t.blob_digest = blob->blob_digest;
  t.data_bytes = blob->data_bytes;
  t.blob_bytes = blob->blob_bytes;
  t.codec = blob->codec;
  t.spans = std::exchange(blob->spans, {});
  Sha256 hash;
  hash.Update({reinterpret_cast<const uint8_t*>(t.spans.data()), t.spans.size() * sizeof(Span)});
  hash.Update(blob->index);
  made->digest = hash.Finish();
  // Raw blobs of any content have equal spans, and no index.
  Sha256 of_all;
  of_all.Update(made->digest);
  of_all.Update(t.data_space_id);
  of_all.Update(t.blob_digest);
  const uint64_t numbers[] = {t.data_bytes, t.blob_bytes, t.codec};
  of_all.Update({reinterpret_cast<const uint8_t*>(numbers), sizeof(numbers)});
  std::weak_ptr<const SpanIndex>& known = all_[of_all.Finish()];
  if (auto have = known.lock()) {
    blob->index = Bytes();
    return have;
  }
  made->key = next_key++;
  FASTOCI_TRY(made->memfd, MakeSealedMemfd("fastoci-index", blob->index));
  blob->index = Bytes();
  known = made;
  std::erase_if(all_, [](const auto& i) { return i.second.expired(); });
  return std::shared_ptr<const SpanIndex>(std::move(made));
}

void BlobSource::AddImage(uint32_t image, std::shared_ptr<const SpanIndex> index) {
  RemoveImage(image);
  images_.insert(image);
  for (const auto& [i, have] : indexes_)
    if (have->digest == index->digest) index = have;
  if (primary_ && primary_->digest == index->digest) index = primary_;
  if (!primary_) primary_ = index;
  indexes_.emplace_back(image, std::move(index));
  MakePairs();
}

void BlobSource::DropFrom(uint32_t image) {
  for (auto it = locations_.begin(); it != locations_.end();) {
    it->second.images.erase(image);
    if (!it->second.images.empty()) {
      ++it;
      continue;
    }
    std::erase(order_, it->first);
    it = locations_.erase(it);
  }
}

void BlobSource::SetLocations(uint32_t image, const std::vector<FetchLocation>& locations) {
  if (!images_.count(image)) return;
  std::set<uint32_t> now;
  auto place = order_.end();
  // From the last one, so that a new one, like a mirror, comes before the next one of the list.
  for (auto l = locations.rbegin(); l != locations.rend(); ++l) {
    now.insert(l->location);
    auto [it, is_new] = locations_.try_emplace(l->location);
    it->second.host = l->host;
    it->second.images.insert(image);
    if (is_new)
      place = order_.insert(place, l->location);
    else
      place = std::find(order_.begin(), order_.end(), l->location);
  }
  for (auto& [number, location] : locations_)
    if (!now.count(number)) location.images.erase(image);
  std::erase_if(order_, [&](uint32_t l) { return locations_.at(l).images.empty(); });
  std::erase_if(locations_, [](const auto& l) { return l.second.images.empty(); });
  MakePairs();
}

void BlobSource::RemoveImage(uint32_t image) {
  if (!images_.erase(image)) return;
  std::erase_if(indexes_, [&](const auto& i) { return i.first == image; });
  DropFrom(image);
  MakePairs();
}

void BlobSource::ForgetLocations() {
  locations_.clear();
  order_.clear();
  MakePairs();
}

// Makes the pairs anew. Keeps what is known of pairs that existed before.
void BlobSource::MakePairs() {
  std::vector<std::shared_ptr<const SpanIndex>> distinct;
  for (const auto& [image, index] : indexes_)
    if (std::find(distinct.begin(), distinct.end(), index) == distinct.end())
      distinct.push_back(index);
  std::vector<Pair> pairs;
  for (const auto& index : distinct) {
    for (uint32_t number : order_) {
      auto old = std::find_if(pairs_.begin(), pairs_.end(), [&](const Pair& p) {
        return p.index == index && p.location.location == number;
      });
      if (old != pairs_.end())
        pairs.push_back(*old);
      else
        pairs.push_back({next_pair_++, index, {number, locations_.at(number).host}});
    }
  }
  pairs_ = std::move(pairs);
}

std::vector<Scheduler::Source> BlobSource::Usable(int64_t now) const {
  std::vector<const Pair*> good;
  for (const Pair& p : pairs_)
    if (locations_.at(p.location.location).held_until <= now) good.push_back(&p);
  std::stable_sort(good.begin(), good.end(),
                   [](const Pair* a, const Pair* b) { return a->failures < b->failures; });
  std::vector<Scheduler::Source> out;
  for (const Pair* p : good) out.push_back({p->id, p->location.host});
  return out;
}

bool BlobSource::AnyHeld(int64_t now, const std::function<bool(uint32_t pair)>& condition) const {
  return std::any_of(pairs_.begin(), pairs_.end(), [&](const Pair& p) {
    const Location& l = locations_.at(p.location.location);
    return l.held_until > now && l.gone_rounds == 0 && condition(p.id);
  });
}

std::optional<int64_t> BlobSource::NextChange(int64_t now) const {
  std::optional<int64_t> next;
  for (const auto& [number, l] : locations_)
    if (l.held_until > now) next = std::min(next.value_or(l.held_until), l.held_until);
  return next;
}

int64_t BlobSource::HeldUntil(uint32_t location) const {
  auto it = locations_.find(location);
  return it == locations_.end() ? 0 : it->second.held_until;
}

const BlobSource::Pair* BlobSource::Find(uint32_t pair) const {
  auto it = std::find_if(pairs_.begin(), pairs_.end(), [&](const Pair& p) { return p.id == pair; });
  return it == pairs_.end() ? nullptr : &*it;
}

std::vector<FetchLocation> BlobSource::Locations() const {
  std::vector<FetchLocation> out;
  for (uint32_t number : order_) out.push_back({number, locations_.at(number).host});
  return out;
}

std::string BlobSource::TroubleOf(uint32_t location) const {
  auto it = locations_.find(location);
  return it == locations_.end() ? "" : it->second.trouble;
}

void BlobSource::SetTrouble(uint32_t location, std::string why) {
  if (auto it = locations_.find(location); it != locations_.end())
    it->second.trouble = std::move(why);
}

void BlobSource::OnGood(uint32_t pair) {
  for (Pair& p : pairs_) {
    if (p.id != pair) continue;
    p.failures = 0;
    OnFound(p.location.location);
  }
}

void BlobSource::OnFound(uint32_t location) {
  auto it = locations_.find(location);
  if (it == locations_.end()) return;
  it->second.gone_rounds = 0;
  it->second.trouble.clear();
}

void BlobSource::OnBad(uint32_t pair) {
  for (Pair& p : pairs_)
    if (p.id == pair) p.failures++;
}

void BlobSource::Hold(uint32_t location, int64_t until) {
  if (auto it = locations_.find(location); it != locations_.end())
    it->second.held_until = std::max(it->second.held_until, until);
}

void BlobSource::ReleaseHost(uint32_t host) {
  for (auto& [number, l] : locations_)
    if (l.host == host) l.held_until = 0;
}

bool BlobSource::OnGone(uint32_t location, int64_t now) {
  auto it = locations_.find(location);
  if (it == locations_.end()) return false;
  Location& l = it->second;
  // Answers within the retry time count as one round: their requests were under way together.
  if (l.gone_rounds == 0 || now >= l.gone_at + gone_retry_ms_) {
    l.gone_rounds++;
    l.gone_at = now;
  }
  if (std::any_of(locations_.begin(), locations_.end(), [](const auto& other) {
        return other.second.gone_rounds < kGoneRounds;
      })) {
    l.held_until = std::max(l.held_until, l.gone_at + gone_retry_ms_);
    return false;
  }
  // What is wanted from now on asks each of them once more.
  for (auto& [number, other] : locations_) {
    other.held_until = 0;
    other.gone_rounds = kGoneRounds - 1;
    other.gone_at = now - gone_retry_ms_;
  }
  return true;
}

}  // namespace fastoci
