// SPDX-License-Identifier: Apache-2.0
#include "testing/stub_registry.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "base/digest.h"

namespace fastoci {
namespace {

bool SendAll(int fd, const std::string& data) {
  size_t done = 0;
  while (done < data.size()) {
    ssize_t n = send(fd, data.data() + done, data.size() - done, MSG_NOSIGNAL);
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

// One request from the connection; buffer keeps what follows it.
bool ReadRequest(int fd, std::string* buffer, StubRequest* request) {
  auto more = [&] {
    char chunk[65536];
    ssize_t n = recv(fd, chunk, sizeof(chunk), 0);
    if (n <= 0) return false;
    buffer->append(chunk, static_cast<size_t>(n));
    return true;
  };
  size_t end;
  while ((end = buffer->find("\r\n\r\n")) == std::string::npos)
    if (!more()) return false;
  size_t at = 0;
  for (bool first = true; at < end; first = false) {
    size_t eol = buffer->find("\r\n", at);
    std::string line = buffer->substr(at, eol - at);
    at = eol + 2;
    if (first) {
      size_t a = line.find(' '), b = line.rfind(' ');
      request->method = line.substr(0, a);
      request->target = line.substr(a + 1, b - a - 1);
      continue;
    }
    size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    request->headers[name] = line.substr(std::min(line.size(), line.find_first_not_of(' ', colon + 1)));
  }
  size_t length = 0;
  if (auto it = request->headers.find("content-length"); it != request->headers.end())
    length = std::strtoull(it->second.c_str(), nullptr, 10);
  while (buffer->size() < end + 4 + length)
    if (!more()) return false;
  request->body = buffer->substr(end + 4, length);
  buffer->erase(0, end + 4 + length);
  return true;
}

// Written anew: the one under test must not be its own judge.
std::string Base64(const std::string& s) {
  constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < s.size(); i += 3) {
    unsigned v = 0;
    for (size_t k = 0; k < 3; k++)
      v = v << 8 | (i + k < s.size() ? static_cast<unsigned char>(s[i + k]) : 0U);
    for (size_t k = 0; k < 4; k++)
      out += i + k <= s.size() ? kAlphabet[v >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::string QueryValue(const std::string& target, const std::string& name) {
  size_t at = target.find(name + "=");
  if (at == std::string::npos) return "";
  std::string v = target.substr(at + name.size() + 1);
  v = v.substr(0, v.find('&'));
  for (size_t p; (p = v.find("%3A")) != std::string::npos;) v.replace(p, 3, ":");
  return v;
}

// Closes with a reset instead of an end.
void Reset(int fd) {
  linger now{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

std::string IsoNow() {
  std::time_t now = std::time(nullptr);
  std::tm tm{};
  gmtime_r(&now, &tm);
  char text[32];
  std::strftime(text, sizeof(text), "%Y%m%dT%H%M%SZ", &tm);
  return text;
}

std::string DigestOf(const std::string& s) { return DigestString(Sha256::Of(AsBytes(s))); }

}  // namespace

struct StubRegistry::Reply {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  bool faulty = false;  // faults apply
};

StubRegistry::StubRegistry() {
  for (int i = 0; i < 2; i++) {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t n = sizeof(a);
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&a), n) != 0 || listen(fd.get(), 512) != 0 ||
        getsockname(fd.get(), reinterpret_cast<sockaddr*>(&a), &n) != 0)
      std::abort();
    ports_.push_back(ntohs(a.sin_port));
    listeners_.push_back(std::move(fd));
  }
  for (size_t i = 0; i < listeners_.size(); i++)
    acceptors_.emplace_back([this, i] { Accept(listeners_[i].get(), ports_[i]); });
}

StubRegistry::~StubRegistry() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    for (int fd : connections_) shutdown(fd, SHUT_RDWR);
  }
  changed_.notify_all();
  for (UniqueFd& fd : listeners_) shutdown(fd.get(), SHUT_RDWR);
  for (std::thread& t : acceptors_) t.join();
  for (std::thread& t : workers_) t.join();  // no acceptor is left to add one
}

std::string StubRegistry::host() const { return "127.0.0.1:" + std::to_string(ports_[0]); }

void StubRegistry::Accept(int listener, int port) {
  while (true) {
    int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    std::lock_guard<std::mutex> lock(mutex_);
    if (stop_) {
      close(fd);
      return;
    }
    if (down_) {
      Reset(fd);
      close(fd);
      continue;
    }
    nr_connections_++;
    connections_.push_back(fd);
    workers_.emplace_back([this, fd, port] { Serve(fd, port); });
  }
}

void StubRegistry::Serve(int fd, int port) {
  std::string buffer;
  while (true) {
    StubRequest request;
    request.port = port;
    if (!ReadRequest(fd, &buffer, &request)) break;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      requests_.push_back(request);
    }
    if (!Answer(fd, request)) break;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  std::erase(connections_, fd);
  close(fd);
}

const StubRegistry::Injection* StubRegistry::FindFault(const std::string& method) const {
  for (const Injection& i : injections_)
    if (i.method == method) return &i;
  return nullptr;
}

StubRegistry::Injection StubRegistry::TakeFault(const std::string& method) {
  for (auto it = injections_.begin(); it != injections_.end(); ++it) {
    if (it->method != method) continue;
    Injection taken = *it;
    if (--it->count == 0) injections_.erase(it);
    return taken;
  }
  return {};
}

bool StubRegistry::Answer(int fd, const StubRequest& request) {
  std::unique_lock<std::mutex> lock(mutex_);
  Reply r = Route(request);
  Injection f;
  if (r.faulty) f = TakeFault(request.method);
  if (f.fault == Fault::kStatus) {
    r = Reply();
    r.status = static_cast<int>(f.arg);
    r.body = f.body;
    r.headers = f.headers;
  } else if (f.fault == Fault::kHalf || f.fault == Fault::kForget) {
    r = Reply();
    r.status = f.fault == Fault::kHalf ? 500 : 404;
  } else if (f.fault == Fault::kRedirect) {
    std::string digest = request.target.substr(request.target.rfind('/') + 1);
    r = Reply();
    r.status = 307;
    std::string location = "http://127.0.0.1:" + std::to_string(ports_[1]) + "/store/" + digest;
    if (f.arg != 0)
      location += "?X-Amz-Date=" + IsoNow() + "&X-Amz-Expires=" + std::to_string(f.arg);
    r.headers = {{"Location", location}};
  } else if (f.fault == Fault::kFlipBit && !r.body.empty()) {
    r.body[r.body.size() / 2] ^= 1;
  } else if (f.fault == Fault::kShortBody) {
    r.body.resize(r.body.size() - std::min<size_t>(r.body.size(), f.arg));
  }
  if (f.fault == Fault::kBlackHole) {
    changed_.wait(lock, [this] { return stop_; });
    return false;
  }
  if (r.faulty && request.method == "GET" && hold_) {
    nr_held_++;
    changed_.wait(lock, [this] { return stop_ || !hold_; });
    nr_held_--;
  }
  lock.unlock();

  std::string head = "HTTP/1.1 " + std::to_string(r.status) + " Stub\r\n";
  bool has_length = false;
  for (const auto& [name, value] : r.headers) {
    head += name + ": " + value + "\r\n";
    has_length |= name == "Content-Length";
  }
  const bool endless = f.fault == Fault::kNoLength;
  if (!has_length && !endless) head += "Content-Length: " + std::to_string(r.body.size()) + "\r\n";
  head += "\r\n";
  if (!SendAll(fd, head)) return false;
  if (request.method == "HEAD") return !endless;
  if (f.fault == Fault::kHang) {
    SendAll(fd, r.body.substr(0, f.arg));
    lock.lock();
    changed_.wait(lock, [this] { return stop_; });
    return false;
  }
  if (f.fault == Fault::kReset) {
    SendAll(fd, r.body.substr(0, f.arg));
    Reset(fd);
    return false;
  }
  if (f.fault == Fault::kClose) {
    SendAll(fd, r.body.substr(0, f.arg));
    shutdown(fd, SHUT_RDWR);
    return false;
  }
  return SendAll(fd, r.body) && !endless;
}

bool StubRegistry::Authorized(const StubRequest& request) {
  auto it = request.headers.find("authorization");
  std::string given = it == request.headers.end() ? "" : it->second;
  if (auth_ == Auth::kBasic) return given == "Basic " + Base64(user_ + ":" + password_);
  if (auth_ == Auth::kBearer) return !token_.empty() && given == "Bearer " + token_;
  return true;
}

StubRegistry::Reply StubRegistry::Route(const StubRequest& request) {
  Reply r;
  std::string path = request.target.substr(0, request.target.find('?'));
  auto given = request.headers.find("authorization");
  if (path.starts_with("/store/")) {
    if (given == request.headers.end()) return GetBlob(request, path.substr(7));
    r.status = 400;  // as object stores do with a foreign Authorization
    return r;
  }
  if (path == "/token") {
    if (request.target.ends_with("service=") || request.target.find("service=&") != std::string::npos) {
      r.status = 400;  // an empty service is none
      return r;
    }
    const bool refreshed = request.method == "POST" && !refresh_token_.empty() &&
                           request.body.find("grant_type=refresh_token") != std::string::npos &&
                           request.body.find("refresh_token=" + refresh_token_) != std::string::npos;
    if (!refresh_token_.empty() && !refreshed) {
      r.status = 400;
      return r;
    }
    if (!refreshed && (given == request.headers.end() ||
        given->second != "Basic " + Base64(user_ + ":" + password_))) {
      r.status = 401;
      return r;
    }
    token_ = "token" + std::to_string(next_token_++);
    r.body = R"({"token":")" + token_ + R"(","expires_in":300})";
    return r;
  }
  // A store beside the registry: the location itself is the permission.
  if (request.port == ports_[1] && path.find("/blobs/uploads/") != std::string::npos) {
    if (given == request.headers.end()) return Upload(request, "");
    r.status = 400;
    return r;
  }
  if (!Authorized(request)) {
    r.status = given == request.headers.end() ? 401 : habits_.refused_status;
    r.body = habits_.refused_body;
    if (r.status != 401) return r;
    std::string bearer = "Bearer realm=\"" + url() + "/token\",scope=\"x\"";
    if (habits_.challenge_service) bearer += ",service=\"stub\"";
    r.headers = {
        {"WWW-Authenticate", auth_ == Auth::kBasic ? "Basic realm=\"stub\"" : bearer}};
    return r;
  }
  if (path.starts_with("/v2/")) {
    std::string rest = path.substr(4);
    if (size_t p = rest.find("/blobs/uploads"); p != std::string::npos)
      return Upload(request, rest.substr(0, p));
    if (size_t p = rest.find("/blobs/"); p != std::string::npos)
      return GetBlob(request, rest.substr(p + 7));
    if (rest == "_catalog") return Names(request, "");
    if (rest.ends_with("/tags/list")) return Names(request, rest.substr(0, rest.size() - 10));
    if (size_t p = rest.find("/referrers/"); p != std::string::npos)
      return Referrers(request, rest.substr(0, p), rest.substr(p + 11));
    if (size_t p = rest.find("/manifests/"); p != std::string::npos)
      return Manifests(request, rest.substr(0, p), rest.substr(p + 11));
  }
  r.status = 404;
  return r;
}

StubRegistry::Reply StubRegistry::GetBlob(const StubRequest& request, const std::string& digest) {
  Reply r;
  r.faulty = true;
  auto it = blobs_.find(digest);
  if (it == blobs_.end()) {
    r.status = 404;
    return r;
  }
  const std::string& data = it->second;
  const Injection* next = FindFault(request.method);
  Fault fault = next != nullptr ? next->fault : Fault::kNone;
  auto range = request.headers.find("range");
  unsigned long long first = 0, last = 0;
  if (fault == Fault::kIgnoreRange || range == request.headers.end() ||
      sscanf(range->second.c_str(), "bytes=%llu-%llu", &first, &last) != 2) {
    r.body = data;
    return r;
  }
  if (first >= data.size()) {
    r.status = 416;
    r.headers.emplace_back("Content-Range", "bytes */" + std::to_string(data.size()));
    return r;
  }
  last = std::min<unsigned long long>(last, data.size() - 1);
  r.status = 206;
  r.body = data.substr(first, last - first + 1);
  uint64_t shift = fault == Fault::kWrongRange ? 1 : 0;
  uint64_t total = data.size() + shift + (fault == Fault::kWrongTotal ? 1 : 0);
  r.headers.emplace_back("Content-Range", "bytes " + std::to_string(first + shift) + "-" +
                                              std::to_string(last + shift) + "/" +
                                              std::to_string(total));
  return r;
}

StubRegistry::Reply StubRegistry::Upload(const StubRequest& request,
                                         const std::string& repository) {
  Reply r;
  r.faulty = true;
  if (const Injection* next = FindFault(request.method); next != nullptr) {
    // It will fail, so it must do nothing, or half of it.
    auto upload = uploads_.find(request.target.substr(0, request.target.find('?')));
    if (upload == uploads_.end()) return r;
    if (next->fault == Fault::kHalf) upload->second += request.body.substr(0, request.body.size() / 2);
    if (next->fault == Fault::kForget) uploads_.erase(upload);
    return r;
  }
  if (request.body.size() > habits_.max_body) {
    r.status = 413;
    return r;
  }
  std::string mount = QueryValue(request.target, "mount");
  std::string path = request.target.substr(0, request.target.find('?'));
  if (request.method != "POST") return UploadPart(request, path);
  if (!mount.empty() && blobs_.count(mount) != 0) {
    r.status = 201;
    return r;
  }
  path = "/v2/" + repository + "/blobs/uploads/" + std::to_string(next_upload_++);
  uploads_[path] = "";
  r.status = 202;
  using Location = StubHabits::Location;
  const int port = ports_[habits_.location == Location::kOtherPort ? 1 : 0];
  const std::string at = "http://127.0.0.1:" + std::to_string(port);
  r.headers = {
      {"Location", (habits_.location == Location::kRelative ? "" : at) + path + "?state=x"}};
  return r;
}

StubRegistry::Reply StubRegistry::UploadPart(const StubRequest& request, const std::string& path) {
  Reply r;
  r.faulty = true;
  auto upload = uploads_.find(path);
  if (upload == uploads_.end()) {
    r.status = 404;
    return r;
  }
  std::string& data = upload->second;
  auto tell = [&](int status) {
    r.status = status;
    if (!data.empty() && (habits_.upload_range || request.method == "GET"))
      r.headers.emplace_back("Range", "0-" + std::to_string(data.size() - 1));
    return r;
  };
  if (request.method == "GET") return tell(204);
  if (request.method == "PATCH") {
    r.status = habits_.patch_status;
    if (r.status != 202) return r;
    auto range = request.headers.find("content-range");
    if (range == request.headers.end() || !range->second.starts_with(std::to_string(data.size()) + "-"))
      return tell(416);
    data += request.body;
    return tell(202);
  }
  const std::string digest = QueryValue(request.target, "digest");
  data += request.body;
  r.status = request.method == "PUT" && DigestOf(data) == digest ? 201 : 400;
  if (r.status == 201) blobs_[digest] = data;
  uploads_.erase(upload);
  return r;
}

// Tags of a repository, or all repositories for "".
StubRegistry::Reply StubRegistry::Names(const StubRequest& request, const std::string& repository) {
  std::vector<std::string> names;
  for (const auto& [key, stored] : manifests_) {
    const size_t colon = key.find(':');
    const std::string owner = key.substr(0, colon), name = key.substr(colon + 1);
    if (repository.empty() && (names.empty() || names.back() != owner)) names.push_back(owner);
    if (repository == owner && !name.starts_with("sha256:")) names.push_back(name);
  }
  Reply r;
  const size_t begin = std::strtoul(QueryValue(request.target, "n").c_str(), nullptr, 10);
  const size_t end = std::min(names.size(), begin + habits_.referrers_page);
  if (end < names.size())
    r.headers.emplace_back("Link", "<" + request.target.substr(0, request.target.find('?')) + "?n=" +
                                       std::to_string(end) + ">; rel=\"next\"");
  r.body = std::string("{\"") + (repository.empty() ? "repositories" : "tags") + "\":[";
  for (size_t i = begin; i < end; i++) r.body += (i == begin ? "\"" : ",\"") + names[i] + "\"";
  r.body += "]}";
  return r;
}

StubRegistry::Reply StubRegistry::Referrers(const StubRequest& request,
                                            const std::string& repository,
                                            const std::string& digest) {
  Reply r;
  if (!referrers_api_) {
    r.status = habits_.referrers_status;
    r.body = "<html>no such page</html>";
    return r;
  }
  std::vector<std::string> found;
  for (const auto& [name, stored] : manifests_) {
    if (!name.starts_with(repository + ":sha256:")) continue;
    if (stored.body.find("\"subject\"") == std::string::npos ||
        stored.body.find(digest) == std::string::npos)
      continue;
    std::string entry = R"({"digest":")" + name.substr(repository.size() + 1) + '"';
    constexpr char kType[] = "\"artifactType\":\"";
    if (const size_t at = stored.body.find(kType); at != std::string::npos)
      entry += "," + stored.body.substr(at, stored.body.find('"', at + sizeof(kType) - 1) + 1 - at);
    found.push_back(entry + "}");
  }
  const size_t begin = std::strtoul(QueryValue(request.target, "n").c_str(), nullptr, 10);
  const size_t end = std::min(found.size(), begin + habits_.referrers_page);
  r.headers = {{"Content-Type", "application/vnd.oci.image.index.v1+json"}};
  std::string path = request.target.substr(0, request.target.find('?'));
  if (end < found.size()) {
    const std::string next = path + "?n=" + std::to_string(end);
    r.headers.emplace_back("Link", "</first>; rel=\"first\"");
    r.headers.emplace_back("Link", "</last>; rel=\"last\", <" +
                                       (habits_.referrers_next.empty() ? next : habits_.referrers_next) +
                                       ">; rel=\"next\"");
  }
  r.body = R"({"schemaVersion":2,"manifests":[)";
  for (size_t i = begin; i < end; i++) r.body += (i == begin ? "" : ",") + found[i];
  r.body += "]}";
  return r;
}

StubRegistry::Reply StubRegistry::Manifests(const StubRequest& request,
                                            const std::string& repository,
                                            const std::string& name) {
  Reply r;
  r.faulty = true;
  if (request.method == "PUT") {
    if (FindFault("PUT") != nullptr) return r;
    std::string digest = DigestOf(request.body);
    auto type = request.headers.find("content-type");
    Stored s{type == request.headers.end() ? "" : type->second, request.body};
    manifests_[repository + ":" + name] = s;
    manifests_[repository + ":" + digest] = s;
    if (name.starts_with("sha256-") && !habits_.stale_tag_body.empty()) {
      manifests_[repository + ":" + name].body = habits_.stale_tag_body;
      habits_.stale_tag_body.clear();
    }
    r.status = habits_.manifest_put_status;
    r.headers = {{"Docker-Content-Digest", digest}};
    if (referrers_api_) r.headers.emplace_back("OCI-Subject", "yes");
    return r;
  }
  auto it = manifests_.find(repository + ":" + name);
  if (it == manifests_.end()) {
    r.status = 404;
    r.body = R"({"errors":[{"code":"MANIFEST_UNKNOWN"}]})";
    return r;
  }
  const std::string& type = it->second.media_type;
  r.headers = {{"Content-Type", habits_.manifest_type.empty() ? type : habits_.manifest_type}};
  r.body = it->second.body;
  return r;
}

std::string StubRegistry::AddBlob(const std::string& data) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string digest = DigestOf(data);
  blobs_[digest] = data;
  return digest;
}

std::string StubRegistry::AddManifest(const std::string& repository, const std::string& tag,
                                      const std::string& media_type, const std::string& body) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string digest = DigestOf(body);
  manifests_[repository + ":" + tag] = manifests_[repository + ":" + digest] = {media_type, body};
  return digest;
}

std::string StubRegistry::BlobData(const std::string& digest) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = blobs_.find(digest);
  return it == blobs_.end() ? "" : it->second;
}

void StubRegistry::Inject(Fault fault, int count, uint64_t arg, const std::string& method) {
  std::lock_guard<std::mutex> lock(mutex_);
  injections_.push_back({fault, count, arg, method, {{"Retry-After", "0"}}, "injected"});
}

void StubRegistry::Status(int count, int status,
                          std::vector<std::pair<std::string, std::string>> headers,
                          const std::string& body) {
  std::lock_guard<std::mutex> lock(mutex_);
  injections_.push_back({Fault::kStatus, count, static_cast<uint64_t>(status), "GET",
                         std::move(headers), body});
}

void StubRegistry::Hold(bool on) {
  std::lock_guard<std::mutex> lock(mutex_);
  hold_ = on;
  changed_.notify_all();
}

int StubRegistry::CountHeld() {
  std::lock_guard<std::mutex> lock(mutex_);
  return nr_held_;
}

void StubRegistry::SetDown(bool down) {
  std::lock_guard<std::mutex> lock(mutex_);
  down_ = down;
  if (!down) return;
  for (int fd : connections_) {
    Reset(fd);
    shutdown(fd, SHUT_RDWR);
  }
}

void StubRegistry::RequireAuth(Auth auth, const std::string& user, const std::string& password) {
  std::lock_guard<std::mutex> lock(mutex_);
  auth_ = auth;
  user_ = user;
  password_ = password;
  token_.clear();
  refresh_token_.clear();
}

void StubRegistry::RequireRefreshToken(const std::string& token) {
  std::lock_guard<std::mutex> lock(mutex_);
  auth_ = Auth::kBearer;
  refresh_token_ = token;
  token_.clear();
}

void StubRegistry::SetReferrersApi(bool on) {
  std::lock_guard<std::mutex> lock(mutex_);
  referrers_api_ = on;
}

void StubRegistry::SetHabits(const StubHabits& habits) {
  std::lock_guard<std::mutex> lock(mutex_);
  habits_ = habits;
}

std::vector<StubRequest> StubRegistry::Requests() {
  std::lock_guard<std::mutex> lock(mutex_);
  return requests_;
}

int StubRegistry::CountRequests(const std::string& method, const std::string& target_part) {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int>(std::count_if(requests_.begin(), requests_.end(), [&](const auto& r) {
    return r.method == method && r.target.find(target_part) != std::string::npos;
  }));
}

int StubRegistry::CountConnections() {
  std::lock_guard<std::mutex> lock(mutex_);
  return nr_connections_;
}

}  // namespace fastoci
