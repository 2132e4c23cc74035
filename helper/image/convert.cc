// SPDX-License-Identifier: Apache-2.0
#include "image/convert.h"

#include <cstdio>

#include "base/digest.h"
#include "image/layer_converter.h"

namespace fastoci {
namespace {

constexpr uint64_t kMaxConfigBytes = 8 << 20;

std::string MetaLayerName(size_t number) {
  char name[64];
  std::snprintf(name, sizeof(name), "%04zu.turboOCIv1.tar.gz", number);
  return name;
}

Status Dump(const ConvertOptions& options, const std::string& name, ByteSpan data) {
  return options.dump ? options.dump(name, data) : OkStatus();
}

Result<ConvertedLayer> ConvertLayer(ImageStore* store, const ConvertOptions& options,
                                    const Descriptor& layer, const std::string& diff_id,
                                    size_t number, Ext4Builder* builder,
                                    ConvertObserver* observer) {
  FASTOCI_TRY(auto converter, LayerConverter::Create(
                                  {layer.digest, layer.bytes, layer.media_type, diff_id}, builder));
  uint64_t done = 0;
  FASTOCI_CHECK_OK(store->GetBlob(layer.digest, layer.bytes, [&](ByteSpan data) {
    done += data.size();
    observer->OnLayer(number, done);
    return converter->Update(data);
  }));
  FASTOCI_TRY(PackedMetaLayer packed, converter->Finish());
  ConvertedLayer out;
  out.meta = {"", DigestString(packed.digest), packed.data.size()};
  out.diff_id = DigestString(packed.diff_id);
  out.target = layer;
  FASTOCI_CHECK_OK(Dump(options, MetaLayerName(number), packed.data));
  if (options.store) {
    Status s = store->PutBlob(out.meta.digest, packed.data);
    if (!s.ok()) return s.error().Wrap("store the meta layer");
  }
  observer->OnLayerDone(number, out, converter->nr_entries());
  return out;
}

}  // namespace

Result<ConvertedImage> ConvertImage(ImageStore* store, const ConvertOptions& options,
                                    ConvertObserver* observer) {
  FASTOCI_TRY(Manifest manifest, store->GetManifest(options.source));
  FASTOCI_TRY(std::string digest,
              PickManifest(manifest.body, options.arch.empty() ? HostArch() : options.arch));
  if (!digest.empty()) {
    FASTOCI_TRY(manifest, store->GetManifest(digest));
  }
  FASTOCI_TRY(OriginalImage image, ParseOriginalManifest(manifest.body));
  FASTOCI_TRY(std::string config, store->ReadBlob(image.config.digest, kMaxConfigBytes));
  FASTOCI_TRY(std::vector<std::string> diff_ids, DiffIds(config));
  if (diff_ids.size() != image.layers.size())
    return MismatchError("manifest and config disagree about the number of layers");
  observer->OnImage(image);

  FASTOCI_TRY(Sha256Digest identity, ParseDigest(image.layers[0].digest));
  FASTOCI_TRY(auto builder, Ext4Builder::Create(identity));
  ConvertedImage out;
  for (size_t i = 0; i < image.layers.size(); i++) {
    auto layer = ConvertLayer(store, options, image.layers[i], diff_ids[i], i, builder.get(), observer);
    if (!layer.ok())
      return layer.error().Wrap("layer " + std::to_string(i + 1) + " (" + image.layers[i].digest + ")");
    out.layers.push_back(std::move(*layer));
  }
  FASTOCI_TRY(config, ConvertedConfig(config, out.layers));
  Descriptor config_descriptor{"", DigestString(Sha256::Of(AsBytes(config))), config.size()};
  ManifestOptions manifest_options;
  manifest_options.oci = options.oci || options.referrer;
  if (options.referrer)
    manifest_options.subject = {manifest.media_type, manifest.digest, manifest.body.size()};
  std::string body = ConvertedManifest(manifest_options, config_descriptor, out.layers);
  out.manifest_digest = DigestString(Sha256::Of(AsBytes(body)));
  FASTOCI_CHECK_OK(Dump(options, "config.json", AsBytes(config)));
  FASTOCI_CHECK_OK(Dump(options, "manifest.json", AsBytes(body)));
  if (!options.store) return out;
  FASTOCI_CHECK_OK(store->PutBlob(config_descriptor.digest, AsBytes(config)));
  FASTOCI_TRY(out.manifest_digest,
              store->PutManifest(options.target_tag, ManifestMediaType(manifest_options), body));
  return out;
}

}  // namespace fastoci
