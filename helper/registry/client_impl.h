// SPDX-License-Identifier: Apache-2.0
// What the parts of RegistryClient share: client.cc (reading), host_walk.cc (who is asked),
// listing.cc, upload.cc and referrers.cc.
#ifndef FASTOCI_REGISTRY_CLIENT_IMPL_H_
#define FASTOCI_REGISTRY_CLIENT_IMPL_H_

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/digest.h"
#include "base/json.h"
#include "registry/client.h"
#include "registry/media_type.h"
#include "registry/token.h"

namespace fastoci {

inline std::string DigestOfBody(const std::string& body) {
  return DigestString(Sha256::Of(AsBytes(body)));
}

inline Status CheckDigest(const std::string& digest) {
  auto parsed = ParseDigest(digest);
  if (!parsed.ok()) return parsed.error();
  return OkStatus();
}

std::optional<uint64_t> ContentLength(const HttpResponse& response);
// The entry that a manifest gets in its subject's referrers index.
nlohmann::json ReferrerDescriptor(const nlohmann::json& manifest, const std::string& media_type,
                                  const std::string& body);

// One of those that are asked for a registry.
struct RegistryHost {
  HostConfig config;
  std::shared_ptr<const HttpSite> site;  // null: nothing special
  std::string Origin() const { return config.scheme + "://" + config.authority; }
};
using RegistryHostPtr = std::shared_ptr<const RegistryHost>;

inline HostUse ManifestUse(const Reference& ref) {
  return ref.digest.empty() ? HostUse::kResolve : HostUse::kPull;
}

// One thing that is read, of the first host that has it. Send() asks them in turn, and keeps in
// mind how far it got, so that a retry does not begin with a mirror that just failed. For one
// thread.
class HostWalk {
 public:
  // what: as in HostConfig::Url(). collects: what the request's callbacks took of one host is
  // dropped when another one begins; else a host whose bytes they have got is the last one asked.
  HostWalk(RegistryClient::Impl* impl, const Reference& repo, HostUse use, std::string what,
           bool collects = false)
      : impl_(*impl), repo_(repo), use_(use), what_(std::move(what)), collects_(collects) {}
  // The request's URL is set here. check: of a 2xx answer, whether it is what was wanted.
  Result<HttpResponse> Send(HttpRequest* request);
  std::function<Status()> check;
  HttpSend Sender() {
    return [this](HttpRequest* request) { return Send(request); };
  }
  // Who answered last, if several could: "mirror.example: "; else "".
  std::string Who() const;

 private:
  Result<HttpResponse> Ask(const RegistryHostPtr& host, HttpRequest request, bool* took);

  RegistryClient::Impl& impl_;
  const Reference repo_;
  const HostUse use_;
  const std::string what_;
  const bool collects_;
  std::vector<RegistryHostPtr> hosts_;
  size_t first_ = 0;
  std::string who_;
};

struct RegistryClient::Impl {
  // Those that are asked, in order; an Error if there is none. What was read of files is good
  // for kHostsMs.
  Result<std::vector<RegistryHostPtr>> HostsOf(const Reference& repo, HostUse use);
  Result<RegistryHostPtr> HostOf(const Reference& repo, HostUse use);  // the first of them
  // It gave no answer a moment ago; why: the words of its error. "": it answers.
  bool IsDown(const RegistryHost& host, std::string* why);
  void SetDown(const RegistryHost& host, const std::string& why);
  // Of these, from first on: why a host is left out, "" for one that is asked. If all gave no
  // answer a moment ago, all are asked.
  std::vector<std::string> LeftOut(const std::vector<RegistryHostPtr>& hosts, size_t first);

  // For a whole blob. A line that is slower than this is not of use.
  int64_t TransferMs(uint64_t bytes) const {
    constexpr uint64_t kMinBytesPerMs = 64;
    return options.transfer_timeout_ms + static_cast<int64_t>(std::min<uint64_t>(bytes, INT64_MAX / 2) / kMinBytesPerMs);
  }

  // A request with the call's settings; deadline in timeout_ms unless given.
  HttpRequest Request(const char* method, std::string url, int64_t timeout_ms,
                      const CallOptions& call) const {
    HttpRequest r;
    r.method = method;
    r.url = std::move(url);
    r.deadline = std::min(call.deadline, DeadlineIn(timeout_ms));
    r.watch = call.watch != nullptr ? call.watch : options.watch;
    r.tally = call.tally;
    r.fresh_connection = call.fresh_connection;
    return r;
  }

  // To that host, whose URL the request has.
  Result<HttpResponse> SendOnce(const RegistryHost& host, const Reference& repo,
                                const std::string& scope, HttpRequest* request);
  // The same without credentials and client certificate, to where the host sends us.
  Result<HttpResponse> SendAway(const RegistryHost& host, HttpRequest* request);
  HttpClient* HttpFor(const RegistryHost& host) const {
    return host.config.is_registry() ? http.get() : mirror_http.get();
  }
  // Answers the challenges of a refusal, first with the credentials that are
  // known, then with fresh ones if those are others.
  Result<HttpResponse> Authorize(const RegistryHost& host, const Reference& repo,
                                 const std::string& scope, const std::string& key,
                                 HttpRequest* request, HttpResponse refused, bool known_refused);
  // Authenticates as the host asks, at most twice (renewed credentials).
  // also: a repository that is read for it.
  HttpSend Sender(const RegistryHostPtr& host, const Reference& repo, const std::string& actions,
                  std::string also = "") {
    std::string scope = "repository:" + repo.repository + ":" + actions;
    if (!also.empty()) scope += " repository:" + also + ":pull";
    return ScopedSender(host, repo, std::move(scope));
  }
  HttpSend ScopedSender(const RegistryHostPtr& host, const Reference& repo, std::string scope) {
    return [this, host, repo, scope](HttpRequest* request) {
      return SendOnce(*host, repo, scope, request);
    };
  }

  struct Document {
    HttpResponse response;
    std::string body;
  };
  Status GetWhole(const HttpSend& sender, const std::string& url, const HttpHeaders& headers,
                  uint64_t max_bytes, int64_t timeout_ms, const CallOptions& call,
                  const RetryPolicy& retry, Document* d);
  // The same of the first host that has it. digest: what it must have; "": anything.
  Result<Document> ReadWhole(const Reference& repo, HostUse use, const std::string& what,
                             const std::string& digest, const HttpHeaders& headers,
                             uint64_t max_bytes, int64_t timeout_ms, const CallOptions& call);
  Result<Manifest> ReadManifest(const Reference& ref, HostUse use, const CallOptions& call);
  Status ReadRange(HostWalk* walk, const std::string& digest, ByteRange range,
                   const BlobSink& sink, const CallOptions& call);
  // A list in pages, which Link headers connect; take gets the JSON of each.
  // kNotFound: the first page is no JSON object with that array.
  Status GetPages(const HttpSend& sender, std::string url, const HttpHeaders& headers,
                  const char* array, const CallOptions& call, const RetryPolicy& retry,
                  const std::function<Status(nlohmann::json*)>& take);
  Result<HttpResponse> Head(const Reference& repo, HostUse use, const std::string& digest,
                            const CallOptions& call);
  Result<uint64_t> SizeByGet(const Reference& repo, const std::string& digest,
                             const CallOptions& call);
  Status AddToFallbackTag(const RegistryHostPtr& host, const Reference& repo,
                          const std::string& subject, const nlohmann::json& descriptor,
                          const CallOptions& call);
  Result<nlohmann::json> ReferrersByApi(const RegistryHostPtr& host, const Reference& repo,
                                        const std::string& digest, const std::string& artifact_type,
                                        const CallOptions& call, const RetryPolicy& retry);

  RegistryOptions options;
  std::shared_ptr<HttpClient> http;         // for registries
  std::shared_ptr<HttpClient> mirror_http;  // without options.http.tls
  TokenCache tokens;
  CredentialSourcePtr source;

  struct Loaded {
    std::vector<HostConfig> hosts;
    SteadyTime until{};
  };
  struct Down {
    SteadyTime until;
    std::string why;
  };
  std::mutex hosts_mutex;
  std::map<std::string, Loaded> loaded;  // by registry; guarded by hosts_mutex
  std::map<std::string, Down> down;      // by origin: it gave no answer; guarded by hosts_mutex
};

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_CLIENT_IMPL_H_
