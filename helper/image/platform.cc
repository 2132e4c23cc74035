// SPDX-License-Identifier: Apache-2.0
#include "image/platform.h"

#include <algorithm>
#include <optional>

#include "base/foreign_json.h"
#include "base/json.h"
#include "image/oci_image.h"

namespace fastoci {
namespace {

// Other names for architectures, which docker and containerd take.
constexpr struct {
  const char *name, *goarch;
} kOtherNames[] = {{"x86_64", "amd64"}, {"x86-64", "amd64"}, {"aarch64", "arm64"}, {"armhf", "arm"}, {"armel", "arm"},
                   {"i386", "386"}};
constexpr const char* kOtherSystems[] = {"windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "wasip1", "js"};

std::string GoArch(const std::string& arch) {
  for (const auto& n : kOtherNames)
    if (arch == n.name) return n.goarch;
  return arch;
}

constexpr size_t kMaxName = 64;  // a name comes from a config, and goes into messages

class Walk {
 public:
  Walk(const Platform& wanted, const ManifestReader& reader, const TakeImage& take)
      : wanted_(wanted), reader_(reader), take_(take) {}

  // False: take wants no more.
  Result<bool> In(const std::vector<IndexEntry>& index, int depth) {
    if (depth == kMaxIndexDepth) return InvalidError("indexes within indexes");
    for (const IndexEntry& e : index) {
      const bool unknown = e.os.empty() && e.arch.empty();
      if (e.attestation || (!unknown && !IsWanted({e.os, e.arch, e.variant})) || !IsManifestType(e.descriptor.media_type))
        continue;
      FASTOCI_TRY(Manifest child, reader_.manifest(e.descriptor.digest));
      FASTOCI_TRY(auto inner, ParseIndex(child.body));
      if (inner) {
        FASTOCI_TRY(bool more, In(*inner, depth + 1));
        if (!more) return false;
        continue;
      }
      // Without a platform it may be anything, and of any platform.
      if ((unknown || wanted_.any()) && !IsImageManifest(child.body)) continue;
      if (unknown && !wanted_.any()) {
        FASTOCI_TRY(Platform platform, PlatformOf(child, reader_));
        if (!IsWanted(platform)) continue;
      }
      FASTOCI_TRY(bool more, take_(child));
      if (!more) return false;
    }
    return true;
  }

 private:
  // Among several, one that does not name its platform is not the one that is meant.
  bool IsWanted(const Platform& p) const {
    if (wanted_.any()) return p.os.empty() || p.os == "linux";
    return !p.os.empty() && !p.arch.empty() && wanted_.Takes(p);
  }

  const Platform& wanted_;
  const ManifestReader& reader_;
  const TakeImage& take_;
};

}  // namespace

std::string Platform::Text() const {
  return (os.empty() ? "unknown" : os) + "/" + (arch.empty() ? "unknown" : arch) + (variant.empty() ? "" : "/" + variant);
}

bool Platform::Takes(const Platform& image) const {
  auto same = [](const std::string& a, const std::string& b) { return a.empty() || b.empty() || a == b; };
  return same(os, image.os) && same(arch, image.arch) && same(variant, image.variant);
}

Platform HostPlatform() { return {"linux", HostArch(), ""}; }

Result<Platform> ParsePlatform(const std::string& text) {
  if (text.empty() || text == "all") return Platform{"linux", "", ""};
  const bool has_system = text.starts_with("linux/");
  std::string arch = has_system ? text.substr(text.find('/') + 1) : text;
  const size_t slash = std::min(arch.find('/'), arch.size());
  const std::string variant = arch.substr(std::min(slash + 1, arch.size()));
  arch.resize(slash);
  const bool other = !has_system && std::find(std::begin(kOtherSystems), std::end(kOtherSystems), arch) != std::end(kOtherSystems);
  if (arch.empty() || arch == "linux" || other || std::count(text.begin(), text.end(), '/') > (has_system ? 2 : 1))
    return InvalidError("must be a platform with Linux, such as linux/arm64, or all");
  return Platform{"linux", GoArch(arch), variant};
}

Platform PlatformOfConfig(const std::string& config) {
  const nlohmann::json j = ParseForeignJson(config);
  auto name = [&j](const char* key) { return JsonText(j, key).substr(0, kMaxName); };
  return {name("os"), GoArch(name("architecture")), name("variant")};
}

Result<Platform> PlatformOf(const Manifest& image, const ManifestReader& reader) {
  const nlohmann::json j = ParseForeignJson(image.body);
  FASTOCI_TRY(std::string config, reader.config(JsonText(JsonChild(j, "config"), "digest")));
  return PlatformOfConfig(config);
}

ManifestReader ReaderOf(ImageStore* store) {
  return {[store](const std::string& digest) { return store->GetManifest(digest); },
          [store](const std::string& digest) { return store->ReadBlob(digest, kMaxImageConfigBytes); }};
}

Status ForEachImage(const Manifest& top, const Platform& wanted, const ManifestReader& reader, const TakeImage& take) {
  FASTOCI_TRY(auto index, ParseIndex(top.body));
  auto more = index ? Walk(wanted, reader, take).In(*index, 0) : take(top);
  return more.ok() ? OkStatus() : Status(more.error());
}

Result<Manifest> ManifestOfPlatform(const Manifest& top, const Platform& wanted,
                                    const ManifestReader& reader) {
  std::optional<Manifest> found;
  FASTOCI_CHECK_OK(ForEachImage(top, wanted, reader, [&found](const Manifest& image) -> Result<bool> {
    found = image;
    return false;
  }));
  if (!found) return NotFoundError("the image has no manifest for " + wanted.Text());
  return std::move(*found);
}

}  // namespace fastoci
