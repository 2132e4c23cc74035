// SPDX-License-Identifier: Apache-2.0
#include "fetcher/keeper.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdlib>
#include <deque>
#include <filesystem>

#include "base/log.h"
#include "base/monotonic.h"
#include "base/mutex.h"
#include "base/packet.h"
#include "base/thread.h"
#include "fetcher/fetches.h"
#include "fetcher/keeper_json.h"
#include "fetcher/reply.h"
#include "fetcher/sandbox.h"
#include "registry/kubelet_providers.h"

namespace fastoci {
namespace {

constexpr int kNameBytes = 288;
constexpr int kRepositoryBytes = 512;
constexpr off_t kMaxAnswerBytes = 64 << 20;
constexpr int64_t kMarginMs = 5000;
// Questions that run at a time, those of them about one name, and those about one name
// that wait. A program that hangs must leave room for the questions about other registries.
constexpr size_t kMaxRunning = 256, kMaxOfOne = 8, kMaxWaiting = 1024;

enum KeeperKind : uint32_t { kCredential = 1, kAccess, kHosts };

struct KeeperQuestion {
  uint32_t id;
  uint32_t kind;  // KeeperKind
  uint32_t fresh;
  char name[kNameBytes];  // a host, or an image's id
  char repository[kRepositoryBytes];  // kHosts: an image's id, or ""
  char file[kMaxCredentialsPath + 1];
};

// With a memfd if err is 0.
struct KeeperAnswer {
  uint32_t id;
  int32_t err;
  uint32_t kind;  // ErrorKind
  char text[kMessageTextBytes];
};

bool IsImageId(const std::string& text) {
  return text.size() == 64 &&
         text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// The process.
class KeeperServer {
 public:
  explicit KeeperServer(const KeeperOptions& options) : work_(options) {}

  [[noreturn]] void Run() {
    while (true) {
      KeeperQuestion q{};
      if (!ReceivePacket(kSocket, WritableObjectBytes(&q), -1).ok()) _exit(0);
      q.file[kMaxCredentialsPath] = '\0';
      switch (Enter(q)) {
        case Entry::kRuns:
          Begin(q);
          break;
        case Entry::kWaits:
          break;
        case Entry::kRefused:
          Answer(q, Error{ErrorKind::kUnavailable, EAGAIN,
                          "the keeper has too many questions about " + FieldText(q.name)});
      }
    }
  }

  static constexpr int kSocket = 0;

 private:
  enum class Entry { kRuns, kWaits, kRefused };
  struct Name {
    size_t running = 0;
    std::deque<KeeperQuestion> waiting;
  };

  Entry Enter(const KeeperQuestion& q) {
    MutexLock lock(mutex_);
    auto it = names_.find(FieldText(q.name));
    if (it == names_.end()) {
      if (running_ >= kMaxRunning) return Entry::kRefused;
      it = names_.emplace(FieldText(q.name), Name()).first;
    }
    Name& name = it->second;
    if (name.running >= kMaxOfOne || running_ >= kMaxRunning) {
      if (name.waiting.size() >= kMaxWaiting) return Entry::kRefused;
      name.waiting.push_back(q);
      return Entry::kWaits;
    }
    running_++;
    name.running++;
    return Entry::kRuns;
  }

  void Begin(KeeperQuestion q) {
    auto thread = StartThread([this, q] { Serve(q); });
    if (thread.ok()) return thread->detach();
    do {
      Answer(q, thread.error());
    } while (Next(&q));
  }

  // And then those that wait for it.
  void Serve(KeeperQuestion q) {
    do {
      Answer(q, Find(q));
    } while (Next(&q));
  }

  // The next question about the same name. False: there is none, and this thread ends.
  bool Next(KeeperQuestion* q) {
    MutexLock lock(mutex_);
    auto it = names_.find(FieldText(q->name));
    if (!it->second.waiting.empty()) {
      *q = it->second.waiting.front();
      it->second.waiting.pop_front();
      return true;
    }
    running_--;
    if (--it->second.running == 0) names_.erase(it);
    return false;
  }

  Result<Secret> Find(const KeeperQuestion& q) {
    const std::string name = FieldText(q.name), repository = FieldText(q.repository);
    if (q.kind == kCredential) {
      FASTOCI_TRY(auto found, work_.Credential(name, repository, q.file, q.fresh != 0));
      return CredentialToJson(found);
    }
    if (q.kind == kAccess) {
      FASTOCI_TRY(auto all, work_.AccessOf(name));
      return AccessesToJson(all);
    }
    if (q.kind == kHosts) {
      FASTOCI_TRY(auto hosts, work_.Hosts(name, repository));
      return HostsToJson(hosts);
    }
    return InvalidError("unknown question");
  }

  static void Answer(const KeeperQuestion& q, const Result<Secret>& found) {
    KeeperAnswer a{};
    a.id = q.id;
    UniqueFd fd;
    Status s = found.ok() ? OkStatus() : Status(found.error());
    if (s.ok()) {
      fd.reset(memfd_create("fastoci-answer", MFD_CLOEXEC));
      s = fd.valid() ? WriteFull(fd.get(), AsBytes(found->Reveal()), "memfd")
                     : Status(ErrnoError("memfd_create"));
    }
    if (!s.ok()) SetFailure(&a, s.error());
    const int fds[] = {fd.get()};
    if (!SendPacket(kSocket, ObjectBytes(a), {fds, s.ok() ? 1U : 0U}).ok()) _exit(0);
  }

  KeeperWork work_;
  Mutex mutex_;
  size_t running_ GUARDED_BY(mutex_) = 0;
  std::map<std::string, Name> names_ GUARDED_BY(mutex_);  // that are asked about
};

[[noreturn]] void Keep(const KeeperOptions& options, int socket) {
  // A service has no HOME. That is where root's `docker login` writes.
  if (const passwd* me = ::getpwuid(::geteuid()); std::getenv("HOME") == nullptr && me != nullptr)
    ::setenv("HOME", me->pw_dir, 1);
  std::signal(SIGPIPE, SIG_IGN);
  if (dup2(socket, KeeperServer::kSocket) < 0 ||
      syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0) != 0)
    _exit(1);
  // This looks for kubelet's files, which takes root's rights.
  KeeperServer server(options);
  if (!EnterKeeperSandbox().ok()) _exit(1);
  server.Run();
}

Result<Secret> ReadAnswer(int fd) {
  struct stat st {};
  if (fstat(fd, &st) != 0) return ErrnoError("the keeper's answer");
  if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > kMaxAnswerBytes)
    return InvalidError("the keeper's answer is damaged");
  std::string text(static_cast<size_t>(st.st_size), '\0');
  FASTOCI_CHECK_OK(PreadFull(fd, {reinterpret_cast<uint8_t*>(text.data()), text.size()}, 0,
                             "the keeper's answer"));
  return Secret(std::move(text));
}

template <typename T>
std::function<void(Result<Secret>)> Parsed(Keeper::Done<T> done,
                                           Result<T> (*parse)(const Secret&)) {
  return [done = std::move(done), parse](const Result<Secret>& json) {
    done(json.ok() ? parse(*json) : Result<T>(json.error()));
  };
}

}  // namespace

KeeperWork::KeeperWork(const KeeperOptions& options) : options_(options) {
  std::vector<CredentialSourcePtr> sources;
  std::vector<std::string> files;
  if (!options.credentials.empty()) files.push_back(options.credentials);
  if (options.node_credentials)
    for (const std::string& path : DefaultCredentialFiles()) files.push_back(path);
  for (const std::string& path : files) {
    DockerConfigOptions docker;
    docker.path = path;
    docker.helper_timeout_ms = options.program_ms;
    docker.keep_old = true;
    sources.push_back(DockerConfigSource(std::move(docker)));
  }
  if (options.node_credentials)
    for (KubeletPaths& paths : KnownKubeletPaths())
      sources.push_back(KubeletSource(std::move(paths), options.program_ms));
  source_ = FirstOf(std::move(sources));
}

CredentialSourcePtr KeeperWork::SourceOf(const std::string& file) {
  if (file.empty()) return source_;
  const std::vector<Access> all = Accesses();
  const bool given = std::any_of(all.begin(), all.end(), [&](const Access& a) {
    return a.credentials_file == file;
  });
  MutexLock lock(mutex_);
  if (!given) {
    files_.erase(file);
    return source_;
  }
  CredentialSourcePtr& source = files_[file];
  if (source == nullptr) {
    DockerConfigOptions docker;
    docker.path = file;
    docker.helper_timeout_ms = options_.program_ms;
    docker.keep_old = true;
    source = DockerConfigSource(std::move(docker));
  }
  return source;
}

Result<std::optional<FoundCredential>> KeeperWork::Credential(const std::string& host,
                                                              const std::string& repository,
                                                              const std::string& file,
                                                              bool fresh) {
  Reference ref;
  ref.host = host;
  ref.repository = repository;
  if (!IsRegistryHost(host) || !IsRepositoryName(repository))
    return InvalidError("no registry's host, or no repository");
  return SourceOf(file)->Find(ref, fresh);
}

Result<std::vector<Access>> KeeperWork::AccessOf(const std::string& image_id) const {
  if (!IsImageId(image_id)) return InvalidError("no image's id");
  std::vector<Access> all = Accesses();
  std::erase_if(all, [&](const Access& a) { return a.image_id != image_id; });
  return all;
}

std::vector<Access> KeeperWork::Accesses() const {
  std::vector<Access> all;
  for (const std::string& root : options_.state_dirs) {
    std::error_code ignored;
    // A range-based loop would throw if the directory cannot be read to its end.
    for (std::filesystem::directory_iterator it(root, ignored), end; !ignored && it != end;
         it.increment(ignored)) {
      const std::string path = it->path().string() + "/access.json";
      auto text = ReadFile(path, kMaxAccessBytes);
      if (!text.ok() && (text.error().err == ENOENT || text.error().err == ENOTDIR)) continue;
      auto access = text.ok() ? AccessFromJson(*text) : Result<Access>(text.error());
      if (text.ok()) explicit_bzero(text->data(), text->size());
      // It may be another image's, and must not stop this one.
      if (!access.ok())
        Log(LogLevel::kWarning, "%s: %s", path.c_str(), access.error().message.c_str());
      else
        all.push_back(std::move(*access));
    }
  }
  return all;
}

Result<std::vector<HostConfig>> KeeperWork::Hosts(const std::string& host,
                                                  const std::string& image_id) const {
  Reference ref;
  ref.host = host;
  if (!IsRegistryHost(host)) return InvalidError("no registry's host");
  HostsOptions options;
  options.roots = options_.hosts_dirs;
  if (!image_id.empty()) {
    FASTOCI_TRY(std::vector<Access> accesses, AccessOf(image_id));
    for (const Access& a : accesses) {
      auto is_it = [&](const std::string& h) { return CanonicalHost(h) == CanonicalHost(host); };
      if (!a.hosts_dirs.empty() &&
          (is_it(a.host) || std::any_of(a.more_hosts.begin(), a.more_hosts.end(), is_it)))
        options.roots = HostRoots(a.hosts_dirs);
    }
  }
  return LoadHosts(options, ref);
}

Result<std::unique_ptr<Keeper>> Keeper::Start(const KeeperOptions& options) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return ErrnoError("socketpair");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  std::unique_ptr<Keeper> keeper(new Keeper);
  keeper->timeout_ms_ = options.program_ms + kMarginMs;
  keeper->pid_ = fork();
  if (keeper->pid_ < 0) return ErrnoError("fork");
  if (keeper->pid_ == 0) Keep(options, theirs.get());
  keeper->socket_ = std::move(ours);
  return keeper;
}

Keeper::~Keeper() {
  socket_.reset();
  if (pid_ <= 0) return;
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Keeper::Ask(uint32_t kind, bool fresh, const std::string& name,
                 const std::string& repository, const std::string& file,
                 std::function<void(Result<Secret>)> done) {
  KeeperQuestion q{};
  q.id = ++last_id_;
  q.kind = kind;
  q.fresh = fresh ? 1 : 0;
  SetText(q.name, name);
  SetText(q.repository, repository);
  SetText(q.file, file);
  Status s = SendPacket(socket_.get(), ObjectBytes(q), {}, /*dont_wait=*/true);
  // Process() ends a question that could not be sent, as one whose time is over. Answers from
  // files come soon, and the broker waits while an image is opened.
  const int64_t timeout_ms = kind == kCredential ? timeout_ms_ : kMarginMs;
  pending_[q.id] = {s.ok() ? MonotonicMs() + timeout_ms : 0, std::move(done)};
}

void Keeper::FindCredential(const std::string& host, const std::string& repository,
                            const std::string& file, bool fresh,
                            Done<std::optional<FoundCredential>> done) {
  Ask(kCredential, fresh, host, repository, file, Parsed(std::move(done), CredentialFromJson));
}

void Keeper::FindAccess(const std::string& image_id, Done<std::vector<Access>> done) {
  Ask(kAccess, false, image_id, "", "", Parsed(std::move(done), AccessesFromJson));
}

void Keeper::FindHosts(const std::string& host, const std::string& image_id,
                       Done<std::vector<HostConfig>> done) {
  Ask(kHosts, false, host, image_id, "", Parsed(std::move(done), HostsFromJson));
}

int64_t Keeper::deadline_ms() const {
  int64_t first = INT64_MAX;
  for (const auto& [id, p] : pending_) first = std::min(first, p.deadline_ms);
  return first;
}

Status Keeper::Process(int64_t now_ms) {
  while (true) {
    KeeperAnswer a{};
    std::vector<UniqueFd> fds;
    Status s = ReceivePacket(socket_.get(), WritableObjectBytes(&a), 0, &fds);
    if (!s.ok() && s.error().err == ETIMEDOUT) break;
    if (!s.ok()) return s.error().Wrap("the keeper of credentials");
    auto node = pending_.extract(a.id);
    if (node.empty()) continue;  // to one that took too long
    if (a.err != 0) {
      node.mapped().done(Error{static_cast<ErrorKind>(a.kind), a.err, FieldText(a.text)});
    } else if (fds.size() == 1) {
      node.mapped().done(ReadAnswer(fds[0].get()));
    } else {
      node.mapped().done(InvalidError("the keeper's answer is damaged"));
    }
  }
  std::vector<uint32_t> late;
  for (const auto& [id, p] : pending_)
    if (p.deadline_ms <= now_ms) late.push_back(id);
  for (uint32_t id : late) {
    auto node = pending_.extract(id);
    if (node.empty()) continue;
    node.mapped().done(Error{ErrorKind::kUnavailable, ETIMEDOUT,
                             "the keeper of credentials gives no answer"});
  }
  return OkStatus();
}

}  // namespace fastoci
