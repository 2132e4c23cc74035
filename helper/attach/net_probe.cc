// SPDX-License-Identifier: Apache-2.0
#include "attach/net_probe.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>

#include <cctype>
#include <chrono>
#include <ctime>
#include <memory>

#include "base/monotonic.h"
#include "base/packet.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

struct Free {
  void operator()(SSL_CTX* c) const { SSL_CTX_free(c); }
  void operator()(SSL* s) const { SSL_free(s); }
  void operator()(X509* x) const { X509_free(x); }
  void operator()(BIO* b) const { BIO_free(b); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

std::string TextOf(const sockaddr* a) {
  char text[INET6_ADDRSTRLEN] = "?";
  if (a->sa_family == AF_INET6) {
    ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(a)->sin6_addr, text, sizeof(text));
    return std::string("[") + text + "]";
  }
  ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(a)->sin_addr, text, sizeof(text));
  return text;
}

bool Ready(int fd, short events, Clock::time_point end) {
  auto ready = WaitFor(fd, events, MsUntil(end));
  return ready.ok() && *ready;
}

Result<UniqueFd> ConnectOne(const std::string& address, Clock::time_point end) {
  const auto* a = reinterpret_cast<const sockaddr*>(address.data());
  UniqueFd fd(::socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoError("socket");
  if (::connect(fd.get(), a, static_cast<socklen_t>(address.size())) == 0) return fd;
  if (errno != EINPROGRESS) return ErrnoError("connect");
  if (!Ready(fd.get(), POLLOUT, end)) return ErrnoError("connect", ETIMEDOUT);
  int err = 0;
  socklen_t size = sizeof(err);
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &err, &size);
  if (err != 0) return ErrnoError("connect", err);
  return fd;
}

std::string NameText(const X509_NAME* name) {
  Owned<BIO> out(BIO_new(BIO_s_mem()));
  if (!out || name == nullptr) return "?";
  X509_NAME_print_ex(out.get(), name, 0, XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB);
  char* data = nullptr;
  const long n = BIO_get_mem_data(out.get(), &data);
  std::string text;
  for (long i = 0; i < n; i++)  // a server chooses it
    text += std::isprint(static_cast<unsigned char>(data[i])) ? data[i] : '?';
  return text.substr(0, 200);
}

void TakeExpiry(const X509* cert, TlsFacts* facts) {
  const ASN1_TIME* end = X509_get0_notAfter(cert);
  int days = 0, seconds = 0;
  if (ASN1_TIME_diff(&days, &seconds, nullptr, end) == 1) facts->days_left = days;
  tm t = {};
  char text[32];
  if (ASN1_TIME_to_tm(end, &t) == 1 && std::strftime(text, sizeof(text), "%Y-%m-%d", &t) > 0)
    facts->expires = text;
}

Error TlsError(const std::string& what) {
  const unsigned long e = ERR_get_error();
  const char* reason = e == 0 ? nullptr : ERR_reason_error_string(e);
  ERR_clear_error();
  return {ErrorKind::kDenied, EACCES, what + (reason ? std::string(": ") + reason : "")};
}

Status Configure(SSL_CTX* ctx, const TlsOptions& tls) {
  // As libcurl does it, the system's CAs count besides that file.
  const bool roots =
      SSL_CTX_set_default_verify_paths(ctx) == 1 &&
      (tls.ca_file.empty() || SSL_CTX_load_verify_file(ctx, tls.ca_file.c_str()) == 1);
  if (!roots) return TlsError("the CA certificates cannot be read");
  if (tls.client_cert.empty()) return OkStatus();
  if (SSL_CTX_use_certificate_chain_file(ctx, tls.client_cert.c_str()) != 1)
    return TlsError(tls.client_cert);
  if (SSL_CTX_use_PrivateKey_file(ctx, tls.client_key.c_str(), SSL_FILETYPE_PEM) != 1)
    return TlsError(tls.client_key);
  return OkStatus();
}

}  // namespace

Server ServerOf(const std::string& host, bool plain_http) {
  Server s;
  s.port = plain_http ? "80" : "443";
  const size_t close = host.starts_with("[") ? host.find(']') : 0;
  const size_t colon = host.find(':', close);
  s.name = host.substr(0, colon);
  if (colon != std::string::npos) s.port = host.substr(colon + 1);
  if (s.name.starts_with("[")) s.name = s.name.substr(1, s.name.size() - 2);
  return s;
}

Result<std::vector<ServerAddress>> ResolveServer(const Server& server) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int err = ::getaddrinfo(server.name.c_str(), server.port.c_str(), &hints, &list);
  if (err != 0)
    return Error{ErrorKind::kUnavailable, EHOSTUNREACH, server.name + ": " + ::gai_strerror(err)};
  std::vector<ServerAddress> all;
  for (addrinfo* a = list; a != nullptr; a = a->ai_next)
    all.push_back({TextOf(a->ai_addr),
                   std::string(reinterpret_cast<const char*>(a->ai_addr), a->ai_addrlen)});
  ::freeaddrinfo(list);
  return all;
}

Result<UniqueFd> ConnectServer(const std::vector<ServerAddress>& addresses, int64_t timeout_ms,
                               std::string* which) {
  std::string failures;
  for (const ServerAddress& a : addresses) {
    auto fd = ConnectOne(a.sockaddr, Clock::now() + std::chrono::milliseconds(timeout_ms));
    if (fd.ok()) {
      *which = a.text;
      return fd;
    }
    failures += (failures.empty() ? "" : "; ") + a.text + ": " + fd.error().message;
  }
  return Error{ErrorKind::kUnavailable, ECONNREFUSED, failures};
}

Status HandshakeServer(UniqueFd fd, const Server& server, const TlsOptions& tls,
                       int64_t timeout_ms, TlsFacts* facts) {
  const auto end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  Owned<SSL_CTX> ctx(SSL_CTX_new(TLS_client_method()));
  if (!ctx) return TlsError("TLS");
  FASTOCI_CHECK_OK(Configure(ctx.get(), tls));
  Owned<SSL> ssl(SSL_new(ctx.get()));
  if (!ssl || SSL_set_fd(ssl.get(), fd.get()) != 1) return TlsError("TLS");
  // The certificate is verified, but a bad one does not end the handshake: its facts are reported.
  SSL_set_verify(ssl.get(), SSL_VERIFY_NONE, nullptr);
  in6_addr any = {};
  const bool is_address = ::inet_pton(AF_INET, server.name.c_str(), &any) == 1 ||
                          ::inet_pton(AF_INET6, server.name.c_str(), &any) == 1;
  if (is_address) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl.get()), server.name.c_str());
  } else {
    SSL_set1_host(ssl.get(), server.name.c_str());
    SSL_set_tlsext_host_name(ssl.get(), server.name.c_str());
  }
  for (;;) {
    const int n = SSL_connect(ssl.get());
    if (n == 1) break;
    const int why = SSL_get_error(ssl.get(), n);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
      return TlsError("the TLS handshake failed");
    if (!Ready(fd.get(), why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, end))
      return Error{ErrorKind::kUnavailable, ETIMEDOUT, "the TLS handshake takes too long"};
  }
  facts->version = SSL_get_version(ssl.get());
  Owned<X509> cert(SSL_get1_peer_certificate(ssl.get()));
  if (!cert) return TlsError("the server has no certificate");
  facts->issuer = NameText(X509_get_issuer_name(cert.get()));
  TakeExpiry(cert.get(), facts);
  if (STACK_OF(X509)* chain = SSL_get0_verified_chain(ssl.get());
      chain != nullptr && sk_X509_num(chain) > 0)
    facts->root = NameText(X509_get_subject_name(sk_X509_value(chain, sk_X509_num(chain) - 1)));
  const long verified = SSL_get_verify_result(ssl.get());
  if (verified == X509_V_OK) return OkStatus();
  return Error{ErrorKind::kDenied, EACCES,
               std::string("the server's certificate is not good: ") +
                   X509_verify_cert_error_string(verified)};
}

}  // namespace fastoci
