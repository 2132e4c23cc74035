// SPDX-License-Identifier: Apache-2.0
#include "image/image_converter.h"

#include <algorithm>
#include <cstdio>

#include "base/digest.h"
#include "base/mutex.h"
#include "base/parallel.h"
#include "base/unique_fd.h"
#include "image/assemble.h"
#include "image/base_layer.h"
#include "image/layer_converter.h"
#include "image/platform.h"

namespace fastoci {
namespace {

constexpr size_t kUuidDigits = 32;
constexpr size_t kMaxOverlaybdLayers = 255;

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

std::vector<std::string> ChainIds(const std::vector<std::string>& diff_ids) {
  std::vector<std::string> chain;
  for (const std::string& id : diff_ids) chain.push_back(ChainId(chain.empty() ? "" : chain.back(), id));
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
  void SetTarget(size_t number, const LayerResult& result, ConvertedLayer* out);
  void WarnOfMediaType(size_t number, const LayerResult& result);
  Status StoreMeta(size_t number, const LayerResult& result);
  Status StoreOverlaybd(size_t number, const LayerResult& result);
  Result<ConvertedImage> MakeManifest(ImageFormat format, const std::string& config,
                                      const Manifest& original, std::vector<ConvertedLayer> layers);
  Result<ConvertedLayer> StoreBase(ImageFormat format);
  Status MakeEmptyRoot();
  Status StoreNative(const PackedOverlaybdLayer& packed);
  // Of the image's lowest native layers, as many as there are lists.
  Status StoreDigests(const ConvertedImage& image, const std::vector<Bytes>& lists);
  Status Dump(const std::string& name, ByteSpan data) {
    MutexLock lock(mutex_);
    return options_.dump ? options_.dump(name, data) : OkStatus();
  }
  void Warn(const std::string& text) {
    MutexLock lock(mutex_);
    observer_->OnWarning(text);
  }

  ImageStore* store_;
  const ConvertOptions& options_;
  Mutex mutex_;  // held while the observer and options_.dump are called
  ConvertObserver* const observer_ PT_GUARDED_BY(mutex_);
  std::optional<ScanStore> scans_;
  std::unique_ptr<BaseLayer> base_;  // null: none
  std::optional<PackedOverlaybdLayer> empty_root_;  // of an image without layers and base_
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
  if (!known.ok()) Warn("what --store knows of a layer cannot be read: " + known.error().message);
  if (known.ok() && *known && !options_.overlaybd_tag) {
    {
      MutexLock lock(mutex_);
      observer_->OnKnownLayer(number);
    }
    return LayerConverter::Replay(source, output, number, order, std::move(**known));
  }
  output.scan = known.ok() && !*known;
  FASTOCI_TRY(LayerResult result, ScanLayer(number, source, output, order));
  if (result.scan) {
    Status kept = scans_->Put(source, *result.scan);
    if (!kept.ok()) Warn("what was learned of a layer cannot be stored (--store): " + kept.error().message);
  }
  return result;
}

Result<LayerResult> ImageConverter::ScanLayer(size_t number, const LayerSource& source,
                                              const LayerOutput& output, LayerOrder* order) {
  FASTOCI_TRY(auto converter, LayerConverter::Create(source, output, number, order));
  uint64_t done = 0;
  Status got = store_->GetBlob(source.digest, source.bytes, [&](ByteSpan data) {
    done += data.size();
    {
      MutexLock lock(mutex_);
      observer_->OnLayer(number, done);
    }
    return converter->Update(data);
  });
  if (!got.ok()) {
    order->Abort();  // the converter's thread may wait there
    return got.error();
  }
  return converter->Finish();
}

// The target, with the media type of its bytes, which may differ from the manifest's.
void ImageConverter::SetTarget(size_t number, const LayerResult& result, ConvertedLayer* out) {
  out->target = image_.layers[number];
  out->target.media_type = result.target_media_type;
}

void ImageConverter::WarnOfMediaType(size_t number, const LayerResult& result) {
  const std::string& said = image_.layers[number].media_type;
  const auto codec = CodecOfMediaType(said), is = CodecOfMediaType(result.target_media_type);
  if (codec.ok() && is.ok() && *codec == *is) return;
  Warn("layer " + std::to_string(number + 1) + " has the media type '" + said + "', but its bytes are " +
       result.target_media_type.substr(result.target_media_type.rfind('.') + 1) + ", and it is converted as such");
}

Status ImageConverter::StoreMeta(size_t number, const LayerResult& result) {
  const PackedMetaLayer& packed = *result.meta;
  ConvertedLayer& out = turbo_[number];
  out.made = {"", DigestString(packed.digest), packed.data.size()};
  out.diff_id = DigestString(packed.diff_id);
  SetTarget(number, result, &out);
  out.beyond_turbo = !result.beyond_turbo.empty();
  FASTOCI_CHECK_OK(Dump(MetaLayerName(number), packed.data));
  if (options_.store) {
    Status s = store_->PutBlob(out.made.digest, packed.data);
    if (!s.ok()) return s.error().Wrap("store the meta layer");
  }
  if (!result.beyond_turbo.empty())
    Warn("layer " + std::to_string(number + 1) + " " + result.beyond_turbo +
         ": overlaybd will not read it");
  MutexLock lock(mutex_);
  observer_->OnLayerDone(number, ImageFormat::kTurboOci, out, result.nr_entries);
  return OkStatus();
}

Status ImageConverter::StoreOverlaybd(size_t number, const LayerResult& result) {
  const PackedOverlaybdLayer& packed = *result.overlaybd;
  ConvertedLayer& out = overlaybd_[number];
  out.made = {"", DigestString(packed.digest), packed.bytes};
  out.diff_id = out.made.digest;
  SetTarget(number, result, &out);
  overlaybd_digests_[number] = packed.chunk_digests;
  if (options_.store) FASTOCI_CHECK_OK(StoreNative(packed));
  MutexLock lock(mutex_);
  observer_->OnLayerDone(number, ImageFormat::kOverlaybd, out, result.nr_entries);
  return OkStatus();
}

Status ImageConverter::ConvertLayer(size_t number, LayerOrder* order) {
  FASTOCI_TRY(LayerResult result, BuildLayer(number, order));
  WarnOfMediaType(number, result);
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
  if (n == 0) return base_ ? OkStatus() : MakeEmptyRoot();
  FASTOCI_TRY(Sha256Digest identity, ParseDigest(image_.layers[0].digest));
  FASTOCI_TRY(auto builder, base_ ? FsBuilder::CreateOn(*base_, identity)
                                  : FsBuilder::Create(options_.fs_type, identity, options_.fs_bytes));
  fs_bytes_ = builder->fs_bytes();
  builder->set_warn([this](const std::string& text) { Warn(text); });
  LayerOrder order(builder.get());
  std::vector<Status> results = RunParallel(n, options_.concurrency, [&](size_t i) {
    Status s = ConvertLayer(i, &order);
    if (!s.ok()) order.Abort();
    return s;
  });
  // The first cause, not the errors of layers that it stopped.
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

// An image without layers gets an empty root, as a native layer in both formats.
Status ImageConverter::MakeEmptyRoot() {
  const Sha256Digest identity = Sha256::Of({});
  FASTOCI_TRY(auto builder, FsBuilder::Create(options_.fs_type, identity, options_.fs_bytes));
  fs_bytes_ = builder->fs_bytes();
  builder->BeginLayer();
  FASTOCI_TRY(LsmtContent content, builder->FinishLayer());
  LsmtFileOptions file{.virtual_bytes = fs_bytes_, .uuid = ChainUuid(DigestString(identity)), .parent_uuid = "",
                       .pad_index = true};
  FASTOCI_CHECK_OK(MakeDirs(options_.scratch_dir));
  FASTOCI_TRY(auto writer, OverlaybdWriter::Create(options_.scratch_dir, file));
  FASTOCI_TRY(empty_root_, writer->Finish(content));
  return options_.store ? StoreNative(*empty_root_) : OkStatus();
}

Status ImageConverter::StoreNative(const PackedOverlaybdLayer& packed) {
  Status s = store_->PutBlob(DigestString(packed.digest), packed.bytes,
                             [&](uint64_t offset, std::span<uint8_t> data) {
                               return PreadFull(packed.file.get(), data, offset, "overlaybd layer");
                             });
  return s.ok() ? s : Status(s.error().Wrap("store the overlaybd layer"));
}

Result<ConvertedLayer> ImageConverter::StoreBase(ImageFormat format) {
  if (empty_root_) {
    const std::string digest = DigestString(empty_root_->digest);
    return ConvertedLayer{.made = {"", digest, empty_root_->bytes}, .diff_id = digest, .target = {}, .base = true};
  }

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
  if (base_ || empty_root_) {
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
  FASTOCI_TRY(std::string config, store_->ReadBlob(image_.config.digest, kMaxImageConfigBytes));
  FASTOCI_TRY(std::vector<std::string> diff_ids, DiffIds(config));
  if (diff_ids.size() != image_.layers.size())
    return MismatchError("manifest and config disagree about the number of layers");
  {
    MutexLock lock(mutex_);
    observer_->OnImage(image_);
  }
  if (!options_.base_layer.empty()) {
    if (image_.layers.size() >= kMaxAssembleLayers)
      return InvalidError("with a base layer the image has more layers than can be stacked (" +
                          std::to_string(kMaxAssembleLayers) + ")");
    FASTOCI_TRY(base_, BaseLayer::Open(options_.base_layer));
  }
  if (const size_t n = image_.layers.size() + (base_ ? 1 : 0); n > kMaxOverlaybdLayers)
    Warn("the image has " + std::to_string(n) + " layers, and overlaybd stacks at most " +
         std::to_string(kMaxOverlaybdLayers) + ": overlaybd will not read it");
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
  if (empty_root_) base_digests.push_back(empty_root_->chunk_digests);
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

}  // namespace

Result<std::vector<ConvertedImage>> ConvertOneImage(ImageStore* store, const ConvertOptions& options,
                                                    ConvertObserver* observer,
                                                    const Manifest& manifest) {
  return ImageConverter(store, options, observer).Run(manifest);
}

}  // namespace fastoci
