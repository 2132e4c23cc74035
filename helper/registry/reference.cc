// SPDX-License-Identifier: Apache-2.0
#include "registry/reference.h"

#include <cctype>

#include "base/digest.h"

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

std::string HostWithoutPort(const std::string& host) {
  if (host.starts_with("[")) return host.substr(1, host.find(']') - 1);
  return host.substr(0, host.find(':'));
}

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

bool IsLoopbackHost(const std::string& host) {
  std::string name = HostWithoutPort(host);
  if (name == "localhost" || name == "::1") return true;
  // Only a dotted quad: "127.evil.example" is a name.
  return name.starts_with("127.") && name.find_first_not_of("0123456789.") == std::string::npos;
}

std::string ApiHost(const std::string& host) {
  return host == kDefaultHost || host == "index.docker.io" ? "registry-1.docker.io" : host;
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
  if (first != std::string::npos &&
      (head == "localhost" || head.find_first_of(".:[") != std::string::npos)) {
    if (!IsRegistryHost(head)) return bad("the host is malformed");
    ref.host = head;
    ref.repository = rest.substr(first + 1);
  } else {
    ref.host = kDefaultHost;
    ref.repository = first == std::string::npos ? "library/" + rest : rest;
  }
  if (ref.host == "index.docker.io") ref.host = kDefaultHost;
  if (!IsRepositoryName(ref.repository)) return bad("the repository name is malformed");
  if (ref.tag.empty() && ref.digest.empty()) ref.tag = "latest";
  return ref;
}

}  // namespace fastoci
