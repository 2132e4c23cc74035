// SPDX-License-Identifier: Apache-2.0
#include "attach/pull.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <list>
#include <optional>
#include <set>
#include <utility>

#include "attach/overlaybd_config.h"
#include "attach/signature.h"
#include "base/digest.h"
#include "base/durable.h"
#include "base/mutex.h"
#include "base/open_file.h"
#include "base/parallel.h"
#include "base/unique_fd.h"
#include "image/assemble_sandbox.h"
#include "image/meta_layer.h"
#include "image/oci_image.h"
#include "image/platform.h"

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

// The repository that has a layer.
Reference RepositoryOf(const ResolvedImage& image, const MetaLayer& layer) {
  Reference ref = image.ref;
  if (const size_t slash = layer.repository.find('/'); slash != std::string::npos) {
    ref.host = layer.repository.substr(0, slash);
    ref.repository = layer.repository.substr(slash + 1);
  }
  return ref;
}

// A member of a meta layer that somebody unpacked: a regular file of that directory, and
// nothing that it may point to. Empty: it is not there.
Result<Bytes> ReadMember(const std::string& dir, const char* name) {
  const std::string path = dir + "/" + name;
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) return Bytes();
  if (!fd.valid()) return ErrnoError("open " + path);
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return ErrnoError(path);
  if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) > kMaxMetaLayerBytes)
    return InvalidError(path + " is no file, or too large a one");
  Bytes data(static_cast<size_t>(st.st_size));
  FASTOCI_CHECK_OK(PreadFull(fd.get(), data, 0, path));
  return data;
}

Result<MetaLayerFiles> ReadMembers(const std::string& dir) {
  MetaLayerFiles files;
  FASTOCI_TRY(files.ext4_fs_meta, ReadMember(dir, "ext4.fs.meta"));
  FASTOCI_TRY(files.erofs_fs_meta, ReadMember(dir, "erofs.fs.meta"));
  if (files.ext4_fs_meta.empty() && files.erofs_fs_meta.empty()) {
    FASTOCI_TRY(files.ext4_fs_meta, ReadMember(dir, FsMetaName(FsType::kExt4, true)));
    FASTOCI_TRY(files.erofs_fs_meta, ReadMember(dir, FsMetaName(FsType::kErofs, true)));
    files.own_names = !files.ext4_fs_meta.empty() || !files.erofs_fs_meta.empty();
  }
  FASTOCI_TRY(files.gzip_meta, ReadMember(dir, "gzip.meta"));
  if (files.gzip_meta.empty()) {
    FASTOCI_TRY(files.gzip_meta, ReadMember(dir, "fastoci.gzip"));
  }
  FASTOCI_TRY(files.zstd_index, ReadMember(dir, "fastoci.zstd"));
  FASTOCI_TRY(Bytes description, ReadMember(dir, "fastoci.json"));
  files.description.assign(description.begin(), description.end());
  FASTOCI_TRY(files.chunk_digests, ReadMember(dir, "fastoci.chunks"));
  return files;
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
  const Reference ref_;
  std::string digest_;
  uint64_t size_;
};

}  // namespace

// What several threads download, as one bar.
class DownloadBar {
 public:
  DownloadBar(Progress* progress, uint64_t total) : progress_(*progress), total_(total) {}
  void Add(uint64_t bytes) {
    MutexLock lock(mutex_);
    done_ += bytes;
    progress_.Bytes(done_, total_);
  }

 private:
  Mutex mutex_;
  Progress& progress_ GUARDED_BY(mutex_);
  const uint64_t total_;
  uint64_t done_ GUARDED_BY(mutex_) = 0;
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
  FASTOCI_TRY(const UniqueFd fd, OpenToRead(path));
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

void UseNodeHosts(const std::string& config, RegistryAccess* access) {
  if (auto node = LoadConfig(config); node.ok()) access->node_hosts_dir = node->hosts_dir;
}

Result<std::string> FileInMemory(const std::string& text, std::vector<UniqueFd>* files) {
  if (text.empty()) return std::string();
  UniqueFd fd(::memfd_create("fastoci-pem", MFD_CLOEXEC));
  if (!fd.valid()) return ErrnoError("memfd_create");
  FASTOCI_CHECK_OK(WriteFull(fd.get(), AsBytes(text), "memory"));
  files->push_back(std::move(fd));
  return "/proc/self/fd/" + std::to_string(files->back().get());
}

Status UseAccess(const Access& kept, RegistryAccess* access, std::vector<UniqueFd>* files) {
  access->plain_http = kept.plain_http;
  access->tls.insecure = kept.insecure;
  FASTOCI_TRY(access->tls.root_ca, FileInMemory(kept.ca_pem, files));
  FASTOCI_TRY(std::string cert, FileInMemory(kept.client_cert_pem, files));
  FASTOCI_TRY(std::string key, FileInMemory(kept.client_key_pem.Reveal(), files));
  if (!cert.empty()) access->tls.client_cert = cert + ":" + key;
  if (!kept.credential.username.empty())
    access->user_password = kept.credential.username + ":" + kept.credential.password.Reveal();
  access->credentials_file = kept.credentials_file;
  access->hosts_dirs = kept.hosts_dirs;
  return OkStatus();
}

Result<RegistryOptions> OptionsOf(const RegistryAccess& access) {
  RegistryOptions options;
  options.plain_http = access.plain_http;
  FASTOCI_TRY(options.http.tls, ReadTlsFlags(access.tls));
  std::vector<std::string> dirs = access.hosts_dirs;
  if (dirs.empty() && !access.node_hosts_dir.empty()) dirs.push_back(access.node_hosts_dir);
  FASTOCI_TRY(options.hosts_dirs, ReadHostsDirs(dirs));
  options.watch = access.watch;
  return options;
}

Result<std::unique_ptr<RegistryClient>> OpenClient(const RegistryAccess& access,
                                                   const std::string& host) {
  FASTOCI_TRY(CredentialSourcePtr credentials,
              OpenCredentials(access.user_password, host, access.credentials_file));
  FASTOCI_TRY(RegistryOptions options, OptionsOf(access));
  return RegistryClient::Open(std::move(options), std::move(credentials));
}

Result<NamedImage> OpenImageStore(const std::string& text, const RegistryAccess& access,
                                  bool create) {
  if (ParseLayoutName(text)) return OpenNamedImage(text, RegistryOptions(), nullptr, create);
  FASTOCI_TRY(Reference ref, ParseReference(text));
  FASTOCI_TRY(CredentialSourcePtr credentials,
              OpenCredentials(access.user_password, ref.host, access.credentials_file));
  FASTOCI_TRY(RegistryOptions options, OptionsOf(access));
  return OpenNamedImage(text, std::move(options), std::move(credentials), create);
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

Result<ImagePuller> ImagePuller::Open(const RegistryAccess& access, std::vector<SignatureRule> rules) {
  ImagePuller puller;
  puller.access_ = access;
  puller.rules_ = std::move(rules);
  return puller;
}

Result<Access> ImagePuller::AccessFor(const ResolvedImage& image) const {
  FASTOCI_TRY(TlsOptions tls, ReadTlsFlags(access_.tls));
  std::string file = access_.credentials_file;
  // The helper has another environment.
  if (access_.user_password.empty() && file.empty() && !image.layout)
    file = CredentialsFileOfEnvironment(image.ref);
  FASTOCI_TRY(Access access, MakeAccess(image.ref.host, access_.plain_http, tls,
                                        access_.user_password, file, access_.hosts_dirs));
  if (!image.layout) access.repository = image.ref.repository;
  std::set<std::string> others;
  for (const MetaLayer& layer : image.fastoci.layers)
    if (const std::string host = RepositoryOf(image, layer).host; host != image.ref.host) others.insert(host);
  access.more_hosts.assign(others.begin(), others.end());
  return access;
}

Result<Manifest> ImagePuller::GetManifest(const ResolvedImage& image, const std::string& name) {
  if (image.layout) return image.layout->GetManifest(name);
  return client_->GetManifest(name.starts_with("sha256:") ? image.ref.WithDigest(name) : image.ref.WithTag(name));
}

Result<std::vector<std::string>> ImagePuller::Referrers(const ResolvedImage& image,
                                                        const std::string& digest,
                                                        const std::string& artifact_type) {
  FASTOCI_TRY(std::string index, image.layout
                                     ? image.layout->Referrers(digest, artifact_type)
                                     : client_->Referrers(image.ref, digest, artifact_type));
  return ReferrersOfType(index, artifact_type);
}

Result<Manifest> ImagePuller::ManifestOfHost(const ResolvedImage& image, const std::string& name) {
  FASTOCI_TRY(Manifest manifest, GetManifest(image, name));
  const ManifestReader reader{
      [&](const std::string& digest) { return GetManifest(image, digest); },
      [&](const std::string& digest) {
        return image.layout ? image.layout->ReadBlob(digest, kMaxImageConfigBytes)
                            : client_->ReadBlob(image.ref, digest, kMaxImageConfigBytes);
      }};
  return ManifestOfPlatform(manifest, HostPlatform(), reader);
}

// The blobs of a layout are read from where they are.
Status ImagePuller::MeasureLayout(ResolvedImage* image) {
  for (MetaLayer& layer : image->fastoci.layers) {
    FASTOCI_TRY(Sha256Digest digest, ParseDigest(layer.target_digest));
    layer.blob_path = LayoutBlobPath(image->ref.repository, DigestString(digest));
    struct stat st;
    if (::stat(layer.blob_path.c_str(), &st) != 0)
      return ErrnoError("the original layer " + layer.target_digest + " is not in the layout: " + layer.blob_path);
    layer.target_bytes = static_cast<uint64_t>(st.st_size);
  }
  return OkStatus();
}

// The newest that fits and that the policy lets in: whoever adds one to a fallback tag adds it
// at the end. Anybody who may push can add one, so one without a signature hides no other.
Status ImagePuller::FindArtifact(ResolvedImage* image, Progress* progress) {
  const Manifest original = image->manifest;
  const std::string name = image->ref.ToString();
  auto found = Referrers(*image, original.digest, ArtifactType(ImageFormat::kTurboOci));
  if (!found.ok())
    return found.error().Wrap(name + " is an ordinary image; whether there is a FastOCI artifact "
                                         "of it cannot be told");
  if (found->empty())
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP,
                 name + " is an ordinary image, and its registry has no FastOCI artifact of it (" +
                     original.digest + "); make one: convertor -r " + image->ref.host + "/" +
                     image->ref.repository + " " +
                     (image->ref.digest.empty() ? "-i " + image->ref.tag : "-g " + image->ref.digest) +
                     " --referrer"};
  std::optional<Error> failure;
  const size_t n = std::min(found->size(), kMaxDigestArtifacts);
  for (size_t i = 0; i < n; i++) {
    const std::string& digest = (*found)[found->size() - 1 - i];
    auto manifest = GetManifest(*image, digest);
    auto parsed = manifest.ok() ? ParseFastociManifest(manifest->body)
                                : Result<FastociManifest>(manifest.error());
    Status fits = parsed.ok() ? CheckBelongsTo(*parsed, original.digest, original.body)
                              : Status(parsed.error());
    if (fits.ok()) {
      TakeSizes(original.body, &*parsed);
      image->manifest = std::move(*manifest);
      image->fastoci = std::move(*parsed);
      fits = CheckPolicy(*image, progress);
      if (fits.ok()) return fits;
    }
    if (!failure) failure = fits.error().Wrap("the FastOCI artifact " + digest + " of " + name);
  }
  return *failure;
}

Result<ResolvedImage> ImagePuller::Resolve(const std::string& text, Progress* progress) {
  ResolvedImage image;
  std::string name;
  if (auto layout = ParseLayoutName(text)) {
    if (layout->tag.empty()) return InvalidError(text + ": oci:DIR:TAG wants a tag");
    name = layout->tag;
    char* real = ::realpath(layout->directory.c_str(), nullptr);
    image.ref.host = "oci";
    image.ref.repository = real ? real : layout->directory;
    image.ref.tag = name;
    ::free(real);
    FASTOCI_TRY(image.layout, OpenLayoutStore(image.ref.repository));
  } else {
    FASTOCI_TRY(image.ref, ParseReference(text));
    FASTOCI_TRY(client_, OpenClient(access_, image.ref.host));
    name = image.ref.Identifier();
  }
  progress->Step("resolving " + text);
  FASTOCI_TRY(image.manifest, ManifestOfHost(image, name));
  image.named = {image.manifest.media_type, image.manifest.digest, image.manifest.body.size()};
  auto parsed = ParseFastociManifest(image.manifest.body);
  if (!parsed.ok() && parsed.error().kind == ErrorKind::kUnsupported) {
    FASTOCI_CHECK_OK(FindArtifact(&image, progress));
    parsed = std::move(image.fastoci);
  }
  if (!parsed.ok()) return parsed.error().Wrap(text);
  image.fastoci = std::move(*parsed);
  const std::string& fs_type = image.fastoci.fs_type;
  if (!fs_type.empty() && fs_type != "ext4" && fs_type != "erofs")
    progress->Warn("the image says that its file system is " + fs_type +
                   "; fastoci mounts ext4 and erofs only");
  FASTOCI_CHECK_OK(image.layout ? MeasureLayout(&image) : AskSizes(&image));
  FindDigests(image.manifest.digest, &image, progress);
  bool plain = access_.plain_http || IsLoopbackHost(image.ref.host);
  BlobLocation location = {plain ? "http" : "https", image.ref.host, image.ref.repository, access_.plain_http};
  image.sources =
      MakeSourcesJson(text, image.manifest.digest, image.fastoci, location);
  return image;
}

Result<ResolvedImage> ImagePuller::ResolveSeed(const std::string& directory, const std::string& manifest_digest,
                                               const SeedConfig& config, Progress* progress) {
  ResolvedImage image;
  image.seeded = true;
  FASTOCI_TRY(image.ref, ParseReference(config.ref));
  FASTOCI_TRY(image.layout, OpenLayoutStore(directory));
  FASTOCI_TRY(image.manifest, GetManifest(image, manifest_digest));
  image.named = {image.manifest.media_type, image.manifest.digest, image.manifest.body.size()};
  FASTOCI_TRY(image.fastoci, ParseFastociManifest(image.manifest.body));
  std::vector<MetaLayer>& layers = image.fastoci.layers;
  if (layers.size() != config.layers.size())
    return MismatchError("the seed's config has " + std::to_string(config.layers.size()) +
                         " layers, and the manifest " + std::to_string(layers.size()));
  for (size_t i = 0; i < layers.size(); i++) {
    if (layers[i].target_digest != config.layers[i].digest)
      return MismatchError("the seed's config has another layer " + std::to_string(i + 1) + " than the manifest, " +
                           config.layers[i].digest + " instead of " + layers[i].target_digest);
    layers[i].target_bytes = config.layers[i].bytes;
  }
  FindDigests(image.manifest.digest, &image, progress);
  const bool plain = access_.plain_http || IsLoopbackHost(image.ref.host);
  image.sources = MakeSourcesJson(config.ref, image.manifest.digest, image.fastoci,
                                  {plain ? "http" : "https", image.ref.host, image.ref.repository, access_.plain_http});
  // Assembly reads parts of overlaybd layers. The seed has these as a whole.
  for (MetaLayer& layer : layers)
    if (layer.native) layer.blob_path = LayoutBlobPath(directory, layer.target_digest);
  return image;
}

Status ImagePuller::CheckPolicy(const ResolvedImage& image, Progress* progress) {
  const std::string key_file = KeysFor(rules_, image.ref);
  if (key_file.empty() || approved_ == image.manifest.digest) return OkStatus();
  if (image.layout && !image.seeded)
    return Error{ErrorKind::kMismatch, EKEYREJECTED,
                 "the node demands a signature, and images in a layout have none; push it to a registry, sign it there"};
  progress->Step("checking the signature of " + image.manifest.digest);
  const SignatureSource source{
      [&](const std::string& name) { return GetManifest(image, name); },
      [&](const std::string& digest, uint64_t max_bytes) {
        return image.layout ? image.layout->ReadBlob(digest, max_bytes) : client_->ReadBlob(image.ref, digest, max_bytes);
      },
      [&](const std::string& digest, const std::string& type) { return Referrers(image, digest, type); }};
  FASTOCI_CHECK_OK(DemandSignature(source, image.ref, image.manifest.digest, key_file));
  approved_ = image.manifest.digest;
  return OkStatus();
}

Status ImagePuller::AskSize(const Reference& ref, MetaLayer* layer) {
  auto bytes = client_->BlobSize(ref, layer->target_digest);
  if (!bytes.ok() && bytes.error().kind == ErrorKind::kNotFound) {
    return NotFoundError("the original layer " + layer->target_digest + " is not in " + ref.host +
                         "/" + ref.repository + " any more; push the original image there again");
  }
  if (!bytes.ok()) return bytes.error();
  if (*bytes == 0 && layer->target_digest != DigestString(Sha256::Of({})))
    return MismatchError("layer " + layer->target_digest + " is empty");
  layer->target_bytes = *bytes;
  return OkStatus();
}

// The original's manifest, if it is there, tells all sizes at once, and while it
// is there the registry keeps its layers. Else each layer is asked for.
Status ImagePuller::AskSizes(ResolvedImage* image) {
  std::vector<MetaLayer>& layers = image->fastoci.layers;
  auto unknown = [](const MetaLayer& l) { return l.target_bytes == 0; };
  const std::string& subject = image->fastoci.subject;
  if (ParseDigest(subject).ok() && std::any_of(layers.begin(), layers.end(), unknown)) {
    auto original = client_->GetManifest(image->ref.WithDigest(subject));
    if (original.ok()) TakeSizes(original->body, &image->fastoci);
  }
  return FirstError(RunParallel(layers.size(), kNrRequests, [&](size_t i) {
    return unknown(layers[i]) ? AskSize(RepositoryOf(*image, layers[i]), &layers[i]) : OkStatus();
  }));
}

void ImagePuller::FindDigests(const std::string& digest, ResolvedImage* image, Progress* progress) {
  std::vector<MetaLayer>& layers = image->fastoci.layers;
  if (std::none_of(layers.begin(), layers.end(), [](const MetaLayer& l) { return l.native; })) return;
  auto warn = [&](const Error& e) {
    progress->Warn("no chunk digests of overlaybd layers: " + e.message);
  };
  auto artifacts = Referrers(*image, digest, kDigestsArtifact);
  if (!artifacts.ok()) return warn(artifacts.error());
  artifacts->resize(std::min(artifacts->size(), kMaxDigestArtifacts));
  for (const std::string& artifact : *artifacts) {
    auto manifest = GetManifest(*image, artifact);
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
  if (location.scheme == "http" && !access_.plain_http && !IsLoopbackHost(location.host))
    return InvalidError("repoBlobUrl is plain http, which --plain allows");
  image.ref.host = location.host;
  image.ref.repository = location.repository;
  image.fastoci = std::move(config->layers);
  FASTOCI_TRY(client_, OpenClient(access_, location.host));
  for (MetaLayer& layer : image.fastoci.layers) {
    if (layer.blob_path.empty()) continue;
    FASTOCI_CHECK_OK(MeasureLocalBlob(&layer));
  }
  FASTOCI_CHECK_OK(AskSizes(&image));
  image.sources = MakeSourcesJson(path, image.manifest.digest, image.fastoci, location);
  return image;
}

Result<ResolvedImage> ImagePuller::ResolveStack(const LayerStack& stack, Progress* progress) {
  progress->Step("describing " + stack.image);
  ResolvedImage image;
  image.fastoci = stack.layers;
  std::string names;
  for (const MetaLayer& layer : image.fastoci.layers)
    names += layer.repository + " " + layer.digest + " " + layer.target_digest + "\n";
  image.manifest.digest = DigestString(Sha256::Of(AsBytes(names)));
  const std::string& repository = image.fastoci.layers.back().repository;
  const size_t slash = repository.find('/');
  if (slash == std::string::npos) return InvalidError("no repository of " + stack.image + " is known");
  image.ref.host = repository.substr(0, slash);
  image.ref.repository = repository.substr(slash + 1);
  FASTOCI_TRY(client_, OpenClient(access_, image.ref.host));
  for (MetaLayer& layer : image.fastoci.layers)
    if (!layer.blob_path.empty()) FASTOCI_CHECK_OK(MeasureLocalBlob(&layer));
  FASTOCI_CHECK_OK(AskSizes(&image));
  if (!stack.manifest_digest.empty()) FindDigests(stack.manifest_digest, &image, progress);
  const bool plain = access_.plain_http || IsLoopbackHost(image.ref.host);
  const BlobLocation location = {plain ? "http" : "https", image.ref.host, image.ref.repository, access_.plain_http};
  image.sources = MakeSourcesJson(stack.image, image.manifest.digest, image.fastoci, location);
  return image;
}

// The meta layer that its members, which lie here, would make.
Status ImagePuller::Pack(const MetaLayer& layer, AssembleLayer* part, UniqueFd* fd) {
  MetaLayerFiles files;
  if (!layer.members_dir.empty()) {
    FASTOCI_TRY(files, ReadMembers(layer.members_dir));
    return PackTo(files, part, fd);
  }
  FASTOCI_TRY(std::string fs_meta, ReadFile(layer.fs_meta_path, kMaxMetaLayerBytes));
  size_t slash = layer.fs_meta_path.rfind('/');
  bool erofs = layer.fs_meta_path.find("erofs", slash + 1) != std::string::npos;
  (erofs ? files.erofs_fs_meta : files.ext4_fs_meta).assign(fs_meta.begin(), fs_meta.end());
  if (!layer.gzip_meta_path.empty()) {
    FASTOCI_TRY(std::string index, ReadFile(layer.gzip_meta_path, kMaxMetaLayerBytes));
    files.gzip_meta.assign(index.begin(), index.end());
  }
  return PackTo(files, part, fd);
}

Status ImagePuller::PackTo(const MetaLayerFiles& files, AssembleLayer* part, UniqueFd* fd) {
  FASTOCI_TRY(PackedMetaLayer packed, PackMetaLayer(files));
  fd->reset(memfd_create("fastoci-meta-layer", MFD_CLOEXEC));
  if (!fd->valid()) return ErrnoError("memfd_create");
  part->meta_digest = packed.digest;
  return WriteFull(fd->get(), packed.data, "meta layer");
}

Result<std::string> ImagePuller::Download(const ResolvedImage& image, const std::string& digest,
                                          uint64_t bytes, const std::string& work_dir,
                                          DownloadBar* bar) {
  std::string path = work_dir + "/" + digest.substr(digest.find(':') + 1) + ".part";
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoError("create " + path);
  const BlobSink sink = [&](ByteSpan data) {
    bar->Add(data.size());
    return WriteFull(fd.get(), data, path);
  };
  Status status = image.layout ? image.layout->GetBlob(digest, bytes, sink)
                               : client_->GetBlob(image.ref, digest, bytes, sink);
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
  input.json_head = image.sources.head;
  input.json_tail = image.sources.tail;
  std::vector<UniqueFd> fds;
  std::list<RegistryBlob> blobs;
  for (size_t i = 0; i < paths.size(); i++) {
    const MetaLayer& layer = image.fastoci.layers[i];
    AssembleLayer part;
    FASTOCI_TRY(part.target_digest, ParseDigest(layer.target_digest));
    part.target_bytes = layer.target_bytes;
    part.json = image.sources.blobs[i];
    if (layer.native && !layer.blob_path.empty()) {
      part.codec = FASTOCI_CODEC_ZFILE;
      fds.emplace_back(::open(layer.blob_path.c_str(), O_RDONLY | O_CLOEXEC));
      if (!fds.back().valid()) return ErrnoError("open " + layer.blob_path);
      part.fd = fds.back().get();
    } else if (layer.native) {
      part.codec = FASTOCI_CODEC_ZFILE;
      part.file = &blobs.emplace_back(client_.get(), RepositoryOf(image, layer), layer);
    } else if (layer.unpacked()) {
      FASTOCI_CHECK_OK(Pack(layer, &part, &fds.emplace_back()));
      part.fd = fds.back().get();
      FASTOCI_TRY(part.codec, CodecOfMediaType(layer.target_media_type));
    } else {
      const std::string& path = layer.meta_path.empty() ? paths[i] : layer.meta_path;
      fds.emplace_back(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
      if (!fds.back().valid()) return ErrnoError("open " + path);
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
  FASTOCI_TRY(std::string decoder, FindDecoder(access_.decoder));
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
    if (layer.native || layer.unpacked())
      piece = {layer.digests_digest, layer.digests_bytes, true, "", ""};
    else if (!layer.meta_path.empty())
      piece = {};
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
    auto path = Download(image, piece.digest, piece.bytes, work_dir, &bar);
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
  std::string made;
  FASTOCI_TRY(UniqueFd out, CreateBeside(meta_path, 0600, &made));
  Status status = RunOnLayers(LayerTask::kAssemble, image, unlinker.paths, out.get());
  if (status.ok()) return Publish(out, made, meta_path);
  ::unlink(made.c_str());
  return status;
}

Status ImagePuller::FetchMetaLayers(ResolvedImage* image, const std::string& dir, Progress* progress) {
  std::vector<std::string> paths;
  Status status = DownloadAll(*image, dir, progress, &paths);
  std::vector<MetaLayer>& layers = image->fastoci.layers;
  for (size_t i = 0; i < paths.size() && status.ok(); i++)
    if (!layers[i].native) layers[i].meta_path = paths[i];
  return status;
}

Status ImagePuller::TryRange(const ResolvedImage& image) {
  const std::vector<MetaLayer>& layers = image.fastoci.layers;
  auto smaller = [](const MetaLayer& a, const MetaLayer& b) { return a.target_bytes < b.target_bytes; };
  const MetaLayer& layer = *std::max_element(layers.begin(), layers.end(), smaller);
  const Reference repository = RepositoryOf(image, layer);
  // Any other read takes a part out of a whole blob that is not too large: it would cost that each time.
  std::string byte;
  auto answer = client_->ProbeRange(repository, layer.target_digest, {layer.target_bytes - 1, 1, layer.target_bytes}, &byte);
  if (answer.ok() && answer->status == 200 && layer.target_bytes > 1)
    return MismatchError(repository.host + " serves whole blobs only, no parts of them");
  const RegistryBlob blob(client_.get(), repository, layer);
  uint8_t last[1];
  return blob.ReadAt(layer.target_bytes - 1, last);
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
  one.sources.blobs = {image.sources.blobs[number]};
  MetaLayer& layer = one.fastoci.layers[0];
  progress->Step("layer " + std::to_string(number + 1) + " of " +
                 std::to_string(image.fastoci.layers.size()));
  Unlinker meta, blob;
  FASTOCI_CHECK_OK(DownloadAll(one, work_dir, progress, &meta.paths));
  if (layer.blob_path.empty()) {
    DownloadBar bar(progress, layer.target_bytes);
    FASTOCI_TRY(layer.blob_path, Download(image, layer.target_digest, layer.target_bytes,
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
