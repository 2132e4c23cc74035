// SPDX-License-Identifier: Apache-2.0
#include "image/convert.h"

#include <algorithm>

#include "base/digest.h"
#include "image/copy.h"
#include "image/image_converter.h"
#include "image/platform.h"

namespace fastoci {
namespace {

// The images of an index, and an index for each format. An index within it is replaced
// by what is made of it. Entries that are not images for Linux stay as they are.
class IndexConverter {
 public:
  IndexConverter(ImageStore* store, const ConvertOptions& options, ConvertObserver* observer)
      : store_(store), options_(options), observer_(observer) {}

  // Nothing if there is no image in it.
  Result<std::vector<ConvertedImage>> Run(const Manifest& index, const std::vector<IndexEntry>& entries, int depth) {
    std::vector<ConvertedImage> all;
    std::vector<std::vector<Descriptor>> replaced;  // per format
    for (size_t i = 0; i < entries.size(); i++) {
      auto made = ConvertEntry(entries[i], depth);
      if (!made.ok()) return made.error().Wrap("the image for " + NameOf(entries[i]));
      if (made->empty()) continue;
      all.resize(made->size());
      replaced.resize(made->size(), std::vector<Descriptor>(entries.size()));
      for (size_t f = 0; f < made->size(); f++) {
        replaced[f][i] = (*made)[f].manifest;
        all[f].format = (*made)[f].format;
        for (ConvertedLayer& layer : (*made)[f].layers) all[f].layers.push_back(std::move(layer));
      }
    }
    for (size_t f = 0; f < all.size(); f++) FASTOCI_CHECK_OK(MakeIndex(index, replaced[f], depth, &all[f]));
    return all;
  }

 private:
  static std::string NameOf(const IndexEntry& e) {
    return e.os.empty() && e.arch.empty() ? e.descriptor.digest : e.os + "/" + e.arch;
  }

  Result<std::vector<ConvertedImage>> ConvertEntry(const IndexEntry& e, int depth) {
    const std::vector<ConvertedImage> nothing;
    if (e.attestation || !IsManifestType(e.descriptor.media_type)) return nothing;
    if (!e.os.empty() && e.os != "linux") {
      observer_->OnWarning("the image for " + NameOf(e) + " is not converted");
      return nothing;
    }
    FASTOCI_TRY(Manifest child, store_->GetManifest(e.descriptor.digest));
    FASTOCI_TRY(auto inner, ParseIndex(child.body));
    if (inner) {
      if (depth + 1 == kMaxIndexDepth) return InvalidError("indexes within indexes");
      return Run(child, *inner, depth + 1);
    }
    if (!IsImageManifest(child.body)) return nothing;
    return ConvertOneImage(store_, options_, observer_, child);
  }

  Status MakeIndex(const Manifest& index, const std::vector<Descriptor>& replaced, int depth, ConvertedImage* image) {
    const bool oci = options_.oci || options_.referrer;
    Descriptor subject;
    if (options_.referrer) subject = {index.media_type, index.digest, index.body.size()};
    FASTOCI_TRY(std::string body,
                ConvertedIndex(index.body, replaced, oci, subject, ArtifactType(image->format)));
    image->manifest = {IndexMediaType(oci), DigestString(Sha256::Of(AsBytes(body))), body.size()};
    if (options_.dump && depth == 0) FASTOCI_CHECK_OK(options_.dump("index.json", AsBytes(body)));
    if (!options_.store) return OkStatus();
    auto stored = store_->PutManifest("", IndexMediaType(oci), body);
    return stored.ok() ? OkStatus() : Status(stored.error());
  }

  ImageStore* store_;
  const ConvertOptions& options_;
  ConvertObserver* observer_;
};

// Tags the results, and stores what keeps the original's layers in the registry.
Status Tag(ImageStore* store, const ConvertOptions& options, const Manifest& original,
           const std::vector<ConvertedImage>& images, ConvertObserver* observer) {
  for (const ConvertedImage& image : images) {
    bool turbo = image.format == ImageFormat::kTurboOci;
    const std::string& tag = turbo ? *options.turbo_tag : *options.overlaybd_tag;
    if (turbo && store->collects_garbage()) {
      Status kept = KeepOriginal(store, tag, original);
      if (!kept.ok())
        observer->OnWarning("the registry may delete the original's layers when its tag is deleted: " +
                            kept.error().message);
    }
    if (tag.empty()) continue;
    FASTOCI_TRY(Manifest made, store->GetManifest(image.manifest.digest));
    FASTOCI_TRY(std::string digest, store->PutManifest(tag, image.manifest.media_type, made.body));
  }
  return OkStatus();
}

// Of an image that is no index.
Status CheckPlatform(const Manifest& image, const ConvertOptions& options, const ManifestReader& reader,
                     ConvertObserver* observer) {
  if (!IsImageManifest(image.body)) return OkStatus();  // the conversion says what it is
  FASTOCI_TRY(const Platform is, PlatformOf(image, reader));
  const Platform wanted = options.platform_demanded ? options.platform : HostPlatform();
  if (wanted.Takes(is)) return OkStatus();
  if (options.platform_demanded) return MismatchError("the image is for " + is.Text() + ", not for " + wanted.Text());
  observer->OnWarning("the image is for " + is.Text() + ", and this machine is " + wanted.Text());
  return OkStatus();
}

}  // namespace

Result<std::vector<ConvertedImage>> ConvertImage(ImageStore* store, const ConvertOptions& options,
                                                 ConvertObserver* observer) {
  FASTOCI_TRY(Manifest manifest, store->GetManifest(options.source));
  FASTOCI_TRY(auto index, ParseIndex(manifest.body));
  if (!index) {
    FASTOCI_CHECK_OK(CheckPlatform(manifest, options, ReaderOf(store), observer));
  } else if (!options.platform.any()) {
    FASTOCI_TRY(manifest, ManifestOfPlatform(manifest, options.platform, ReaderOf(store)));
    index.reset();
  }
  std::vector<ConvertedImage> images;
  if (index) {
    FASTOCI_TRY(images, IndexConverter(store, options, observer).Run(manifest, *index, 0));
    if (images.empty()) return NotFoundError("the index has no image for Linux");
  } else {
    FASTOCI_TRY(images, ConvertOneImage(store, options, observer, manifest));
  }
  if (options.store) FASTOCI_CHECK_OK(Tag(store, options, manifest, images, observer));
  return images;
}

}  // namespace fastoci
