// SPDX-License-Identifier: Apache-2.0
#include "fetcher/image.h"

#include <climits>

#include "base/digest.h"
#include "base/json.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

const Json* ArrayField(const Json& object, const char* name) {
  auto it = object.find(name);
  return it != object.end() && it->is_array() ? &*it : nullptr;
}

Result<BlobLocation> ParseRegistry(const Json& json) {
  BlobLocation l;
  l.type = BlobLocation::Type::kRegistry;
  l.scheme = JsonText(json, "scheme");
  l.repository.host = JsonText(json, "host");
  l.repository.repository = JsonText(json, "repository");
  if (!IsRegistryHost(l.repository.host)) return InvalidError("bad host");
  if (!IsRepositoryName(l.repository.repository)) return InvalidError("bad repository");
  if (l.scheme != "http" && l.scheme != "https") return InvalidError("bad scheme");
  return l;
}

Result<BlobLocation> ParseFile(const Json& json) {
  BlobLocation l;
  l.type = BlobLocation::Type::kFile;
  l.path = JsonText(json, "path");
  if (l.path.empty() || l.path[0] != '/' || l.path.size() >= PATH_MAX ||
      l.path.find('\0') != std::string::npos)
    return InvalidError("bad path");
  return l;
}

Result<FetchBlob> ParseBlob(const Json& json) {
  if (!json.is_object()) return InvalidError("not an object");
  FetchBlob blob;
  blob.digest = JsonText(json, "digest");
  auto digest = ParseDigest(blob.digest);
  if (!digest.ok()) return digest.error();
  blob.bytes = JsonNumber(json, "size");
  if (blob.bytes == 0 || blob.bytes > INT64_MAX) return InvalidError("bad size");
  const Json* sources = ArrayField(json, "sources");
  if (sources == nullptr || sources->size() > kMaxSources) return InvalidError("bad sources");
  for (const Json& s : *sources) {
    if (!s.is_object()) return InvalidError("a source is not an object");
    std::string type = JsonText(s, "type");
    if (type == "registry") {
      FASTOCI_TRY(BlobLocation l, ParseRegistry(s));
      blob.sources.push_back(std::move(l));
    } else if (type == "file") {
      FASTOCI_TRY(BlobLocation l, ParseFile(s));
      blob.sources.push_back(std::move(l));
    }
  }
  return blob;
}

}  // namespace

std::string BlobLocation::ToString() const {
  if (type == Type::kFile) return "file " + path;
  return repository.host + "/" + repository.repository;
}

Result<FetchImage> ParseFetchImage(const std::string& json) {
  Json root = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return InvalidError("image JSON: not a JSON object");
  if (JsonNumber(root, "version") != 1)
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP, "image JSON: version is not 1"};
  const Json* blobs = ArrayField(root, "blobs");
  if (blobs == nullptr || blobs->size() > FASTOCI_MAX_BLOBS)
    return InvalidError("image JSON: bad blobs");
  FetchImage image;
  for (const Json& b : *blobs) {
    auto blob = ParseBlob(b);
    if (!blob.ok())
      return blob.error().Wrap("image JSON: blob " + std::to_string(image.blobs.size()));
    image.blobs.push_back(std::move(*blob));
  }
  return image;
}

}  // namespace fastoci
