// SPDX-License-Identifier: Apache-2.0
// StubRegistry: a small OCI registry on 127.0.0.1, in this process, that
// misbehaves on request. Blobs and manifests live in memory. Also serves
// /token (the bearer realm) and /store/<digest> (where kRedirect leads, on a
// second port, so that it is another origin).
#ifndef FASTOCI_TESTING_STUB_REGISTRY_H_
#define FASTOCI_TESTING_STUB_REGISTRY_H_

#include <condition_variable>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"

namespace fastoci {

enum class Fault {
  kNone,
  kStatus,       // answer with arg, e.g. 404, 500, 503 (Retry-After: 0); see Status()
  kShortBody,    // a well-formed body that is arg bytes short
  kClose,        // close the connection arg bytes into the body
  kFlipBit,      // flip one bit of the body
  kIgnoreRange,  // 200 with everything instead of 206
  kWrongRange,   // 206 with a Content-Range one byte off
  kWrongTotal,   // Content-Range names another total size
  kHang,         // headers and arg bytes of the body, then nothing until the stub goes
  kBlackHole,    // nothing at all until the stub goes
  kReset,        // reset the connection arg bytes into the body
  kRedirect,     // 307 to the other port; arg: the URL names an expiry, in seconds
  kHalf,         // PATCH: keeps half of the body, and answers 500
  kForget,       // PATCH, PUT: the upload is gone, 404
  kNoLength,     // neither Content-Length nor another way to tell the body's end
};

// What real registries do differently, for as long as it is set.
struct StubHabits {
  int manifest_put_status = 201;  // 200 or 202 from some
  int refused_status = 401;       // to a wrong Authorization; without one it is always 401
  std::string refused_body;
  bool challenge_service = true;  // whether a bearer challenge names one
  std::string manifest_type;      // served for each manifest; "": as it was put
  int patch_status = 202;         // another one: chunks are refused with it
  uint64_t max_body = UINT64_MAX; // a larger request body is 413
  bool upload_range = true;       // whether the answer to a PATCH has a Range
  // Of upload locations: "", or "http://host" before the path, or a store's on
  // the other port, which takes no Authorization.
  enum class Location { kRelative, kAbsolute, kOtherPort } location = Location::kRelative;
  int referrers_status = 404;     // without the API
  size_t referrers_page = 1000;   // entries on a page of the API
  std::string referrers_next;     // in place of the next page's URL
  // This is stored under a fallback tag right after the next PUT of one, as by another writer
  // that has read the tag before. Used once.
  std::string stale_tag_body;
};

struct StubRequest {
  std::string method, target, body;
  std::map<std::string, std::string> headers;  // names in lower case
  int port = 0;
};

class StubRegistry {
 public:
  enum class Auth { kNone, kBasic, kBearer };

  StubRegistry();
  ~StubRegistry();
  std::string host() const;  // "127.0.0.1:port"
  std::string url() const { return "http://" + host(); }
  int other_port() const { return ports_[1]; }

  // Stores and returns the digest.
  std::string AddBlob(const std::string& data);
  std::string AddManifest(const std::string& repository, const std::string& tag,
                          const std::string& media_type, const std::string& body);
  std::string BlobData(const std::string& digest);
  // The next count requests with that method for a blob or manifest fail so.
  void Inject(Fault fault, int count, uint64_t arg = 0, const std::string& method = "GET");
  // The same with a status, headers and a body of the caller's.
  void Status(int count, int status, std::vector<std::pair<std::string, std::string>> headers,
              const std::string& body = "");
  // While held, all GETs of blobs wait.
  void Hold(bool on);
  int CountHeld();
  // While down, all connections are reset, also those that are open already.
  void SetDown(bool down);
  void RequireAuth(Auth auth, const std::string& user, const std::string& password);
  // For bearer: POST /token takes this refresh token, and a GET of /token is refused.
  void RequireRefreshToken(const std::string& token);
  void SetReferrersApi(bool on);
  void SetHabits(const StubHabits& habits);
  std::vector<StubRequest> Requests();  // so far, in order of arrival
  int CountRequests(const std::string& method, const std::string& target_part);
  int CountConnections();

 private:
  struct Injection {
    Fault fault = Fault::kNone;
    int count = 0;
    uint64_t arg = 0;
    std::string method;
    std::vector<std::pair<std::string, std::string>> headers;  // kStatus
    std::string body;
  };
  struct Stored {
    std::string media_type, body;
  };
  struct Reply;
  void Accept(int listener, int port);
  void Serve(int fd, int port);
  bool Answer(int fd, const StubRequest& request);  // false: close
  Reply Route(const StubRequest& request);
  Reply GetBlob(const StubRequest& request, const std::string& digest);
  Reply Upload(const StubRequest& request, const std::string& repository);
  Reply UploadPart(const StubRequest& request, const std::string& path);
  Reply Names(const StubRequest& request, const std::string& repository);
  Reply Referrers(const StubRequest& request, const std::string& repository,
                  const std::string& digest);
  Reply Manifests(const StubRequest& request, const std::string& repository,
                  const std::string& name);
  bool Authorized(const StubRequest& request);
  const Injection* FindFault(const std::string& method) const;
  Injection TakeFault(const std::string& method);

  std::vector<UniqueFd> listeners_;
  std::vector<int> ports_;
  std::vector<std::thread> acceptors_;
  std::mutex mutex_;
  std::condition_variable changed_;  // stop_ or held_
  // All below are guarded by mutex_.
  bool stop_ = false;
  bool down_ = false;
  bool hold_ = false;
  int nr_held_ = 0;
  int nr_connections_ = 0;
  std::list<std::thread> workers_;
  std::vector<int> connections_;
  std::vector<StubRequest> requests_;
  std::list<Injection> injections_;
  std::map<std::string, std::string> blobs_;
  std::map<std::string, std::string> uploads_;  // by path
  int next_upload_ = 0;
  std::map<std::string, Stored> manifests_;  // "repository:name", name a tag or digest
  Auth auth_ = Auth::kNone;
  std::string user_, password_, token_, refresh_token_;
  bool referrers_api_ = false;
  StubHabits habits_;
  int next_token_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_TESTING_STUB_REGISTRY_H_
