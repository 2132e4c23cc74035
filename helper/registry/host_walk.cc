// SPDX-License-Identifier: Apache-2.0
// Who is asked for a registry, and in which order.
//
// A host other than the last one gets one attempt: the next one may answer sooner than a
// second attempt would. A retry of the whole walk (http/retry.h) begins behind the host that
// failed. A host that gave no answer at all is left out for kDownMs, as long as there is
// another one, so that a mirror or a registry that cannot be reached costs its time limit once.
#include "registry/client_impl.h"

namespace fastoci {
namespace {

constexpr int64_t kHostsMs = 30000;
constexpr int64_t kDownMs = 30000;

RegistryHostPtr MakeHost(HostConfig config, const TlsOptions& given) {
  HttpSite site = config.Site();
  if (config.is_registry()) {
    // What the options say wins.
    if (!given.ca_file.empty()) {
      site.ca_pem.clear();
      site.insecure = false;
    }
    if (!given.client_cert.empty()) {
      site.client_cert_pem.clear();
      site.client_key_pem = Secret();
    }
  }
  auto host = std::make_shared<RegistryHost>();
  if (site != HttpSite()) host->site = std::make_shared<const HttpSite>(std::move(site));
  host->config = std::move(config);
  return host;
}

}  // namespace

Result<std::vector<RegistryHostPtr>> RegistryClient::Impl::HostsOf(const Reference& repo,
                                                                   HostUse use) {
  std::lock_guard<std::mutex> lock(hosts_mutex);
  Loaded& all = loaded[repo.host];
  if (all.until <= std::chrono::steady_clock::now()) {
    HostsOptions from;
    from.roots = options.hosts_dirs;
    from.plain_http = options.plain_http;
    auto hosts = options.hosts ? Result<std::vector<HostConfig>>(*options.hosts)
                               : LoadHosts(from, repo);
    if (!hosts.ok()) return hosts.error().Wrap("how to access " + repo.host + " (see --hosts-dir)");
    all = {std::move(*hosts), DeadlineIn(kHostsMs)};
  }
  std::vector<RegistryHostPtr> wanted;
  for (HostConfig& config : HostsFor(all.hosts, use))
    wanted.push_back(MakeHost(std::move(config), options.http.tls));
  if (!wanted.empty()) return wanted;
  return InvalidError("hosts.toml for " + repo.host + " names no host that has the capability to " +
                      (use == HostUse::kPush ? "push" : use == HostUse::kPull ? "pull" : "resolve"));
}

Result<RegistryHostPtr> RegistryClient::Impl::HostOf(const Reference& repo, HostUse use) {
  FASTOCI_TRY(auto hosts, HostsOf(repo, use));
  return hosts.front();
}

bool RegistryClient::Impl::IsDown(const RegistryHost& host, std::string* why) {
  std::lock_guard<std::mutex> lock(hosts_mutex);
  auto it = down.find(host.Origin());
  if (it == down.end() || it->second.until <= std::chrono::steady_clock::now()) return false;
  *why = it->second.why;
  return true;
}

void RegistryClient::Impl::SetDown(const RegistryHost& host, const std::string& why) {
  std::lock_guard<std::mutex> lock(hosts_mutex);
  if (why.empty()) down.erase(host.Origin());
  else down[host.Origin()] = {DeadlineIn(kDownMs), why};
}

std::vector<std::string> RegistryClient::Impl::LeftOut(const std::vector<RegistryHostPtr>& hosts, size_t first) {
  std::vector<std::string> why(hosts.size());
  bool any_up = false;
  for (size_t i = first; i < hosts.size(); i++) any_up |= !IsDown(*hosts[i], &why[i]);
  return any_up ? why : std::vector<std::string>(hosts.size());
}

std::string HostWalk::Who() const { return hosts_.size() > 1 ? who_ + ": " : ""; }

// *took: a callback of the request got bytes.
Result<HttpResponse> HostWalk::Ask(const RegistryHostPtr& host, HttpRequest request, bool* took) {
  request.url = host->config.Url(repo_.repository, what_);
  if (request.on_body)
    request.on_body = [take = std::move(request.on_body), took](ByteSpan bytes) {
      *took = true;
      return take(bytes);
    };
  auto response = impl_.Sender(host, repo_, "pull")(&request);
  if (response.ok() && response->status / 100 == 2 && check) {
    if (Status s = check(); !s.ok()) return s.error();
  }
  return response;
}

Result<HttpResponse> HostWalk::Send(HttpRequest* request) {
  if (hosts_.empty()) {
    FASTOCI_TRY(hosts_, impl_.HostsOf(repo_, use_));
  }
  const bool several = hosts_.size() > 1;
  const std::vector<std::string> left_out = impl_.LeftOut(hosts_, first_);
  std::string before;  // what the others said
  for (size_t i = first_;; i++) {
    const RegistryHost& host = *hosts_[i];
    const bool last = i + 1 == hosts_.size();
    who_ = host.config.authority;
    bool took = false;
    const bool skip = !left_out[i].empty();
    auto answer = skip ? Result<HttpResponse>(Error{ErrorKind::kUnavailable, EHOSTUNREACH,
                                                    left_out[i] + " (a moment ago)"})
                       : Ask(hosts_[i], *request, &took);
    if (answer.ok()) impl_.SetDown(host, "");
    if (answer.ok() && answer->status / 100 == 2) {
      first_ = i;
      return answer;
    }
    if (!answer.ok() && IsCanceled(answer.error())) return answer;
    const bool late = std::chrono::steady_clock::now() >= request->deadline;
    if (several && !skip && !answer.ok() && answer.error().kind == ErrorKind::kUnavailable &&
        !took && !late)
      impl_.SetDown(host, answer.error().message);
    const bool stop = last || late || (took && !collects_);
    first_ = last ? 0 : i + 1;
    if (stop && answer.ok() && several) answer->who = who_ + (before.empty() ? "" : " (" + before + ")");
    if (stop && answer.ok()) return answer;
    if (stop && several) {
      Error error = answer.error().Wrap(who_);
      if (!before.empty()) error.message += " (" + before + ")";
      return error;
    }
    if (stop) return answer;
    before += (before.empty() ? "before that, " : "; ") + who_ + ": " +
              (answer.ok() ? StatusError(*answer) : answer.error()).message;
  }
}

}  // namespace fastoci
