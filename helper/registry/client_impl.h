// SPDX-License-Identifier: Apache-2.0
// What the parts of RegistryClient share: client.cc (reading), upload.cc and
// referrers.cc.
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

struct RegistryClient::Impl {
  std::string Scheme(const Reference& repo, const CallOptions& call) const {
    if (!call.scheme.empty()) return call.scheme;
    return options.plain_http || IsLoopbackHost(repo.host) ? "http" : "https";
  }
  std::string Origin(const Reference& repo, const CallOptions& call) const {
    return Scheme(repo, call) + "://" + ApiHost(repo.host);
  }
  std::string BaseUrl(const Reference& repo, const CallOptions& call) const {
    return Origin(repo, call) + "/v2/" + repo.repository;
  }
  std::string BlobUrl(const Reference& repo, const std::string& digest,
                      const CallOptions& call) const {
    return BaseUrl(repo, call) + "/blobs/" + digest;
  }

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
    r.watch = call.watch;
    r.tally = call.tally;
    r.fresh_connection = call.fresh_connection;
    return r;
  }

  Result<HttpResponse> SendOnce(const Reference& repo, const std::string& scope,
                                HttpRequest* request);
  // Answers the challenges of a refusal, first with the credentials that are
  // known, then with fresh ones if those are others.
  Result<HttpResponse> Authorize(const Reference& repo, const std::string& scope,
                                 const std::string& key, HttpRequest* request,
                                 HttpResponse refused, bool known_refused);
  // Authenticates as the registry asks, at most twice (renewed credentials).
  // also: a repository that is read for it.
  HttpSend Sender(const Reference& repo, const std::string& actions, std::string also = "") {
    std::string scope = "repository:" + repo.repository + ":" + actions;
    if (!also.empty()) scope += " repository:" + also + ":pull";
    return ScopedSender(repo, std::move(scope));
  }
  HttpSend ScopedSender(const Reference& repo, std::string scope) {
    return [this, repo, scope](HttpRequest* request) { return SendOnce(repo, scope, request); };
  }
  Result<HttpResponse> Send(const Reference& repo, const char* actions,
                            const HttpRequest& request) {
    return SendWithRetry(Sender(repo, actions), request, options.retry);
  }

  struct Document {
    HttpResponse response;
    std::string body;
  };
  Result<Document> GetWhole(const HttpSend& sender, const std::string& url,
                            const HttpHeaders& headers, uint64_t max_bytes, int64_t timeout_ms,
                            const CallOptions& call);
  // A list in pages, which Link headers connect; take gets the JSON of each.
  // kNotFound: the first page is no JSON object with that array.
  Status GetPages(const HttpSend& sender, std::string url, const HttpHeaders& headers,
                  const char* array, const CallOptions& call,
                  const std::function<Status(nlohmann::json*)>& take);
  Result<HttpResponse> Head(const Reference& repo, const std::string& digest,
                            const CallOptions& call);
  Result<uint64_t> SizeByGet(const Reference& repo, const std::string& digest,
                             const CallOptions& call);
  Status AddToFallbackTag(RegistryClient* client, const Reference& repo,
                          const std::string& subject, const nlohmann::json& descriptor,
                          const CallOptions& call);
  Result<std::string> ReferrersByApi(const Reference& repo, const std::string& digest,
                                     const CallOptions& call);

  RegistryOptions options;
  std::shared_ptr<HttpClient> http;
  TokenCache tokens;
  CredentialSourcePtr source;
};

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_CLIENT_IMPL_H_
