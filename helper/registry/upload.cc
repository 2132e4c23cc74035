// SPDX-License-Identifier: Apache-2.0
// Uploads of blobs and manifests.
//
// A blob of at most one chunk: POST for a location, PUT with all of it. A larger
// one: POST, PATCH for each chunk, PUT with the digest alone. After a failure the
// location is asked (GET) how far it got, and the next attempt goes on there; if
// the registry has forgotten it, the upload begins anew. A registry (or a proxy
// before it) that refuses a chunk's size (413) gets smaller ones; one that refuses
// chunks at all gets the blob in one request.
#include "base/foreign_json.h"
#include "registry/client_impl.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMinChunkBytes = 1 << 20;

// The N of "0-N", where a registry says how much it has; null: it does not say.
std::optional<uint64_t> LastByte(const HttpResponse& response) {
  std::string range = response.Header("range");
  if (range.starts_with("bytes=")) range.erase(0, 6);
  const size_t dash = range.find('-');
  if (dash == std::string::npos) return std::nullopt;
  const std::string last = range.substr(dash + 1);
  if (last.empty() || last.size() > 18 ||
      last.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  return static_cast<uint64_t>(std::stoull(last));
}

}  // namespace

// One blob on its way; lives for all attempts.
class BlobUpload {
 public:
  BlobUpload(RegistryClient::Impl* impl, RegistryHostPtr host, const Reference& repo,
             const std::string& digest, uint64_t bytes, const BlobSource& source,
             const CallOptions& call)
      : impl_(*impl), host_(std::move(host)), repo_(repo), digest_(digest), bytes_(bytes),
        source_(source), call_(call), send_(impl->Sender(host_, repo, "pull,push")), chunk_(impl->options.upload_chunk_bytes),
        chunked_(bytes > chunk_) {}

  // Goes on as far as it can. kUnavailable: call it again.
  Status Attempt(AttemptInfo* info) {
    info_ = info;
    if (location_.empty()) FASTOCI_CHECK_OK(Begin());
    else FASTOCI_CHECK_OK(Ask());
    while (chunked_ && at_ < bytes_) FASTOCI_CHECK_OK(SendChunk());
    return Finish();
  }

 private:
  Error Failed(const HttpResponse& response) {
    info_->retry_after_ms = ParseRetryAfterMs(response.Header("retry-after"));
    return StatusError(response);
  }

  HttpRequest Request(const char* method, const std::string& url) const {
    return impl_.Request(method, url, impl_.TransferMs(bytes_), call_);
  }

  // Another origin may take the upload (a store behind the registry), but without
  // our token or client certificate.
  Result<HttpResponse> Send(HttpRequest* request) {
    FASTOCI_TRY(std::string there, UrlOrigin(request->url));
    if (there == origin_) return send_(request);
    return impl_.SendAway(*host_, request);
  }

  Status TakeLocation(const HttpRequest& request, const HttpResponse& response) {
    const std::string header = response.Header("location");
    if (header.empty()) return OkStatus();  // it stays the same
    FASTOCI_TRY(std::string location, ResolveUrl(request.url, header));
    if (origin_.starts_with("https:") && location.starts_with("http:")) {
      // A registry that does not know of the TLS in front of it names itself so.
      location.insert(4, "s");
      FASTOCI_TRY(std::string there, UrlOrigin(location));
      if (there != origin_)
        return Error{ErrorKind::kDenied, EACCES,
                     "upload location of an https registry is not https"};
    }
    location_ = std::move(location);
    return OkStatus();
  }

  Status Begin() {
    at_ = 0;
    HttpRequest post = Request("POST", host_->config.Url(repo_.repository, "blobs/uploads/"));
    FASTOCI_TRY(origin_, UrlOrigin(post.url));
    FASTOCI_TRY(HttpResponse begun, send_(&post));
    if (begun.status / 100 != 2) return Failed(begun);
    FASTOCI_CHECK_OK(TakeLocation(post, begun));
    if (location_.empty()) return InvalidError("the registry names no location for the upload");
    return OkStatus();
  }

  // How far it got before the attempt that failed.
  Status Ask() {
    HttpRequest get = Request("GET", location_);
    auto known = Send(&get);
    if (!known.ok()) return known.error();
    if (known->status / 100 == 5 || known->status == 429) return Failed(*known);
    if (known->status / 100 != 2) {
      location_.clear();
      return Begin();
    }
    FASTOCI_CHECK_OK(TakeLocation(get, *known));
    return TakeProgress(*known, 0, bytes_);
  }

  // What the registry says that it has must lie within [low, high].
  Status TakeProgress(const HttpResponse& response, uint64_t low, uint64_t high) {
    auto last = LastByte(response);
    // An upload without a byte has "0-0" or no range at all.
    const uint64_t at = !last || (*last == 0 && low == 0) ? low : *last + 1;
    if (at < low || at > high) {
      location_.clear();
      return Error{ErrorKind::kUnavailable, EIO,
                   "the registry has " + std::to_string(at) + " bytes of the upload, not between " +
                       std::to_string(low) + " and " + std::to_string(high)};
    }
    at_ = at;
    return OkStatus();
  }

  // The server finds what it was sent too large.
  bool Halve() {
    const uint64_t size = std::min(chunk_, bytes_);
    if (size <= kMinChunkBytes) return false;
    chunk_ = std::max(kMinChunkBytes, size / 2);
    chunked_ = true;
    return true;
  }

  Status SendChunk() {
    const uint64_t begin = at_, length = std::min(chunk_, bytes_ - at_);
    HttpRequest patch = Request("PATCH", location_);
    patch.headers = {{"Content-Type", "application/octet-stream"},
                     {"Content-Range", std::to_string(begin) + "-" +
                                           std::to_string(begin + length - 1)}};
    patch.body_bytes = length;
    patch.read_body = [this, begin](uint64_t offset, std::span<uint8_t> out) {
      return source_(begin + offset, out);
    };
    FASTOCI_TRY(HttpResponse done, Send(&patch));
    if (done.status / 100 == 2) {
      FASTOCI_CHECK_OK(TakeLocation(patch, done));
      // A registry that does not say how much it has, has all.
      if (LastByte(done)) FASTOCI_CHECK_OK(TakeProgress(done, begin + 1, begin + length));
      else at_ = begin + length;
      info_->progress = true;
      sent_chunk_ = true;
      return OkStatus();
    }
    if (done.status == 413 && Halve()) return OkStatus();
    if (done.status == 416) {
      if (asked_at_ == begin) return Failed(done);
      asked_at_ = begin;
      return Ask();
    }
    if (done.status == 404 && sent_chunk_) {
      location_.clear();
      return Error{ErrorKind::kUnavailable, EIO, "the registry has forgotten the upload"};
    }
    const bool refuses = done.status == 400 || done.status == 404 || done.status == 405 ||
                         done.status == 415 || done.status == 501;
    if (!refuses || sent_chunk_) return Failed(done);
    chunked_ = false;
    return Begin();
  }

  Status Finish() {
    HttpRequest put = Request("PUT", location_ +
                                         (location_.find('?') == std::string::npos ? "?" : "&") +
                                         "digest=" + UrlEscape(digest_));
    put.headers = {{"Content-Type", "application/octet-stream"}};
    put.body_bytes = chunked_ ? 0 : bytes_;
    if (!chunked_) put.read_body = source_;
    auto done = Send(&put);
    // After a whole body nobody knows what the location has.
    if (!chunked_ || !done.ok()) location_.clear();
    if (!done.ok()) return done.error();
    if (done->status / 100 == 2) return OkStatus();
    if (!chunked_ && done->status == 413 && !sent_chunk_ && Halve()) return Restart();
    if (done->status / 100 != 5) location_.clear();
    return Failed(*done);
  }

  Status Restart() {
    FASTOCI_CHECK_OK(Begin());
    while (at_ < bytes_) FASTOCI_CHECK_OK(SendChunk());
    return Finish();
  }

  RegistryClient::Impl& impl_;
  const RegistryHostPtr host_;
  const Reference& repo_;
  const std::string& digest_;
  const uint64_t bytes_;
  const BlobSource& source_;
  const CallOptions& call_;
  HttpSend send_;
  AttemptInfo* info_ = nullptr;
  std::string origin_, location_;  // location_: "" before the POST
  uint64_t at_ = 0;                // the registry has what is before
  uint64_t chunk_;
  bool chunked_;
  bool sent_chunk_ = false;
  uint64_t asked_at_ = UINT64_MAX;
};

Status RegistryClient::UploadBlob(const Reference& repo, const std::string& digest,
                                  uint64_t bytes, const BlobSource& source,
                                  const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  // Whatever else than success this gives, the upload itself will tell.
  auto there = impl_->Head(repo, HostUse::kPush, digest, call);
  if (!there.ok() && there.error().kind != ErrorKind::kDenied)
    return there.error().Wrap("blob " + digest);
  if (there.ok() && there->status == 200 && ContentLength(*there).value_or(bytes) == bytes)
    return OkStatus();
  CallOptions bounded = call;
  bounded.deadline = std::min(call.deadline, DeadlineIn(impl_->TransferMs(bytes)));
  FASTOCI_TRY(RegistryHostPtr host, impl_->HostOf(repo, HostUse::kPush));
  BlobUpload upload(impl_.get(), host, repo, digest, bytes, source, bounded);
  Status s = Retry(impl_->options.retry, bounded.deadline, call.watch,
                   [&](AttemptInfo* info) { return upload.Attempt(info); });
  if (!s.ok() && !IsCanceled(s.error())) return s.error().Wrap("upload of blob " + digest);
  return s;
}

Result<std::string> RegistryClient::UploadBlob(const Reference& repo, const std::string& data,
                                               const CallOptions& call) {
  std::string digest = DigestOfBody(data);
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
  FASTOCI_TRY(RegistryHostPtr host, impl_->HostOf(to, HostUse::kPush));
  const std::string what =
      "blobs/uploads/?mount=" + UrlEscape(digest) + "&from=" + UrlEscape(from_repository);
  HttpRequest post = impl_->Request("POST", host->config.Url(to.repository, what),
                                    impl_->options.request_timeout_ms, call);
  auto response = SendWithRetry(impl_->Sender(host, to, "pull,push", from_repository), post,
                                impl_->options.retry);
  if (!response.ok()) return response.error().Wrap("mount of blob " + digest);
  if (response->status == 201) return true;
  if (response->status / 100 == 2) return false;  // an upload was begun instead; it expires
  return StatusError(*response).Wrap("mount of blob " + digest);
}

Result<std::string> RegistryClient::PutManifest(const Reference& ref,
                                                const std::string& media_type,
                                                const std::string& body,
                                                const CallOptions& call) {
  if (body.size() > kMaxManifestBytes) return InvalidError("the manifest is too large");
  Json manifest = ParseForeignJson(body);
  if (!manifest.is_object()) return InvalidError("the manifest is not a JSON object");
  std::string digest = DigestOfBody(body);
  std::string name = ref.tag.empty() ? digest : ref.tag;
  FASTOCI_TRY(RegistryHostPtr host, impl_->HostOf(ref, HostUse::kPush));
  HttpRequest put = impl_->Request("PUT", host->config.Url(ref.repository, "manifests/" + name),
                                   impl_->options.request_timeout_ms, call);
  put.headers = {{"Content-Type", media_type}};
  SetBody(&put, body);
  auto response =
      SendWithRetry(impl_->Sender(host, ref, "pull,push"), put, impl_->options.retry);
  if (!response.ok()) return response.error().Wrap("manifest " + ref.ToString());
  // 201 by the specification; some registries say 200 or 202.
  if (response->status / 100 != 2)
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
        host, ref, of, ReferrerDescriptor(manifest, media_type, body), call));
  }
  return digest;
}

}  // namespace fastoci
