// SPDX-License-Identifier: Apache-2.0
#include "registry/options.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "base/privileges.h"
#include "base/unique_fd.h"
#include "registry/hosts.h"
#include "registry/kubelet_providers.h"

namespace fastoci {
namespace {

constexpr size_t kMaxPemBytes = 1 << 20;
constexpr size_t kMaxPasswordBytes = 64 << 10;

Status CheckReadable(const std::string& path) {
  if (path.empty() || ::access(path.c_str(), R_OK) == 0) return OkStatus();
  return ErrnoError(path);
}

Result<std::string> ReadPem(const std::string& path) {
  if (path.empty()) return std::string();
  return ReadFile(path, kMaxPemBytes);
}

}  // namespace

Result<TlsOptions> ReadTlsFlags(const TlsFlags& f) {
  TlsOptions tls;
  tls.insecure = f.insecure;
  if (!f.cert_dir.empty()) {
    auto there = [](const std::string& p) { return ::access(p.c_str(), F_OK) == 0; };
    if (!there(f.cert_dir)) return ErrnoError("--cert-dir " + f.cert_dir);
    if (there(f.cert_dir + "/ca.crt")) tls.ca_file = f.cert_dir + "/ca.crt";
    if (there(f.cert_dir + "/client.cert")) {
      tls.client_cert = f.cert_dir + "/client.cert";
      tls.client_key = f.cert_dir + "/client.key";
    }
  }
  if (!f.root_ca.empty()) tls.ca_file = f.root_ca;
  if (!f.client_cert.empty()) {
    const size_t colon = f.client_cert.find(':');
    if (colon == std::string::npos) return InvalidError("--client-cert must have the form CERT:KEY, with two PEM files");
    tls.client_cert = f.client_cert.substr(0, colon);
    tls.client_key = f.client_cert.substr(colon + 1);
  }
  for (const std::string& path : {tls.ca_file, tls.client_cert, tls.client_key})
    FASTOCI_CHECK_OK(CheckReadable(path));
  return tls;
}

Result<CredentialSourcePtr> OpenCredentials(const std::string& user, const std::string& host,
                                            const std::string& file) {
  std::vector<CredentialSourcePtr> sources;
  if (!user.empty()) {
    FASTOCI_TRY(Credential c, ParseUserPassword(user));
    sources.push_back(HostSource(host, std::move(c), "-u"));
  }
  if (!file.empty()) {
    FASTOCI_CHECK_OK(CheckReadable(file));
    DockerConfigOptions options;
    options.path = file;
    sources.push_back(DockerConfigSource(std::move(options)));
    return FirstOf(std::move(sources));
  }
  sources.push_back(DefaultSource());
  for (KubeletPaths& paths : KnownKubeletPaths()) sources.push_back(KubeletSource(std::move(paths)));
  return FirstOf(std::move(sources));
}

Result<std::string> WithPasswordFrom(int fd, const std::string& user) {
  if (user.empty() || user.find(':') != std::string::npos)
    return InvalidError("--password-stdin needs -u USER, without a password");
  std::string text(kMaxPasswordBytes + 1, '\0');
  size_t length = 0;
  while (length < text.size()) {
    const ssize_t n = ::read(fd, text.data() + length, text.size() - length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError("--password-stdin");
    if (n == 0) break;
    length += static_cast<size_t>(n);
  }
  if (length > kMaxPasswordBytes)
    return InvalidError("--password-stdin: more than " + std::to_string(kMaxPasswordBytes) + " bytes");
  while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r')) length--;
  std::string all = user + ":" + text.substr(0, length);
  explicit_bzero(text.data(), text.size());
  if (length == 0) return InvalidError("--password-stdin: standard input is empty");
  (void)LimitResource(RLIMIT_CORE, 0).ok();
  return all;
}

void HidePassword(int argc, char** argv, const std::string& user) {
  const size_t colon = user.find(':');
  if (colon == std::string::npos) return;
  (void)LimitResource(RLIMIT_CORE, 0).ok();
  const size_t bytes = user.size() - colon - 1;
  // Also --username=USER:PASSWORD and -uUSER:PASSWORD.
  for (int i = 1; i < argc; i++)
    if (const std::string_view word(argv[i]); word.ends_with(user))
      std::memset(argv[i] + word.size() - bytes, '*', bytes);
}

Status TakePassword(int argc, char** argv, bool from_stdin, std::string* user) {
  HidePassword(argc, argv, *user);
  if (!from_stdin) return OkStatus();
  FASTOCI_TRY(*user, WithPasswordFrom(STDIN_FILENO, *user));
  return OkStatus();
}

std::string CredentialsFileOfEnvironment(const Reference& repo) {
  if (std::getenv("REGISTRY_AUTH_FILE") == nullptr && std::getenv("DOCKER_CONFIG") == nullptr)
    return "";
  const std::vector<std::string> files = DefaultCredentialFiles();
  if (files.empty()) return "";
  DockerConfigOptions options;
  options.path = files[0];
  auto found = DockerConfigSource(std::move(options))->Find(repo, false);
  return found.ok() && *found ? files[0] : "";
}

Result<Access> MakeAccess(const std::string& host, bool plain_http, const TlsOptions& tls,
                          const std::string& user, const std::string& file,
                          const std::vector<std::string>& hosts_dirs) {
  Access a;
  a.host = host;
  a.plain_http = plain_http;
  a.insecure = tls.insecure;
  FASTOCI_TRY(a.ca_pem, ReadPem(tls.ca_file));
  FASTOCI_TRY(a.client_cert_pem, ReadPem(tls.client_cert));
  FASTOCI_TRY(std::string key, ReadPem(tls.client_key));
  a.client_key_pem = Secret(std::move(key));
  if (!user.empty()) {
    FASTOCI_TRY(a.credential, ParseUserPassword(user));
  } else if (!file.empty()) {
    std::error_code error;
    a.credentials_file = std::filesystem::absolute(file, error).string();
    if (error) return ErrnoError(file, error.value());
  }
  for (const std::string& dir : hosts_dirs) {
    std::error_code error;
    a.hosts_dirs.push_back(dir == kNoHostRoots ? dir : std::filesystem::absolute(dir, error).string());
    if (error) return ErrnoError(dir, error.value());
  }
  // It must come out as it went in: no text that JSON cannot have.
  FASTOCI_TRY(Access again, AccessFromJson(AccessToJson(a).Reveal()));
  if (again != a) return InvalidError("the user's name, password or file is not UTF-8");
  return a;
}

Result<std::vector<std::string>> ReadHostsDirs(const std::vector<std::string>& given) {
  for (const std::string& dir : given)
    if (dir != kNoHostRoots && ::access(dir.c_str(), R_OK | X_OK) != 0) return ErrnoError("--hosts-dir " + dir);
  return HostRoots(given);
}

}  // namespace fastoci
