// SPDX-License-Identifier: Apache-2.0
#include "fetcher/places.h"

#include <utility>

#include "base/digest.h"

namespace fastoci {
namespace {

bool IsFor(const Access& access, const std::string& host) {
  return CanonicalHost(access.host) == CanonicalHost(host);
}

void Override(const Access& access, HttpSite* site) {
  if (access.insecure) site->insecure = true;
  if (!access.ca_pem.empty()) {
    site->ca_pem = access.ca_pem;
    site->insecure = access.insecure;
  }
  if (access.client_cert_pem.empty()) return;
  site->client_cert_pem = access.client_cert_pem;
  site->client_key_pem = access.client_key_pem;
}

// access: null, or what is for the registry itself.
Place AtHost(const FetchBlob& blob, const BlobLocation& source, const HostConfig& host,
             const Access* access) {
  Place p;
  const std::string& repository = source.repository.repository;
  p.name = source.ToString();
  p.url = host.Url(repository, "blobs/" + blob.digest);
  p.server.origin = host.scheme + "://" + host.authority;
  p.scope = {source.repository.host, repository};
  if (!host.is_registry()) {
    p.name = host.authority + "/" + repository + " for " + source.repository.host;
    p.scope.host = host.authority;
  }
  HttpSite site = host.Site();
  if (access != nullptr) {
    Override(*access, &site);
    if (access->HasCredential()) {
      p.server.credential = access->credential;
      p.server.image_id = access->image_id;
      p.server.repository = access->repository;
    } else {
      p.server.credentials_file = access->credentials_file;
    }
  }
  if (site != HttpSite()) p.server.site = std::make_shared<const HttpSite>(std::move(site));
  return p;
}

bool IsAtLoopback(const std::string& origin) {
  return IsLoopbackHost(origin.substr(origin.find("://") + 3));
}

bool PeerIsPrivate(const std::string& url) {
  auto origin = UrlOrigin(url);
  return origin.ok() && (origin->starts_with("https://") || IsAtLoopback(*origin));
}

// The peers' ways to what is at a registry itself. Passwords and tokens are for the
// registry: a peer gets them only where nobody else can read them. What goes through a
// proxy to an https registry is encrypted for the registry. A loopback address means this
// machine only as long as no other machine's proxy is asked for it.
void AddPeers(const Place& own, const Knowledge& k, std::vector<Place>* places) {
  if (!k.p2p.empty()) {
    Place p = own;
    auto origin = UrlOrigin(k.p2p);
    p.name = own.name + " by way of " + (origin.ok() ? *origin : k.p2p);
    p.url = k.p2p + "/" + own.url;
    p.server = Server();
    p.server.origin = origin.ok() ? *origin : k.p2p;
    p.peer_of = own.server;
    p.without_authorization = !PeerIsPrivate(k.p2p);
    places->push_back(std::move(p));
  }
  auto proxy = UrlOrigin(k.p2p_proxy);
  if (!k.p2p_proxy.empty() &&
      (!IsAtLoopback(own.server.origin) || (proxy.ok() && IsAtLoopback(*proxy)))) {
    Place p = own;
    HttpSite site = own.server.site ? *own.server.site : HttpSite();
    site.proxy = k.p2p_proxy;
    p.without_authorization =
        !own.server.origin.starts_with("https://") && !PeerIsPrivate(k.p2p_proxy);
    if (p.without_authorization) site.headers.clear();  // they may hold tokens
    p.name += " by way of " + k.p2p_proxy;
    p.server.site = std::make_shared<const HttpSite>(std::move(site));
    places->push_back(std::move(p));
  }
}

Status AddRegistry(const FetchBlob& blob, const BlobLocation& source, const Knowledge& k,
                   std::vector<Place>* places) {
  const std::string& registry = source.repository.host;
  std::vector<const Access*> given, given_for_http;
  for (const Access& a : k.accesses) {
    if (!IsFor(a, registry)) continue;
    given.push_back(&a);
    if (a.plain_http) given_for_http.push_back(&a);
  }
  const bool only_by_attach =
      source.scheme == "http" && !k.plain_http && !IsLoopbackHost(registry);
  auto known = k.hosts.find(registry);
  std::vector<HostConfig> hosts;
  if (known != k.hosts.end()) hosts = known->second;
  if (hosts.empty()) hosts.push_back(DefaultHost(registry, false));
  std::vector<Place> all, own;
  for (HostConfig& host : HostsFor(hosts, HostUse::kPull)) {
    if (!host.is_registry()) {  // a mirror
      all.push_back(AtHost(blob, source, host, nullptr));
      continue;
    }
    // What attach was told wins over what the file says.
    const bool by_attach = only_by_attach && (!host.scheme_said || (host.scheme == "https" && !given_for_http.empty()));
    if (by_attach && given_for_http.empty())
      return InvalidError("http to " + registry + " is not allowed");
    if (!host.scheme_said || by_attach) host.scheme = source.scheme;
    std::vector<const Access*> accesses = by_attach ? given_for_http : given;
    if (accesses.empty()) accesses.push_back(nullptr);
    for (const Access* access : accesses) {
      own.push_back(AtHost(blob, source, host, access));
      own.back().server.http_by_attach = by_attach;
      all.push_back(own.back());
    }
  }
  for (const Place& p : own) AddPeers(p, k, places);
  places->insert(places->end(), all.begin(), all.end());
  return OkStatus();
}

}  // namespace

std::string Server::Key() const {
  if (site == nullptr && !credential && credentials_file.empty()) return origin;
  Sha256 hash;
  auto add = [&](const std::string& text) {
    hash.Update(AsBytes(std::to_string(text.size()) + ":"));
    hash.Update(AsBytes(text));
  };
  const HttpSite s = site ? *site : HttpSite();
  for (const std::string& text :
       {s.ca_pem, s.client_cert_pem, s.proxy, credentials_file, std::to_string(s.insecure),
        std::to_string(s.connect_timeout_ms)})
    add(text);
  add(s.client_key_pem.Reveal());
  for (const auto& [name, value] : s.headers) {
    add(name);
    add(value.Reveal());
  }
  if (credential) {
    add(credential->username);
    add(credential->password.Reveal());
    add(credential->identity_token.Reveal());
    add(image_id);
    add(repository);
    add(std::to_string(http_by_attach));
  }
  return origin + " " + HexEncode(hash.Finish());
}

std::vector<Access> AccessesFor(const FetchImage& image, std::vector<Access> accesses) {
  auto names = [&](const Access& access) {
    for (const FetchBlob& blob : image.blobs)
      for (const BlobLocation& l : blob.sources)
        if (l.type == BlobLocation::Type::kRegistry && IsFor(access, l.repository.host) &&
            (access.repository.empty() || access.repository == l.repository.repository))
          return true;
    return false;
  };
  std::vector<Access> all;
  for (Access& access : accesses) {
    for (const std::string& host : std::exchange(access.more_hosts, {})) {
      Access other = access;
      other.host = host;
      other.repository = "";
      other.credential = Credential();
      all.push_back(std::move(other));
    }
    all.push_back(std::move(access));
  }
  std::erase_if(all, [&](const Access& access) { return !names(access); });
  return all;
}

Result<std::vector<Place>> PlacesOf(const FetchBlob& blob, const Knowledge& knowledge) {
  std::vector<Place> places;
  for (const BlobLocation& source : blob.sources) {
    if (source.type == BlobLocation::Type::kFile) {
      Place p;
      p.name = source.ToString();
      p.path = source.path;
      places.push_back(std::move(p));
    } else {
      FASTOCI_CHECK_OK(AddRegistry(blob, source, knowledge, &places));
    }
  }
  // The registry itself comes last, and stays.
  while (places.size() > kMaxBlobLocations) places.erase(places.end() - 2);
  return places;
}

}  // namespace fastoci
