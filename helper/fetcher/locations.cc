// SPDX-License-Identifier: Apache-2.0
#include "fetcher/locations.h"

#include <algorithm>

#include "fetcher/protocol.h"

namespace fastoci {
namespace {

Error TooMany(const std::string& what) {
  return {ErrorKind::kUnavailable, EAGAIN, "too many " + what + " at a time"};
}

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
  if (old == images_.end() && images_.size() >= kMaxImages) return TooMany("images");
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
  if (servers_.size() > kMaxServers) {
    (void)Release(mentions);
    return TooMany("servers");
  }
  std::vector<uint32_t> before = std::exchange(images_[image], std::move(mentions));
  opened.gone = Release(before);
  return opened;
}

uint32_t Locations::InternServer(const Server& server, Opened* opened) {
  const std::string key = server.Key();
  auto [it, added] = servers_.try_emplace(key);
  KnownServer& known = it->second;
  known.uses++;
  if (!added) return known.number;
  known.number = next_host_++;
  server_keys_[known.number] = key;
  known.name = server.origin;
  for (int n = 2; !names_.insert(known.name).second; n++)
    known.name = server.origin + " (" + std::to_string(n) + ")";
  opened->new_hosts.push_back({known.number, known.name, server});
  return known.number;
}

void Locations::ReleaseServer(uint32_t number, Gone* gone) {
  auto key = server_keys_.find(number);
  auto it = servers_.find(key->second);
  if (--it->second.uses > 0) return;
  gone->hosts.push_back(number);
  names_.erase(it->second.name);
  servers_.erase(it);
  server_keys_.erase(key);
}

uint32_t Locations::Intern(const FetchBlob& blob, const Place& place, Opened* opened) {
  std::string key = KeyOf(blob, place);
  if (auto it = numbers_.find(key); it != numbers_.end()) {
    entries_[it->second].images++;
    return it->second;
  }
  std::vector<uint32_t> hosts;
  auto use = [&](const Server& server) {
    hosts.push_back(InternServer(server, opened));
    return hosts.back();
  };
  auto l = std::make_shared<Location>();
  l->number = next_location_++;
  l->digest = blob.digest;
  l->blob_bytes = blob.bytes;
  l->name = place.name;
  if (!place.path.empty()) {
    l->host = kLocalHost;
    l->path = place.path;
  } else {
    l->host = use(place.server);
    l->url = place.url;
    l->scope = place.scope;
    l->site = place.server.site;
    l->token_host = place.peer_of ? use(*place.peer_of) : l->host;
    l->without_authorization = place.without_authorization;
  }
  numbers_[key] = l->number;
  entries_[l->number] = {l, key, std::move(hosts), 1};
  return l->number;
}

Locations::Gone Locations::Release(const std::vector<uint32_t>& numbers) {
  Gone gone;
  for (uint32_t number : numbers) {
    auto it = entries_.find(number);
    if (it == entries_.end() || --it->second.images > 0) continue;
    numbers_.erase(it->second.key);
    gone.locations.push_back(it->second.location);
    for (uint32_t host : it->second.hosts) ReleaseServer(host, &gone);
    entries_.erase(it);
  }
  return gone;
}

Locations::Gone Locations::Close(uint32_t image) {
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
