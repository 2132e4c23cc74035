// SPDX-License-Identifier: Apache-2.0
// Places: where this node can get a blob of an image, and how. For a registry that the
// image names these are the mirrors that hosts.toml lists, in its order, and then the
// registry itself, accessed as `fastoci attach` was told. Pure.
//
// What is meant for one server goes to no other. What attach was given is for the
// image's registry, not for its mirrors. A mirror's client certificate and headers are
// for that mirror. What one attach allowed to send in the clear is its own, and nothing
// that another attach of the image was given.
#ifndef FASTOCI_FETCHER_PLACES_H_
#define FASTOCI_FETCHER_PLACES_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "fetcher/image.h"
#include "fetcher/tokens.h"
#include "http/http_client.h"
#include "registry/access.h"
#include "registry/hosts.h"

namespace fastoci {

// What the node knows about an image's registries.
struct Knowledge {
  bool plain_http = false;         // "http" is fine for every host
  std::vector<Access> accesses;    // what each attach of the image was given
  std::map<std::string, std::vector<HostConfig>> hosts;  // by registry; none: itself alone
  std::string p2p;        // URL of a peer: asked for <p2p>/<URL of the blob>, as overlaybd does
  std::string p2p_proxy;  // URL of an HTTP proxy that is tried before the direct way
};

// A server, and how it is accessed.
struct Server {
  std::string origin;                    // scheme://authority
  // It is http because attach was told so. Only what such attaches were given may go there.
  bool http_by_attach = false;
  std::shared_ptr<const HttpSite> site;  // null: nothing special
  std::optional<Credential> credential;  // instead of those that the node has
  std::string image_id, repository;      // of the image whose attach gave the credential
  std::string credentials_file;          // instead of those that the node has
  // Equal ones are one server. No secrets in it.
  std::string Key() const;
};

struct Place {
  std::string name;  // for people
  std::string path;  // of a file, or "": the rest counts
  Server server;
  std::string url;   // of the blob
  TokenScope scope;
  // For a peer: the server for which it stands. It gets the Authorization for that one.
  std::optional<Server> peer_of;
  bool without_authorization = false;
};

// Those of an image's accesses that are for a repository that it names, one for each host.
std::vector<Access> AccessesFor(const FetchImage& image, std::vector<Access> accesses);

// An Error: the JSON says "http" for a registry for which that is not allowed. The writer of
// the JSON must not be able to have credentials sent in the clear.
Result<std::vector<Place>> PlacesOf(const FetchBlob& blob, const Knowledge& knowledge);

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_PLACES_H_
