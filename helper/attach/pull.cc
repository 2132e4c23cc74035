// SPDX-License-Identifier: Apache-2.0
#include "attach/pull.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <list>
#include <mutex>
#include <utility>

#include "attach/overlaybd_config.h"
#include "attach/signature.h"
#include "base/digest.h"
#include "base/parallel.h"
#include "base/unique_fd.h"
#include "image/assemble_sandbox.h"
#include "image/meta_layer.h"
#include "image/oci_image.h"

namespace fastoci {
namespace {

constexpr size_t kHashBuffer = 1 << 20;
constexpr off_t kMaxReportBytes = 4 << 20;
constexpr size_t kMaxDigestArtifacts = 16;  // that are looked at
constexpr size_t kNrRequests = 4;           // at a time
constexpr char kDecoderName[] = "fastoci-decoderd";

// The decoder beside this program, or where packages put it.
Result<std::string> FindDecoder(const std::string& named) {
  if (!named.empty()) return named;
  char self[4096];
  ssize_t n = ::readlink("/proc/self/exe", self, sizeof(self) - 1);
  std::string beside(self, n > 0 ? static_cast<size_t>(n) : 0);
  beside = beside.substr(0, beside.rfind('/') + 1) + kDecoderName;
  for (const std::string& path : {beside, std::string("/usr/libexec/fastoci/") + kDecoderName}) {
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  return NotFoundError(std::string(kDecoderName) + " is not at " + beside +
                       "; name it with --decoder");
}

// A blob in the registry, read by ranges, which nothing verifies.
class RegistryBlob : public ReadAtFile {
 public:
  RegistryBlob(RegistryClient* client, const Reference& ref, const MetaLayer& layer)
      : client_(*client), ref_(ref), digest_(layer.target_digest), size_(layer.target_bytes) {}
  uint64_t size() const override { return size_; }
  Status ReadAt(uint64_t offset, std::span<uint8_t> out) const override {
    FASTOCI_CHECK_OK(CheckRange(offset, out.size()));
    if (out.empty()) return OkStatus();
    size_t done = 0;
    ByteRange range;
    range.offset = offset;
    range.length = out.size();
    range.total_bytes = size_;
    return client_.GetBlobRange(ref_, digest_, range, [&](ByteSpan data) {
      if (data.size() > out.size() - done) return Status(MismatchError("range is too long"));
      std::copy(data.begin(), data.end(), out.begin() + static_cast<ptrdiff_t>(done));
      done += data.size();
      return OkStatus();
    });
  }

 private:
  RegistryClient& client_;
  const Reference& ref_;
  std::string digest_;
  uint64_t size_;
};

}  // namespace

// What several threads download, as one bar.
class DownloadBar {
 public:
  DownloadBar(Progress* progress, uint64_t total) : progress_(*progress), total_(total) {}
  void Add(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    done_ += bytes;
    progress_.Bytes(done_, total_);
  }

 private:
  std::mutex mutex_;
  Progress& progress_;
  const uint64_t total_;
  uint64_t done_ = 0;
};

namespace {

// Deletes files when the work on them ends, however it ends.
class Unlinker {
 public:
  ~Unlinker() {
    for (const std::string& path : paths)
      if (!path.empty()) ::unlink(path.c_str());
  }
  std::vector<std::string> paths;
};

}  // namespace

Result<std::string> HashFile(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    Error error = ErrnoError("open " + path);
    if (error.err == ENOENT) error.kind = ErrorKind::kNotFound;
    return error;
  }
  Sha256 hash;
  Bytes buffer(kHashBuffer);
  for (;;) {
    ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError("read " + path);
    if (n == 0) break;
    hash.Update(ByteSpan(buffer).first(static_cast<size_t>(n)));
  }
  return HexEncode(hash.Finish());
}

Result<Credentials> LoadCredentials(const RegistryAccess& access) {
  if (!access.user_password.empty()) return Credentials::FromUserPassword(access.user_password);
  if (!access.credentials_file.empty()) return Credentials::Load(access.credentials_file);
  return Credentials::LoadDefault();
}

namespace {

// Digest and size of a blob that lies here.
Status MeasureLocalBlob(MetaLayer* layer) {
  struct stat st;
  if (::stat(layer->blob_path.c_str(), &st) != 0) return ErrnoError(layer->blob_path);
  if (!S_ISREG(st.st_mode) || st.st_size == 0)
    return InvalidError(layer->blob_path + " is no file, or an empty one");
  FASTOCI_TRY(std::string hex, HashFile(layer->blob_path));
  std::string digest = "sha256:" + hex;
  if (!layer->target_digest.empty() && layer->target_digest != digest)
    return MismatchError(layer->blob_path + " has digest " + digest + " instead of " +
                         layer->target_digest);
  layer->target_digest = digest;
  layer->target_bytes = static_cast<uint64_t>(st.st_size);
  if (layer->native) layer->digest = digest;
  return OkStatus();
}

}  // namespace

Result<ImagePuller> ImagePuller::Open(const RegistryAccess& access) {
  FASTOCI_TRY(Credentials credentials, LoadCredentials(access));
  RegistryOptions options;
  options.plain_http = access.plain_http;
  options.http.tls = access.tls;
  ImagePuller puller;
  puller.plain_http_ = access.plain_http;
  puller.decoder_ = access.decoder;
  FASTOCI_TRY(puller.client_, RegistryClient::Open(options, std::move(credentials)));
  return puller;
}

Result<Manifest> ImagePuller::GetManifest(const Reference& ref) {
  FASTOCI_TRY(Manifest manifest, client_->GetManifest(ref));
  FASTOCI_TRY(std::string digest, PickPlatform(manifest.body));
  if (digest.empty()) return manifest;
  return client_->GetManifest(ref.WithDigest(digest));
}

Result<ResolvedImage> ImagePuller::Resolve(const std::string& text, Progress* progress) {
  ResolvedImage image;
  FASTOCI_TRY(image.ref, ParseReference(text));
  progress->Step("resolving " + image.ref.ToString());
  FASTOCI_TRY(image.manifest, GetManifest(image.ref));
  auto parsed = ParseFastociManifest(image.manifest.body);
  if (!parsed.ok() && parsed.error().kind == ErrorKind::kUnsupported) {
    Manifest original = image.manifest;
    auto referrers = client_->Referrers(image.ref, original.digest);
    auto found = referrers.ok() ? ReferrersOfType(*referrers, ArtifactType(ImageFormat::kTurboOci))
                                : Result<std::vector<std::string>>(std::vector<std::string>());
    if (!found.ok() || found->empty()) return parsed.error().Wrap(image.ref.ToString());
    FASTOCI_TRY(image.manifest, client_->GetManifest(image.ref.WithDigest(found->front())));
    parsed = ParseFastociManifest(image.manifest.body);
    if (parsed.ok()) {
      FASTOCI_CHECK_OK(CheckBelongsTo(*parsed, original.digest, original.body));
    }
  }
  if (!parsed.ok()) return parsed.error().Wrap(image.ref.ToString());
  image.fastoci = std::move(*parsed);
  const std::string& fs_type = image.fastoci.fs_type;
  if (!fs_type.empty() && fs_type != "ext4" && fs_type != "erofs")
    progress->Warn("the image says that its file system is " + fs_type +
                   "; fastoci mounts ext4 and erofs only");
  FASTOCI_CHECK_OK(AskSizes(&image));
  FindDigests(&image, progress);
  bool plain = plain_http_ || IsLoopbackHost(image.ref.host);
  BlobLocation location = {plain ? "http" : "https", image.ref.host, image.ref.repository};
  image.sources_json =
      SourcesJson(image.ref.ToString(), image.manifest.digest, image.fastoci, location);
  return image;
}

Status ImagePuller::CheckPolicy(const std::vector<SignatureRule>& rules,
                                const ResolvedImage& image, Progress* progress) {
  const std::string key_file = KeysFor(rules, image.ref);
  if (key_file.empty()) return OkStatus();
  progress->Step("checking the signature of " + image.manifest.digest);
  return DemandSignature(client_.get(), image.ref, image.manifest.digest, key_file);
}

Status ImagePuller::AskSize(const Reference& ref, MetaLayer* layer) {
  auto bytes = client_->HeadBlob(ref, layer->target_digest);
  if (!bytes.ok() && bytes.error().kind == ErrorKind::kNotFound) {
    return NotFoundError("the original layer " + layer->target_digest + " is not in " + ref.host +
                         "/" + ref.repository + " any more; push the original image there again");
  }
  if (!bytes.ok()) return bytes.error();
  if (*bytes == 0) return MismatchError("layer " + layer->target_digest + " is empty");
  layer->target_bytes = *bytes;
  return OkStatus();
}

Status ImagePuller::AskSizes(ResolvedImage* image) {
  std::vector<MetaLayer>& layers = image->fastoci.layers;
  return FirstError(RunParallel(layers.size(), kNrRequests, [&](size_t i) {
    return layers[i].target_bytes == 0 ? AskSize(image->ref, &layers[i]) : OkStatus();
  }));
}

void ImagePuller::FindDigests(ResolvedImage* image, Progress* progress) {
  std::vector<MetaLayer>& layers = image->fastoci.layers;
  if (std::none_of(layers.begin(), layers.end(), [](const MetaLayer& l) { return l.native; })) return;
  auto warn = [&](const Error& e) {
    progress->Warn("no chunk digests of overlaybd layers: " + e.message);
  };
  const std::string& digest = image->manifest.digest;
  auto index = client_->Referrers(image->ref, digest);
  if (!index.ok()) return warn(index.error());
  auto artifacts = ReferrersOfType(*index, kDigestsArtifact);
  if (!artifacts.ok()) return warn(artifacts.error());
  artifacts->resize(std::min(artifacts->size(), kMaxDigestArtifacts));
  for (const std::string& artifact : *artifacts) {
    auto manifest = client_->GetManifest(image->ref.WithDigest(artifact));
    Status taken = manifest.ok() ? TakeDigests(manifest->body, digest, &image->fastoci)
                                 : Status(manifest.error());
    if (!taken.ok()) warn(taken.error().Wrap("referrer " + artifact));
  }
}

Result<ResolvedImage> ImagePuller::ResolveConfig(const std::string& path, Progress* progress) {
  progress->Step("reading " + path);
  ResolvedImage image;
  FASTOCI_TRY(image.manifest.body, ReadFile(path, kMaxConfigBytes));
  image.manifest.digest = DigestString(Sha256::Of(AsBytes(image.manifest.body)));
  auto config = ParseOverlaybdConfig(image.manifest.body);
  if (!config.ok()) return config.error().Wrap(path);
  const BlobLocation& location = config->location;
  if (location.scheme == "http" && !plain_http_ && !IsLoopbackHost(location.host))
    return InvalidError("repoBlobUrl is plain http, which --plain allows");
  image.ref.host = location.host;
  image.ref.repository = location.repository;
  image.fastoci = std::move(config->layers);
  for (MetaLayer& layer : image.fastoci.layers) {
    if (layer.blob_path.empty()) continue;
    FASTOCI_CHECK_OK(MeasureLocalBlob(&layer));
  }
  FASTOCI_CHECK_OK(AskSizes(&image));
  image.sources_json = SourcesJson(path, image.manifest.digest, image.fastoci, location);
  return image;
}

// The meta layer that its members, which lie here, would make.
Status ImagePuller::Pack(const MetaLayer& layer, AssembleLayer* part, UniqueFd* fd) {
  MetaLayerFiles files;
  FASTOCI_TRY(std::string fs_meta, ReadFile(layer.fs_meta_path, kMaxMetaLayerBytes));
  size_t slash = layer.fs_meta_path.rfind('/');
  bool erofs = layer.fs_meta_path.find("erofs", slash + 1) != std::string::npos;
  (erofs ? files.erofs_fs_meta : files.ext4_fs_meta).assign(fs_meta.begin(), fs_meta.end());
  if (!layer.gzip_meta_path.empty()) {
    FASTOCI_TRY(std::string index, ReadFile(layer.gzip_meta_path, kMaxMetaLayerBytes));
    files.gzip_meta.assign(index.begin(), index.end());
  }
  FASTOCI_TRY(PackedMetaLayer packed, PackMetaLayer(files));
  fd->reset(memfd_create("fastoci-meta-layer", MFD_CLOEXEC));
  if (!fd->valid()) return ErrnoError("memfd_create");
  part->meta_digest = packed.digest;
  return WriteFull(fd->get(), packed.data, "meta layer");
}

Result<std::string> ImagePuller::Download(const Reference& ref, const std::string& digest,
                                          uint64_t bytes, const std::string& work_dir,
                                          DownloadBar* bar) {
  std::string path = work_dir + "/" + digest.substr(digest.find(':') + 1) + ".part";
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoError("create " + path);
  Status status = client_->GetBlob(ref, digest, bytes, [&](ByteSpan data) {
    bar->Add(data.size());
    return WriteFull(fd.get(), data, path);
  });
  if (!status.ok()) {
    ::unlink(path.c_str());
    return status.error().Wrap("blob " + digest);
  }
  return path;
}

Status ImagePuller::RunOnLayers(LayerTask task, const ResolvedImage& image,
                                const std::vector<std::string>& paths, int out_fd) {
  AssembleInput input;
  FASTOCI_TRY(input.image_id, ParseDigest(image.manifest.digest));
  input.json = image.sources_json;
  std::vector<UniqueFd> fds;
  std::list<RegistryBlob> blobs;
  for (size_t i = 0; i < paths.size(); i++) {
    const MetaLayer& layer = image.fastoci.layers[i];
    AssembleLayer part;
    FASTOCI_TRY(part.target_digest, ParseDigest(layer.target_digest));
    part.target_bytes = layer.target_bytes;
    if (layer.native && !layer.blob_path.empty()) {
      part.codec = FASTOCI_CODEC_ZFILE;
      fds.emplace_back(::open(layer.blob_path.c_str(), O_RDONLY | O_CLOEXEC));
      if (!fds.back().valid()) return ErrnoError("open " + layer.blob_path);
      part.fd = fds.back().get();
    } else if (layer.native) {
      part.codec = FASTOCI_CODEC_ZFILE;
      part.file = &blobs.emplace_back(client_.get(), image.ref, layer);
    } else if (!layer.fs_meta_path.empty()) {
      FASTOCI_CHECK_OK(Pack(layer, &part, &fds.emplace_back()));
      part.fd = fds.back().get();
      FASTOCI_TRY(part.codec, CodecOfMediaType(layer.target_media_type));
    } else {
      fds.emplace_back(::open(paths[i].c_str(), O_RDONLY | O_CLOEXEC));
      if (!fds.back().valid()) return ErrnoError("open " + paths[i]);
      part.fd = fds.back().get();
      FASTOCI_TRY(part.meta_digest, ParseDigest(layer.digest));
      FASTOCI_TRY(part.codec, CodecOfMediaType(layer.target_media_type));
    }
    if (layer.native && !paths[i].empty()) {
      fds.emplace_back(::open(paths[i].c_str(), O_RDONLY | O_CLOEXEC));
      if (!fds.back().valid()) return ErrnoError("open " + paths[i]);
      part.digests_fd = fds.back().get();
    }
    if (task == LayerTask::kCheck && !layer.native) {
      fds.emplace_back(::open(layer.blob_path.c_str(), O_RDONLY | O_CLOEXEC));
      if (!fds.back().valid()) return ErrnoError("open " + layer.blob_path);
      part.blob_fd = fds.back().get();
    }
    input.layers.push_back(part);
  }
  FASTOCI_TRY(std::string decoder, FindDecoder(decoder_));
  return AssembleViaDecoder(decoder, input, out_fd, task);
}

Status ImagePuller::DownloadAll(const ResolvedImage& image, const std::string& work_dir,
                                Progress* progress, std::vector<std::string>* paths) {
  struct Piece {
    std::string digest;
    uint64_t bytes = 0;
    bool only_digests = false;  // without which it goes on
    std::string path, warning;
  };
  std::vector<Piece> pieces;  // layers may share one
  std::vector<size_t> of_layer;
  uint64_t total = 0;
  for (const MetaLayer& layer : image.fastoci.layers) {
    Piece piece{layer.digest, layer.bytes, false, "", ""};
    if (layer.native || !layer.fs_meta_path.empty())
      piece = {layer.digests_digest, layer.digests_bytes, true, "", ""};
    auto same = [&](const Piece& p) { return p.digest == piece.digest; };
    auto it = std::find_if(pieces.begin(), pieces.end(), same);
    of_layer.push_back(static_cast<size_t>(it - pieces.begin()));
    if (it != pieces.end()) continue;
    total += piece.bytes;
    pieces.push_back(std::move(piece));
  }
  if (total > 0) progress->Step("downloading meta layers");
  DownloadBar bar(progress, total);
  Status status = FirstError(RunParallel(pieces.size(), kNrRequests, [&](size_t i) {
    Piece& piece = pieces[i];
    if (piece.digest.empty()) return OkStatus();
    auto path = Download(image.ref, piece.digest, piece.bytes, work_dir, &bar);
    if (path.ok())
      piece.path = *path;
    else if (piece.only_digests)
      piece.warning = path.error().message;
    else
      return Status(path.error());
    return OkStatus();
  }));
  for (size_t i = 0; i < of_layer.size(); i++) {
    const Piece& piece = pieces[of_layer[i]];
    paths->push_back(piece.path);
    if (status.ok() && !piece.warning.empty())
      progress->Warn("no chunk digests of layer " + std::to_string(i + 1) + ": " + piece.warning);
  }
  return status;
}

Status ImagePuller::Assemble(const ResolvedImage& image, const std::string& work_dir,
                             const std::string& meta_path, Progress* progress) {
  Unlinker unlinker;
  FASTOCI_CHECK_OK(DownloadAll(image, work_dir, progress, &unlinker.paths));
  progress->Step("assembling");
  std::string tmp = meta_path + ".tmp." + std::to_string(::getpid());
  UniqueFd out(::open(tmp.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!out.valid()) return ErrnoError("create " + tmp);
  Status status = RunOnLayers(LayerTask::kAssemble, image, unlinker.paths, out.get());
  if (status.ok() && ::fsync(out.get()) != 0) status = ErrnoError("sync " + tmp);
  if (status.ok() && ::rename(tmp.c_str(), meta_path.c_str()) != 0) {
    status = ErrnoError("rename to " + meta_path);
  }
  if (!status.ok()) ::unlink(tmp.c_str());
  return status;
}

Result<std::string> ImagePuller::Inspect(const ResolvedImage& image, const std::string& work_dir,
                                         Progress* progress) {
  Unlinker unlinker;
  FASTOCI_CHECK_OK(DownloadAll(image, work_dir, progress, &unlinker.paths));
  return Report(LayerTask::kInspect, image, unlinker.paths);
}

Result<std::string> ImagePuller::CheckLayer(const ResolvedImage& image, size_t number,
                                            const std::string& work_dir, Progress* progress) {
  ResolvedImage one = image;
  one.fastoci.layers = {image.fastoci.layers[number]};
  MetaLayer& layer = one.fastoci.layers[0];
  progress->Step("layer " + std::to_string(number + 1) + " of " +
                 std::to_string(image.fastoci.layers.size()));
  Unlinker meta, blob;
  FASTOCI_CHECK_OK(DownloadAll(one, work_dir, progress, &meta.paths));
  if (layer.blob_path.empty()) {
    DownloadBar bar(progress, layer.target_bytes);
    FASTOCI_TRY(layer.blob_path, Download(image.ref, layer.target_digest, layer.target_bytes,
                                          work_dir, &bar));
    blob.paths.push_back(layer.blob_path);
  }
  return Report(LayerTask::kCheck, one, meta.paths);
}

Result<std::string> ImagePuller::Report(LayerTask task, const ResolvedImage& image,
                                        const std::vector<std::string>& paths) {
  UniqueFd out(memfd_create("fastoci-report", MFD_CLOEXEC));
  if (!out.valid()) return ErrnoError("memfd_create");
  FASTOCI_CHECK_OK(RunOnLayers(task, image, paths, out.get()));
  off_t end = ::lseek(out.get(), 0, SEEK_END);
  if (end < 0 || end > kMaxReportBytes) return InvalidError("the report is too large");
  std::string text(static_cast<size_t>(end), '\0');
  FASTOCI_CHECK_OK(PreadFull(out.get(), {reinterpret_cast<uint8_t*>(text.data()), text.size()}, 0, "report"));
  return text;
}

}  // namespace fastoci
