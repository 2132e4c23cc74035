// SPDX-License-Identifier: Apache-2.0
#include "fetcher/locations.h"

#include <algorithm>

#include "fetcher/protocol.h"

namespace fastoci {
namespace {

// No part but the last holds a line break. The size is in it: an image that lies
// about it gets a location of its own.
std::string KeyOf(const FetchBlob& blob, const Place& place) {
  std::string key = blob.digest + "\n" + std::to_string(blob.bytes) + "\n";
  if (!place.path.empty()) return key + "\n" + place.path;
  return key + place.server.Key() + "\n" +
         (place.peer_of ? place.peer_of->Key() : "") + "\n" + place.scope.name() + "\n" + place.url;
}

}  // namespace

Result<Locations::Opened> Locations::Open(uint32_t image, const FetchImage& parsed,
                                          const Knowledge& knowledge) {
  auto old = images_.find(image);
  if (old == images_.end() && images_.size() >= kMaxImages) return InvalidError("too many images");
  std::vector<std::vector<Place>> places;
  for (const FetchBlob& blob : parsed.blobs) {
    FASTOCI_TRY(std::vector<Place> of_blob, PlacesOf(blob, knowledge));
    places.push_back(std::move(of_blob));
  }
  Opened opened;
  std::vector<uint32_t> mentions;
  for (size_t i = 0; i < places.size(); i++) {
    opened.blobs.emplace_back();
    for (const Place& place : places[i]) {
      uint32_t number = Intern(parsed.blobs[i], place, &opened);
      mentions.push_back(number);
      opened.blobs.back().push_back(entries_[number].location);
    }
  }
  if (hosts_.size() > kMaxServers) {
    for (const auto& host : opened.new_hosts) {
      hosts_.erase(host.server.Key());
      names_.erase(host.name);
    }
    (void)Release(mentions);
    return InvalidError("too many hosts");
  }
  std::vector<uint32_t> before = std::exchange(images_[image], std::move(mentions));
  opened.gone = Release(before);
  return opened;
}

uint32_t Locations::InternServer(const Server& server, Opened* opened) {
  const std::string key = server.Key();
  auto [host, added] = hosts_.try_emplace(key, next_host_);
  if (!added) return host->second;
  std::string name = server.origin;
  for (int n = 2; !names_.insert(name).second; n++)
    name = server.origin + " (" + std::to_string(n) + ")";
  opened->new_hosts.push_back({next_host_, std::move(name), server});
  return next_host_++;
}

uint32_t Locations::Intern(const FetchBlob& blob, const Place& place, Opened* opened) {
  std::string key = KeyOf(blob, place);
  if (auto it = numbers_.find(key); it != numbers_.end()) {
    entries_[it->second].images++;
    return it->second;
  }
  auto l = std::make_shared<Location>();
  l->number = next_location_++;
  l->digest = blob.digest;
  l->blob_bytes = blob.bytes;
  l->name = place.name;
  if (!place.path.empty()) {
    l->host = kLocalHost;
    l->path = place.path;
  } else {
    l->host = InternServer(place.server, opened);
    l->url = place.url;
    l->scope = place.scope;
    l->site = place.server.site;
    l->token_host = place.peer_of ? InternServer(*place.peer_of, opened) : l->host;
    l->without_authorization = place.without_authorization;
  }
  numbers_[key] = l->number;
  entries_[l->number] = {l, key, 1};
  return l->number;
}

std::vector<std::shared_ptr<const Location>> Locations::Release(
    const std::vector<uint32_t>& numbers) {
  std::vector<std::shared_ptr<const Location>> gone;
  for (uint32_t number : numbers) {
    auto it = entries_.find(number);
    if (it == entries_.end() || --it->second.images > 0) continue;
    numbers_.erase(it->second.key);
    gone.push_back(it->second.location);
    entries_.erase(it);
  }
  return gone;
}

std::vector<std::shared_ptr<const Location>> Locations::Close(uint32_t image) {
  auto it = images_.find(image);
  if (it == images_.end()) return {};
  std::vector<uint32_t> numbers = std::move(it->second);
  images_.erase(it);
  return Release(numbers);
}

std::shared_ptr<const Location> Locations::Find(uint32_t number) const {
  auto it = entries_.find(number);
  return it == entries_.end() ? nullptr : it->second.location;
}

}  // namespace fastoci
