// SPDX-License-Identifier: Apache-2.0
// ExportSeed(): manifests and meta layers from the registry, data from the cache device.
//
// The data is read from the slots, while the helper goes on. A chunk may be evicted meanwhile, and
// its slot may get another one. So each piece is compared with its digest after it was read, and is
// left out if it differs.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <map>
#include <optional>

#include "attach/seed.h"
#include "attach/seed_chunks.h"
#include "base/durable.h"
#include "base/format.h"
#include "cache/cache_device.h"
#include "image/copy.h"
#include "image/meta_image_file.h"
#include "image/seed_data.h"
#include "verify/chunk_check.h"

namespace fastoci {
namespace {

// A directory that is deleted with what is in it, unless it was published.
class NewDirectory {
 public:
  static Result<NewDirectory> Make(const std::string& path) {
    std::error_code error;
    if (std::filesystem::exists(path, error) && !std::filesystem::is_empty(path, error))
      return Error{ErrorKind::kIo, EEXIST, path + " is there already; a seed is written once"};
    NewDirectory directory;
    directory.path_ = path;
    while (directory.path_.size() > 1 && directory.path_.ends_with('/')) directory.path_.pop_back();
    std::string made = directory.path_ + ".tmp.XXXXXX";
    if (::mkdtemp(made.data()) == nullptr) return ErrnoError("make a directory beside " + path);
    directory.made_ = std::move(made);
    if (::chmod(directory.made_.c_str(), 0755) != 0) return ErrnoError(directory.made_);
    return directory;
  }
  NewDirectory(NewDirectory&& other) noexcept
      : path_(std::move(other.path_)), made_(std::exchange(other.made_, "")) {}
  ~NewDirectory() {
    std::error_code ignored;
    if (!made_.empty()) std::filesystem::remove_all(made_, ignored);
  }
  const std::string& made() const { return made_; }
  Status Finish() {
    const UniqueFd fd(::open(made_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd.valid()) return ErrnoError(made_);
    FASTOCI_CHECK_OK(Publish(fd, made_, path_));
    made_.clear();
    return OkStatus();
  }

 private:
  NewDirectory() = default;
  std::string path_, made_;
};

class Exporter {
 public:
  Exporter(const AttachPaths& paths, const SeedExportRequest& request, Progress* progress)
      : paths_(paths), request_(request), progress_(*progress) {}

  Result<std::vector<SeedImage>> Run() {
    FASTOCI_TRY(const std::vector<ImageReport> images, Find());
    FASTOCI_TRY(NewDirectory directory, NewDirectory::Make(request_.directory));
    directory_ = directory.made();
    FASTOCI_TRY(to_, OpenLayoutStore(directory_, true));
    std::vector<SeedImage> out;
    for (const ImageReport& image : images) {
      auto exported = Export(image);
      if (!exported.ok()) return exported.error().Wrap(image.name);
      out.push_back(std::move(*exported));
    }
    to_ = nullptr;
    FASTOCI_CHECK_OK(directory.Finish());
    return out;
  }

 private:
  Result<std::vector<ImageReport>> Find() {
    std::vector<ImageReport> images;
    for (const std::string& what : request_.images) {
      FASTOCI_TRY(ImageReport image, FindImage(paths_, what));
      images.push_back(std::move(image));
    }
    if (request_.images.empty()) {
      FASTOCI_TRY(auto all, ListImages(paths_));
      for (ImageReport& image : all)
        if (image.attached) images.push_back(std::move(image));
    }
    if (images.empty()) return NotFoundError("no image is attached, so there is nothing to export");
    for (const ImageReport& image : images) {
      if (!image.status) return NotFoundError(image.name + " is not attached; attach it first: fastoci attach");
      if (image.state.ref.empty() || ParseLayoutName(image.state.ref))
        return Error{ErrorKind::kUnsupported, EOPNOTSUPP,
                     image.name + " was not attached from a registry, which a seed needs for its manifest and meta layers"};
    }
    return images;
  }

  Result<SeedImage> Export(const ImageReport& image) {
    if (request_.all) {
      auto fetched = PrefetchImage(paths_, image, true, &progress_);
      if (!fetched.ok()) return fetched.error();
    }
    FASTOCI_TRY(const Descriptor manifest, CopyManifest(image));
    FASTOCI_TRY(const MetaImage meta, ReadMetaImageFile(image.state.meta_path));
    SeedImage out{.name = image.name, .ref = image.state.ref, .manifest_digest = manifest.digest};
    SeedConfig config{.ref = image.state.ref, .layers = {}};
    std::vector<SeedManifest::Data> data;
    progress_.Step("copying what is cached of " + image.name);
    done_ = 0;
    for (size_t i = 0; i < meta.blobs.size(); i++) {
      const BlobInfo& blob = meta.blobs[i];
      config.layers.push_back({DigestString(blob.blob_digest), blob.blob_bytes});
      out.data_bytes += blob.data_bytes;
      if (blob.digests.empty()) {
        progress_.Warn(image.name + ": layer " + std::to_string(i + 1) +
                       " has no chunk digests to check an import with: its data is not in the seed");
        continue;
      }
      FASTOCI_TRY(const Written written, ExportSpace(image, blob));
      if (written.bytes == 0) continue;
      out.seeded_bytes += written.bytes;
      if (std::none_of(data.begin(), data.end(), [&](const auto& d) { return d.space_id == blob.data_space_id; }))
        data.push_back({written.file, blob.data_space_id});
    }
    const std::string text = SeedConfigText(config);
    const Descriptor described = {kSeedConfigType, DigestString(Sha256::Of(AsBytes(text))), text.size()};
    FASTOCI_CHECK_OK(to_->PutBlob(described.digest, AsBytes(text)));
    auto put = to_->PutManifest("", ManifestMediaType(true),
                                SeedManifestText(manifest, described, data, UtcTime(std::time(nullptr))));
    if (!put.ok()) return put.error();
    return out;
  }

  // From the registry, by the digest that attach has verified.
  Result<Descriptor> CopyManifest(const ImageReport& image) {
    progress_.Step("getting manifest and meta layers of " + image.state.ref);
    RegistryAccess access = request_.access;
    std::vector<UniqueFd> files;
    if (!access.given()) {
      auto kept = ReadAccess(paths_.state_dir, image.name);
      if (!kept.ok() && kept.error().kind != ErrorKind::kNotFound) return kept.error();
      if (kept.ok()) FASTOCI_CHECK_OK(UseAccess(*kept, &access, &files));
    }
    FASTOCI_TRY(const NamedImage from, OpenImageStore(image.state.ref, access, false));
    CopyOptions options;
    options.originals = false;
    options.signatures = true;
    options.scratch_dir = directory_;
    options.warn = [this](const std::string& warning) { progress_.Warn(warning); };
    const std::string& digest = image.state.manifest_digest;
    FASTOCI_TRY(const Manifest manifest, from.store->GetManifest(digest));
    FASTOCI_TRY(const std::string copied,
                CopyImage(from.store.get(), digest, to_.get(), image.state.ref, options));
    return Descriptor{manifest.media_type, copied, manifest.body.size()};
  }

  struct Written {
    Descriptor file;
    uint64_t bytes = 0;  // of the data space
  };
  // Images that share a data space share the file.
  Result<Written> ExportSpace(const ImageReport& image, const BlobInfo& blob) {
    if (auto known = written_.find(blob.data_space_id); known != written_.end()) return known->second;
    FASTOCI_TRY(const CachedChunks cached,
                AskCachedChunks(paths_.control_socket, image.status->image_id, blob.data_space_id));
    Written written;
    if (!cached.runs.empty()) {
      FASTOCI_CHECK_OK(OpenDevice(cached.device));
      std::string made;
      FASTOCI_TRY(const UniqueFd fd, CreateBeside(LayoutBlobPath(directory_, "data"), 0644, &made));
      SeedDataWriter writer(fd.get());
      for (const ChunkRun& run : cached.runs)
        for (uint32_t i = 0; i < run.count; i++)
          FASTOCI_CHECK_OK(CopyChunk(image, blob, run.chunk_no + i, run.slot + i, &writer));
      written.bytes = writer.nr_bytes();
      FASTOCI_TRY(const SeedDataWriter::Written file, writer.Finish(blob.data_space_id, blob.data_bytes));
      written.file = {kSeedDataType, file.digest, file.bytes};
      FASTOCI_CHECK_OK(Publish(fd, made, LayoutBlobPath(directory_, file.digest)));
    }
    written_[blob.data_space_id] = written;
    return written;
  }

  Status OpenDevice(const std::string& path) {
    if (device_ && device_->path() == path) return OkStatus();
    FASTOCI_TRY(device_, CacheDevice::Open(path));
    buffer_.emplace(device_->chunk_bytes());
    if (!buffer_->ok()) return ErrnoError("memory for a chunk", ENOMEM);
    return OkStatus();
  }

  // A chunk that is not there any more, or cannot be read, is one that is not cached.
  Status CopyChunk(const ImageReport& image, const BlobInfo& blob, uint32_t chunk_no, uint32_t slot,
                   SeedDataWriter* writer) {
    const size_t bytes = DataBytesOfChunk(blob, chunk_no, device_->chunk_bytes());
    if (!device_->ReadSlot(slot, buffer_->span()).ok() || !CheckChunk(blob, chunk_no, buffer_->span()))
      return OkStatus();
    const uint64_t first = chunk_no * device_->chunk_bytes() / kSeedPieceBytes;
    for (size_t at = 0; at < bytes; at += kSeedPieceBytes)
      FASTOCI_CHECK_OK(writer->Add(static_cast<uint32_t>(first + at / kSeedPieceBytes),
                                   buffer_->span().subspan(at, std::min<size_t>(kSeedPieceBytes, bytes - at))));
    done_ += bytes;
    progress_.Bytes(done_, image.status->chunks_cached * device_->chunk_bytes());
    return OkStatus();
  }

  const AttachPaths& paths_;
  const SeedExportRequest& request_;
  Progress& progress_;
  std::string directory_;
  std::unique_ptr<ImageStore> to_;
  std::unique_ptr<CacheDevice> device_;
  std::optional<AlignedBuffer> buffer_;
  std::map<Sha256Digest, Written> written_;
  uint64_t done_ = 0;  // of the image
};

}  // namespace

Result<std::vector<SeedImage>> ExportSeed(const AttachPaths& paths, const SeedExportRequest& request,
                                          Progress* progress) {
  return Exporter(paths, request, progress).Run();
}

}  // namespace fastoci
