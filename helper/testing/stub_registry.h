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
  kStatus,       // answer with arg, e.g. 404, 500, 503 (Retry-After: 0)
  kShortBody,    // a well-formed body that is arg bytes short
  kClose,        // close the connection arg bytes into the body
  kFlipBit,      // flip one bit of the body
  kIgnoreRange,  // 200 with everything instead of 206
  kWrongRange,   // 206 with a Content-Range one byte off
  kWrongTotal,   // Content-Range names another total size
  kHang,         // headers, then nothing until the stub goes
  kRedirect,     // 307 to the other port
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
  void RequireAuth(Auth auth, const std::string& user, const std::string& password);
  void SetReferrersApi(bool on);
  std::vector<StubRequest> Requests();  // so far, in order of arrival
  int CountRequests(const std::string& method, const std::string& target_part);
  int CountConnections();

 private:
  struct Injection {
    Fault fault = Fault::kNone;
    int count = 0;
    uint64_t arg = 0;
    std::string method;
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
  Reply Manifests(const StubRequest& request, const std::string& repository,
                  const std::string& name);
  bool Authorized(const StubRequest& request);
  const Injection* FindFault(const std::string& method) const;
  Injection TakeFault(const std::string& method);

  std::vector<UniqueFd> listeners_;
  std::vector<int> ports_;
  std::vector<std::thread> acceptors_;
  std::mutex mutex_;
  std::condition_variable stopped_;
  // All below are guarded by mutex_.
  bool stop_ = false;
  int nr_connections_ = 0;
  std::list<std::thread> workers_;
  std::vector<int> connections_;
  std::vector<StubRequest> requests_;
  std::list<Injection> injections_;
  std::map<std::string, std::string> blobs_;
  std::map<std::string, Stored> manifests_;  // "repository:name", name a tag or digest
  Auth auth_ = Auth::kNone;
  std::string user_, password_, token_;
  bool referrers_api_ = false;
  int next_token_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_TESTING_STUB_REGISTRY_H_
