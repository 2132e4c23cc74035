// SPDX-License-Identifier: Apache-2.0
#include "image/platform.h"

#include <optional>

#include "base/foreign_json.h"
#include "base/json.h"
#include "image/oci_image.h"

namespace fastoci {
namespace {

class Search {
 public:
  Search(const std::string& arch, const ManifestReader& reader) : arch_(arch), reader_(reader) {}

  Result<std::optional<Manifest>> In(const std::vector<IndexEntry>& index, int depth) {
    if (depth == kMaxIndexDepth) return InvalidError("indexes within indexes");
    for (const IndexEntry& e : index) {
      const bool unknown = e.os.empty() && e.arch.empty();
      if (e.attestation || (!unknown && !IsWanted(e.os, e.arch)) || !IsManifestType(e.descriptor.media_type))
        continue;
      FASTOCI_TRY(Manifest child, reader_.manifest(e.descriptor.digest));
      FASTOCI_TRY(auto inner, ParseIndex(child.body));
      if (inner) {
        FASTOCI_TRY(auto found, In(*inner, depth + 1));
        if (found) return found;
        continue;
      }
      if (unknown) {
        FASTOCI_TRY(bool wanted, ConfigIsWanted(child));
        if (!wanted) continue;
      }
      return std::optional(std::move(child));
    }
    return std::optional<Manifest>();
  }

 private:
  bool IsWanted(const std::string& os, const std::string& arch) const { return os == "linux" && arch == arch_; }
  Result<bool> ConfigIsWanted(const Manifest& manifest) {
    if (!IsImageManifest(manifest.body)) return false;
    const nlohmann::json j = ParseForeignJson(manifest.body);
    FASTOCI_TRY(std::string config, reader_.config(JsonText(JsonChild(j, "config"), "digest")));
    const nlohmann::json c = ParseForeignJson(config);
    return IsWanted(JsonText(c, "os"), JsonText(c, "architecture"));
  }

  const std::string& arch_;
  const ManifestReader& reader_;
};

}  // namespace

Result<Manifest> ManifestOfPlatform(const Manifest& top, const std::string& arch,
                                    const ManifestReader& reader) {
  FASTOCI_TRY(auto index, ParseIndex(top.body));
  if (!index) return top;
  FASTOCI_TRY(auto found, Search(arch, reader).In(*index, 0));
  if (!found) return NotFoundError("the image has no manifest for linux/" + arch);
  return std::move(*found);
}

}  // namespace fastoci
