// SPDX-License-Identifier: Apache-2.0
#include "attach/doctor_image.h"

#include <algorithm>
#include <chrono>

#include "attach/net_probe.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

constexpr int64_t kConnectMs = 5000;
constexpr int64_t kHandshakeMs = 5000;
constexpr int64_t kSoonDays = 14;
constexpr uint64_t kRangeBytes = 64 << 10;
constexpr uint64_t kInnerBytes = 4096;

// Server's words in a sentence of ours.
std::string Printable(const std::string& text) {
  std::string out;
  for (char c : text.substr(0, 100)) out += c >= ' ' && c < 127 ? c : '?';
  return out;
}

std::string Number(uint64_t n) { return std::to_string(n); }

class Examination {
 public:
  Examination(const RegistryAccess& access, Progress* progress)
      : access_(access), progress_(*progress) {}

  std::vector<Finding> Run(const std::string& text) {
    auto ref = ParseReference(text);
    if (!ref.ok()) {
      Bad(ref.error().message, "name it as HOST/REPOSITORY:TAG");
      return std::move(all_);
    }
    ref_ = *ref;
    auto options = OptionsOf(access_);
    if (!options.ok()) {
      Bad(options.error().message, "correct --root-ca, --cert-dir, --client-cert or --hosts-dir");
      return std::move(all_);
    }
    options_ = *options;
    (void)(Hosts() && Open() && ManifestStep() && Artifact() && Layers());
    return std::move(all_);
  }

 private:
  void Good(std::string what) { all_.push_back({Health::kGood, name_ + what, ""}); }
  void Warn(std::string what, std::string advice) {
    all_.push_back({Health::kWarning, name_ + what, std::move(advice)});
  }
  bool Bad(std::string what, std::string advice) {
    all_.push_back({Health::kBad, name_ + what, std::move(advice)});
    return false;
  }

  // The mirrors and the registry. One of them is enough.
  bool Hosts() {
    HostsOptions from;
    from.roots = options_.hosts_dirs;
    from.plain_http = options_.plain_http;
    auto hosts = LoadHosts(from, ref_);
    if (!hosts.ok())
      return Bad("mirrors: " + hosts.error().message,
                 "correct that, or do without the mirrors: --hosts-dir none");
    hosts_ = HostsFor(*hosts, HostUse::kPull);
    if (hosts_.empty())
      return Bad("mirrors: hosts.toml for " + ref_.host + " names no host to pull from",
                 "give one of them the capability \"pull\"");
    if (hosts_.size() > 1) {
      std::string list;
      for (const HostConfig& host : hosts_) list += (list.empty() ? "" : ", ") + host.authority;
      Good("mirrors: for " + ref_.host + " these are asked, in this order: " + list);
    }
    bool any = false;
    for (const HostConfig& host : hosts_) {
      if (hosts_.size() > 1) name_ = host.authority + ": ";
      any = (Network(host) && Authentication(host)) || any;
    }
    name_.clear();
    if (!any) return false;
    for (Finding& f : all_)
      if (f.health == Health::kBad) f.health = Health::kWarning;
    return true;
  }

  // As commands and the snapshotter access the image.
  bool Open() {
    auto client = OpenClient(access_, ref_.host);
    if (!client.ok()) return Bad("HTTP: " + client.error().message, "correct the options");
    client_ = std::move(*client);
    return true;
  }

  // A CA or a client certificate that the options name wins.
  TlsOptions TlsOf(const HostConfig& host) {
    TlsOptions tls;
    if (host.is_registry()) tls = options_.http.tls;
    if (tls.ca_file.empty()) {
      tls.insecure |= host.skip_verify;
      if (auto ca = FileInMemory(host.ca_pem, &files_); ca.ok()) tls.ca_file = *ca;
    }
    if (tls.client_cert.empty() && !host.clients.empty()) {
      const ClientPair& pair = host.clients.front();
      tls.client_cert = pair.cert_file;
      tls.client_key = pair.key_file.empty() ? pair.cert_file : pair.key_file;
    }
    return tls;
  }

  // Whose CA vouches for it, and why it is believed in any case.
  std::string CaOf(const HostConfig& host) const {
    if (host.is_registry() && !options_.http.tls.ca_file.empty()) return options_.http.tls.ca_file;
    std::string list;
    for (const std::string& file : host.ca_files) list += (list.empty() ? "" : ", ") + file;
    return list.empty() ? "the system's CAs" : list;
  }

  bool Network(const HostConfig& host) {
    const bool plain = host.scheme == "http";
    const Server server = ServerOf(host.authority, plain);
    progress_.Step("looking for " + server.name);
    auto addresses = ResolveServer(server);
    if (!addresses.ok())
      return Bad("name server: " + addresses.error().message,
                 "check the registry's name and /etc/resolv.conf: getent hosts " + server.name);
    std::string list;
    for (const ServerAddress& a : *addresses) list += (list.empty() ? "" : ", ") + a.text;
    Good("name server: " + server.name + " is " + list);
    std::string which;
    auto fd = ConnectServer(*addresses, kConnectMs, &which);
    if (!fd.ok())
      return Bad("connection: " + host.authority + " does not accept one: " + fd.error().message,
                 "check that the registry runs and that port " + server.port +
                     " is open to this node (this check does not use a proxy)");
    Good("connection: " + which + " port " + server.port + " accepts one");
    if (plain) {
      const bool by_option = host.is_registry() && access_.plain_http;
      Good("TLS: not used, because of " +
           std::string(by_option ? "--plain" : host.scheme_said ? "hosts.toml" : "a loopback address") +
           ": plain HTTP");
      return true;
    }
    return Tls(host, server, std::move(*fd));
  }

  bool Tls(const HostConfig& host, const Server& server, UniqueFd fd) {
    TlsFacts facts;
    const TlsOptions tls = TlsOf(host);
    Status s = HandshakeServer(std::move(fd), server, tls, kHandshakeMs, &facts);
    const std::string whose = facts.issuer.empty() ? "" : "; the certificate was issued by " + facts.issuer;
    if (!s.ok() && !(tls.insecure && !facts.version.empty()))
      return Bad("TLS: " + s.error().message + whose, TlsAdvice(host, facts));
    if (!s.ok()) {
      Warn("TLS: " + s.error().message + whose + "; " +
               (access_.tls.insecure && host.is_registry() ? "--insecure" : "skip_verify in hosts.toml") +
               " accepts it anyway",
           host.is_registry() ? "give the registry's CA with --root-ca instead"
                              : "give its CA in hosts.toml instead: ca = \"FILE\"");
    } else {
      Good("TLS: " + facts.version + whose +
           (facts.root.empty() ? "" : ", verified up to " + facts.root) + " (" + CaOf(host) + ")");
    }
    if (facts.days_left < kSoonDays && !facts.expires.empty())
      Warn("TLS: the certificate expires on " + facts.expires, "have it renewed");
    return true;
  }

  static std::string TlsAdvice(const HostConfig& host, const TlsFacts& facts) {
    if (!host.is_registry())
      return facts.version.empty()
                 ? "if it speaks plain HTTP, hosts.toml must say http://; if it wants a client "
                   "certificate: client = [[\"CERT\", \"KEY\"]]"
                 : "give the CA that signed it in hosts.toml: ca = \"FILE\"";
    if (facts.version.empty())
      return "if the registry speaks plain HTTP: --plain; if it wants a client certificate: "
             "--client-cert CERT:KEY";
    return "give the CA that signed it: --root-ca FILE, or in a directory of hosts.toml, or install it "
           "for the system: update-ca-certificates";
  }

  bool Authentication(const HostConfig& host) {
    progress_.Step("asking for credentials");
    if (ref_.digest.empty() && !host.resolve) {
      Good("it is not asked for tags: it has not the capability \"resolve\"");
      return true;
    }
    Reference at = ref_;
    if (!host.is_registry()) at.host = host.authority;
    auto source = OpenCredentials(access_.user_password, ref_.host, access_.credentials_file);
    if (!source.ok()) return Bad("credentials: " + source.error().message, "check --credentials");
    auto found = (*source)->Find(at, false);
    std::string way = "none here";
    if (!found.ok()) Warn("credentials: " + found.error().message, "run that program by hand");
    else if (*found) way = "user \"" + Printable((*found)->credential.username) + "\", by " + (*found)->way;

    RegistryOptions options = options_;
    options.hosts = std::vector<HostConfig>{host};
    // The answer to a request without credentials tells whether they are needed.
    auto nobody = RegistryClient::Open(options, Credentials());
    auto client = RegistryClient::Open(options, *source);
    if (!nobody.ok() || !client.ok()) return Bad("HTTP: it cannot be set up", "");
    auto anonymous = (*nobody)->ProbeManifest(ref_);
    const bool open = anonymous.ok() && anonymous->status / 100 == 2;
    auto answer = (*client)->ProbeManifest(ref_);
    if (!answer.ok() && answer.error().kind == ErrorKind::kDenied)
      return Bad("credentials: refused: " + answer.error().message + " (" + way + ")", LoginAdvice(at));
    if (!answer.ok())
      return Bad("the registry: " + answer.error().message, "try again; if that fails, ask its operators");
    if (answer->status == 401 || answer->status == 403)
      return Bad("credentials: " + way + ": the registry says " + Number(answer->status) + " for " +
                     at.host + "/" + at.repository,
                 LoginAdvice(at));
    Good(open ? "credentials: none needed for " + ref_.repository + " (" + way + ")"
              : "credentials: " + way);
    if (const std::string limit = RateLimit(*answer); !limit.empty()) Limit(*answer, limit);
    if (answer->status == 429)
      return Bad("the registry answers 429: too many requests", "wait, log in, or use a mirror");
    if (hosts_.size() > 1 && answer->status / 100 != 2)
      Warn("manifest: HTTP " + Number(answer->status), "the next one is asked; check what this one serves");
    return true;
  }

  void Limit(const HttpResponse& answer, const std::string& limit) {
    const std::string left = answer.Header("ratelimit-remaining");
    const bool few = !left.empty() && left.find_first_not_of("0;w=") == std::string::npos;
    if (few) Warn("rate limit: " + limit, "log in, or use a mirror");
    else Good("rate limit: " + limit);
  }

  std::string LoginAdvice(const Reference& at) const {
    return "docker login " + at.host + (at.host == ref_.host ? ", or -u USER:PASSWORD" : "") +
           "; the account needs the right to pull " + ref_.repository;
  }

  bool ManifestStep() {
    progress_.Step("getting the manifest");
    auto manifest = client_->GetManifest(ref_);
    if (!manifest.ok() && manifest.error().kind == ErrorKind::kNotFound)
      return Bad("manifest: there is no " + ref_.ToString(),
                 "check the name and the tag, or log in: some registries say this of an image that you may not see");
    if (!manifest.ok()) return Bad("manifest: " + manifest.error().message, "try again");
    Good("manifest: " + manifest->digest + ", " + Number(manifest->body.size()) + " bytes, " +
         Printable(manifest->media_type));
    return true;
  }

  bool Artifact() {
    auto puller = ImagePuller::Open(access_);
    if (!puller.ok()) return Bad("FastOCI: " + puller.error().message, "");
    auto image = puller->Resolve(ref_.ToString(), &progress_);
    if (!image.ok()) {
      const bool none = image.error().kind == ErrorKind::kUnsupported;
      return Bad("FastOCI: " + image.error().message,
                 none ? "convert the image, as the line above says" : "fastoci inspect " + ref_.ToString());
    }
    image_ = std::move(*image);
    Good("FastOCI: " + image_.manifest.digest + " describes " + Number(image_.fastoci.layers.size()) +
         " layer" + (image_.fastoci.layers.size() == 1 ? "" : "s"));
    return true;
  }

  bool Layers() {
    bool good = true;
    for (size_t i = 0; i < image_.fastoci.layers.size(); i++) {
      const MetaLayer& layer = image_.fastoci.layers[i];
      progress_.Step("a range of layer " + Number(i + 1));
      good = Layer("layer " + Number(i + 1) + " (" + layer.target_digest.substr(0, 19) + ")", layer) && good;
    }
    return good;
  }

  // Two ranges that overlap must agree, and a small layer must have its digest.
  bool Layer(const std::string& name, const MetaLayer& layer) {
    if (!layer.blob_path.empty()) {
      Good(name + ": is a file on this node");
      return true;
    }
    const uint64_t size = layer.target_bytes;
    const uint64_t begin = size > 2 * kRangeBytes ? size / 2 : 0;
    const ByteRange outer{begin, std::min(kRangeBytes, size - begin), size};
    const ByteRange inner{begin + outer.length / 3, std::min(kInnerBytes, outer.length - outer.length / 3), size};
    std::string bytes, again;
    const auto start = std::chrono::steady_clock::now();
    auto answer = client_->ProbeRange(image_.ref, layer.target_digest, outer, &bytes);
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                        std::chrono::steady_clock::now() - start)
                        .count();
    if (!answer.ok()) return Bad(name + ": " + answer.error().message, "try again");
    std::string where;
    if (auto origin = UrlOrigin(answer->url); origin.ok()) {
      where = ", redirected to " + *origin;
      for (const HostConfig& host : hosts_) {
        auto own = UrlOrigin(host.scheme + "://" + host.authority);
        if (own.ok() && *own == *origin) where = hosts_.size() > 1 ? ", from " + host.authority : "";
      }
    }
    if (answer->status == 404)
      return Bad(name + ": the registry does not have it" + where, "push the original image there again");
    if (answer->status == 200)
      return Bad(name + ": the server sends the whole layer instead of a range" + where,
                 "a proxy or cache in front of the registry must pass on Range and Content-Range");
    if (answer->status != 206)
      return Bad(name + ": HTTP " + Number(answer->status) + " to a range" + where,
                 answer->status == 403 ? "the signed URL has expired, or the clock here is wrong: date -u"
                                       : "try again; if that fails, ask the registry's operators");
    if (bytes.size() != outer.length)
      return Bad(name + ": " + Number(bytes.size()) + " bytes instead of " + Number(outer.length) + where,
                 "a proxy or cache in front of the registry cuts answers short");
    auto second = client_->ProbeRange(image_.ref, layer.target_digest, inner, &again);
    if (!second.ok() || second->status != 206 ||
        again != bytes.substr(inner.offset - outer.offset, inner.length))
      return Bad(name + ": two ranges of it do not agree" + where,
                 "a cache or proxy in front of the registry gives wrong bytes");
    Good(name + ": a range of " + Number(outer.length) + " bytes in " + std::to_string(ms) + " ms, correct" +
         where);
    return true;
  }

  const RegistryAccess& access_;
  Progress& progress_;
  Reference ref_;
  RegistryOptions options_;
  std::vector<HostConfig> hosts_;
  std::string name_;  // of the host that is looked at, where there are several
  std::vector<UniqueFd> files_;  // of TlsOf()
  std::unique_ptr<RegistryClient> client_;
  ResolvedImage image_;
  std::vector<Finding> all_;
};

// "100;w=21600" -> {"100", "21600"}.
std::pair<std::string, std::string> Limit(const std::string& header) {
  const size_t semicolon = header.find(';');
  std::string count = header.substr(0, semicolon), window;
  if (size_t w = header.find("w="); w != std::string::npos) {
    window = header.substr(w + 2);
    window = window.substr(0, window.find_first_not_of("0123456789"));
  }
  if (count.empty() || count.find_first_not_of("0123456789") != std::string::npos) return {};
  return {count, window};
}

}  // namespace

std::string RateLimit(const HttpResponse& response) {
  const auto [limit, window] = Limit(response.Header("ratelimit-limit"));
  const std::string left = Limit(response.Header("ratelimit-remaining")).first;
  if (limit.empty()) return "";
  return limit + (window.empty() ? "" : " in " + window + " s") +
         (left.empty() ? "" : ", " + left + " left");
}

std::vector<Finding> ExamineRemote(const std::string& ref, const RegistryAccess& access,
                                   Progress* progress) {
  return Examination(access, progress).Run(ref);
}

}  // namespace fastoci
