// SPDX-License-Identifier: Apache-2.0
#include "serve/service.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>

#include "attach/bounded.h"
#include "attach/manifest.h"
#include "base/foreign_json.h"
#include "base/json.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "image/copy.h"
#include "image/oci_image.h"
#include "registry/options.h"
#include "serve/notification.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxShown = 200;
constexpr size_t kMaxTokenBytes = 4096;
constexpr int64_t kFirstDelayS = 30, kMaxDelayS = 3600;
constexpr int kNice = 10;
constexpr char kOomScore[] = "500";  // the kernel ends a conversion, and not the service
constexpr int64_t kForgetEveryS = 3600;
constexpr int kRecordTries = 30;
constexpr auto kRecordDelay = std::chrono::seconds(10);
constexpr size_t kMaxOutput = 64 << 10;
constexpr char kImageConfig[] = "application/vnd.oci.image.config.v1+json";
constexpr char kDockerConfigType[] = "application/vnd.docker.container.image.v1+json";

int64_t Now() { return static_cast<int64_t>(std::time(nullptr)); }

int64_t DelayS(uint64_t tries) {
  int64_t s = kFirstDelayS;
  for (uint64_t i = 1; i < tries && s < kMaxDelayS; i++) s *= 2;
  return std::min(s, kMaxDelayS);
}

// Compared in constant time.
bool SameToken(const std::string& a, const std::string& b) {
  unsigned char differs = a.size() != b.size();
  for (size_t i = 0; i < a.size() && i < b.size(); i++)
    differs |= static_cast<unsigned char>(a[i] ^ b[i]);
  return differs == 0;
}

uint64_t LayerBytes(const Json& manifest) {
  uint64_t sum = 0;
  for (const Json& layer : JsonChild(manifest, "layers")) sum += JsonNumber(layer, "size");
  return sum;
}

// Whether the tag belongs to another manifest: its referrers (sha256-<hex>), or a
// signature as cosign makes them (sha256-<hex>.sig).
bool IsCompanionTag(const std::string& tag) {
  constexpr size_t kPrefix = 7, kHex = 64;
  if (!tag.starts_with("sha256-") || tag.size() < kPrefix + kHex) return false;
  const bool hex = tag.find_first_not_of("0123456789abcdef", kPrefix) >= kPrefix + kHex;
  return hex && (tag.size() == kPrefix + kHex || tag[kPrefix + kHex] == '.');
}

// The digest in "HOST/REPOSITORY@sha256:...", which the convertor prints last.
std::string DigestIn(const std::string& output) {
  const size_t at = output.rfind("@sha256:");
  if (at == std::string::npos) return "";
  const std::string digest = output.substr(at + 1, 71);
  return digest.size() == 71 ? digest : "";
}

// The convertor's error message, out of all that it printed.
std::string Complaint(const std::string& output) {
  size_t at = output.rfind("convertor: ");
  std::string text = at == std::string::npos ? output : output.substr(at + 11);
  for (char& c : text)
    if (c == '\n') c = ' ';
  return text.substr(0, 400);
}

}  // namespace

Result<std::unique_ptr<ConvertService>> ConvertService::Open(ServeConfig config,
                                                             std::string program) {
  std::unique_ptr<ConvertService> s(new ConvertService);
  s->config_ = std::move(config);
  s->program_ = std::move(program);
  const ServeConfig& c = s->config_;
  FASTOCI_CHECK_OK(MakeDirs(c.directory, 0700));
  const std::string lock = c.directory + "/lock";
  s->lock_.reset(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!s->lock_.valid()) return ErrnoError(lock);
  if (::flock(s->lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoError(lock);
    s->lock_.reset();
  }
  FASTOCI_TRY(s->queue_, ServeQueue::Open(c.directory + "/queue.db"));
  if (s->lock_.valid()) FASTOCI_CHECK_OK(s->queue_->PutBack(/*tried=*/true));
  if (!c.token_file.empty()) {
    FASTOCI_TRY(s->token_, ReadFile(c.token_file, kMaxTokenBytes));
    while (s->token_.ends_with("\n")) s->token_.pop_back();
    if (s->token_.empty()) return InvalidError("tokenFile " + c.token_file + " is empty");
  }
  RegistryOptions options;
  options.plain_http = c.plain;
  TlsFlags flags;
  flags.insecure = c.insecure;
  flags.root_ca = c.root_ca;
  flags.client_cert = c.client_cert;
  FASTOCI_TRY(options.http.tls, ReadTlsFlags(flags));
  std::vector<std::string> dirs;
  if (!c.hosts_dir.empty()) dirs.push_back(c.hosts_dir);
  FASTOCI_TRY(options.hosts_dirs, ReadHostsDirs(dirs));
  FASTOCI_TRY(CredentialSourcePtr credentials, OpenCredentials("", c.registry, ""));
  FASTOCI_TRY(s->client_, RegistryClient::Open(std::move(options), std::move(credentials)));
  s->figures_.registry = c.registry;
  return s;
}

ConvertService::~ConvertService() { Stop(); }

void ConvertService::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    wake_.notify_all();
  }
  if (queue_ && lock_.valid()) (void)queue_->PutBack(/*tried=*/false).ok();
}

Status ConvertService::Serve() {
  if (!lock_.valid())
    return Error{ErrorKind::kUnavailable, EBUSY, "another convertor --serve converts in " + config_.directory};
  FASTOCI_TRY(server_, HttpServer::Open(config_.listen,
                                        [this](const ServedRequest& r) { return Handle(r); }));
  Log(LogLevel::kInfo, "waiting for notifications at http://%s/notify", config_.listen.c_str());
  std::vector<std::thread> workers;
  for (size_t i = 0; i < config_.workers; i++)
    workers.emplace_back([this, i] { Work(i, /*until_empty=*/false); });
  for (std::thread& t : workers) t.join();
  server_.reset();
  return OkStatus();
}

Result<uint64_t> ConvertService::QueueAll() {
  uint64_t unreadable = 0, queued = 0;
  FASTOCI_TRY(std::vector<std::string> repositories, client_->ListRepositories(config_.registry));
  for (const std::string& repository : repositories) {
    Reference repo;
    repo.host = config_.registry;
    repo.repository = repository;
    auto tags = client_->ListTags(repo);
    if (!tags.ok()) {
      Log(LogLevel::kWarning, "%s: %s", repository.c_str(), tags.error().message.c_str());
      unreadable++;
      continue;
    }
    for (const std::string& tag : *tags) {
      if (FindRule(config_, repository, tag) == nullptr) continue;
      auto manifest = client_->GetManifest(repo.WithTag(tag));
      if (!manifest.ok()) {
        Log(LogLevel::kWarning, "%s", manifest.error().message.c_str());
        unreadable++;
        continue;
      }
      FASTOCI_TRY(bool added, queue_->Add(repository, tag, manifest->digest, Now()));
      queued += added;
    }
  }
  if (!lock_.valid())
    Log(LogLevel::kInfo, "%llu images are queued; the convertor --serve that runs converts them",
        static_cast<unsigned long long>(queued));
  return unreadable;
}

Result<uint64_t> ConvertService::Sweep() {
  FASTOCI_TRY(const uint64_t unreadable, QueueAll());
  if (!lock_.valid()) return unreadable;
  std::vector<std::thread> workers;
  for (size_t i = 0; i < config_.workers; i++)
    workers.emplace_back([this, i] { Work(i, /*until_empty=*/true); });
  for (std::thread& t : workers) t.join();
  std::lock_guard lock(mutex_);
  if (broken_) return *broken_;
  return figures_.failed + unreadable;
}

ServedReply ConvertService::Handle(const ServedRequest& request) {
  if (request.path == "/notify") {
    if (request.method != "POST") return {405, "text/plain", "POST only\n"};
    return Notify(request);
  }
  if (request.method != "GET" && request.method != "HEAD")
    return {405, "text/plain", "GET only\n"};
  if (request.path == "/healthz") return {200, "text/plain", "ok\n"};
  if (request.path == "/metrics")
    return {200, "text/plain; version=0.0.4; charset=utf-8", ServeMetrics(Figures())};
  if (request.path != "/")
    return {404, "text/plain", "not found: this service has /, /metrics, /healthz and /notify\n"};
  auto jobs = queue_->List(kMaxShown);
  if (!jobs.ok()) return {503, "text/plain", jobs.error().message + "\n"};
  return {200, "text/html; charset=utf-8", ServePage(Figures(), *jobs)};
}

ServedReply ConvertService::Notify(const ServedRequest& request) {
  auto refuse = [this](int status, const std::string& why) {
    std::lock_guard lock(mutex_);
    figures_.refused++;
    return ServedReply{status, "text/plain", why + "\n"};
  };
  if (!token_.empty() && !SameToken(request.authorization, token_))
    return refuse(401, "the Authorization header differs from what tokenFile holds");
  auto events = ParseNotification(request.body);
  if (!events.ok()) return refuse(400, events.error().message);
  size_t queued = 0;
  std::optional<Error> failed;
  for (const PushEvent& e : *events) {
    if (FindRule(config_, e.repository, e.tag) == nullptr) continue;
    auto added = queue_->Add(e.repository, e.tag, e.digest, Now());
    if (!added.ok()) failed = added.error();
    else queued += *added;
  }
  std::lock_guard lock(mutex_);
  queued_ += queued;
  if (queued > 0) wake_.notify_all();
  // The registry sends it again.
  if (failed) return {503, "text/plain", failed->message + "\n"};
  figures_.notifications++;
  return {202, "text/plain", std::to_string(queued) + " queued\n"};
}

ServeFigures ConvertService::Figures() {
  auto counts = queue_->CountByState();
  std::lock_guard lock(mutex_);
  ServeFigures f = figures_;
  f.now = Now();
  if (counts.ok()) f.jobs = *counts;
  return f;
}

// What ended stays for keepDays, for the page.
void ConvertService::ForgetOld() {
  const int64_t now = Now();
  {
    std::lock_guard lock(mutex_);
    if (now >= forgot_at_ && now - forgot_at_ < kForgetEveryS) return;
    forgot_at_ = now;
  }
  Status forgot = queue_->Forget(now - static_cast<int64_t>(config_.keep_days) * 86400);
  if (!forgot.ok()) Log(LogLevel::kWarning, "%s", forgot.error().message.c_str());
}

void ConvertService::Work(size_t number, bool until_empty) {
  for (;;) {
    uint64_t seen = 0;
    {
      std::lock_guard lock(mutex_);
      if (stop_) return;
      seen = queued_;
    }
    ForgetOld();
    auto job = queue_->Take(Now());
    if (job.ok() && *job) {
      Run(**job, number);
      continue;
    }
    auto next = queue_->NextAt();
    std::optional<Error> error;
    if (!job.ok()) error = job.error();
    else if (!next.ok()) error = next.error();
    if (error) Log(LogLevel::kError, "%s", error->message.c_str());
    if (until_empty && !error && !*next) return;  // others may still run
    int64_t seconds = 60;
    if (!error && *next) seconds = std::clamp<int64_t>(**next - Now(), 1, 60);
    std::unique_lock lock(mutex_);
    if (until_empty && error) {
      broken_ = error;
      return;
    }
    wake_.wait_for(lock, std::chrono::seconds(seconds), [&] { return stop_ || queued_ != seen; });
  }
}

void ConvertService::Run(const ServeJob& job, size_t number) {
  const std::string name = job.repository + (job.tag.empty() ? "" : ":" + job.tag) + "@" + job.digest;
  if (job.tries > config_.tries)
    return Ended(job, {ErrorKind::kIo, EIO, "the service ended while it was at work on this image"});
  const ServeRule* rule = FindRule(config_, job.repository, job.tag);
  uint64_t bytes = 0;
  // The rules may have changed since it was queued.
  auto why = rule ? WhyNot(job, *rule, &bytes)
                  : Result<std::string>(std::string("no rule matches it any longer"));
  if (bytes > 0) (void)queue_->SetBytes(job.id, bytes).ok();
  if (!why.ok()) return Ended(job, why.error());
  if (!why->empty()) {
    Log(LogLevel::kInfo, "%s: skipped: %s", name.c_str(), why->c_str());
    Record([&] { return queue_->Skip(job.id, *why, Now()); });
    std::lock_guard lock(mutex_);
    figures_.skipped++;
    return;
  }
  Log(LogLevel::kInfo, "%s: converting", name.c_str());
  const auto begin = std::chrono::steady_clock::now();
  auto digest = Convert(job, *rule, number);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!digest.ok()) return Ended(job, digest.error());
  Log(LogLevel::kInfo, "%s: %s in %.1f s", name.c_str(), digest->c_str(), seconds);
  Record([&] { return queue_->Finish(job.id, *digest, Now()); });
  std::lock_guard lock(mutex_);
  figures_.converted++;
  figures_.bytes += bytes;
  figures_.seconds += seconds;
}

// Without its outcome in the queue the job would count as running until the next start.
void ConvertService::Record(const std::function<Status()>& write) {
  for (int i = 0; i < kRecordTries; i++) {
    Status written = write();
    if (written.ok()) return;
    Log(LogLevel::kError, "%s", written.error().message.c_str());
    std::unique_lock lock(mutex_);
    if (wake_.wait_for(lock, kRecordDelay, [this] { return stop_; })) return;
  }
}

void ConvertService::Ended(const ServeJob& job, const Error& error) {
  {
    std::lock_guard lock(mutex_);
    // The conversion ended with this process. It waits again already.
    if (stop_) return;
  }
  const bool final = job.tries >= config_.tries || error.kind == ErrorKind::kUnsupported;
  Log(LogLevel::kWarning, "%s@%s: %s%s", job.repository.c_str(), job.digest.c_str(),
      error.message.c_str(), final ? "" : "; it is tried again");
  Record([&] { return queue_->Retry(job.id, error.message, Now(), Now() + DelayS(job.tries), final); });
  std::lock_guard lock(mutex_);
  (final ? figures_.failed : figures_.retried)++;
}

Result<std::string> ConvertService::WhyNot(const ServeJob& job, const ServeRule& rule,
                                           uint64_t* bytes) {
  if (IsCompanionTag(job.tag))
    return std::string("it belongs to another image, as a signature or a list of referrers does");
  Reference repo;
  repo.host = config_.registry;
  repo.repository = job.repository;
  auto manifest = client_->GetManifest(repo.WithDigest(job.digest));
  if (!manifest.ok() && manifest.error().kind == ErrorKind::kNotFound)
    return std::string("it was deleted from the registry");
  if (!manifest.ok()) return manifest.error();
  const Json j = ParseForeignJson(manifest->body);
  if (JsonChild(j, "subject").is_object() || !JsonText(j, "artifactType").empty())
    return std::string("it is an artifact, not an image");
  if (JsonChild(j, "annotations").is_object() && job.tag == KeeperTag(job.tag.substr(0, job.tag.rfind('-'))))
    return std::string("its tag only keeps another image's layers in the registry");
  auto index = ParseIndex(manifest->body);
  if (!index.ok()) return index.error();
  if (!*index) {
    const std::string type = JsonText(JsonChild(j, "config"), "mediaType");
    if (type != kImageConfig && type != kDockerConfigType)
      return std::string("it is an artifact, not an image");
  }
  size_t images = 0;
  bool converted = false;
  std::string subject = job.digest;  // of the artifact that would be made
  const ManifestReader reader{
      [&](const std::string& digest) { return client_->GetManifest(repo.WithDigest(digest)); },
      [&](const std::string& digest) { return client_->ReadBlob(repo, digest, kMaxImageConfigBytes); }};
  FASTOCI_CHECK_OK(ForEachImage(*manifest, rule.platform, reader, [&](const Manifest& image) -> Result<bool> {
    images++;
    converted = ParseFastociManifest(image.body).ok();
    *bytes += LayerBytes(ParseForeignJson(image.body));
    if (rule.platform.any()) return !converted;
    subject = image.digest;
    return false;
  }));
  if (converted)
    return std::string(*index ? "it is an index of FastOCI or overlaybd images"
                              : "it is a FastOCI or overlaybd image already");
  if (images == 0)
    return "it is an index without an image for " + (rule.platform.any() ? "Linux" : rule.platform.Text());
  if (!*index && !rule.platform.any()) {
    // If the config cannot be read now, the convertor compares them.
    auto is = PlatformOf(*manifest, reader);
    if (is.ok() && !rule.platform.Takes(*is)) return "it is for " + is->Text() + ", not for " + rule.platform.Text();
  }
  if (*bytes < rule.min_mb << 20)
    return "it is smaller than " + std::to_string(rule.min_mb) + " MB (minMB)";
  auto referrers = client_->Referrers(repo, subject, ArtifactType(ImageFormat::kTurboOci));
  if (!referrers.ok()) return referrers.error();
  auto there = ReferrersOfType(*referrers, ArtifactType(ImageFormat::kTurboOci));
  if (there.ok() && !there->empty()) return "it has an artifact already: " + there->back();
  return std::string();
}

Result<std::string> ConvertService::Convert(const ServeJob& job, const ServeRule& rule,
                                            size_t number) {
  const ServeConfig& c = config_;
  BoundedProgram p;
  p.what = "the conversion";
  p.argv = {program_, "-r", c.registry + "/" + job.repository, "-g", job.digest, "--referrer",
            "--fstype", rule.fs_type, "--concurrency-limit", std::to_string(c.layers),
            "--store", c.directory + "/layers", "-d", c.directory + "/work-" + std::to_string(number)};
  if (!rule.platform.any()) p.argv.insert(p.argv.end(), {"--platform", rule.platform.Text()});
  if (c.plain) p.argv.push_back("--plain");
  if (c.insecure) p.argv.push_back("--insecure");
  if (!c.root_ca.empty()) p.argv.insert(p.argv.end(), {"--root-ca", c.root_ca});
  if (!c.client_cert.empty()) p.argv.insert(p.argv.end(), {"--client-cert", c.client_cert});
  if (!c.hosts_dir.empty()) p.argv.insert(p.argv.end(), {"--hosts-dir", c.hosts_dir});
  for (char** e = environ; *e != nullptr; e++) p.env.emplace_back(*e);
  const rlim_t memory = static_cast<rlim_t>(c.memory_mb) << 20;
  p.enter = [memory] {
    const rlimit limit = {memory, memory};
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    // If that fails, it is as before.
    if (const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC); fd >= 0)
      (void)!::write(fd, kOomScore, sizeof(kOomScore) - 1);
    return ::setpriority(PRIO_PROCESS, 0, kNice) == 0 && ::setrlimit(RLIMIT_AS, &limit) == 0 ? 0
                                                                                            : 126;
  };
  p.timeout_ms = static_cast<int64_t>(c.timeout_minutes) * 60000;
  p.max_output = kMaxOutput;
  p.last_output = true;  // the digest, or the complaint, comes last
  std::string output;
  auto code = RunBoundedProgram(p, &output);
  const std::string memory_limit = "memoryMB allows (" + std::to_string(c.memory_mb) + ")";
  if (!code.ok() && code.error().kind == ErrorKind::kIo)
    return Error{ErrorKind::kIo, EIO, code.error().message + "; it may need more memory than " + memory_limit};
  if (!code.ok()) return code.error();
  const std::string digest = DigestIn(output);
  if (*code == 0 && !digest.empty()) return digest;
  if (*code == kConvertorNoMemory)
    return Error{ErrorKind::kUnsupported, ENOMEM, "the conversion needs more memory than " + memory_limit};
  const std::string why = Complaint(output);
  return Error{*code == kConvertorUnsupported ? ErrorKind::kUnsupported : ErrorKind::kIo, EIO,
               why.empty()
                   ? "the convertor printed nothing and ended with status " + std::to_string(*code)
                   : why};
}

}  // namespace fastoci
