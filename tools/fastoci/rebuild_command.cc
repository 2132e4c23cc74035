// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/rebuild_command.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "attach/manifest.h"
#include "image/convert.h"
#include "image/meta_layer.h"
#include "image/platform.h"
#include "tools/fastoci/output.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

class ConvertProgress : public ConvertObserver {
 public:
  explicit ConvertProgress(Progress* progress) : progress_(progress) {}
  void OnImage(const OriginalImage& image) override {
    total_ = 0;
    for (const Descriptor& layer : image.layers) total_ += layer.bytes;
    done_.assign(image.layers.size(), 0);
    progress_->Step("converting " + std::to_string(image.layers.size()) + " layers again");
  }
  void OnLayer(size_t number, uint64_t blob_bytes_done) override {
    done_[number] = blob_bytes_done;
    uint64_t all = 0;
    for (uint64_t done : done_) all += done;
    progress_->Bytes(all, total_);
  }
  void OnKnownLayer(size_t) override {}
  void OnLayerDone(size_t, ImageFormat, const ConvertedLayer&, uint64_t) override {}
  void OnWarning(const std::string& text) override { progress_->Warn(text); }

 private:
  Progress* progress_;
  uint64_t total_ = 0;
  std::vector<uint64_t> done_;
};

// Takes the options from how the image's first layer was made. The other layers cannot
// differ. report: from InspectImage(), whose parser of hostile bytes is in a sandbox.
Status LikeIn(const std::string& report, ConvertOptions* options) {
  const Json layers = Json::parse(report, nullptr, false);
  if (!layers.is_array() || layers.empty() || !layers[0].is_object())
    return InvalidError("the decoder's report about its layers is damaged");
  const Json& first = layers[0];
  if (auto error = first.find("error"); error != first.end() && error->is_string())
    return InvalidError(error->get<std::string>());
  if (first.value("kind", Json()) != "turboOCI")
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP, "only FastOCI images can be rebuilt"};
  options->turbo_tag = "";
  auto parts = first.find("parts");
  for (const bool own_name : {false, true})
    if (parts != first.end() && parts->contains(FsMetaName(FsType::kErofs, own_name)))
      options->fs_type = FsType::kErofs;
  auto bytes = first.find("device_bytes");
  if (bytes == first.end() || !bytes->is_number_unsigned() || *bytes < kMinFsBytes ||
      *bytes > kMaxFsBytes)
    return MismatchError("its device has a size that the convertor cannot make");
  options->fs_bytes = *bytes;
  return OkStatus();
}

// Returns the number of layers, if all are the same; otherwise an error.
Result<size_t> Rebuild(const std::string& image, const std::string& original,
                       const RegistryAccess& access, Progress* progress) {
  FASTOCI_TRY(NamedImage made, OpenImageStore(image, access, false));
  FASTOCI_TRY(NamedImage from, OpenImageStore(original, access, false));
  FASTOCI_TRY(Manifest named, made.store->GetManifest(made.name));
  FASTOCI_TRY(Manifest manifest, ManifestOfPlatform(named, HostPlatform(), ReaderOf(made.store.get())));
  FASTOCI_TRY(FastociManifest fastoci, ParseFastociManifest(manifest.body));
  const std::vector<MetaLayer>& wanted = fastoci.layers;
  FASTOCI_TRY(std::string report, InspectImage(image, access, progress));
  ConvertOptions options;
  FASTOCI_CHECK_OK(LikeIn(report, &options));
  options.source = from.name;
  options.platform = HostPlatform();
  options.store = false;
  ConvertProgress observer(progress);
  FASTOCI_TRY(auto images, ConvertImage(from.store.get(), options, &observer));
  const std::vector<ConvertedLayer>& layers = images.at(0).layers;
  if (layers.size() != wanted.size())
    return MismatchError("it has " + std::to_string(wanted.size()) + " layers, but the original has " +
                         std::to_string(layers.size()));
  for (size_t i = 0; i < layers.size(); i++)
    if (layers[i].made.digest != wanted[i].digest)
      return MismatchError("layer " + std::to_string(i + 1) + " is " + wanted[i].digest + ", but " +
                           layers[i].made.digest + " is made from the original's " +
                           layers[i].target.digest +
                           ": either another version of the convertor made it, or it does not say what the original says");
  return layers.size();
}

}  // namespace

int RunRebuild(const std::string& image, const std::string& original, const RegistryAccess& access,
               Progress* progress, bool json) {
  auto same = Rebuild(image, original, access, progress);
  if (!same.ok()) return PrintError(same.error(), json);
  if (json)
    PrintJson({{"image", image}, {"original", original}, {"same_layers", *same}});
  else
    std::printf("%s: its %zu layers are what the convertor makes of %s\n", image.c_str(), *same,
                original.c_str());
  return kExitOk;
}

}  // namespace fastoci
