// SPDX-License-Identifier: Apache-2.0
// Locations: the places that open images name, numbered across images. Equal places
// of one blob have one number for as long as an image names them. So does a server, which
// has another number with other credentials or certificates. Pure.
#ifndef FASTOCI_FETCHER_LOCATIONS_H_
#define FASTOCI_FETCHER_LOCATIONS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "fetcher/image.h"
#include "fetcher/places.h"
#include "fetcher/tokens.h"

namespace fastoci {

inline constexpr size_t kMaxImages = 4096;
inline constexpr size_t kMaxServers = 4096;

struct Location {
  uint32_t number = 0;
  uint32_t host = 0;  // kLocalHost: a file
  std::string digest;
  uint64_t blob_bytes = 0;
  std::string name;  // for people
  std::string path;  // file
  std::string url;   // of the blob
  TokenScope scope;
  std::shared_ptr<const HttpSite> site;
  // Whose tokens it gets: host, or for a peer the registry's.
  uint32_t token_host = 0;
  bool without_authorization = false;
  bool is_peer() const { return token_host != host; }
};

class Locations {
 public:
  // What no image names any more.
  struct Gone {
    std::vector<std::shared_ptr<const Location>> locations;
    std::vector<uint32_t> hosts;
  };
  struct Opened {
    std::vector<std::vector<std::shared_ptr<const Location>>> blobs;
    // Servers that were not known.
    struct NewHost {
      uint32_t number;
      std::string name;  // scheme://authority, with " (2)" and so on if the server is
                         // accessed in more than one way
      Server server;
    };
    std::vector<NewHost> new_hosts;
    Gone gone;
  };
  // Replaces an image of that number. kUnavailable: there are too many images or servers, until
  // other images are closed.
  Result<Opened> Open(uint32_t image, const FetchImage& parsed, const Knowledge& knowledge = {});
  Gone Close(uint32_t image);
  // nullptr: no such location.
  std::shared_ptr<const Location> Find(uint32_t number) const;

 private:
  struct Entry {
    std::shared_ptr<const Location> location;
    std::string key;
    std::vector<uint32_t> hosts = {};  // a number for each use
    uint32_t images = 0;
  };
  struct KnownServer {
    uint32_t number = 0;
    std::string name;
    uint32_t uses = 0;  // by locations
  };
  uint32_t Intern(const FetchBlob& blob, const Place& place, Opened* opened);
  uint32_t InternServer(const Server& server, Opened* opened);
  Gone Release(const std::vector<uint32_t>& numbers);
  void ReleaseServer(uint32_t number, Gone* gone);

  uint32_t next_location_ = 1;
  uint32_t next_host_ = 1;
  std::map<std::string, KnownServer> servers_;  // by Server::Key()
  std::map<uint32_t, std::string> server_keys_;
  std::set<std::string> names_;              // of servers
  std::map<std::string, uint32_t> numbers_;  // by key
  std::map<uint32_t, Entry> entries_;
  std::map<uint32_t, std::vector<uint32_t>> images_;  // a number for each mention
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_LOCATIONS_H_
