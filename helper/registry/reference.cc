// SPDX-License-Identifier: Apache-2.0
#include "registry/reference.h"

#include <arpa/inet.h>

#include <cctype>

#include "base/digest.h"
#include "base/lower.h"

namespace fastoci {
namespace {

constexpr size_t kMaxNameBytes = 255;
constexpr size_t kMaxTagBytes = 128;
constexpr char kDefaultHost[] = "docker.io";

bool IsLowerOrDigit(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
bool IsAlnum(char c) { return IsLowerOrDigit(c) || (c >= 'A' && c <= 'Z'); }

// [a-z0-9]+ joined by ".", "_", "__" or any number of "-".
bool IsPathComponent(const std::string& s) {
  size_t i = 0;
  while (true) {
    size_t begin = i;
    while (i < s.size() && IsLowerOrDigit(s[i])) i++;
    if (i == begin) return false;
    if (i == s.size()) return true;
    if (s[i] == '.') {
      i++;
    } else if (s[i] == '_') {
      i++;
      if (i < s.size() && s[i] == '_') i++;
    } else if (s[i] == '-') {
      while (i < s.size() && s[i] == '-') i++;
    } else {
      return false;
    }
  }
}

constexpr char kLibrary[] = "library/";

std::string HostWithoutPort(const std::string& host) {
  if (host.starts_with("[")) return host.substr(1, host.find(']') - 1);
  return host.substr(0, host.find(':'));
}

// Digits without leading zeros; "" if there is none.
std::string PortOf(const std::string& host) {
  const size_t colon = host.find(':', host.starts_with("[") ? host.find(']') : 0);
  if (colon == std::string::npos) return "";
  const size_t digit = host.find_first_not_of('0', colon + 1);
  return digit == std::string::npos ? "0" : host.substr(digit);
}

// A name in lower case, or an address as inet_ntop() writes it: libcurl takes
// each of 127.0.0.1, 127.1 and 0x7f000001 for the same one.
std::string CanonicalName(std::string name) {
  name = Lower(std::move(name));
  char text[INET6_ADDRSTRLEN];
  in6_addr six;
  if (::inet_pton(AF_INET6, name.c_str(), &six) == 1 &&
      ::inet_ntop(AF_INET6, &six, text, sizeof(text)) != nullptr)
    return IN6_IS_ADDR_V4MAPPED(&six) ? std::string(text).substr(7) : std::string("[") + text + "]";
  in_addr four;
  if (std::isdigit(static_cast<unsigned char>(name[0])) && ::inet_aton(name.c_str(), &four) == 1 &&
      ::inet_ntop(AF_INET, &four, text, sizeof(text)) != nullptr)
    return text;
  return name;
}

bool LooksLikeHost(const std::string& head) {
  return head == "localhost" || head.find_first_of(".:[") != std::string::npos;
}

// default_ports: those that are left out.
std::string CanonicalHostPort(const std::string& host, const std::string& default_ports) {
  const std::string port = PortOf(host);
  std::string name = CanonicalName(HostWithoutPort(host));
  if (!port.empty() && default_ports.find(" " + port + " ") == std::string::npos)
    name += ":" + port;
  for (const char* hub : {"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
    if (name == hub) return kDefaultHost;
  return name;
}

std::string PolicyHost(const std::string& host) { return CanonicalHostPort(host, " 80 443 "); }

}  // namespace

bool IsRepositoryName(const std::string& text) {
  if (text.empty() || text.size() > kMaxNameBytes) return false;
  size_t begin = 0;
  while (true) {
    size_t slash = text.find('/', begin);
    if (!IsPathComponent(text.substr(begin, slash - begin))) return false;
    if (slash == std::string::npos) return true;
    begin = slash + 1;
  }
}

bool IsTag(const std::string& text) {
  if (text.empty() || text.size() > kMaxTagBytes) return false;
  if (!IsAlnum(text[0]) && text[0] != '_') return false;
  for (char c : text)
    if (!IsAlnum(c) && c != '_' && c != '.' && c != '-') return false;
  return true;
}

bool IsRegistryHost(const std::string& text) {
  if (text.empty() || text.size() > kMaxNameBytes) return false;
  std::string port;
  if (text[0] == '[') {
    size_t close = text.find(']');
    if (close == std::string::npos || close == 1) return false;
    for (char c : text.substr(1, close - 1))
      if (!std::isxdigit(static_cast<unsigned char>(c)) && c != ':' && c != '.') return false;
    if (close + 1 == text.size()) return true;
    if (text[close + 1] != ':') return false;
    port = text.substr(close + 2);
  } else {
    std::string name = text.substr(0, text.find(':'));
    if (name.empty() || !IsAlnum(name.front()) || !IsAlnum(name.back())) return false;
    for (char c : name)
      if (!IsAlnum(c) && c != '.' && c != '-') return false;
    if (name.size() == text.size()) return true;
    port = text.substr(name.size() + 1);
  }
  if (port.empty() || port.size() > 5) return false;
  for (char c : port)
    if (c < '0' || c > '9') return false;
  return std::stoul(port) <= 65535;
}

std::string ApiHost(const std::string& host) {
  return CanonicalHost(host) == kDefaultHost ? "registry-1.docker.io" : host;
}

std::string CanonicalHost(const std::string& host) { return CanonicalHostPort(host, " 443 "); }

std::string CanonicalRepository(const Reference& ref) {
  const std::string host = PolicyHost(ref.host);
  const bool library = host == kDefaultHost && ref.repository.find('/') == std::string::npos;
  return host + "/" + (library ? kLibrary : "") + ref.repository;
}

Result<std::string> CanonicalPrefix(const std::string& text) {
  std::string rest = text;
  if (rest.ends_with('/')) rest.pop_back();
  if (rest.find("://") != std::string::npos)
    return InvalidError("names a URL; write the host and the repository alone");
  const size_t slash = rest.find('/');
  const std::string host = rest.substr(0, slash);
  if (!LooksLikeHost(host))
    return InvalidError("names no registry; write docker.io/" +
                        std::string(slash == std::string::npos ? kLibrary : "") + rest);
  if (!IsRegistryHost(host)) return InvalidError("begins with no host of a registry");
  if (slash == std::string::npos) return PolicyHost(host);
  const std::string path = rest.substr(slash + 1);
  if (path.find('*') != std::string::npos)
    return InvalidError("has a \"*\"; a prefix of whole components matches all below it");
  if (path.find_first_of("@:") != std::string::npos)
    return InvalidError("has a tag or a digest; a rule is for whole repositories");
  if (!IsRepositoryName(path))
    return InvalidError("is no repository: its name has lower-case letters, digits, '.', '_', '-'");
  return PolicyHost(host) + "/" + path;
}

size_t MatchPrefix(const std::string& prefix, const std::string& repository) {
  auto matches = [&](const std::string& p) {
    return repository == p || repository.starts_with(p + "/");
  };
  if (matches(prefix)) return prefix.size();
  static const std::string kHub = std::string(kDefaultHost) + "/";
  if (!prefix.starts_with(kHub)) return 0;
  const std::string in_library = kHub + kLibrary + prefix.substr(kHub.size());
  return matches(in_library) ? in_library.size() : 0;
}

std::string Reference::ToString() const {
  std::string s = host + "/" + repository;
  if (!tag.empty()) s += ":" + tag;
  if (!digest.empty()) s += "@" + digest;
  return s;
}

Reference Reference::WithTag(const std::string& new_tag) const {
  return {host, repository, new_tag, ""};
}

Reference Reference::WithDigest(const std::string& new_digest) const {
  return {host, repository, "", new_digest};
}

Result<Reference> ParseReference(const std::string& text) {
  auto bad = [&](const char* why) {
    return InvalidError("bad image reference \"" + text.substr(0, 300) + "\": " + why);
  };
  Reference ref;
  std::string rest = text;
  if (size_t at = rest.find('@'); at != std::string::npos) {
    ref.digest = rest.substr(at + 1);
    if (!ParseDigest(ref.digest).ok()) return bad("the digest is not sha256:<64 hex digits>");
    rest.resize(at);
  }
  size_t slash = rest.rfind('/');
  size_t colon = rest.rfind(':');
  if (colon != std::string::npos && (slash == std::string::npos || colon > slash)) {
    ref.tag = rest.substr(colon + 1);
    if (!IsTag(ref.tag)) return bad("the tag is malformed");
    rest.resize(colon);
  }
  // The first component is a host if it looks like one, as in docker.
  size_t first = rest.find('/');
  std::string head = rest.substr(0, first);
  if (first != std::string::npos && LooksLikeHost(head)) {
    if (!IsRegistryHost(head)) return bad("the host is malformed");
    ref.host = Lower(head);
    ref.repository = rest.substr(first + 1);
  } else {
    ref.host = kDefaultHost;
    ref.repository = rest;
  }
  if (CanonicalHost(ref.host) == kDefaultHost) {
    ref.host = kDefaultHost;
    if (ref.repository.find('/') == std::string::npos) ref.repository.insert(0, kLibrary);
  }
  if (!IsRepositoryName(ref.repository)) return bad("the repository name is malformed");
  if (ref.tag.empty() && ref.digest.empty()) ref.tag = "latest";
  return ref;
}

}  // namespace fastoci
