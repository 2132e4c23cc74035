// SPDX-License-Identifier: Apache-2.0
#include "image/convert.h"

#include <algorithm>
#include <cstdio>
#include <mutex>

#include "base/digest.h"
#include "base/parallel.h"
#include "base/unique_fd.h"
#include "image/assemble.h"
#include "image/base_layer.h"
#include "image/copy.h"
#include "image/layer_converter.h"

namespace fastoci {
namespace {

constexpr uint64_t kMaxConfigBytes = 8 << 20;
constexpr size_t kUuidDigits = 32;

std::string MetaLayerName(size_t number) {
  char name[64];
  std::snprintf(name, sizeof(name), "%04zu.turboOCIv1.tar.gz", number);
  return name;
}

// The first digits of a chain id, in the form of a UUID.
std::string ChainUuid(const std::string& chain_id) {
  std::string out;
  for (size_t i = 0; i < kUuidDigits; i++) {
    if (i == 8 || i == 12 || i == 16 || i == 20) out += '-';
    out += static_cast<char>(std::toupper(chain_id[sizeof("sha256:") - 1 + i]));
  }
  return out;
}

// Each layer's chain id, as the OCI image spec has it.
std::vector<std::string> ChainIds(const std::vector<std::string>& diff_ids) {
  std::vector<std::string> chain;
  for (const std::string& id : diff_ids)
    chain.push_back(chain.empty() ? id
                                  : DigestString(Sha256::Of(AsBytes(chain.back() + " " + id))));
  return chain;
}

// One image of one platform.
class ImageConverter {
 public:
  ImageConverter(ImageStore* store, const ConvertOptions& options, ConvertObserver* observer)
      : store_(store), options_(options), observer_(observer) {}
  // What is made, without tags.
  Result<std::vector<ConvertedImage>> Run(const Manifest& manifest);

 private:
  Status ConvertLayers(const std::vector<std::string>& diff_ids);
  Status ConvertLayer(size_t number, LayerOrder* order);
  Result<LayerResult> BuildLayer(size_t number, LayerOrder* order);
  Result<LayerResult> ScanLayer(size_t number, const LayerSource& source,
                                const LayerOutput& output, LayerOrder* order);
  Status StoreMeta(size_t number, const LayerResult& result);
  Status StoreOverlaybd(size_t number, const LayerResult& result);
  Result<ConvertedImage> MakeManifest(ImageFormat format, const std::string& config,
                                      const Manifest& original, std::vector<ConvertedLayer> layers);
  Result<ConvertedLayer> StoreBase(ImageFormat format);
  // Of the image's lowest native layers, as many as there are lists.
  Status StoreDigests(const ConvertedImage& image, const std::vector<Bytes>& lists);
  Status Dump(const std::string& name, ByteSpan data) {
    std::lock_guard lock(mutex_);
    return options_.dump ? options_.dump(name, data) : OkStatus();
  }
  void Warn(const std::string& text) {
    std::lock_guard lock(mutex_);
    observer_->OnWarning(text);
  }

  ImageStore* store_;
  const ConvertOptions& options_;
  ConvertObserver* observer_;
  std::mutex mutex_;  // for the observer and dump
  std::optional<ScanStore> scans_;
  std::unique_ptr<BaseLayer> base_;  // null: none
  uint64_t fs_bytes_ = 0;
  OriginalImage image_;
  std::vector<std::string> diff_ids_, chain_ids_;
  // Each layer's are written by one thread.
  std::vector<ConvertedLayer> turbo_, overlaybd_;
  std::vector<Bytes> overlaybd_digests_;
};

Result<LayerResult> ImageConverter::BuildLayer(size_t number, LayerOrder* order) {
  const Descriptor& layer = image_.layers[number];
  LayerOutput output;
  output.fs_type = options_.fs_type;
  output.fs_bytes = fs_bytes_;
  output.turbo = options_.turbo_tag.has_value();
  if (options_.overlaybd_tag) {
    output.overlaybd_dir = options_.scratch_dir;
    output.overlaybd.uuid = ChainUuid(chain_ids_[number]);
    if (number > 0) output.overlaybd.parent_uuid = ChainUuid(chain_ids_[number - 1]);
  }
  LayerSource source{layer.digest, layer.bytes, layer.media_type, diff_ids_[number]};
  if (!scans_) return ScanLayer(number, source, output, order);
  auto known = scans_->Find(source);
  if (!known.ok()) Warn("what is known of layers cannot be read: " + known.error().message);
  if (known.ok() && *known && !options_.overlaybd_tag) {
    {
      std::lock_guard lock(mutex_);
      observer_->OnKnownLayer(number);
    }
    return LayerConverter::Replay(source, output, number, order, std::move(**known));
  }
  output.scan = known.ok() && !*known;
  FASTOCI_TRY(LayerResult result, ScanLayer(number, source, output, order));
  if (result.scan) {
    Status kept = scans_->Put(source, *result.scan);
    if (!kept.ok()) Warn("what is known of layers cannot be kept: " + kept.error().message);
  }
  return result;
}

Result<LayerResult> ImageConverter::ScanLayer(size_t number, const LayerSource& source,
                                              const LayerOutput& output, LayerOrder* order) {
  FASTOCI_TRY(auto converter, LayerConverter::Create(source, output, number, order));
  uint64_t done = 0;
  FASTOCI_CHECK_OK(store_->GetBlob(source.digest, source.bytes, [&](ByteSpan data) {
    done += data.size();
    {
      std::lock_guard lock(mutex_);
      observer_->OnLayer(number, done);
    }
    return converter->Update(data);
  }));
  return converter->Finish();
}

Status ImageConverter::StoreMeta(size_t number, const LayerResult& result) {
  const PackedMetaLayer& packed = *result.meta;
  ConvertedLayer& out = turbo_[number];
  out.made = {"", DigestString(packed.digest), packed.data.size()};
  out.diff_id = DigestString(packed.diff_id);
  out.target = image_.layers[number];
  FASTOCI_CHECK_OK(Dump(MetaLayerName(number), packed.data));
  if (options_.store) {
    Status s = store_->PutBlob(out.made.digest, packed.data);
    if (!s.ok()) return s.error().Wrap("store the meta layer");
  }
  if (!result.beyond_turbo.empty())
    Warn("layer " + std::to_string(number + 1) + " " + result.beyond_turbo +
         ": overlaybd will not read it");
  std::lock_guard lock(mutex_);
  observer_->OnLayerDone(number, ImageFormat::kTurboOci, out, result.nr_entries);
  return OkStatus();
}

Status ImageConverter::StoreOverlaybd(size_t number, const LayerResult& result) {
  const PackedOverlaybdLayer& packed = *result.overlaybd;
  ConvertedLayer& out = overlaybd_[number];
  out.made = {"", DigestString(packed.digest), packed.bytes};
  out.diff_id = out.made.digest;
  out.target = image_.layers[number];
  overlaybd_digests_[number] = packed.chunk_digests;
  if (options_.store) {
    Status s = store_->PutBlob(out.made.digest, packed.bytes,
                               [&](uint64_t offset, std::span<uint8_t> data) {
                                 return PreadFull(packed.file.get(), data, offset, "overlaybd layer");
                               });
    if (!s.ok()) return s.error().Wrap("store the overlaybd layer");
  }
  std::lock_guard lock(mutex_);
  observer_->OnLayerDone(number, ImageFormat::kOverlaybd, out, result.nr_entries);
  return OkStatus();
}

Status ImageConverter::ConvertLayer(size_t number, LayerOrder* order) {
  FASTOCI_TRY(LayerResult result, BuildLayer(number, order));
  if (result.meta) FASTOCI_CHECK_OK(StoreMeta(number, result));
  return result.overlaybd ? StoreOverlaybd(number, result) : OkStatus();
}

// The lowest layers are begun first: LayerOrder relies on it.
Status ImageConverter::ConvertLayers(const std::vector<std::string>& diff_ids) {
  size_t n = image_.layers.size();
  diff_ids_ = diff_ids;
  chain_ids_ = ChainIds(diff_ids);
  turbo_.resize(n);
  overlaybd_.resize(n);
  overlaybd_digests_.resize(n);
  FASTOCI_TRY(Sha256Digest identity, ParseDigest(image_.layers[0].digest));
  FASTOCI_TRY(auto builder, base_ ? FsBuilder::CreateOn(*base_, identity)
                                  : FsBuilder::Create(options_.fs_type, identity, options_.fs_bytes));
  fs_bytes_ = builder->fs_bytes();
  LayerOrder order(builder.get());
  std::vector<Status> results = RunParallel(n, options_.concurrency, [&](size_t i) {
    Status s = ConvertLayer(i, &order);
    if (!s.ok()) order.Abort();
    return s;
  });
  // The cause, not what it ended.
  const Status* first = nullptr;
  size_t number = 0;
  for (size_t i = 0; i < n; i++) {
    if (results[i].ok() || (first != nullptr && results[i].error().err == ECANCELED)) continue;
    if (first != nullptr && first->error().err != ECANCELED) continue;
    first = &results[i];
    number = i;
  }
  if (first == nullptr) return OkStatus();
  return first->error().Wrap("layer " + std::to_string(number + 1) + " (" +
                             image_.layers[number].digest + ")");
}

Result<ConvertedLayer> ImageConverter::StoreBase(ImageFormat format) {
  FASTOCI_TRY(BaseLayer::Blob blob, base_->MakeBlob(format == ImageFormat::kOverlaybd));
  if (options_.store) {
    Status s = store_->PutBlob(blob.descriptor.digest, blob.descriptor.bytes,
                               [&](uint64_t offset, std::span<uint8_t> out) {
                                 return base_->ReadBlob(blob, offset, out);
                               });
    if (!s.ok()) return s.error().Wrap("store the base layer");
  }
  return ConvertedLayer{.made = blob.descriptor, .diff_id = blob.descriptor.digest, .target = {}, .base = true};
}

Result<ConvertedImage> ImageConverter::MakeManifest(ImageFormat format, const std::string& config,
                                                    const Manifest& original,
                                                    std::vector<ConvertedLayer> layers) {
  ConvertedImage out;
  out.format = format;
  out.layers = std::move(layers);
  if (base_) {
    FASTOCI_TRY(ConvertedLayer base, StoreBase(format));
    out.layers.insert(out.layers.begin(), std::move(base));
  }
  FASTOCI_TRY(std::string new_config, ConvertedConfig(config, out.layers));
  Descriptor config_descriptor{"", DigestString(Sha256::Of(AsBytes(new_config))), new_config.size()};
  ManifestOptions manifest_options;
  manifest_options.format = format;
  manifest_options.oci = options_.oci || options_.referrer;
  manifest_options.vsize_gib = fs_bytes_ >> 30;
  manifest_options.erofs = options_.fs_type == FsType::kErofs;
  if (options_.referrer)
    manifest_options.subject = {original.media_type, original.digest, original.body.size()};
  std::string body = ConvertedManifest(manifest_options, config_descriptor, out.layers);
  out.manifest = {ManifestMediaType(manifest_options.oci), DigestString(Sha256::Of(AsBytes(body))),
                  body.size()};
  std::string prefix = format == ImageFormat::kOverlaybd && options_.turbo_tag ? "overlaybd." : "";
  FASTOCI_CHECK_OK(Dump(prefix + "config.json", AsBytes(new_config)));
  FASTOCI_CHECK_OK(Dump(prefix + "manifest.json", AsBytes(body)));
  if (!options_.store) return out;
  FASTOCI_CHECK_OK(store_->PutBlob(config_descriptor.digest, AsBytes(new_config)));
  FASTOCI_TRY(std::string digest, store_->PutManifest("", out.manifest.media_type, body));
  if (digest != out.manifest.digest) return MismatchError("the store made " + digest + " of the manifest");
  return out;
}

Status ImageConverter::StoreDigests(const ConvertedImage& image, const std::vector<Bytes>& lists) {
  std::vector<Descriptor> digests;
  std::vector<ConvertedLayer> layers;
  for (size_t i = 0; i < lists.size(); i++) {
    if (lists[i].empty()) continue;  // a base layer that takes none
    layers.push_back(image.layers[i]);
    digests.push_back({"", DigestString(Sha256::Of(lists[i])), lists[i].size()});
    FASTOCI_CHECK_OK(store_->PutBlob(digests.back().digest, lists[i]));
  }
  if (layers.empty()) return OkStatus();
  std::string empty = kEmptyConfig;
  FASTOCI_CHECK_OK(store_->PutBlob(DigestString(Sha256::Of(AsBytes(empty))), AsBytes(empty)));
  std::string body = DigestsManifest(image.manifest, layers, digests);
  auto put = store_->PutManifest("", ManifestMediaType(true), body);
  return put.ok() ? OkStatus() : Status(put.error().Wrap("store the chunk digests"));
}

Result<std::vector<ConvertedImage>> ImageConverter::Run(const Manifest& manifest) {
  FASTOCI_TRY(image_, ParseOriginalManifest(manifest.body));
  FASTOCI_TRY(std::string config, store_->ReadBlob(image_.config.digest, kMaxConfigBytes));
  FASTOCI_TRY(std::vector<std::string> diff_ids, DiffIds(config));
  if (diff_ids.size() != image_.layers.size())
    return MismatchError("manifest and config disagree about the number of layers");
  observer_->OnImage(image_);
  if (!options_.base_layer.empty()) {
    if (image_.layers.size() >= kMaxAssembleLayers)
      return InvalidError("with a base layer the image has more layers than can be stacked (" +
                          std::to_string(kMaxAssembleLayers) + ")");
    FASTOCI_TRY(base_, BaseLayer::Open(options_.base_layer));
  }
  if (!options_.scan_dir.empty()) {
    FASTOCI_TRY(scans_, ScanStore::Open(options_.scan_dir));
  }
  FASTOCI_CHECK_OK(ConvertLayers(diff_ids));
  std::vector<ConvertedImage> made;
  std::vector<Bytes> base_digests;
  if (base_ && options_.store) {
    FASTOCI_TRY(Bytes list, base_->ChunkDigests());
    base_digests.push_back(std::move(list));
  }
  if (options_.turbo_tag) {
    FASTOCI_TRY(auto image, MakeManifest(ImageFormat::kTurboOci, config, manifest, turbo_));
    if (options_.store) FASTOCI_CHECK_OK(StoreDigests(image, base_digests));
    made.push_back(std::move(image));
  }
  if (options_.overlaybd_tag) {
    FASTOCI_TRY(auto image, MakeManifest(ImageFormat::kOverlaybd, config, manifest, overlaybd_));
    overlaybd_digests_.insert(overlaybd_digests_.begin(), base_digests.begin(), base_digests.end());
    if (options_.store) FASTOCI_CHECK_OK(StoreDigests(image, overlaybd_digests_));
    made.push_back(std::move(image));
  }
  return made;
}

// The images of an index, and an index for each format.
class IndexConverter {
 public:
  IndexConverter(ImageStore* store, const ConvertOptions& options, ConvertObserver* observer)
      : store_(store), options_(options), observer_(observer) {}

  Result<std::vector<ConvertedImage>> Run(const Manifest& index,
                                          const std::vector<IndexEntry>& entries) {
    std::vector<ConvertedImage> all;
    std::vector<std::vector<Descriptor>> replaced;  // per format
    for (size_t i = 0; i < entries.size(); i++) {
      const IndexEntry& e = entries[i];
      if (e.attestation) continue;
      if (!e.os.empty() && e.os != "linux") {
        observer_->OnWarning("the image for " + e.os + "/" + e.arch + " stays as it is");
        continue;
      }
      FASTOCI_TRY(Manifest child, store_->GetManifest(e.descriptor.digest));
      auto made = ImageConverter(store_, options_, observer_).Run(child);
      if (!made.ok()) return made.error().Wrap("the image for " + e.os + "/" + e.arch);
      all.resize(made->size());
      replaced.resize(made->size(), std::vector<Descriptor>(entries.size()));
      for (size_t f = 0; f < made->size(); f++) {
        replaced[f][i] = (*made)[f].manifest;
        all[f].format = (*made)[f].format;
        for (ConvertedLayer& layer : (*made)[f].layers) all[f].layers.push_back(std::move(layer));
      }
    }
    if (all.empty()) return NotFoundError("the index has no image for linux");
    bool oci = options_.oci || options_.referrer;
    Descriptor subject;
    if (options_.referrer) subject = {index.media_type, index.digest, index.body.size()};
    for (size_t f = 0; f < all.size(); f++) {
      FASTOCI_TRY(std::string body, ConvertedIndex(index.body, replaced[f], oci, subject,
                                                   ArtifactType(all[f].format)));
      all[f].manifest = {IndexMediaType(oci), DigestString(Sha256::Of(AsBytes(body))), body.size()};
      if (options_.dump) FASTOCI_CHECK_OK(options_.dump("index.json", AsBytes(body)));
      if (!options_.store) continue;
      FASTOCI_TRY(std::string digest, store_->PutManifest("", IndexMediaType(oci), body));
    }
    return all;
  }

 private:
  ImageStore* store_;
  const ConvertOptions& options_;
  ConvertObserver* observer_;
};

// Tags what was made, and sees to it that the original's layers stay.
Status Tag(ImageStore* store, const ConvertOptions& options, const Manifest& original,
           const std::vector<ConvertedImage>& images, ConvertObserver* observer) {
  for (const ConvertedImage& image : images) {
    bool turbo = image.format == ImageFormat::kTurboOci;
    const std::string& tag = turbo ? *options.turbo_tag : *options.overlaybd_tag;
    if (turbo && store->collects_garbage()) {
      Status kept = KeepOriginal(store, tag, original);
      if (!kept.ok())
        observer->OnWarning("the registry may delete the original's layers when its tag goes: " +
                            kept.error().message);
    }
    if (tag.empty()) continue;
    FASTOCI_TRY(Manifest made, store->GetManifest(image.manifest.digest));
    FASTOCI_TRY(std::string digest, store->PutManifest(tag, image.manifest.media_type, made.body));
  }
  return OkStatus();
}

}  // namespace

Result<std::vector<ConvertedImage>> ConvertImage(ImageStore* store, const ConvertOptions& options,
                                                 ConvertObserver* observer) {
  FASTOCI_TRY(Manifest manifest, store->GetManifest(options.source));
  FASTOCI_TRY(auto index, ParseIndex(manifest.body));
  if (index && !options.arch.empty()) {
    auto e = std::find_if(index->begin(), index->end(), [&](const IndexEntry& entry) {
      return entry.os == "linux" && entry.arch == options.arch;
    });
    if (e == index->end())
      return NotFoundError("the image has no manifest for linux/" + options.arch);
    FASTOCI_TRY(manifest, store->GetManifest(e->descriptor.digest));
    index.reset();
  }
  std::vector<ConvertedImage> images;
  if (index) {
    FASTOCI_TRY(images, IndexConverter(store, options, observer).Run(manifest, *index));
  } else {
    FASTOCI_TRY(images, ImageConverter(store, options, observer).Run(manifest));
  }
  if (options.store) FASTOCI_CHECK_OK(Tag(store, options, manifest, images, observer));
  return images;
}

}  // namespace fastoci
