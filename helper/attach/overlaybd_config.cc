// SPDX-License-Identifier: Apache-2.0
#include "attach/overlaybd_config.h"

#include <unistd.h>

#include "base/digest.h"
#include "base/json.h"
#include "fastoci_meta.h"
#include "registry/reference.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

bool IsReadable(const std::string& path) {
  return !path.empty() && ::access(path.c_str(), R_OK) == 0;
}

// "https://host/v2/repository/blobs", with or without a slash behind it.
Result<BlobLocation> ParseBlobUrl(std::string url) {
  BlobLocation l;
  Error bad = InvalidError("repoBlobUrl does not have the form http(s)://HOST/v2/REPOSITORY/blobs: " + url);
  while (url.ends_with('/')) url.pop_back();
  size_t colon = url.find("://");
  size_t v2 = url.find("/v2/");
  if (colon == std::string::npos || v2 == std::string::npos || v2 < colon + 3 ||
      !url.ends_with("/blobs") || url.size() < v2 + 4 + 6)
    return bad;
  l.scheme = url.substr(0, colon);
  l.host = url.substr(colon + 3, v2 - colon - 3);
  l.repository = url.substr(v2 + 4, url.size() - v2 - 4 - 6);
  if ((l.scheme != "http" && l.scheme != "https") || !IsRegistryHost(l.host) ||
      !IsRepositoryName(l.repository))
    return bad;
  return l;
}

// A turboOCI lower has a target, and its fs.meta as a file.
Status ParseTurbo(const Json& lower, MetaLayer* out) {
  out->fs_meta_path = JsonText(lower, "file");
  if (!IsReadable(out->fs_meta_path))
    return NotFoundError("its fs.meta cannot be read: " + out->fs_meta_path);
  std::string index = JsonText(lower, "gzipIndex");
  if (IsReadable(index)) out->gzip_meta_path = index;
  out->target_media_type = std::string("application/vnd.oci.image.layer.v1.tar") +
                           (out->gzip_meta_path.empty() ? "" : "+gzip");
  out->target_digest = JsonText(lower, "targetDigest");
  if (std::string file = JsonText(lower, "targetFile"); IsReadable(file)) out->blob_path = file;
  if (out->blob_path.empty() && out->target_digest.empty())
    return NotFoundError("its targetFile cannot be read, and it has no targetDigest");
  return OkStatus();
}

Status ParseNative(const Json& lower, MetaLayer* out) {
  out->native = true;
  out->target_media_type = "application/vnd.oci.image.layer.v1.tar";
  out->digest = out->target_digest = JsonText(lower, "digest");
  std::string dir = JsonText(lower, "dir");
  for (const std::string& path :
       {JsonText(lower, "file"), dir + "/overlaybd.commit", dir + "/.commit", dir + "/overlaybd.sealed"}) {
    if (!IsReadable(path) || (dir.empty() && path.starts_with("/overlaybd"))) continue;
    out->blob_path = path;
    return OkStatus();
  }
  if (out->digest.empty()) return NotFoundError("none of its files exists, and it has no digest");
  auto size = lower.find("size");
  if (size == lower.end() || !size->is_number_unsigned())
    return InvalidError("it is in a registry, but has no size");
  out->bytes = out->target_bytes = size->get<uint64_t>();
  if (out->bytes == 0 || out->bytes > FASTOCI_MAX_DATA_BYTES)
    return InvalidError("its size is out of range");
  return OkStatus();
}

Result<MetaLayer> ParseLower(const Json& lower) {
  MetaLayer out;
  if (!lower.is_object()) return InvalidError("not an object");
  bool turbo = !JsonText(lower, "targetDigest").empty() || !JsonText(lower, "targetFile").empty();
  FASTOCI_CHECK_OK(turbo ? ParseTurbo(lower, &out) : ParseNative(lower, &out));
  if (!out.target_digest.empty()) FASTOCI_CHECK_OK(ParseDigest(out.target_digest));
  return out;
}

}  // namespace

Result<OverlaybdConfig> ParseOverlaybdConfig(const std::string& text) {
  Json j = Json::parse(text, nullptr, false);
  if (!j.is_object()) return InvalidError("the config is not a JSON object");
  OverlaybdConfig config;
  if (std::string url = JsonText(j, "repoBlobUrl"); !url.empty()) {
    FASTOCI_TRY(config.location, ParseBlobUrl(url));
  }
  auto lowers = j.find("lowers");
  if (lowers == j.end() || !lowers->is_array() || lowers->empty())
    return InvalidError("the config has no lowers");
  // With an acceleration layer the last lower is a trace and not a layer.
  auto trace = j.find("accelerationLayer");
  size_t count = lowers->size();
  if (trace != j.end() && trace->is_boolean() && trace->get<bool>()) count--;
  if (count == 0 || count > kMaxLayers) return InvalidError("the config has no lowers, or too many");
  for (size_t i = 0; i < count; i++) {
    auto layer = ParseLower((*lowers)[i]);
    std::string where = "lower " + std::to_string(i + 1);
    if (!layer.ok()) return layer.error().Wrap(where);
    if (layer->blob_path.empty() && config.location.host.empty())
      return InvalidError(where + " is in a registry, but the config has no repoBlobUrl");
    config.layers.layers.push_back(std::move(*layer));
  }
  return config;
}

}  // namespace fastoci
