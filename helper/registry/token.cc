// SPDX-License-Identifier: Apache-2.0
#include "registry/token.h"

#include <algorithm>
#include <cctype>

#include "base/base64.h"
#include "base/foreign_json.h"
#include "base/json.h"
#include "base/lower.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxTokenBytes = 256 << 10;
constexpr size_t kMaxTokens = 4096;
constexpr int64_t kDefaultTokenSeconds = 60;  // as the token spec says
constexpr int64_t kMaxTokenSeconds = 3600;
constexpr int64_t kTokenMarginSeconds = 10;

bool IsTokenChar(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || std::string("!#$%&'*+-.^_`|~").find(c) != std::string::npos;
}

// Cursor over a WWW-Authenticate value.
class Scanner {
 public:
  explicit Scanner(const std::string& text) : text_(text) {}
  void SkipSeparators() {
    while (i_ < text_.size() && (text_[i_] == ' ' || text_[i_] == '\t' || text_[i_] == ',')) i_++;
  }
  bool Take(char c) {
    if (i_ >= text_.size() || text_[i_] != c) return false;
    i_++;
    return true;
  }
  std::string Word() {
    std::string w;
    while (i_ < text_.size() && IsTokenChar(text_[i_])) w += text_[i_++];
    return w;
  }
  bool Value(std::string* value) {
    if (!Take('"')) {
      *value = Word();
      return !value->empty();
    }
    while (i_ < text_.size() && text_[i_] != '"') {
      if (text_[i_] == '\\' && i_ + 1 < text_.size()) i_++;
      *value += text_[i_++];
    }
    return Take('"');
  }

 private:
  const std::string& text_;
  size_t i_ = 0;
};

Secret BasicValue(const Credential& c) {
  return Secret("Basic " + Base64Encode(c.username + ":" + c.password.Reveal()));
}

Result<Authorization> ParseToken(const std::string& body, SteadyTime now) {
  Json root = ParseForeignJson(body);
  if (!root.is_object()) return InvalidError("token server's answer is not JSON");
  std::string token;
  for (const char* name : {"token", "access_token"})
    if (token.empty()) token = JsonText(root, name);
  if (token.empty()) return InvalidError("token server's answer has no token");
  int64_t seconds = kDefaultTokenSeconds;
  if (auto it = root.find("expires_in"); it != root.end() && it->is_number_integer())
    seconds = std::clamp<int64_t>(it->get<int64_t>(), 0, kMaxTokenSeconds);
  Authorization a;
  a.value = Secret("Bearer " + token);
  a.expires = now + std::chrono::seconds(std::max<int64_t>(0, seconds - kTokenMarginSeconds));
  return a;
}

// One parameter for each scope. (In a form, where OAuth 2 rules, it is one for all.)
std::string ScopeQuery(const std::string& scope) {
  std::string query;
  for (size_t at = 0; at < scope.size();) {
    const size_t end = std::min(scope.find(' ', at), scope.size());
    query += (at == 0 ? "scope=" : "&scope=") + UrlEscape(scope.substr(at, end - at));
    at = end + 1;
  }
  return query;
}

Result<HttpRequest> TokenRequest(const Challenge& challenge, const std::string& registry_url,
                                 const std::string& scope,
                                 const std::optional<Credential>& credential) {
  auto param = [&](const char* name) {
    auto it = challenge.params.find(name);
    return it == challenge.params.end() ? std::string() : it->second;
  };
  std::string realm = param("realm");
  if (!UrlOrigin(realm).ok()) return InvalidError("bad token realm");
  if (registry_url.starts_with("https:") && !Lower(realm).starts_with("https:"))
    return Error{ErrorKind::kDenied, EACCES, "the token realm of an https registry is not https"};

  const bool by_post = credential && !credential->identity_token.empty();
  std::string query = by_post ? "scope=" + UrlEscape(scope) : ScopeQuery(scope);
  // A challenge need not name a service; an empty one is refused by some servers.
  if (std::string service = param("service"); !service.empty())
    query = "service=" + UrlEscape(service) + "&" + query;
  HttpRequest request;
  if (by_post) {
    request.method = "POST";
    request.url = realm;
    request.headers = {{"Content-Type", "application/x-www-form-urlencoded"}};
    SetBody(&request, "grant_type=refresh_token&client_id=fastoci&" + query + "&refresh_token=" +
                          UrlEscape(credential->identity_token.Reveal()));
  } else {
    request.url = realm + (realm.find('?') == std::string::npos ? "?" : "&") + query;
    if (credential) request.authorization = BasicValue(*credential);
  }
  return request;
}

}  // namespace

std::vector<Challenge> ParseChallenges(const std::string& header) {
  std::vector<Challenge> result;
  Scanner in(header);
  while (true) {
    in.SkipSeparators();
    std::string word = in.Word();
    if (word.empty()) return result;
    if (!in.Take('=')) {
      result.push_back({Lower(word), {}});
      continue;
    }
    std::string value;
    if (result.empty() || !in.Value(&value)) return result;
    result.back().params[Lower(word)] = value;
  }
}

Secret TokenCache::Find(const std::string& key) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = entries_.find(key);
  if (it == entries_.end()) return Secret();
  if (it->second.expires <= std::chrono::steady_clock::now()) {
    entries_.erase(it);
    return Secret();
  }
  return it->second.authorization;
}

void TokenCache::Put(const std::string& key, Secret authorization, SteadyTime expires) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (entries_.size() >= kMaxTokens) entries_.clear();
  entries_[key] = {std::move(authorization), expires};
}

void TokenCache::Remove(const std::string& key) {
  std::lock_guard<std::mutex> lock(mutex_);
  entries_.erase(key);
}

std::vector<Challenge> ChallengesOf(const HttpResponse& response) {
  std::vector<Challenge> challenges;
  auto [begin, end] = response.headers.equal_range("www-authenticate");
  for (auto it = begin; it != end; ++it)
    for (Challenge& c : ParseChallenges(it->second)) challenges.push_back(std::move(c));
  return challenges;
}

Result<AuthorizationPlan> PlanAuthorization(const std::vector<Challenge>& challenges,
                                            const std::string& registry_url,
                                            const std::string& scope,
                                            const std::optional<Credential>& credential) {
  AuthorizationPlan plan;
  for (const Challenge& c : challenges) {
    if (c.scheme != "bearer") continue;
    FASTOCI_TRY(plan.token_request, TokenRequest(c, registry_url, scope, credential));
    return plan;
  }
  for (const Challenge& c : challenges) {
    if (c.scheme != "basic") continue;
    if (!credential || credential->username.empty())
      return Error{ErrorKind::kDenied, EACCES, "HTTP 401: credentials are needed"};
    plan.ready.value = BasicValue(*credential);
    return plan;
  }
  return Error{ErrorKind::kDenied, EACCES, "HTTP 401 without a usable challenge"};
}

void CollectToken(HttpRequest* request, std::string* body) {
  request->on_body = [body](ByteSpan bytes) -> Status {
    if (bytes.size() > kMaxTokenBytes - body->size())
      return InvalidError("token server's answer is too long");
    body->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return OkStatus();
  };
}

Result<Authorization> TokenFrom(const Result<HttpResponse>& response, const std::string& body,
                                SteadyTime now) {
  if (!response.ok()) return response.error().Wrap("token server");
  if (response->status != 200) {
    Error e = StatusError(*response).Wrap("token server");
    // That is what some say to a refresh token that has expired.
    if (response->status == 400) e.kind = ErrorKind::kDenied;
    return e;
  }
  return ParseToken(body, now);
}

Result<Authorization> Authenticate(HttpClient* http, const HttpResponse& response,
                                   const std::string& scope,
                                   const std::optional<Credential>& credential,
                                   const HttpRequest& like) {
  FASTOCI_TRY(AuthorizationPlan plan,
              PlanAuthorization(ChallengesOf(response), response.url, scope, credential));
  if (!plan.token_request) return plan.ready;
  HttpRequest& request = *plan.token_request;
  request.deadline = like.deadline;
  request.watch = like.watch;
  request.fresh_connection = like.fresh_connection;
  request.tally = like.tally;
  // A token server need not be the registry.
  request.site = like.site;
  FASTOCI_TRY(std::string own, UrlOrigin(response.url));
  FASTOCI_TRY(std::string other, UrlOrigin(request.url));
  request.away = own != other;
  std::string body;
  CollectToken(&request, &body);
  FASTOCI_TRY(Authorization token,
              TokenFrom(http->Send(request), body, std::chrono::steady_clock::now()));
  if (like.tally) like.tally->tokens++;
  return token;
}

}  // namespace fastoci
