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

class Walk {
 public:
  Walk(const std::string& arch, const ManifestReader& reader, const TakeImage& take)
      : arch_(arch), reader_(reader), take_(take) {}

  // False: take wants no more.
  Result<bool> In(const std::vector<IndexEntry>& index, int depth) {
    if (depth == kMaxIndexDepth) return InvalidError("indexes within indexes");
    for (const IndexEntry& e : index) {
      const bool unknown = e.os.empty() && e.arch.empty();
      if (e.attestation || (!unknown && !IsWanted(e.os, e.arch)) || !IsManifestType(e.descriptor.media_type))
        continue;
      FASTOCI_TRY(Manifest child, reader_.manifest(e.descriptor.digest));
      FASTOCI_TRY(auto inner, ParseIndex(child.body));
      if (inner) {
        FASTOCI_TRY(bool more, In(*inner, depth + 1));
        if (!more) return false;
        continue;
      }
      // Without a platform it may be anything, and of any platform.
      if ((unknown || arch_.empty()) && !IsImageManifest(child.body)) continue;
      if (unknown && !arch_.empty()) {
        FASTOCI_TRY(bool wanted, ConfigIsWanted(child));
        if (!wanted) continue;
      }
      FASTOCI_TRY(bool more, take_(child));
      if (!more) return false;
    }
    return true;
  }

 private:
  bool IsWanted(const std::string& os, const std::string& arch) const {
    if (arch_.empty()) return os.empty() || os == "linux";
    return os == "linux" && arch == arch_;
  }
  Result<bool> ConfigIsWanted(const Manifest& manifest) {
    const nlohmann::json j = ParseForeignJson(manifest.body);
    FASTOCI_TRY(std::string config, reader_.config(JsonText(JsonChild(j, "config"), "digest")));
    const nlohmann::json c = ParseForeignJson(config);
    return IsWanted(JsonText(c, "os"), JsonText(c, "architecture"));
  }

  const std::string& arch_;
  const ManifestReader& reader_;
  const TakeImage& take_;
};

}  // namespace

Result<std::string> ParsePlatform(const std::string& text) {
  if (text.empty() || text == "all") return std::string();
  const bool has_system = text.starts_with("linux/");
  std::string arch = has_system ? text.substr(text.find('/') + 1) : text;
  arch = arch.substr(0, arch.find('/'));
  const bool other = !has_system && std::find(std::begin(kOtherSystems), std::end(kOtherSystems), arch) != std::end(kOtherSystems);
  if (arch.empty() || arch == "linux" || other || std::count(text.begin(), text.end(), '/') > (has_system ? 2 : 1))
    return InvalidError("must be a platform with Linux, such as linux/arm64, or all");
  for (const auto& n : kOtherNames)
    if (arch == n.name) arch = n.goarch;
  return arch;
}

ManifestReader ReaderOf(ImageStore* store) {
  return {[store](const std::string& digest) { return store->GetManifest(digest); },
          [store](const std::string& digest) { return store->ReadBlob(digest, kMaxImageConfigBytes); }};
}

Status ForEachImage(const Manifest& top, const std::string& arch, const ManifestReader& reader, const TakeImage& take) {
  FASTOCI_TRY(auto index, ParseIndex(top.body));
  auto more = index ? Walk(arch, reader, take).In(*index, 0) : take(top);
  return more.ok() ? OkStatus() : Status(more.error());
}

Result<Manifest> ManifestOfPlatform(const Manifest& top, const std::string& arch,
                                    const ManifestReader& reader) {
  std::optional<Manifest> found;
  FASTOCI_CHECK_OK(ForEachImage(top, arch, reader, [&found](const Manifest& image) -> Result<bool> {
    found = image;
    return false;
  }));
  if (!found) return NotFoundError("the image has no manifest for linux/" + arch);
  return std::move(*found);
}

}  // namespace fastoci
