// SPDX-License-Identifier: Apache-2.0
#include "registry/client.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/digest.h"
#include "base/json.h"
#include "registry/token.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxReferrers = 1024;
constexpr char kEmptyIndex[] =
    R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]})";

std::string DigestOf(const std::string& body) { return DigestString(Sha256::Of(AsBytes(body))); }

Status CheckDigest(const std::string& digest) {
  auto parsed = ParseDigest(digest);
  if (!parsed.ok()) return parsed.error();
  return OkStatus();
}

// Appends to body, at most max_bytes in all.
BlobSink Collect(std::string* body, uint64_t max_bytes) {
  return [body, max_bytes](ByteSpan bytes) -> Status {
    if (bytes.size() > max_bytes - body->size())
      return InvalidError("more than " + std::to_string(max_bytes) + " bytes");
    body->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return OkStatus();
  };
}

std::string FallbackTag(const std::string& digest) {
  std::string tag = digest;
  std::replace(tag.begin(), tag.end(), ':', '-');
  return tag;
}

std::string MediaTypeOf(const HttpResponse& response) {
  std::string type = response.Header("content-type");
  type = type.substr(0, type.find(';'));
  while (type.ends_with(' ')) type.pop_back();
  return type;
}

// The entry that a manifest gets in its subject's referrers index.
Json ReferrerDescriptor(const Json& manifest, const std::string& media_type,
                        const std::string& body) {
  Json d = {{"mediaType", media_type}, {"digest", DigestOf(body)}, {"size", body.size()}};
  std::string type = JsonText(manifest, "artifactType");
  if (auto config = manifest.find("config"); type.empty() && config != manifest.end() && config->is_object())
    type = JsonText(*config, "mediaType");
  if (!type.empty()) d["artifactType"] = type;
  if (auto a = manifest.find("annotations"); a != manifest.end() && a->is_object())
    d["annotations"] = *a;
  return d;
}

}  // namespace

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

  std::optional<Credential> FindCredential(const Reference& repo) {
    std::lock_guard<std::mutex> lock(mutex);
    return credentials.Find(repo.host, repo.repository);
  }

  Result<HttpResponse> SendOnce(const Reference& repo, const std::string& scope,
                                HttpRequest* request);
  bool Renew();  // asks the refresher
  // Authenticates as the registry asks, at most twice (renewed credentials).
  HttpSend Sender(const Reference& repo, const std::string& actions, std::string also = "") {
    std::string scope = "repository:" + repo.repository + ":" + actions;
    if (!also.empty()) scope += " repository:" + also + ":pull";
    return [this, repo, scope](HttpRequest* request) { return SendOnce(repo, scope, request); };
  }
  Result<HttpResponse> Send(const Reference& repo, const char* actions,
                            const HttpRequest& request) {
    return SendWithRetry(Sender(repo, actions), request, options.retry);
  }

  Result<Manifest> GetJson(const Reference& repo, const std::string& url,
                           const HttpHeaders& headers, const CallOptions& call);
  Status UploadOnce(const Reference& repo, const std::string& digest, uint64_t bytes,
                    const BlobSource& source, const CallOptions& call, AttemptInfo* info);
  Status AddToFallbackTag(RegistryClient* client, const Reference& repo,
                          const std::string& subject, const Json& descriptor,
                          const CallOptions& call);

  RegistryOptions options;
  std::shared_ptr<HttpClient> http;
  TokenCache tokens;
  std::mutex mutex;
  Credentials credentials;          // guarded by mutex
  std::function<bool()> refresh;    // guarded by mutex
};

Result<HttpResponse> RegistryClient::Impl::SendOnce(const Reference& repo,
                                                    const std::string& scope,
                                                    HttpRequest* request) {
  FASTOCI_TRY(std::string origin, UrlOrigin(request->url));
  std::string key = origin + " " + scope;
  request->authorization = tokens.Find(key);
  FASTOCI_TRY(HttpResponse response, http->Send(*request));
  // Round 0 answers the challenge with what we have; round 1 with renewed
  // credentials, if there are any.
  std::optional<Error> denied;
  for (int round = 0; round < 2 && response.status == 401; round++) {
    // A redirect's target may refuse us, but it gets no credentials.
    FASTOCI_TRY(std::string answered, UrlOrigin(response.url));
    if (answered != origin) return response;
    tokens.Remove(key);
    if (round == 1 && !Renew()) break;
    auto auth = Authenticate(http.get(), response, scope, FindCredential(repo), *request);
    if (!auth.ok()) {
      if (auth.error().kind != ErrorKind::kDenied) return auth.error();
      denied = auth.error();
      continue;
    }
    denied.reset();
    request->authorization = auth->value;
    FASTOCI_TRY(response, http->Send(*request));
    if (response.status != 401) tokens.Put(key, auth->value, auth->expires);
  }
  if (denied) return *denied;
  return response;
}

bool RegistryClient::Impl::Renew() {
  std::function<bool()> renew;
  {
    std::lock_guard<std::mutex> lock(mutex);
    renew = refresh;
  }
  return renew && renew();
}

RegistryClient::RegistryClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RegistryClient::~RegistryClient() = default;

Result<std::unique_ptr<RegistryClient>> RegistryClient::Open(RegistryOptions options,
                                                             Credentials credentials) {
  auto impl = std::make_unique<Impl>();
  FASTOCI_TRY(impl->http, HttpClient::Open(options.http));
  impl->options = std::move(options);
  impl->credentials = std::move(credentials);
  return std::unique_ptr<RegistryClient>(new RegistryClient(std::move(impl)));
}

void RegistryClient::SetCredentials(Credentials credentials) {
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->credentials = std::move(credentials);
  }
  impl_->tokens.Clear();
}

void RegistryClient::SetCredentialsRefresher(std::function<bool()> refresh) {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->refresh = std::move(refresh);
}

// A small JSON document, whole, as one attempt each: a cut body begins anew.
Result<Manifest> RegistryClient::Impl::GetJson(const Reference& repo, const std::string& url,
                                               const HttpHeaders& headers,
                                               const CallOptions& call) {
  HttpRequest request = Request("GET", url, options.request_timeout_ms, call);
  request.headers = headers;
  Manifest m;
  HttpSend sender = Sender(repo, "pull");
  HttpSend send = [&](HttpRequest* r) {
    m.body.clear();
    r->on_body = Collect(&m.body, kMaxManifestBytes);
    return sender(r);
  };
  FASTOCI_TRY(HttpResponse response, SendWithRetry(send, request, options.retry));
  if (response.status != 200) return StatusError(response);
  m.media_type = MediaTypeOf(response);
  m.digest = DigestOf(m.body);
  return m;
}

Result<Manifest> RegistryClient::GetManifest(const Reference& ref, const CallOptions& call) {
  HttpHeaders accept;
  for (const char* type : {kOciManifest, kOciIndex, kDockerManifest, kDockerManifestList})
    accept.emplace_back("Accept", type);
  std::string url = impl_->BaseUrl(ref, call) + "/manifests/" + ref.Identifier();
  auto m = impl_->GetJson(ref, url, accept, call);
  if (!m.ok()) return m.error().Wrap("manifest " + ref.ToString());
  if (!ref.digest.empty() && m->digest != ref.digest)
    return MismatchError("manifest " + ref.ToString() + ": the registry sent " + m->digest);
  return m;
}

Result<uint64_t> RegistryClient::HeadBlob(const Reference& repo, const std::string& digest,
                                          const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  HttpRequest request = impl_->Request("HEAD", impl_->BlobUrl(repo, digest, call),
                                       impl_->options.request_timeout_ms, call);
  auto response = impl_->Send(repo, "pull", request);
  if (!response.ok()) return response.error().Wrap("blob " + digest);
  if (response->status != 200) return StatusError(*response).Wrap("blob " + digest);
  std::string length = response->Header("content-length");
  if (length.empty() || length.size() > 18 ||
      length.find_first_not_of("0123456789") != std::string::npos)
    return InvalidError("blob " + digest + ": no Content-Length");
  return static_cast<uint64_t>(std::stoull(length));
}

Status RegistryClient::GetBlob(const Reference& repo, const std::string& digest,
                               uint64_t expected_bytes, const BlobSink& sink,
                               const CallOptions& call) {
  if (expected_bytes == 0) {
    FASTOCI_TRY(expected_bytes, HeadBlob(repo, digest, call));
  }
  Sha256 sha;
  if (expected_bytes != 0) {
    ByteRange all{0, expected_bytes, expected_bytes};
    FASTOCI_CHECK_OK(GetBlobRange(
        repo, digest, all,
        [&](ByteSpan bytes) {
          sha.Update(bytes);
          return sink(bytes);
        },
        call));
  }
  std::string got = DigestString(sha.Finish());
  if (got != digest) return MismatchError("blob " + digest + ": the registry sent " + got);
  return OkStatus();
}

Result<std::string> RegistryClient::ReadBlob(const Reference& repo, const std::string& digest,
                                             uint64_t max_bytes, const CallOptions& call) {
  FASTOCI_TRY(uint64_t bytes, HeadBlob(repo, digest, call));
  if (bytes > max_bytes)
    return InvalidError("blob " + digest + ": " + std::to_string(bytes) + " bytes, more than " +
                        std::to_string(max_bytes));
  std::string body;
  if (bytes != 0) FASTOCI_CHECK_OK(GetBlob(repo, digest, bytes, Collect(&body, bytes), call));
  if (DigestOf(body) != digest) return MismatchError("blob " + digest + ": wrong digest");
  return body;
}

Status RegistryClient::GetBlobRange(const Reference& repo, const std::string& digest,
                                    ByteRange range, const BlobSink& sink,
                                    const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  HttpRequest request = impl_->Request("GET", impl_->BlobUrl(repo, digest, call),
                                       impl_->options.transfer_timeout_ms, call);
  Status s = GetRange(impl_->Sender(repo, "pull"), request, range, impl_->options.retry, sink);
  if (s.ok() || IsCanceled(s.error())) return s;
  return s.error().Wrap("blob " + digest + " bytes " + std::to_string(range.offset) + "-" +
                        std::to_string(range.offset + range.length - 1));
}

// POST for an upload location, then the whole blob in one PUT. The location's
// state is lost with a failed PUT, so each attempt begins with the POST.
Status RegistryClient::Impl::UploadOnce(const Reference& repo, const std::string& digest,
                                        uint64_t bytes, const BlobSource& source,
                                        const CallOptions& call, AttemptInfo* info) {
  HttpSend send = Sender(repo, "pull,push");
  auto failed = [info](const HttpResponse& response) {
    info->retry_after_ms = ParseRetryAfterMs(response.Header("retry-after"));
    return StatusError(response);
  };
  HttpRequest post = Request("POST", BaseUrl(repo, call) + "/blobs/uploads/",
                             options.transfer_timeout_ms, call);
  FASTOCI_TRY(HttpResponse begun, send(&post));
  if (begun.status != 202) return failed(begun);
  FASTOCI_TRY(std::string location, ResolveUrl(post.url, begun.Header("location")));
  location += location.find('?') == std::string::npos ? "?" : "&";
  HttpRequest put = Request("PUT", location + "digest=" + UrlEscape(digest),
                            options.transfer_timeout_ms, call);
  put.headers = {{"Content-Type", "application/octet-stream"}};
  put.body_bytes = bytes;
  put.read_body = source;
  // Another origin may take the upload (a store behind the registry), but
  // without our token.
  FASTOCI_TRY(std::string origin, UrlOrigin(post.url));
  FASTOCI_TRY(std::string put_origin, UrlOrigin(put.url));
  if (post.url.starts_with("https:") && !put_origin.starts_with("https:"))
    return Error{ErrorKind::kDenied, EACCES, "upload location of an https registry is not https"};
  auto done = put_origin == origin ? send(&put) : http->Send(put);
  if (!done.ok()) return done.error();
  if (done->status != 201) return failed(*done);
  return OkStatus();
}

Status RegistryClient::UploadBlob(const Reference& repo, const std::string& digest,
                                  uint64_t bytes, const BlobSource& source,
                                  const CallOptions& call) {
  auto there = HeadBlob(repo, digest, call);
  if (there.ok() && *there == bytes) return OkStatus();
  // Not there, or no right to look: the upload itself will tell.
  if (!there.ok() && there.error().kind != ErrorKind::kNotFound &&
      there.error().kind != ErrorKind::kDenied)
    return there.error();
  CallOptions bounded = call;
  bounded.deadline = std::min(call.deadline, DeadlineIn(impl_->options.transfer_timeout_ms));
  Status s = Retry(impl_->options.retry, bounded.deadline, call.watch, [&](AttemptInfo* info) {
    return impl_->UploadOnce(repo, digest, bytes, source, bounded, info);
  });
  if (!s.ok() && !IsCanceled(s.error())) return s.error().Wrap("upload of blob " + digest);
  return s;
}

Result<std::string> RegistryClient::UploadBlob(const Reference& repo, const std::string& data,
                                               const CallOptions& call) {
  std::string digest = DigestOf(data);
  HttpRequest holder;
  SetBody(&holder, data);
  FASTOCI_CHECK_OK(UploadBlob(repo, digest, data.size(), holder.read_body, call));
  return digest;
}

Result<bool> RegistryClient::MountBlob(const Reference& to, const std::string& digest,
                                       const std::string& from_repository,
                                       const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  if (!IsRepositoryName(from_repository)) return InvalidError("bad repository name");
  HttpRequest post =
      impl_->Request("POST",
                     impl_->BaseUrl(to, call) + "/blobs/uploads/?mount=" + UrlEscape(digest) +
                         "&from=" + UrlEscape(from_repository),
                     impl_->options.request_timeout_ms, call);
  auto response = SendWithRetry(impl_->Sender(to, "pull,push", from_repository), post,
                                impl_->options.retry);
  if (!response.ok()) return response.error().Wrap("mount of blob " + digest);
  if (response->status == 201) return true;
  if (response->status == 202) return false;  // an upload was begun instead; it expires
  return StatusError(*response).Wrap("mount of blob " + digest);
}

Status RegistryClient::Impl::AddToFallbackTag(RegistryClient* client, const Reference& repo,
                                              const std::string& subject,
                                              const Json& descriptor, const CallOptions& call) {
  Reference tag = repo.WithTag(FallbackTag(subject));
  auto old = client->GetManifest(tag, call);
  if (!old.ok() && old.error().kind != ErrorKind::kNotFound) return old.error();
  Json index = Json::parse(old.ok() ? old->body : std::string(kEmptyIndex), nullptr, false);
  if (!index.is_object() || !index.contains("manifests") || !index["manifests"].is_array())
    return InvalidError("tag " + tag.tag + " is not an image index");
  Json& list = index["manifests"];
  if (list.size() >= kMaxReferrers) return InvalidError("tag " + tag.tag + " has too many entries");
  for (const Json& entry : list)
    if (JsonText(entry, "digest") == descriptor["digest"])
      return OkStatus();
  list.push_back(descriptor);
  auto put = client->PutManifest(
      tag, kOciIndex, index.dump(-1, ' ', false, Json::error_handler_t::replace), call);
  if (!put.ok()) return put.error();
  return OkStatus();
}

Result<std::string> RegistryClient::PutManifest(const Reference& ref,
                                                const std::string& media_type,
                                                const std::string& body,
                                                const CallOptions& call) {
  if (body.size() > kMaxManifestBytes) return InvalidError("the manifest is too large");
  Json manifest = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!manifest.is_object()) return InvalidError("the manifest is not a JSON object");
  std::string digest = DigestOf(body);
  std::string name = ref.tag.empty() ? digest : ref.tag;
  HttpRequest put = impl_->Request("PUT", impl_->BaseUrl(ref, call) + "/manifests/" + name,
                                   impl_->options.request_timeout_ms, call);
  put.headers = {{"Content-Type", media_type}};
  SetBody(&put, body);
  auto response = impl_->Send(ref, "pull,push", put);
  if (!response.ok()) return response.error().Wrap("manifest " + ref.ToString());
  if (response->status != 201)
    return StatusError(*response).Wrap("manifest " + ref.ToString());
  std::string stored = response->Header("docker-content-digest");
  if (!stored.empty() && stored != digest)
    return MismatchError("manifest " + ref.ToString() + ": stored under another digest");

  auto subject = manifest.find("subject");
  if (subject != manifest.end() && subject->is_object() &&
      response->Header("oci-subject").empty()) {
    std::string of = JsonText(*subject, "digest");
    FASTOCI_CHECK_OK(CheckDigest(of));
    FASTOCI_CHECK_OK(impl_->AddToFallbackTag(
        this, ref, of, ReferrerDescriptor(manifest, media_type, body), call));
  }
  return digest;
}

Result<std::string> RegistryClient::Referrers(const Reference& repo, const std::string& digest,
                                              const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  auto api = impl_->GetJson(repo, impl_->BaseUrl(repo, call) + "/referrers/" + digest,
                            {{"Accept", kOciIndex}}, call);
  // A registry without the API may answer 404 or with a page of its own.
  if (api.ok() && api->media_type == kOciIndex) return api->body;
  if (!api.ok() && api.error().kind == ErrorKind::kUnavailable) return api.error();
  auto tagged = GetManifest(repo.WithTag(FallbackTag(digest)), call);
  if (tagged.ok()) return tagged->body;
  if (tagged.error().kind == ErrorKind::kNotFound) return std::string(kEmptyIndex);
  return tagged.error();
}

}  // namespace fastoci
