// SPDX-License-Identifier: Apache-2.0
// Referrers: by the API, page by page, or by the fallback tag (sha256-<hex>), an
// image index that whoever adds a referrer reads, extends and writes back.
//
// Two writers of a tag can lose each other's entry: a registry has no way to
// replace a manifest only if it is still the one that was read (some honour
// If-Match, which is sent). So each writer looks again after a while, and adds
// its own entry once more if it is gone. What another writer added meanwhile is
// read then and kept.
#include <chrono>
#include <thread>

#include "base/foreign_json.h"
#include "registry/client_impl.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxReferrers = 1024;
constexpr int kMaxUpdates = 16;
constexpr char kEmptyIndex[] =
    R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]})";

std::string FallbackTag(const std::string& digest) {
  std::string tag = digest;
  std::replace(tag.begin(), tag.end(), ':', '-');
  return tag;
}

std::string Dump(const Json& j) {
  return j.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<Json> ParseIndex(const std::string& body) {
  Json index = ParseForeignJson(body);
  if (!JsonChild(index, "manifests").is_array()) return InvalidError("it is not an image index");
  return index;
}

bool Has(const Json& index, const std::string& digest) {
  for (const Json& entry : JsonChild(index, "manifests"))
    if (JsonText(entry, "digest") == digest) return true;
  return false;
}

}  // namespace

Json ReferrerDescriptor(const Json& manifest, const std::string& media_type,
                        const std::string& body) {
  Json d = {{"mediaType", media_type}, {"digest", DigestOfBody(body)}, {"size", body.size()}};
  std::string type = JsonText(manifest, "artifactType");
  if (type.empty()) type = JsonText(JsonChild(manifest, "config"), "mediaType");
  if (!type.empty()) d["artifactType"] = type;
  if (const Json& a = JsonChild(manifest, "annotations"); a.is_object()) d["annotations"] = a;
  return d;
}

// Of one host. kNotFound: it has no such API. Whether a registry filters is its own matter.
Result<Json> RegistryClient::Impl::ReferrersByApi(const RegistryHostPtr& host,
                                                  const Reference& repo, const std::string& digest,
                                                  const std::string& artifact_type,
                                                  const CallOptions& call,
                                                  const RetryPolicy& retry) {
  std::optional<Json> all;
  std::string what = "referrers/" + digest;
  if (!artifact_type.empty()) what += "?artifactType=" + UrlEscape(artifact_type);
  FASTOCI_CHECK_OK(GetPages(
      Sender(host, repo, "pull"), host->config.Url(repo.repository, what), {{"Accept", kOciIndex}},
      "manifests", call, retry, [&](Json* page) -> Status {
        Json entries = std::move((*page)["manifests"]);
        (*page)["manifests"] = Json::array();
        if (!all) all = std::move(*page);
        for (Json& entry : entries) {
          if (!artifact_type.empty() && JsonText(entry, "artifactType") != artifact_type) continue;
          (*all)["manifests"].push_back(std::move(entry));
        }
        if ((*all)["manifests"].size() > kMaxReferrers)
          return MismatchError("more than " + std::to_string(kMaxReferrers) + " referrers");
        return OkStatus();
      }));
  return std::move(*all);
}

Status RegistryClient::Impl::AddToFallbackTag(const RegistryHostPtr& host, const Reference& repo,
                                              const std::string& subject,
                                              const Json& descriptor, const CallOptions& call) {
  Reference tag = repo.WithTag(FallbackTag(subject));
  const std::string own = JsonText(descriptor, "digest");
  std::string written;  // digest of what we wrote last
  for (int round = 0; round < kMaxUpdates; round++) {
    if (!written.empty())
      std::this_thread::sleep_for(std::chrono::milliseconds(options.referrers_settle_ms));
    auto old = ReadManifest(tag, HostUse::kPush, call);
    if (!old.ok() && old.error().kind != ErrorKind::kNotFound) return old.error();
    auto index = ParseIndex(old.ok() ? old->body : std::string(kEmptyIndex));
    if (!index.ok()) return index.error().Wrap("tag " + tag.tag);
    if (Has(*index, own)) return OkStatus();
    Json& list = (*index)["manifests"];
    if (list.size() >= kMaxReferrers)
      return InvalidError("tag " + tag.tag + " has too many entries");
    list.push_back(descriptor);
    HttpRequest put = Request("PUT", host->config.Url(tag.repository, "manifests/" + tag.tag),
                              options.request_timeout_ms, call);
    put.headers = {{"Content-Type", kOciIndex}};
    if (old.ok()) put.headers.emplace_back("If-Match", "\"" + old->digest + "\"");
    const std::string body = Dump(*index);
    SetBody(&put, body);
    FASTOCI_TRY(HttpResponse done, SendWithRetry(Sender(host, tag, "pull,push"), put, options.retry));
    written = DigestOfBody(body);
    if (done.status / 100 != 2 && done.status != 412)
      return StatusError(done).Wrap("tag " + tag.tag);
  }
  return Error{ErrorKind::kUnavailable, EBUSY,
               "tag " + tag.tag + ": other writers keep on replacing it"};
}

Result<std::string> RegistryClient::Referrers(const Reference& repo, const std::string& digest,
                                              const std::string& artifact_type,
                                              const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  FASTOCI_TRY(auto hosts, impl_->HostsOf(repo, HostUse::kResolve));
  // No HostWalk, which is content with the first host that answers: here an empty list ends no
  // search, and all pages of a list must come from one host.
  const std::vector<std::string> left_out = impl_->LeftOut(hosts, 0);
  std::optional<Json> none;        // an empty list
  std::optional<Error> unknown;    // of a host that may have some
  for (size_t i = 0; i < hosts.size(); i++) {
    const RegistryHostPtr& host = hosts[i];
    const bool last = i + 1 == hosts.size();
    if (!left_out[i].empty()) {
      unknown = Error{ErrorKind::kUnavailable, EHOSTUNREACH, host->config.authority + ": " + left_out[i]};
      continue;
    }
    RetryPolicy retry = impl_->options.retry;
    if (!last) retry.max_attempts = 1;
    auto api = impl_->ReferrersByApi(host, repo, digest, artifact_type, call, retry);
    if (!api.ok() && IsCanceled(api.error())) return api.error();
    const bool silent = !api.ok() && api.error().kind == ErrorKind::kUnavailable && api.error().err != EIO;
    if (hosts.size() > 1) impl_->SetDown(*host, silent ? api.error().message : "");
    if (api.ok() && !(*api)["manifests"].empty()) return Dump(*api);
    if (api.ok()) {
      none = std::move(*api);
      continue;
    }
    // It has the API; half a list would be worse than none.
    if (last && api.error().kind == ErrorKind::kMismatch) return api.error();
    if (api.error().kind != ErrorKind::kUnavailable) continue;
    unknown = hosts.size() > 1 ? api.error().Wrap(host->config.authority) : api.error();
  }
  if (none) return Dump(*none);
  // No API: 404, 405, 400 and others, or a page of its own.
  auto tagged = GetManifest(repo.WithTag(FallbackTag(digest)), call);
  if (tagged.ok()) return tagged->body;
  if (tagged.error().kind != ErrorKind::kNotFound) return tagged.error();
  // Neither: nobody has added any, unless the API alone knows and does not answer.
  if (unknown)
    return unknown->Wrap("the referrers of " + digest + " (no fallback tag either)");
  return std::string(kEmptyIndex);
}

}  // namespace fastoci
