// SPDX-License-Identifier: Apache-2.0
// The real fetcher before a real nginx, which stands before the stub: TLS with a private
// CA and client certificates, HTTP/2, a store on another host, a range that is not
// honoured, and a caching peer that lies, stalls and disappears.
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>

#include "base/monotonic.h"
#include "base/unique_fd.h"
#include "fetcher/fetcher_test.h"
#include "registry/access.h"

namespace fastoci {
namespace {

constexpr char kNginx[] = "/usr/sbin/nginx";

class FetcherNginx : public FetcherTest {
 protected:
  void SetUp() override {
    FetcherTest::SetUp();
    ASSERT_EQ(access(kNginx, X_OK), 0) << "selftests/install-deps installs it";
    images_ = dir_ + "/images";
    ASSERT_EQ(mkdir(images_.c_str(), 0700), 0);
    ASSERT_EQ(mkdir((images_ + "/one").c_str(), 0700), 0);
    for (int& port : ports_) port = FreePort();
    secure_ = "localhost:" + std::to_string(ports_[0]);
    store_ = "127.0.0.1:" + std::to_string(ports_[1]);
    plain_ = "127.0.0.1:" + std::to_string(ports_[2]);
  }
  void TearDown() override {
    StopNginx();
    FetcherTest::TearDown();
  }

  static int FreePort() {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(address);
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), bytes), 0);
    EXPECT_EQ(getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &bytes), 0);
    return ntohs(address.sin_port);
  }

  // A CA, what it says of the server, and of us.
  void MakeCertificates() {
    const std::string script =
        "cd " + dir_ + " && exec 2>&1 && ec() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; } &&"
        " ec ca && openssl req -x509 -new -key ca.key -subj /CN=ca -days 2 -out ca.crt &&"
        " for n in server client; do ec $n && openssl req -new -key $n.key -subj /CN=$n -out $n.csr &&"
        " printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' > $n.ext &&"
        " openssl x509 -req -in $n.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2"
        " -extfile $n.ext -out $n.crt || exit; done > openssl.log";
    ASSERT_EQ(std::system(script.c_str()), 0);  // NOLINT(cert-env33-c): the test's own words
  }
  std::string Pem(const std::string& name) { return *ReadFile(dir_ + "/" + name, 1 << 20); }

  // servers: of nginx's http block.
  void StartNginx(const std::string& servers) {
    const std::string path = dir_ + "/nginx.conf";
    std::ofstream(path) << "daemon off; master_process off; pid " << dir_ << "/nginx.pid; error_log "
                        << dir_ << "/error.log; events {} http { access_log off; log_format seen "
                        << "'$server_port $request_method $request_uri $server_protocol $ssl_protocol "
                        << "auth=$http_authorization client=$ssl_client_verify peer=$http_x_peer';"
                        << " proxy_http_version 1.1; proxy_temp_path " << dir_ << "/tmp; "
                        << "client_body_temp_path " << dir_ << "/body; fastcgi_temp_path " << dir_
                        << "/f; uwsgi_temp_path " << dir_ << "/u; scgi_temp_path " << dir_ << "/s;\n"
                        << servers << "}\n";
    std::string config = path, prefix = dir_;
    const char* argv[] = {kNginx, "-c", config.c_str(), "-p", prefix.c_str(), "-e",
                          "stderr", nullptr};
    ASSERT_EQ(posix_spawn(&nginx_, kNginx, nullptr, nullptr, const_cast<char**>(argv), environ), 0);
    ASSERT_TRUE(Eventually([&] { return access((dir_ + "/nginx.pid").c_str(), F_OK) == 0; }));
  }
  void StopNginx() {
    if (nginx_ <= 0) return;
    kill(nginx_, SIGKILL);
    waitpid(nginx_, nullptr, 0);
    unlink((dir_ + "/nginx.pid").c_str());
    nginx_ = -1;
  }
  // A TLS server on ports_[index].
  std::string Secure(int index, const std::string& more) {
    return "server { listen 127.0.0.1:" + std::to_string(ports_[index]) +
           " ssl http2; server_name localhost; ssl_certificate " + dir_ + "/server.crt;"
           " ssl_certificate_key " + dir_ + "/server.key; access_log " + dir_ + "/seen" +
           std::to_string(index) + " seen; " + more + "}\n";
  }
  // A proxy that finds the stub under every name.
  std::string Proxy() {
    return "server { listen " + plain_ + "; access_log " + dir_ + "/seen2 seen; " + Upstream() + " }";
  }
  std::string Upstream() { return "location / { proxy_pass " + stub_.url() + "; }"; }
  std::string Seen(int index) {
    auto text = ReadFile(dir_ + "/seen" + std::to_string(index), 1 << 20);
    return text.ok() ? *text : "";
  }

  // A request is noted a moment after its end.
  bool SeenLines(int index, int lines) {
    return Eventually([&] {
      const std::string seen = Seen(index);
      return std::count(seen.begin(), seen.end(), '\n') >= lines;
    });
  }

  Access Given() {
    Access a;
    a.host = secure_;
    a.image_id = id_;
    a.ca_pem = Pem("ca.crt");
    a.client_cert_pem = Pem("client.crt");
    a.client_key_pem = Secret(Pem("client.key"));
    a.credential = {"user", Secret("right"), {}};
    return a;
  }
  void Give(const Access& a) {
    ASSERT_TRUE(
        WriteFileAtomic(images_ + "/one/access.json", AsBytes(AccessToJson(a).Reveal()), 0600).ok());
  }
  void Start(std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"--no-node-credentials", "--state-dir", images_,
                                     "--retry-scale", "1000"};
    args.insert(args.end(), more.begin(), more.end());
    Restart(args);
  }
  std::vector<FetchLocation> OpenAll(const std::string& source) {
    auto blobs = client_->OpenImage(next_image_++, id_, AsBytes(Json(source)));
    EXPECT_TRUE(blobs.ok()) << (blobs.ok() ? "" : blobs.error().message);
    return blobs.ok() ? blobs->front() : std::vector<FetchLocation>(1);
  }

  const std::string id_ = std::string(64, 'a');
  std::string images_, secure_, store_, plain_;
  int ports_[3] = {};
  pid_t nginx_ = -1;
  uint32_t next_image_ = 10;
};

TEST_F(FetcherNginx, PrivateCaAndClientCertificate) {
  MakeCertificates();
  stub_.RequireAuth(StubRegistry::Auth::kBasic, "user", "right");
  for (const char* version : {"TLSv1.2", "TLSv1.3"}) {
    SCOPED_TRACE(version);
    StartNginx(Secure(0, "ssl_protocols " + std::string(version) + "; ssl_verify_client on;"
                         " ssl_client_certificate " + dir_ + "/ca.crt;" + Upstream()));
    struct Case {
      std::function<void(Access*)> change;
      const char* cause;  // "": right data
    };
    const std::vector<Case> cases = {
        {[](Access*) {}, ""},
        {[](Access* a) { a->ca_pem.clear(); }, "certificate"},
        {[](Access* a) { a->ca_pem.clear(), a->insecure = true; }, ""},
        {[](Access* a) { a->client_cert_pem.clear(), a->client_key_pem = Secret(); }, "HTTP 400"},
        {[](Access* a) { a->host = "other.example"; }, "certificate"}};
    for (const Case& c : cases) {
      Access a = Given();
      c.change(&a);
      Give(a);
      Start();
      FetchEvent e = Run(OpenAll(HostSource("https", secure_))[0], 10, 300000);
      if (*c.cause == '\0') {
        ExpectGood(e);
      } else {
        EXPECT_EQ(e.outcome, FetchOutcome::kTransient);
        EXPECT_NE(e.error.message.find(c.cause), std::string::npos) << e.error.message;
      }
    }
    EXPECT_NE(Seen(0).find(std::string("HTTP/2.0 ") + version), std::string::npos) << Seen(0);
    StopNginx();
  }
}

// A store on another host gets neither password nor client certificate, first and later.
TEST_F(FetcherNginx, AStoreGetsWhatIsItsOwn) {
  MakeCertificates();
  StubRegistry blobs;  // what the store has
  blobs.AddBlob(data_);
  const std::string optional =
      " ssl_verify_client optional; ssl_client_certificate " + dir_ + "/ca.crt;";
  StartNginx(
      Secure(0, optional + "location / { if ($http_authorization = '') { add_header WWW-Authenticate"
                " 'Basic realm=\"r\"' always; return 401; } return 307 https://" + store_ +
                "/v2/demo/blobs/" + digest_ + "?X-Amz-Date=20300101T000000Z&X-Amz-Expires=3600; }") +
      Secure(1, optional + "location / { proxy_pass " + blobs.url() + "; }"));
  Give(Given());
  Start();
  FetchLocation there = OpenAll(HostSource("https", secure_))[0];
  ExpectGood(Run(there, 10, 300000));
  ExpectGood(Run(there, 400000, 300000));
  EXPECT_TRUE(SeenLines(0, 2) && SeenLines(1, 2));
  const std::string registry = Seen(0), store = Seen(1);
  EXPECT_NE(registry.find("client=SUCCESS"), std::string::npos) << registry;
  EXPECT_EQ(std::count(registry.begin(), registry.end(), '\n'), 2) << registry;
  EXPECT_EQ(std::count(store.begin(), store.end(), '\n'), 2) << store;
  EXPECT_EQ(store.find("client=SUCCESS"), std::string::npos) << store;
  EXPECT_EQ(store.find("Basic"), std::string::npos) << store;
}

TEST_F(FetcherNginx, ARangeThatIsStrippedAndTooManyRequests) {
  const std::string listen = "server { listen " + plain_ + "; ";
  StartNginx(listen + "location / { proxy_set_header Range ''; proxy_force_ranges off; max_ranges 0;"
                      " proxy_pass " + stub_.url() + "; } }");
  Start();
  ExpectGood(Run(OpenAll(HostSource("http", plain_))[0], 10, 300000));
  StopNginx();
  StartNginx(listen + "location / { add_header Retry-After 100 always; return 429; } }");
  FetchEvent e = Run(OpenAll(HostSource("http", plain_))[0], 10, 300000);
  ExpectFailed(e, FetchOutcome::kTransient, EIO, "HTTP 429");
  EXPECT_GT(e.retry_at_ms, MonotonicMs() + 90000);
}

TEST_F(FetcherNginx, AnAddressOfIpv6) {
  auto addresses = ReadFile("/proc/net/if_inet6", 1 << 16);
  if (!addresses.ok() || addresses->find("00000000000000000000000000000001") == std::string::npos)
    return;  // not on this machine
  const std::string host = "[::1]:" + std::to_string(ports_[2]);
  StartNginx("server { listen " + host + "; " + Upstream() + " }");
  FetchLocation there = OpenAll(HostSource("http", host))[0];
  ExpectGood(Run(there, 10, 300000));
  EXPECT_EQ(hosts_[there.host].name, "http://" + host);
}

// nginx as the peer that p2pConfig names: <address>/<URL of the blob>.
TEST_F(FetcherNginx, APeerThatLiesStallsOrDisappearsStopsNobody) {
  // What a peer that stalls waits for: it takes connections, and nothing else.
  UniqueFd silent(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(ports_[1]));
  ASSERT_EQ(bind(silent.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(silent.get(), 100), 0);
  const std::string cache =
      "proxy_cache_path " + dir_ + "/cache levels=1 keys_zone=peer:1m;"
      "server { listen " + plain_ + "; access_log " + dir_ + "/seen2 seen; merge_slashes off;"
      " location /peer/ { ";
  const std::string rest = " } }";
  struct Case {
    const char* name;
    std::string location;
    FetchOutcome outcome;
  };
  const std::vector<Case> cases = {
      {"good", "rewrite ^/peer/http:/+[^/]+(/.*)$ $1 break; slice 1m; proxy_cache peer;"
               " proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range;"
               " proxy_cache_valid 200 206 1h; proxy_pass " + stub_.url() + ";",
       FetchOutcome::kDone},
      {"empty", "return 404;", FetchOutcome::kGone},
      {"refuses", "return 403;", FetchOutcome::kTransient},
      {"a page", "return 200 'come in';", FetchOutcome::kMismatch},
      {"stalls", "proxy_pass http://" + store_ + ";", FetchOutcome::kTransient},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    StartNginx(cache + c.location + rest);
    Start({"--p2p", "http://" + plain_ + "/peer", "--patience", "500"});
    auto places = OpenAll(RegistrySource(stub_));
    ASSERT_EQ(places.size(), 2U);
    FetchEvent e = Run(places[0], 10, 300000);
    EXPECT_EQ(static_cast<int>(e.outcome), static_cast<int>(c.outcome)) << e.error.message;
    if (c.outcome == FetchOutcome::kDone) {
      ExpectGood(e);
      const int asked = stub_.CountRequests("GET", "");
      ExpectGood(Run(places[0], 10, 300000));
      EXPECT_EQ(stub_.CountRequests("GET", ""), asked) << "the peer has it";
    }
    ExpectGood(Run(places[1], 10, 300000));
    StopNginx();
    // It is gone: its own gate closes, the registry's does not.
    e = Run(places[0], 700000, 1000);
    EXPECT_NE(e.kind, FetchEvent::kDone);
    ExpectGood(Run(places[1], 700000, 1000));
  }
}

// nginx as an HTTP proxy that p2pConfig.proxy names.
TEST_F(FetcherNginx, AProxyIsTriedFirst) {
  StartNginx(Proxy());
  Start({"--p2p-proxy", "http://" + plain_});
  auto places = OpenAll(RegistrySource(stub_));
  ASSERT_EQ(places.size(), 2U);
  EXPECT_NE(places[0].host, places[1].host);
  ExpectGood(Run(places[1], 10, 1000));
  EXPECT_EQ(Seen(2), "");
  ExpectGood(Run(places[0], 10, 1000));
  EXPECT_TRUE(SeenLines(2, 1));
}

// One of the environment is used, but not for what NO_PROXY names, and not for this machine.
TEST_F(FetcherNginx, AProxyOfTheEnvironment) {
  StartNginx(Proxy());
  setenv("HTTP_PROXY", ("http://" + plain_).c_str(), 1);
  Start({"--plain-http"});
  ExpectGood(Run(OpenAll(HostSource("http", "registry.example"))[0], 10, 1000));
  EXPECT_TRUE(SeenLines(2, 1));
  const std::string before = Seen(2);
  ExpectGood(Run(there_, 10, 1000));
  setenv("NO_PROXY", "registry.example", 1);
  Start({"--plain-http"});
  ExpectFailed(Run(OpenAll(HostSource("http", "registry.example"))[0], 10, 1000),
               FetchOutcome::kTransient, EHOSTUNREACH, "");
  EXPECT_EQ(Seen(2), before);
  unsetenv("HTTP_PROXY");
  unsetenv("NO_PROXY");
}

}  // namespace
}  // namespace fastoci
