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

// kNotFound: the registry has no such API.
Result<std::string> RegistryClient::Impl::ReferrersByApi(const Reference& repo,
                                                         const std::string& digest,
                                                         const CallOptions& call) {
  std::optional<Json> all;
  FASTOCI_CHECK_OK(GetPages(
      Sender(repo, "pull"), BaseUrl(repo, call) + "/referrers/" + digest, {{"Accept", kOciIndex}},
      "manifests", call, [&](Json* page) -> Status {
        if (!all) {
          all = std::move(*page);
        } else {
          for (Json& entry : (*page)["manifests"]) (*all)["manifests"].push_back(std::move(entry));
        }
        if ((*all)["manifests"].size() > kMaxReferrers)
          return MismatchError("more than " + std::to_string(kMaxReferrers) + " referrers");
        return OkStatus();
      }));
  return Dump(*all);
}

Status RegistryClient::Impl::AddToFallbackTag(RegistryClient* client, const Reference& repo,
                                              const std::string& subject,
                                              const Json& descriptor, const CallOptions& call) {
  Reference tag = repo.WithTag(FallbackTag(subject));
  const std::string own = JsonText(descriptor, "digest");
  std::string written;  // digest of what we wrote last
  for (int round = 0; round < kMaxUpdates; round++) {
    if (!written.empty())
      std::this_thread::sleep_for(std::chrono::milliseconds(options.referrers_settle_ms));
    auto old = client->GetManifest(tag, call);
    if (!old.ok() && old.error().kind != ErrorKind::kNotFound) return old.error();
    auto index = ParseIndex(old.ok() ? old->body : std::string(kEmptyIndex));
    if (!index.ok()) return index.error().Wrap("tag " + tag.tag);
    if (Has(*index, own)) return OkStatus();
    Json& list = (*index)["manifests"];
    if (list.size() >= kMaxReferrers)
      return InvalidError("tag " + tag.tag + " has too many entries");
    list.push_back(descriptor);
    HttpRequest put = Request("PUT", BaseUrl(tag, call) + "/manifests/" + tag.tag,
                              options.request_timeout_ms, call);
    put.headers = {{"Content-Type", kOciIndex}};
    if (old.ok()) put.headers.emplace_back("If-Match", "\"" + old->digest + "\"");
    const std::string body = Dump(*index);
    SetBody(&put, body);
    FASTOCI_TRY(HttpResponse done, Send(tag, "pull,push", put));
    written = DigestOfBody(body);
    if (done.status / 100 != 2 && done.status != 412)
      return StatusError(done).Wrap("tag " + tag.tag);
  }
  return Error{ErrorKind::kUnavailable, EBUSY,
               "tag " + tag.tag + ": other writers keep on replacing it"};
}

Result<std::string> RegistryClient::Referrers(const Reference& repo, const std::string& digest,
                                              const CallOptions& call) {
  FASTOCI_CHECK_OK(CheckDigest(digest));
  auto api = impl_->ReferrersByApi(repo, digest, call);
  if (api.ok()) return api;
  // It has the API; half a list would be worse than none.
  if (api.error().kind == ErrorKind::kMismatch) return api.error();
  // No API: 404, 405, 400 and others, or a page of its own.
  auto tagged = GetManifest(repo.WithTag(FallbackTag(digest)), call);
  if (tagged.ok()) return tagged->body;
  if (tagged.error().kind != ErrorKind::kNotFound) return tagged.error();
  // Neither: nobody has added any, unless the API alone knows and does not answer.
  if (api.error().kind == ErrorKind::kUnavailable)
    return api.error().Wrap("the referrers of " + digest + " (no fallback tag either)");
  return std::string(kEmptyIndex);
}

}  // namespace fastoci
