// SPDX-License-Identifier: Apache-2.0
#include "image/copy.h"

#include <fcntl.h>

#include <set>

#include "base/digest.h"
#include "base/foreign_json.h"
#include "base/json.h"
#include "base/unique_fd.h"
#include "base/unnamed_file.h"
#include "image/oci_image.h"
#include "image/platform.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxTagBytes = 128;
constexpr char kKeeperSuffix[] = "-original";
constexpr char kBlobKey[] = "containerd.io/snapshot/overlaybd/blob-digest";
constexpr char kTargetKey[] = "containerd.io/snapshot/overlaybd/turbo-oci/target-digest";
constexpr char kOldTargetKey[] = "containerd.io/snapshot/overlaybd/fastoci/target-digest";

class Copier {
 public:
  Copier(ImageStore* from, ImageStore* to, const CopyOptions& options)
      : from_(from), to_(to), options_(options) {}

  Result<std::string> Copy(const Manifest& manifest, const std::string& tag, int depth) {
    Json j = ParseForeignJson(manifest.body);
    if (!j.is_object()) return InvalidError("manifest " + manifest.digest + " is not JSON");
    if (j.contains("manifests") && j["manifests"].is_array()) {
      if (depth == kMaxIndexDepth) return InvalidError("indexes within indexes");
      for (const Json& m : j["manifests"]) {
        if (!IsManifestType(JsonText(m, "mediaType"))) {
          FASTOCI_CHECK_OK(CopyDescriptor(m));
          continue;
        }
        FASTOCI_TRY(Manifest child, from_->GetManifest(JsonText(m, "digest")));
        FASTOCI_CHECK_OK(Copy(child, "", depth + 1));
      }
    }
    if (j.contains("config")) FASTOCI_CHECK_OK(CopyDescriptor(j["config"]));
    bool has_native = false;
    if (j.contains("layers") && j["layers"].is_array()) {
      for (const Json& layer : j["layers"]) {
        FASTOCI_CHECK_OK(CopyDescriptor(layer));
        if (!layer.contains("annotations")) continue;
        std::string target = JsonText(layer["annotations"], kTargetKey);
        if (target.empty()) target = JsonText(layer["annotations"], kOldTargetKey);
        if (target.empty()) has_native |= !JsonText(layer["annotations"], kBlobKey).empty();
        else if (options_.originals) FASTOCI_CHECK_OK(CopyBlob(target, 0));
      }
    }
    if (options_.originals && j.contains("subject") && depth < kMaxIndexDepth) {
      const std::string named = JsonText(j["subject"], "digest");
      auto subject = from_->GetManifest(named);
      if (subject.ok()) {
        FASTOCI_CHECK_OK(Copy(*subject, "", depth + 1));
      } else if (subject.error().kind != ErrorKind::kNotFound) {
        return subject.error();
      } else if (options_.warn) {  // its layers are there all the same
        options_.warn("the original image " + named + " is not there any more, and is not copied");
      }
    }
    FASTOCI_TRY(std::string digest, to_->PutManifest(tag, manifest.media_type, manifest.body));
    if (!copied_.insert(digest).second || depth == kMaxIndexDepth) return digest;
    if (has_native) FASTOCI_CHECK_OK(CopyArtifacts(digest, kDigestsArtifact, depth));
    if (options_.signatures && depth == 0) FASTOCI_CHECK_OK(CopySignatures(digest));
    const Status traces = CopyArtifacts(digest, kStartArtifact, depth);
    if (!traces.ok() && options_.warn)  // no container needs them
      options_.warn("start traces of " + digest + " are not copied: " + traces.error().message);
    return digest;
  }

 private:
  // Whoever has a policy looks for them in both places.
  Status CopySignatures(const std::string& digest) {
    const std::string tag = SignatureTag(digest);
    auto manifest = from_->GetManifest(tag);
    if (manifest.ok()) {
      auto copied = Copy(*manifest, tag, kMaxIndexDepth);
      if (!copied.ok()) return copied.error();
    } else if (manifest.error().kind != ErrorKind::kNotFound) {
      return manifest.error();
    }
    return CopyArtifacts(digest, kSignatureArtifact, 0);
  }

  // Chunk digests of overlaybd layers, signatures, or start traces.
  Status CopyArtifacts(const std::string& digest, const std::string& type, int depth) {
    FASTOCI_TRY(std::string referrers, from_->Referrers(digest, type));
    Json j = ParseForeignJson(referrers);
    if (!j.is_object() || !j.contains("manifests") || !j["manifests"].is_array()) return OkStatus();
    for (const Json& m : j["manifests"]) {
      if (JsonText(m, "artifactType") != type) continue;
      FASTOCI_TRY(Manifest artifact, from_->GetManifest(JsonText(m, "digest")));
      if (copied_.contains(artifact.digest)) continue;
      FASTOCI_CHECK_OK(Copy(artifact, "", depth + 1));
    }
    return OkStatus();
  }

  Status CopyDescriptor(const Json& d) {
    return CopyBlob(JsonText(d, "digest"), JsonNumber(d, "size"));
  }

  // bytes: 0 if it is not known.
  Status CopyBlob(const std::string& digest, uint64_t bytes) {
    if (!done_.insert(digest).second) return OkStatus();
    FASTOCI_CHECK_OK(ParseDigest(digest));
    auto mounted = to_->MountBlob(from_, digest);
    if (mounted.ok() && *mounted) return OkStatus();
    FASTOCI_TRY(UniqueFd file, OpenUnnamed(options_.scratch_dir));
    uint64_t at = 0;
    FASTOCI_CHECK_OK(from_->GetBlob(digest, bytes, [&](ByteSpan data) {
      Status s = PwriteFull(file.get(), data, at, "blob " + digest);
      at += data.size();
      return s;
    }));
    return to_->PutBlob(digest, at, [&](uint64_t offset, std::span<uint8_t> out) {
      return PreadFull(file.get(), out, offset, "blob " + digest);
    });
  }

  ImageStore *from_, *to_;
  const CopyOptions& options_;
  std::set<std::string> done_;    // blobs
  std::set<std::string> copied_;  // manifests
};

}  // namespace

Result<std::string> CopyImage(ImageStore* from, const std::string& name, ImageStore* to,
                              const std::string& tag, const CopyOptions& options) {
  FASTOCI_TRY(Manifest manifest, from->GetManifest(name));
  Copier copier(from, to, options);
  // What keeps the original's layers alive is copied first. Otherwise a registry
  // could delete them meanwhile.
  if (!name.starts_with("sha256:") && !tag.empty()) {
    auto original = from->GetManifest(KeeperTag(name));
    if (original.ok()) {
      FASTOCI_CHECK_OK(copier.Copy(*original, KeeperTag(tag), 0));
    } else if (original.error().kind != ErrorKind::kNotFound) {
      return original.error();
    }
  }
  return copier.Copy(manifest, tag, 0);
}

std::string SignatureTag(const std::string& digest) {
  return "sha256-" + digest.substr(digest.find(':') + 1) + ".sig";
}

std::string KeeperTag(const std::string& tag) { return tag + kKeeperSuffix; }

namespace {

// Stores a copy of the original's manifest; of an index, a copy that names such copies of
// its manifests. tag: "" to store it without a tag.
Result<Descriptor> Keep(ImageStore* store, const std::string& tag, const Manifest& original, int depth) {
  FASTOCI_TRY(auto index, ParseIndex(original.body));
  std::string body;
  if (index) {
    if (depth == kMaxIndexDepth) return InvalidError("indexes within indexes");
    std::vector<Descriptor> kept;
    for (const IndexEntry& e : *index) {
      kept.emplace_back();
      if (e.attestation || !IsManifestType(e.descriptor.media_type)) continue;
      FASTOCI_TRY(Manifest child, store->GetManifest(e.descriptor.digest));
      FASTOCI_TRY(kept.back(), Keep(store, "", child, depth + 1));
    }
    bool oci = original.media_type == IndexMediaType(true);
    FASTOCI_TRY(body, ConvertedIndex(original.body, kept, oci, {}, ""));
  } else {
    FASTOCI_TRY(body, KeeperManifest(original.body, original.digest));
  }
  FASTOCI_TRY(std::string digest, store->PutManifest(tag, original.media_type, body));
  return Descriptor{original.media_type, digest, body.size()};
}

}  // namespace

Status KeepOriginal(ImageStore* store, const std::string& tag, const Manifest& original) {
  if (tag.empty() || KeeperTag(tag).size() > kMaxTagBytes)
    return InvalidError("there is no tag to keep the original image under");
  auto kept = Keep(store, KeeperTag(tag), original, 0);
  return kept.ok() ? OkStatus() : Status(kept.error());
}

}  // namespace fastoci
