// SPDX-License-Identifier: Apache-2.0
#include "registry/client.h"

#include "base/foreign_json.h"
#include "registry/client_impl.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxProbeBytes = 1 << 20;

// Appends to body, at most max_bytes in all.
BlobSink Collect(std::string* body, uint64_t max_bytes) {
  return [body, max_bytes](ByteSpan bytes) -> Status {
    if (bytes.size() > max_bytes - body->size())
      return InvalidError("more than " + std::to_string(max_bytes) + " bytes");
    body->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return OkStatus();
  };
}

std::string MediaTypeOf(const HttpResponse& response) {
  std::string type = response.Header("content-type");
  type = type.substr(0, type.find(';'));
  while (type.ends_with(' ')) type.pop_back();
  return type;
}

HttpHeaders AcceptManifests() {
  HttpHeaders accept;
  for (const char* type : {kOciManifest, kOciIndex, kDockerManifest, kDockerManifestList})
    accept.emplace_back("Accept", type);
  return accept;
}

bool IsKnownManifest(const std::string& type) {
  return type == kOciManifest || type == kOciIndex || type == kDockerManifest ||
         type == kDockerManifestList;
}

}  // namespace

std::string TypeOfContent(const std::string& body) {
  Json j = ParseForeignJson(body);
  if (std::string own = JsonText(j, "mediaType"); IsKnownManifest(own)) return own;
  if (JsonChild(j, "manifests").is_array()) return kOciIndex;
  return JsonChild(j, "layers").is_array() ? kOciManifest : "";
}

std::optional<uint64_t> ContentLength(const HttpResponse& response) {
  std::string length = response.Header("content-length");
  if (length.empty() || length.size() > 18 ||
      length.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  return static_cast<uint64_t>(std::stoull(length));
}

Result<HttpResponse> RegistryClient::Impl::SendOnce(const RegistryHost& host,
                                                    const Reference& repo,
                                                    const std::string& scope,
                                                    HttpRequest* request) {
  request->site = host.site;
  FASTOCI_TRY(std::string origin, UrlOrigin(request->url));
  std::string key = origin + " " + scope;
  request->authorization = tokens.Find(key);
  const bool known = !request->authorization.empty();
  FASTOCI_TRY(HttpResponse response, HttpFor(host)->Send(*request));
  // A redirect's target may refuse us, but it gets no credentials.
  FASTOCI_TRY(std::string answered, UrlOrigin(response.url));
  if (answered != origin) return response;
  // ECR says 403 for a password that has expired, ECR Public 400: what it wants
  // is seen without any.
  bool refused = false;
  if (known && (response.status == 403 || response.status == 400)) {
    HttpRequest bare = *request;
    bare.authorization = Secret();
    FASTOCI_TRY(HttpResponse challenge, HttpFor(host)->Send(bare));
    if (challenge.status != 401) return response;
    response = std::move(challenge);
    refused = true;
  }
  if (response.status != 401) return response;
  FASTOCI_TRY(response, Authorize(host, repo, scope, key, request, std::move(response), refused));
  if (refused && response.status == 400)
    return Error{ErrorKind::kDenied, EACCES, "HTTP 400: the credentials have expired, or are wrong"};
  return response;
}

Result<HttpResponse> RegistryClient::Impl::SendAway(const RegistryHost& host,
                                                    HttpRequest* request) {
  request->site = host.site;
  request->away = true;
  return HttpFor(host)->Send(*request);
}

Result<HttpResponse> RegistryClient::Impl::Authorize(const RegistryHost& host,
                                                     const Reference& repo,
                                                     const std::string& scope,
                                                     const std::string& key, HttpRequest* request,
                                                     HttpResponse response, bool known_refused) {
  FASTOCI_TRY(std::string origin, UrlOrigin(request->url));
  // A mirror's credentials are those for its own name.
  Reference at = repo;
  if (!host.config.is_registry()) at.host = host.config.authority;
  std::optional<Error> denied;
  std::optional<Credential> used;
  for (int round = known_refused ? 1 : 0; round < 2 && response.status == 401; round++) {
    FASTOCI_TRY(std::string answered, UrlOrigin(response.url));
    if (answered != origin) return response;
    tokens.Remove(key);
    auto found = source->Find(at, round == 1);
    std::optional<Credential> credential;
    if (found.ok() && *found) credential = (*found)->credential;
    // The same once more would be refused once more.
    if (round == 1 && !known_refused && credential == used) break;
    used = credential;
    auto auth = Authenticate(HttpFor(host), response, scope, credential, *request);
    if (!auth.ok()) {
      if (auth.error().kind != ErrorKind::kDenied) return auth.error();
      denied = auth.error();
      if (!found.ok()) denied->message += "; credentials: " + found.error().message;
      continue;
    }
    denied.reset();
    request->authorization = auth->value;
    FASTOCI_TRY(response, HttpFor(host)->Send(*request));
    if (response.status != 401) tokens.Put(key, auth->value, auth->expires);
  }
  if (denied) return *denied;
  return response;
}

RegistryClient::RegistryClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RegistryClient::~RegistryClient() = default;

Result<std::unique_ptr<RegistryClient>> RegistryClient::Open(RegistryOptions options,
                                                             CredentialSourcePtr source) {
  auto impl = std::make_unique<Impl>();
  FASTOCI_TRY(impl->http, HttpClient::Open(options.http));
  HttpOptions for_mirrors = options.http;
  for_mirrors.tls = {};
  FASTOCI_TRY(impl->mirror_http, HttpClient::Open(std::move(for_mirrors)));
  impl->options = std::move(options);
  impl->source = std::move(source);
  return std::unique_ptr<RegistryClient>(new RegistryClient(std::move(impl)));
}

Result<std::unique_ptr<RegistryClient>> RegistryClient::Open(RegistryOptions options,
                                                             Credentials credentials) {
  return Open(std::move(options), FixedSource(std::move(credentials), ""));
}

// A small body, whole, as one attempt each: one that is cut begins anew.
Status RegistryClient::Impl::GetWhole(const HttpSend& sender, const std::string& url,
                                      const HttpHeaders& headers, uint64_t max_bytes,
                                      int64_t timeout_ms, const CallOptions& call,
                                      const RetryPolicy& retry, Document* d) {
  HttpRequest request = Request("GET", url, timeout_ms, call);
  request.headers = headers;
  request.on_head = [d](const HttpResponse&) {
    d->body.clear();
    return OkStatus();
  };
  request.on_body = Collect(&d->body, max_bytes);
  FASTOCI_TRY(d->response, SendWithRetry(sender, request, retry));
  return d->response.status == 200 ? OkStatus() : Status(StatusError(d->response));
}

Result<RegistryClient::Impl::Document> RegistryClient::Impl::ReadWhole(
    const Reference& repo, HostUse use, const std::string& what, const std::string& digest,
    const HttpHeaders& headers, uint64_t max_bytes, int64_t timeout_ms, const CallOptions& call) {
  Document d;
  HostWalk walk(this, repo, use, what, /*collects=*/true);
  walk.check = [&]() -> Status {
    if (digest.empty()) return OkStatus();
    const std::string got = DigestOfBody(d.body);
    return got == digest ? OkStatus() : Status(MismatchError("the registry sent " + got));
  };
  FASTOCI_CHECK_OK(GetWhole(walk.Sender(), "", headers, max_bytes, timeout_ms, call, options.retry, &d));
  return d;
}

Result<Manifest> RegistryClient::Impl::ReadManifest(const Reference& ref, HostUse use,
                                                    const CallOptions& call) {
  auto read = ReadWhole(ref, use, "manifests/" + ref.Identifier(), ref.digest, AcceptManifests(),
                        kMaxManifestBytes, options.request_timeout_ms, call);
  if (!read.ok()) return read.error().Wrap("manifest " + ref.ToString());
  Manifest m{MediaTypeOf(read->response), DigestOfBody(read->body), std::move(read->body)};
  if (!IsKnownManifest(m.media_type)) {
    if (std::string type = TypeOfContent(m.body); !type.empty()) m.media_type = type;
  }
  return m;
}

Result<Manifest> RegistryClient::GetManifest(const Reference& ref, const CallOptions& call) {
  return impl_->ReadManifest(ref, ManifestUse(ref), call);
}

Result<HttpResponse> RegistryClient::Impl::Head(const Reference& repo, HostUse use,
                                                const std::string& digest,
                                                const CallOptions& call) {
  HostWalk walk(this, repo, use, "blobs/" + digest);
  return SendWithRetry(walk.Sender(), Request("HEAD", "", options.request_timeout_ms, call),
                       options.retry);
}

// From the answer to a request for the first byte.
Result<uint64_t> RegistryClient::Impl::SizeByGet(const Reference& repo, const std::string& digest,
                                                 const CallOptions& call) {
  HttpRequest request = Request("GET", "", options.request_timeout_ms, call);
  request.headers = {{"Range", "bytes=0-0"}, {"Accept-Encoding", "identity"}};
  std::optional<uint64_t> size;
  bool stop = false;
  request.on_head = [&](const HttpResponse& head) -> Status {
    size = head.status == 200 ? ContentLength(head) : std::nullopt;
    if (head.status != 206) return OkStatus();
    FASTOCI_TRY(ContentRange got, ParseContentRange(head.Header("content-range")));
    if (got.total_known) size = got.total;
    return OkStatus();
  };
  request.on_body = [&](ByteSpan) {
    stop = true;
    return OkStatus();
  };
  request.stop = &stop;
  HostWalk walk(this, repo, HostUse::kPull, "blobs/" + digest, /*collects=*/true);
  FASTOCI_TRY(HttpResponse response, SendWithRetry(walk.Sender(), request, options.retry));
  // An empty blob has no first byte.
  const std::string range = response.Header("content-range");
  if (response.status == 416 && (range.empty() || range == "bytes */0")) return uint64_t{0};
  if (response.status / 100 != 2) return StatusError(response);
  if (!size) return InvalidError("the registry does not tell its size");
  return *size;
}

Result<uint64_t> RegistryClient::BlobSize(const Reference& repo, const std::string& digest,
                                          const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  auto head = impl_->Head(repo, HostUse::kPull, digest, call);
  if (!head.ok()) return head.error().Wrap("blob " + digest);
  if (auto size = ContentLength(*head); head->status == 200 && size) return *size;
  auto size = impl_->SizeByGet(repo, digest, call);
  if (!size.ok()) return size.error().Wrap("blob " + digest);
  return size;
}

Result<HttpResponse> RegistryClient::ProbeManifest(const Reference& ref,
                                                   const CallOptions& call) {
  HttpRequest request = impl_->Request("HEAD", "", impl_->options.request_timeout_ms, call);
  request.headers = AcceptManifests();
  return HostWalk(impl_.get(), ref, ManifestUse(ref), "manifests/" + ref.Identifier()).Send(&request);
}

Result<HttpResponse> RegistryClient::ProbeRange(const Reference& repo, const std::string& digest,
                                                ByteRange range, std::string* bytes,
                                                const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  HttpRequest request = impl_->Request("GET", "", impl_->options.request_timeout_ms, call);
  request.headers = {{"Range", "bytes=" + std::to_string(range.offset) + "-" +
                                   std::to_string(range.offset + range.length - 1)},
                     {"Accept-Encoding", "identity"}};
  bool stop = false;
  request.stop = &stop;
  request.on_head = [&](const HttpResponse&) {
    bytes->clear();
    return OkStatus();
  };
  request.on_body = [&](ByteSpan data) {
    bytes->append(reinterpret_cast<const char*>(data.data()), data.size());
    stop = bytes->size() > kMaxProbeBytes;
    return OkStatus();
  };
  return HostWalk(impl_.get(), repo, HostUse::kPull, "blobs/" + digest, /*collects=*/true).Send(&request);
}

Status RegistryClient::GetBlob(const Reference& repo, const std::string& digest,
                               uint64_t expected_bytes, const BlobSink& sink,
                               const CallOptions& call) {
  if (expected_bytes == 0) {
    FASTOCI_TRY(expected_bytes, BlobSize(repo, digest, call));
  }
  Sha256 sha;
  HostWalk walk(impl_.get(), repo, HostUse::kPull, "blobs/" + digest);
  if (expected_bytes != 0) {
    ByteRange all{0, expected_bytes, expected_bytes};
    FASTOCI_CHECK_OK(impl_->ReadRange(
        &walk, digest, all,
        [&](ByteSpan bytes) {
          sha.Update(bytes);
          return sink(bytes);
        },
        call));
  }
  std::string got = DigestString(sha.Finish());
  if (got != digest)
    return MismatchError("blob " + digest + ": " + walk.Who() + "the registry sent " + got);
  return OkStatus();
}

Result<std::string> RegistryClient::ReadBlob(const Reference& repo, const std::string& digest,
                                             uint64_t max_bytes, const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  auto read = impl_->ReadWhole(repo, HostUse::kPull, "blobs/" + digest, digest, {}, max_bytes,
                               impl_->options.transfer_timeout_ms, call);
  if (!read.ok()) return read.error().Wrap("blob " + digest);
  return std::move(read->body);
}

Status RegistryClient::GetBlobRange(const Reference& repo, const std::string& digest,
                                    ByteRange range, const BlobSink& sink,
                                    const CallOptions& call) {
  HostWalk walk(impl_.get(), repo, HostUse::kPull, "blobs/" + digest);
  return impl_->ReadRange(&walk, digest, range, sink, call);
}

Status RegistryClient::Impl::ReadRange(HostWalk* walk, const std::string& digest, ByteRange range,
                                       const BlobSink& sink, const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  HttpRequest request = Request("GET", "", TransferMs(range.length), call);
  Status s = GetRange(walk->Sender(), request, range, options.retry, sink);
  if (s.ok() || IsCanceled(s.error())) return s;
  return s.error().Wrap("blob " + digest + " bytes " + std::to_string(range.offset) + "-" +
                        std::to_string(range.offset + range.length - 1));
}

}  // namespace fastoci
