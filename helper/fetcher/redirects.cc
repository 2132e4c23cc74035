// SPDX-License-Identifier: Apache-2.0
#include "fetcher/redirects.h"

#include <algorithm>
#include <cctype>
#include <ctime>

#include "base/lower.h"
#include "http/number.h"

namespace fastoci {
namespace {

constexpr int64_t kDefaultSeconds = 60;
constexpr int64_t kMostSeconds = 3600;
// So that a request that begins now is not too late when it arrives.
constexpr int64_t kMarginSeconds = 15;

std::string Unescape(const std::string& s) {
  std::string out;
  for (size_t i = 0; i < s.size(); i++) {
    if (s[i] == '%' && i + 2 < s.size() && std::isxdigit(static_cast<unsigned char>(s[i + 1])) &&
        std::isxdigit(static_cast<unsigned char>(s[i + 2]))) {
      out += static_cast<char>(std::stoi(s.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      out += s[i];
    }
  }
  return out;
}

// Names in lower case, values unescaped.
std::map<std::string, std::string> Query(const std::string& url) {
  std::map<std::string, std::string> query;
  size_t at = url.find('?');
  while (at != std::string::npos && at + 1 < url.size()) {
    size_t end = std::min(url.find_first_of("&#", at + 1), url.size());
    std::string pair = url.substr(at + 1, end - at - 1);
    size_t equals = std::min(pair.find('='), pair.size());
    query.emplace(Lower(pair.substr(0, equals)),
                  Unescape(pair.substr(std::min(equals + 1, pair.size()))));
    at = end < url.size() && url[end] == '&' ? end : std::string::npos;
  }
  return query;
}

// ISO 8601 in UTC, in either of the forms that are used; -1 if it is none.
int64_t ParseTime(const std::string& text) {
  for (const char* format : {"%Y%m%dT%H%M%SZ", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ",
                             "%Y-%m-%d"}) {
    std::tm tm{};
    const char* end = strptime(text.c_str(), format, &tm);
    if (end != nullptr && *end == '\0') return timegm(&tm);
  }
  return -1;
}

// The time that the query names, -1 if it names none.
int64_t NamedExpiry(const std::map<std::string, std::string>& query) {
  auto value = [&](const std::string& name) {
    auto it = query.find(name);
    return it == query.end() ? std::string() : it->second;
  };
  uint64_t seconds = 0;
  for (const char* prefix : {"x-amz-", "x-goog-"}) {
    int64_t begin = ParseTime(value(std::string(prefix) + "date"));
    if (begin >= 0 && ParseDecimal(value(std::string(prefix) + "expires"), &seconds))
      return begin + static_cast<int64_t>(std::min<uint64_t>(seconds, kMostSeconds * 24 * 7));
  }
  if (ParseDecimal(value("expires"), &seconds) && seconds <= INT64_MAX)
    return static_cast<int64_t>(seconds);
  return ParseTime(value("se"));
}

}  // namespace

int64_t UrlExpiry(const std::string& url, int64_t now) {
  int64_t expiry = NamedExpiry(Query(url));
  if (expiry < 0) return now + kDefaultSeconds;
  return std::min(expiry - kMarginSeconds, now + kMostSeconds);
}

std::string Redirects::Find(uint32_t location, int64_t now) {
  auto it = targets_.find(location);
  if (it == targets_.end()) return "";
  if (it->second.expires > now) return it->second.url;
  targets_.erase(it);
  return "";
}

void Redirects::Put(uint32_t location, const std::string& url, int64_t now) {
  int64_t expires = UrlExpiry(url, now);
  if (expires > now) targets_[location] = {url, expires};
}

}  // namespace fastoci
