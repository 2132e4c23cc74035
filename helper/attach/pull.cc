// SPDX-License-Identifier: Apache-2.0
#include "attach/pull.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/digest.h"
#include "base/unique_fd.h"
#include "image/assemble_sandbox.h"

namespace fastoci {
namespace {

constexpr size_t kHashBuffer = 1 << 20;
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

// Deletes files when the work on them ends, however it ends.
class Unlinker {
 public:
  ~Unlinker() {
    for (const std::string& path : paths_) ::unlink(path.c_str());
  }
  void Add(const std::string& path) { paths_.push_back(path); }

 private:
  std::vector<std::string> paths_;
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
    auto found = referrers.ok() ? FastociReferrers(*referrers) : Result<std::vector<std::string>>(
                                                                     std::vector<std::string>());
    if (!found.ok() || found->empty()) return parsed.error().Wrap(image.ref.ToString());
    FASTOCI_TRY(image.manifest, client_->GetManifest(image.ref.WithDigest(found->front())));
    parsed = ParseFastociManifest(image.manifest.body);
    if (parsed.ok()) {
      FASTOCI_CHECK_OK(CheckBelongsTo(*parsed, original.digest, original.body));
    }
  }
  if (!parsed.ok()) return parsed.error().Wrap(image.ref.ToString());
  image.fastoci = std::move(*parsed);
  FASTOCI_CHECK_OK(AskSizes(&image));
  bool plain = plain_http_ || IsLoopbackHost(image.ref.host);
  BlobLocation location = {plain ? "http" : "https", image.ref.host, image.ref.repository};
  image.sources_json =
      SourcesJson(image.ref.ToString(), image.manifest.digest, image.fastoci, location);
  return image;
}

Status ImagePuller::AskSizes(ResolvedImage* image) {
  for (MetaLayer& layer : image->fastoci.layers) {
    auto bytes = client_->HeadBlob(image->ref, layer.target_digest);
    if (!bytes.ok() && bytes.error().kind == ErrorKind::kNotFound) {
      return NotFoundError("the original layer " + layer.target_digest + " is not in " +
                           image->ref.host + "/" + image->ref.repository +
                           " any more; push the original image there again");
    }
    if (!bytes.ok()) return bytes.error();
    if (*bytes == 0) return MismatchError("layer " + layer.target_digest + " is empty");
    layer.target_bytes = *bytes;
  }
  return OkStatus();
}

Result<std::string> ImagePuller::Download(const ResolvedImage& image, const MetaLayer& layer,
                                          const std::string& work_dir, Progress* progress) {
  std::string path = work_dir + "/" + layer.digest.substr(layer.digest.find(':') + 1) + ".part";
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoError("create " + path);
  uint64_t done = 0;
  Status status = client_->GetBlob(image.ref, layer.digest, layer.bytes, [&](ByteSpan data) {
    done += data.size();
    progress->Bytes(done, layer.bytes);
    return WriteFull(fd.get(), data, path);
  });
  if (!status.ok()) {
    ::unlink(path.c_str());
    return status.error().Wrap("meta layer " + layer.digest);
  }
  return path;
}

Status ImagePuller::RunAssembly(const ResolvedImage& image, const std::vector<std::string>& paths,
                                const std::string& meta_path) {
  AssembleInput input;
  FASTOCI_TRY(input.image_id, ParseDigest(image.manifest.digest));
  input.json = image.sources_json;
  std::vector<UniqueFd> fds;
  for (size_t i = 0; i < paths.size(); i++) {
    const MetaLayer& layer = image.fastoci.layers[i];
    fds.emplace_back(::open(paths[i].c_str(), O_RDONLY | O_CLOEXEC));
    if (!fds.back().valid()) return ErrnoError("open " + paths[i]);
    AssembleLayer part;
    part.meta_fd = fds.back().get();
    FASTOCI_TRY(part.meta_digest, ParseDigest(layer.digest));
    FASTOCI_TRY(part.target_digest, ParseDigest(layer.target_digest));
    part.target_bytes = layer.target_bytes;
    FASTOCI_TRY(part.codec, CodecOfMediaType(layer.target_media_type));
    input.layers.push_back(part);
  }
  FASTOCI_TRY(std::string decoder, FindDecoder(decoder_));
  std::string tmp = meta_path + ".tmp." + std::to_string(::getpid());
  UniqueFd out(::open(tmp.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!out.valid()) return ErrnoError("create " + tmp);
  Status status = AssembleViaDecoder(decoder, input, out.get());
  if (status.ok() && ::fsync(out.get()) != 0) status = ErrnoError("sync " + tmp);
  if (status.ok() && ::rename(tmp.c_str(), meta_path.c_str()) != 0) {
    status = ErrnoError("rename to " + meta_path);
  }
  if (!status.ok()) ::unlink(tmp.c_str());
  return status;
}

Status ImagePuller::Assemble(const ResolvedImage& image, const std::string& work_dir,
                             const std::string& meta_path, Progress* progress) {
  std::vector<std::string> paths;
  Unlinker unlinker;
  for (const MetaLayer& layer : image.fastoci.layers) {
    progress->Step("meta layer " + std::to_string(paths.size() + 1) + " of " +
                   std::to_string(image.fastoci.layers.size()));
    FASTOCI_TRY(std::string path, Download(image, layer, work_dir, progress));
    paths.push_back(path);
    unlinker.Add(path);
  }
  progress->Step("assembling");
  return RunAssembly(image, paths, meta_path);
}

}  // namespace fastoci
