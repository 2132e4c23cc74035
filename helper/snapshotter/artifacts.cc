// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/artifacts.h"

#include <filesystem>

#include "attach/signature.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "config/config.h"
#include "control/client.h"
#include "kernel/dm_control.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kRemember = std::chrono::minutes(15);
constexpr auto kRememberNone = std::chrono::seconds(60);
constexpr int64_t kControlMs = 5000;

class QuietProgress : public Progress {
 public:
  void Step(const std::string& what) override { Log(LogLevel::kDebug, "%s", what.c_str()); }
  void Warn(const std::string& what) override { Log(LogLevel::kWarning, "%s", what.c_str()); }
  void Bytes(uint64_t, uint64_t) override {}
};

void RemoveAll(const std::string& dir) {
  std::error_code ignored;
  std::filesystem::remove_all(dir, ignored);
}

ArtifactFinder::Found None(const char* reason, const Error& error) {
  ArtifactFinder::Found found;
  found.reason = reason;
  found.why = error.message;
  return found;
}

}  // namespace

Result<ReferrerMode> ParseReferrerMode(const std::string& text) {
  if (text == "off") return ReferrerMode::kOff;
  if (text == "cri") return ReferrerMode::kCri;
  if (text == "all") return ReferrerMode::kAll;
  return InvalidError("\"" + text + "\" for referrers: it must be off, cri or all");
}

ArtifactFinder::ArtifactFinder(Options options) : options_(std::move(options)) { RemoveAll(options_.dir); }

void ArtifactFinder::DropOld() {
  for (auto it = entries_.begin(); it != entries_.end();) {
    std::unique_lock lock(it->second->mutex, std::try_to_lock);
    const bool old = lock.owns_lock() && it->second->until < Clock::now();
    if (lock.owns_lock()) lock.unlock();
    if (!old || it->second.use_count() > 1) {
      ++it;
      continue;
    }
    RemoveAll(options_.dir + "/" + it->first);
    it = entries_.erase(it);
  }
}

ArtifactFinder::Found ArtifactFinder::Find(const std::string& image_ref, const std::string& manifest_digest,
                                           const Trial& trial) {
  auto parsed = ParseDigest(manifest_digest);
  if (!parsed.ok()) return None("labels", parsed.error());
  auto ref = ParseReference(image_ref);
  if (!ref.ok()) return None("labels", ref.error());
  const std::string text = ref->WithDigest(manifest_digest).ToString();
  const std::string key = HexEncode(Sha256::Of(AsBytes(ref->host + "/" + ref->repository + "@" + manifest_digest)));
  std::shared_ptr<Entry> entry;
  {
    std::lock_guard lock(mutex_);
    DropOld();
    auto& slot = entries_[key];
    if (!slot) slot = std::make_shared<Entry>();
    entry = slot;
  }
  std::lock_guard lock(entry->mutex);
  if (entry->until < Clock::now()) {
    entry->found = Found();
    Look(text, key, trial, entry.get());
    entry->until = Clock::now() + (entry->found.image ? kRemember : kRememberNone);
  }
  return entry->found;
}

void ArtifactFinder::Look(const std::string& text, const std::string& key, const Trial& trial, Entry* entry) {
  auto node = LoadConfig(options_.node_config);
  if (!node.ok()) return void(entry->found = None("policy", node.error()));
  auto ref = ParseReference(text);
  if (!ref.ok()) return void(entry->found = None("labels", ref.error()));
  if (!node->signatures.empty() && KeysFor(node->signatures, *ref).empty())
    return void(entry->found = None("policy", InvalidError("the node demands signatures, but none of this image's artifact")));
  if (auto target = DmRequireTarget(kDmTarget); !target.ok()) return void(entry->found = None("no_module", target.error()));
  auto cache = AskHelperCache(options_.control_socket, kControlMs);
  if (!cache.ok()) return void(entry->found = None("no_helper", cache.error()));
  // Each read of the image's data would fail.
  if (!cache->refuses.empty()) return void(entry->found = None("cache", InvalidError(cache->refuses)));
  QuietProgress progress;
  RegistryAccess access = options_.access;
  access.node_hosts_dir = node->hosts_dir;
  auto puller = ImagePuller::Open(access, node->signatures);
  if (!puller.ok()) return void(entry->found = None("credentials", puller.error()));
  auto image = puller->Resolve(text, &progress);
  if (!image.ok()) {
    const ErrorKind kind = image.error().kind;
    const char* reason = image.error().err == EKEYREJECTED ? "policy"
                         : kind == ErrorKind::kUnsupported ? "no_artifact"
                         : kind == ErrorKind::kDenied    ? "denied"
                         : kind == ErrorKind::kMismatch  ? "artifact_differs"
                                                         : "registry";
    return void(entry->found = None(reason, image.error()));
  }
  if (Status allowed = puller->CheckPolicy(*image, &progress); !allowed.ok())
    return void(entry->found = None("policy", allowed.error()));
  const std::string dir = options_.dir + "/" + key;
  RemoveAll(dir);
  Status made = MakeDirs(dir, 0700);
  if (made.ok()) made = puller->FetchMetaLayers(&*image, dir, &progress);
  if (made.ok()) made = puller->TryRange(*image);
  if (!made.ok()) {
    RemoveAll(dir);
    const bool ranges = made.error().kind == ErrorKind::kMismatch;
    return void(entry->found = None(ranges ? "no_ranges" : "meta_layers", made.error()));
  }
  for (MetaLayer& layer : image->fastoci.layers) layer.repository = image->ref.host + "/" + image->ref.repository;
  if (Status tried = trial(*image); !tried.ok()) {
    RemoveAll(dir);
    return void(entry->found = None("attach", tried.error()));
  }
  size_t base = 0;
  while (base < image->fastoci.layers.size() && image->fastoci.layers[base].native) base++;
  entry->found.base = base;
  entry->found.image = std::make_shared<ResolvedImage>(std::move(*image));
}

}  // namespace fastoci
