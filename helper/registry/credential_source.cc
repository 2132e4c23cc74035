// SPDX-License-Identifier: Apache-2.0
#include "registry/credential_source.h"

#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>

#include "base/json.h"
#include "base/log.h"
#include "registry/file_version.h"
#include "registry/plugin.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;
using Found = Result<std::optional<FoundCredential>>;

constexpr size_t kMaxCached = 1024;
constexpr size_t kMaxWords = 200;  // of a helper's own error

class Fixed : public CredentialSource {
 public:
  Fixed(Credentials credentials, std::string way)
      : credentials_(std::move(credentials)), way_(std::move(way)) {}
  Found Find(const Reference& repo, bool) override {
    auto c = credentials_.Find(repo.host, repo.repository);
    if (!c) return std::optional<FoundCredential>();
    return std::optional<FoundCredential>({std::move(*c), way_});
  }

 private:
  const Credentials credentials_;
  const std::string way_;
};

class ForHost : public CredentialSource {
 public:
  ForHost(const std::string& host, Credential credential, std::string way)
      : host_(CanonicalHost(host)), found_{std::move(credential), std::move(way)} {}
  Found Find(const Reference& repo, bool) override {
    if (CanonicalHost(repo.host) != host_) return std::optional<FoundCredential>();
    return std::optional<FoundCredential>(found_);
  }

 private:
  const std::string host_;
  const FoundCredential found_;
};

class Sequence : public CredentialSource {
 public:
  explicit Sequence(std::vector<CredentialSourcePtr> sources) : sources_(std::move(sources)) {}
  Found Find(const Reference& repo, bool fresh) override {
    std::optional<Error> failure;
    for (const CredentialSourcePtr& s : sources_) {
      Found found = s->Find(repo, fresh);
      if (found.ok() && *found) return found;
      if (!found.ok() && !failure) failure = found.error();
    }
    if (failure) return *failure;
    return std::optional<FoundCredential>();
  }

 private:
  const std::vector<CredentialSourcePtr> sources_;
};

class DockerConfig : public CredentialSource {
 public:
  explicit DockerConfig(DockerConfigOptions options) : options_(std::move(options)) {}

  Found Find(const Reference& repo, bool fresh) override {
    Credentials::Helper helper;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      FASTOCI_CHECK_OK(Reload());
      helper = credentials_.FindHelper(repo.host, repo.repository);
      auto fixed = credentials_.Find(repo.host, repo.repository);
      if (helper.name.empty() && fixed)
        return std::optional<FoundCredential>({std::move(*fixed), "auths of " + options_.path});
      if (helper.name.empty()) helper = credentials_.Store(repo.host);
      if (helper.name.empty()) return std::optional<FoundCredential>();
      auto known = cache_.find(KeyOf(helper));
      if (known != cache_.end() && (!fresh || known->second.IsFresh())) return known->second.found;
    }
    // Without the lock: a helper that hangs delays only those who need it.
    auto found = RunHelper(helper);
    if (!found.ok())
      return found.error().Wrap("the credential helper that " + options_.path + " names");
    std::lock_guard<std::mutex> lock(mutex_);
    if (cache_.size() >= kMaxCached) cache_.clear();
    Cached& entry = cache_[KeyOf(helper)];
    entry.found = *found;
    entry.renewed = fresh ? std::optional(Clock::now()) : std::nullopt;
    return *found;
  }

 private:
  struct Cached {
    std::optional<FoundCredential> found;
    std::optional<Clock::time_point> renewed;  // when it was asked for as something fresh
    bool IsFresh() const {
      return renewed && Clock::now() - *renewed < std::chrono::milliseconds(kMinRefreshMs);
    }
  };

  // A file that is damaged is an error as long as it is.
  Status Reload() {
    const FileVersion now(options_.path);
    if (now == version_) return OkStatus();
    if (options_.keep_old && !credentials_.empty() && now.error != ENOENT) {
      auto loaded = Credentials::Load(options_.path);
      version_ = now;
      if (!loaded.ok()) {
        Log(LogLevel::kWarning, "%s; its credentials stay what they were",
            loaded.error().message.c_str());
        return OkStatus();
      }
      cache_.clear();
      credentials_ = std::move(*loaded);
      return OkStatus();
    }
    cache_.clear();
    credentials_ = Credentials();
    version_.reset();
    if (now.error != ENOENT) {
      FASTOCI_TRY(credentials_, Credentials::Load(options_.path));
    }
    version_ = now;
    return OkStatus();
  }

  static std::string KeyOf(const Credentials::Helper& helper) {
    return helper.name + "\n" + helper.server;
  }

  Found RunHelper(const Credentials::Helper& helper) {
    const std::string name = "docker-credential-" + helper.name;
    PluginCommand command;
    command.program =
        options_.helper_dir.empty() ? FindProgram(name) : options_.helper_dir + "/" + name;
    if (command.program.empty()) return NotFoundError(name + " is not in PATH");
    command.args = {"get"};
    command.input = helper.server;
    command.timeout_ms = options_.helper_timeout_ms;
    FASTOCI_TRY(PluginResult result, RunPlugin(command));
    const std::string& text = result.output.Reveal();
    // The way in which helpers say that they have none.
    if (result.exit_code != 0 && text.find("credentials not found") != std::string::npos)
      return std::optional<FoundCredential>();
    if (result.exit_code != 0)
      return Error{ErrorKind::kDenied, EACCES,
                   name + " ended with " + std::to_string(result.exit_code) + ": " +
                       Printable(text.empty() ? result.errors : text)};
    const Json j = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    FoundCredential found;
    found.way = name + ", which " + options_.path + " names";
    found.credential.username = JsonText(j, "Username");
    Secret secret(JsonText(j, "Secret"));
    if (found.credential.username.empty() && secret.empty())
      return InvalidError(name + " gave no JSON with Username and Secret");
    if (found.credential.username == "<token>") found.credential.identity_token = secret;
    else found.credential.password = secret;
    return std::optional<FoundCredential>(std::move(found));
  }

  static std::string Printable(const std::string& text) {
    std::string out;
    for (char c : text.substr(0, kMaxWords)) out += c >= ' ' && c < 127 ? c : ' ';
    return out;
  }

  const DockerConfigOptions options_;
  std::mutex mutex_;
  // All below are guarded by mutex_.
  std::optional<FileVersion> version_;
  Credentials credentials_;
  std::map<std::string, Cached> cache_;
};

}  // namespace

CredentialSourcePtr FixedSource(Credentials credentials, std::string way) {
  return std::make_shared<Fixed>(std::move(credentials), std::move(way));
}

CredentialSourcePtr HostSource(const std::string& host, Credential credential, std::string way) {
  return std::make_shared<ForHost>(host, std::move(credential), std::move(way));
}

CredentialSourcePtr DockerConfigSource(DockerConfigOptions options) {
  return std::make_shared<DockerConfig>(std::move(options));
}

CredentialSourcePtr FirstOf(std::vector<CredentialSourcePtr> sources) {
  return std::make_shared<Sequence>(std::move(sources));
}

std::vector<std::string> DefaultCredentialFiles() {
  auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  if (std::string file = variable("REGISTRY_AUTH_FILE"); !file.empty()) return {file};
  std::vector<std::string> files;
  const std::string home = variable("HOME");
  if (std::string dir = variable("DOCKER_CONFIG"); !dir.empty())
    files.push_back(dir + "/config.json");
  else if (!home.empty())
    files.push_back(home + "/.docker/config.json");
  if (std::string dir = variable("XDG_RUNTIME_DIR"); !dir.empty())
    files.push_back(dir + "/containers/auth.json");
  if (std::string dir = variable("XDG_CONFIG_HOME"); !dir.empty())
    files.push_back(dir + "/containers/auth.json");
  else if (!home.empty())
    files.push_back(home + "/.config/containers/auth.json");
  return files;
}

CredentialSourcePtr DefaultSource() {
  std::vector<CredentialSourcePtr> sources;
  for (const std::string& path : DefaultCredentialFiles()) {
    DockerConfigOptions options;
    options.path = path;
    sources.push_back(DockerConfigSource(std::move(options)));
  }
  return FirstOf(std::move(sources));
}

}  // namespace fastoci
