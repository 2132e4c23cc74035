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

Result<HttpResponse> RegistryClient::Impl::SendOnce(const Reference& repo,
                                                    const std::string& scope,
                                                    HttpRequest* request) {
  FASTOCI_TRY(std::string origin, UrlOrigin(request->url));
  std::string key = origin + " " + scope;
  request->authorization = tokens.Find(key);
  const bool known = !request->authorization.empty();
  FASTOCI_TRY(HttpResponse response, http->Send(*request));
  // A redirect's target may refuse us, but it gets no credentials.
  FASTOCI_TRY(std::string answered, UrlOrigin(response.url));
  if (answered != origin) return response;
  // ECR says 403 for a password that has expired, ECR Public 400: what it wants
  // is seen without any.
  bool refused = false;
  if (known && (response.status == 403 || response.status == 400)) {
    HttpRequest bare = *request;
    bare.authorization = Secret();
    FASTOCI_TRY(HttpResponse challenge, http->Send(bare));
    if (challenge.status != 401) return response;
    response = std::move(challenge);
    refused = true;
  }
  if (response.status != 401) return response;
  FASTOCI_TRY(response, Authorize(repo, scope, key, request, std::move(response), refused));
  if (refused && response.status == 400)
    return Error{ErrorKind::kDenied, EACCES, "HTTP 400: the credentials have expired, or are wrong"};
  return response;
}

Result<HttpResponse> RegistryClient::Impl::Authorize(const Reference& repo,
                                                     const std::string& scope,
                                                     const std::string& key, HttpRequest* request,
                                                     HttpResponse response, bool known_refused) {
  FASTOCI_TRY(std::string origin, UrlOrigin(request->url));
  std::optional<Error> denied;
  std::optional<Credential> used;
  for (int round = known_refused ? 1 : 0; round < 2 && response.status == 401; round++) {
    FASTOCI_TRY(std::string answered, UrlOrigin(response.url));
    if (answered != origin) return response;
    tokens.Remove(key);
    auto found = source->Find(repo, round == 1);
    std::optional<Credential> credential;
    if (found.ok() && *found) credential = (*found)->credential;
    // The same once more would be refused once more.
    if (round == 1 && !known_refused && credential == used) break;
    used = credential;
    auto auth = Authenticate(http.get(), response, scope, credential, *request);
    if (!auth.ok()) {
      if (auth.error().kind != ErrorKind::kDenied) return auth.error();
      denied = auth.error();
      if (!found.ok()) denied->message += "; credentials: " + found.error().message;
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

RegistryClient::RegistryClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RegistryClient::~RegistryClient() = default;

Result<std::unique_ptr<RegistryClient>> RegistryClient::Open(RegistryOptions options,
                                                             CredentialSourcePtr source) {
  auto impl = std::make_unique<Impl>();
  FASTOCI_TRY(impl->http, HttpClient::Open(options.http));
  impl->options = std::move(options);
  impl->source = std::move(source);
  return std::unique_ptr<RegistryClient>(new RegistryClient(std::move(impl)));
}

Result<std::unique_ptr<RegistryClient>> RegistryClient::Open(RegistryOptions options,
                                                             Credentials credentials) {
  return Open(std::move(options), FixedSource(std::move(credentials), ""));
}

// A small body, whole, as one attempt each: one that is cut begins anew.
Result<RegistryClient::Impl::Document> RegistryClient::Impl::GetWhole(
    const HttpSend& sender, const std::string& url, const HttpHeaders& headers, uint64_t max_bytes,
    int64_t timeout_ms, const CallOptions& call) {
  HttpRequest request = Request("GET", url, timeout_ms, call);
  request.headers = headers;
  Document d;
  HttpSend send = [&](HttpRequest* r) {
    d.body.clear();
    r->on_body = Collect(&d.body, max_bytes);
    return sender(r);
  };
  FASTOCI_TRY(d.response, SendWithRetry(send, request, options.retry));
  if (d.response.status != 200) return StatusError(d.response);
  return d;
}

Result<Manifest> RegistryClient::GetManifest(const Reference& ref, const CallOptions& call) {
  HttpHeaders accept = AcceptManifests();
  std::string url = impl_->BaseUrl(ref, call) + "/manifests/" + ref.Identifier();
  auto read = impl_->GetWhole(impl_->Sender(ref, "pull"), url, accept, kMaxManifestBytes,
                              impl_->options.request_timeout_ms, call);
  if (!read.ok()) return read.error().Wrap("manifest " + ref.ToString());
  Manifest m{MediaTypeOf(read->response), DigestOfBody(read->body), std::move(read->body)};
  if (!IsKnownManifest(m.media_type)) {
    if (std::string type = TypeOfContent(m.body); !type.empty()) m.media_type = type;
  }
  if (!ref.digest.empty() && m.digest != ref.digest)
    return MismatchError("manifest " + ref.ToString() + ": the registry sent " + m.digest);
  return m;
}

Result<HttpResponse> RegistryClient::Impl::Head(const Reference& repo, const std::string& digest,
                                                const CallOptions& call) {
  HttpRequest request =
      Request("HEAD", BlobUrl(repo, digest, call), options.request_timeout_ms, call);
  return Send(repo, "pull", request);
}

// From the answer to a request for the first byte.
Result<uint64_t> RegistryClient::Impl::SizeByGet(const Reference& repo, const std::string& digest,
                                                 const CallOptions& call) {
  HttpRequest request =
      Request("GET", BlobUrl(repo, digest, call), options.request_timeout_ms, call);
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
  FASTOCI_TRY(HttpResponse response, Send(repo, "pull", request));
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
  auto head = impl_->Head(repo, digest, call);
  if (!head.ok()) return head.error().Wrap("blob " + digest);
  if (auto size = ContentLength(*head); head->status == 200 && size) return *size;
  auto size = impl_->SizeByGet(repo, digest, call);
  if (!size.ok()) return size.error().Wrap("blob " + digest);
  return size;
}

Result<HttpResponse> RegistryClient::ProbeManifest(const Reference& ref,
                                                   const CallOptions& call) {
  HttpRequest request =
      impl_->Request("HEAD", impl_->BaseUrl(ref, call) + "/manifests/" + ref.Identifier(),
                     impl_->options.request_timeout_ms, call);
  request.headers = AcceptManifests();
  return impl_->Sender(ref, "pull")(&request);
}

Result<HttpResponse> RegistryClient::ProbeRange(const Reference& repo, const std::string& digest,
                                                ByteRange range, std::string* bytes,
                                                const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  HttpRequest request = impl_->Request("GET", impl_->BlobUrl(repo, digest, call),
                                       impl_->options.request_timeout_ms, call);
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
  return impl_->Sender(repo, "pull")(&request);
}

Status RegistryClient::GetBlob(const Reference& repo, const std::string& digest,
                               uint64_t expected_bytes, const BlobSink& sink,
                               const CallOptions& call) {
  if (expected_bytes == 0) {
    FASTOCI_TRY(expected_bytes, BlobSize(repo, digest, call));
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
  FASTOCI_CHECK_OK(CheckDigest(digest));
  auto read = impl_->GetWhole(impl_->Sender(repo, "pull"), impl_->BlobUrl(repo, digest, call), {}, max_bytes,
                              impl_->options.transfer_timeout_ms, call);
  if (!read.ok()) return read.error().Wrap("blob " + digest);
  if (DigestOfBody(read->body) != digest)
    return MismatchError("blob " + digest + ": the registry sent " + DigestOfBody(read->body));
  return std::move(read->body);
}

Status RegistryClient::GetBlobRange(const Reference& repo, const std::string& digest,
                                    ByteRange range, const BlobSink& sink,
                                    const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  HttpRequest request = impl_->Request("GET", impl_->BlobUrl(repo, digest, call),
                                       impl_->TransferMs(range.length), call);
  Status s = GetRange(impl_->Sender(repo, "pull"), request, range, impl_->options.retry, sink);
  if (s.ok() || IsCanceled(s.error())) return s;
  return s.error().Wrap("blob " + digest + " bytes " + std::to_string(range.offset) + "-" +
                        std::to_string(range.offset + range.length - 1));
}

}  // namespace fastoci
