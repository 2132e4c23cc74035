// SPDX-License-Identifier: Apache-2.0
// Lists that come in pages: referrers, tags, repositories.
#include "base/foreign_json.h"
#include "registry/client_impl.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr int kMaxPages = 1000;
constexpr size_t kMaxNames = 1000000;

}  // namespace

std::string NextLink(const std::string& header) {
  // <url>; rel="next", <url>; rel=prev
  for (size_t at = header.find('<'); at != std::string::npos; at = header.find('<', at)) {
    const size_t close = header.find('>', at);
    if (close == std::string::npos) return "";
    const size_t end = std::min(header.find('<', close), header.size());
    std::string rest = header.substr(close + 1, end - close - 1);
    for (char& c : rest)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    std::erase_if(rest, [](char c) { return c == ' ' || c == '\t' || c == '"'; });
    if ((rest + ";").find(";rel=next;") != std::string::npos ||
        (rest + ",").find(";rel=next,") != std::string::npos)
      return header.substr(at + 1, close - at - 1);
    at = close;
  }
  return "";
}

Status RegistryClient::Impl::GetPages(const HttpSend& sender, std::string url,
                                      const HttpHeaders& headers, const char* array,
                                      const CallOptions& call, const RetryPolicy& retry,
                                      const std::function<Status(Json*)>& take) {
  FASTOCI_TRY(std::string origin, UrlOrigin(url));
  for (int page = 0; page < kMaxPages; page++) {
    Document read;
    FASTOCI_CHECK_OK(GetWhole(sender, url, headers, kMaxManifestBytes, options.request_timeout_ms,
                              call, retry, &read));
    Json j = ParseForeignJson(read.body);
    const bool whole = JsonChild(j, array).is_array();
    // A page for people, from a server that answers so to whatever it is asked.
    if (!whole && page == 0) return NotFoundError(std::string("no list of ") + array);
    // Half a list would be worse than none.
    if (!whole)
      return MismatchError("page " + std::to_string(page + 1) + " is not a list of " + array);
    FASTOCI_CHECK_OK(take(&j));
    std::string next;
    auto [link, end] = read.response.headers.equal_range("link");
    for (; link != end && next.empty(); ++link) next = NextLink(link->second);
    if (next.empty()) return OkStatus();
    FASTOCI_TRY(url, ResolveUrl(url, next));
    FASTOCI_TRY(std::string there, UrlOrigin(url));
    if (there != origin)
      return MismatchError(std::string("the next page of ") + array + " is on another server");
  }
  return MismatchError("more than " + std::to_string(kMaxPages) + " pages of " + array);
}

// The names of one kind; what is none is left out.
Result<std::vector<std::string>> RegistryClient::ListNames(const Reference& at,
                                                           const std::string& scope,
                                                           const std::string& what,
                                                           const char* array,
                                                           bool (*is_name)(const std::string&),
                                                           const CallOptions& call) {
  std::vector<std::string> names;
  FASTOCI_TRY(RegistryHostPtr host, impl_->HostOf(at, HostUse::kList));
  Status s = impl_->GetPages(impl_->ScopedSender(host, at, scope),
                             host->config.Url(at.repository, what), {}, array, call,
                             impl_->options.retry,
                             [&](Json* page) -> Status {
                               for (const Json& name : (*page)[array]) {
                                 if (!name.is_string() || !is_name(name.get<std::string>())) continue;
                                 if (names.size() == kMaxNames) return InvalidError("too many names");
                                 names.push_back(name.get<std::string>());
                               }
                               return OkStatus();
                             });
  if (!s.ok()) return s.error();
  return names;
}

Result<std::vector<std::string>> RegistryClient::ListTags(const Reference& repo,
                                                          const CallOptions& call) {
  auto tags = ListNames(repo, "repository:" + repo.repository + ":pull",
                        "tags/list", "tags", IsTag, call);
  if (!tags.ok()) return tags.error().Wrap("tags of " + repo.host + "/" + repo.repository);
  return tags;
}

Result<std::vector<std::string>> RegistryClient::ListRepositories(const std::string& host,
                                                                  const CallOptions& call) {
  Reference at;
  at.host = host;
  auto names = ListNames(at, "registry:catalog:*", "_catalog", "repositories", IsRepositoryName, call);
  if (!names.ok()) return names.error().Wrap("repositories of " + host);
  return names;
}

}  // namespace fastoci
