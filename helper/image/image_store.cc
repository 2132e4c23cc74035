// SPDX-License-Identifier: Apache-2.0
#include "image/image_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/digest.h"
#include "base/durable.h"
#include "base/foreign_json.h"
#include "base/json.h"
#include "base/open_file.h"
#include "base/unique_fd.h"
#include "image/data_stage.h"
#include "registry/media_type.h"

namespace fastoci {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kLayoutPrefix[] = "oci:";
constexpr char kRefName[] = "org.opencontainers.image.ref.name";
constexpr size_t kReadBytes = 256 << 10;

class RegistryStore : public ImageStore {
 public:
  RegistryStore(std::unique_ptr<RegistryClient> client, Reference repo)
      : client_(std::move(client)), repo_(std::move(repo)) {}
  using ImageStore::PutBlob;

  Result<Manifest> GetManifest(const std::string& name) override {
    return client_->GetManifest(Named(name));
  }
  Result<std::string> ReadBlob(const std::string& digest, uint64_t max_bytes) override {
    return client_->ReadBlob(repo_, digest, max_bytes);
  }
  Status GetBlob(const std::string& digest, uint64_t bytes, const BlobSink& sink) override {
    return client_->GetBlob(repo_, digest, bytes, sink);
  }
  Status PutBlob(const std::string& digest, uint64_t bytes, const BlobSource& source) override {
    return client_->UploadBlob(repo_, digest, bytes, source);
  }
  Result<bool> MountBlob(ImageStore* from, const std::string& digest) override {
    auto* other = dynamic_cast<RegistryStore*>(from);
    if (other == nullptr || other->repo_.host != repo_.host) return false;
    return client_->MountBlob(repo_, digest, other->repo_.repository);
  }
  Result<std::string> Referrers(const std::string& digest,
                                const std::string& artifact_type) override {
    return client_->Referrers(repo_, digest, artifact_type);
  }
  bool collects_garbage() const override { return true; }
  Result<std::string> PutManifest(const std::string& name, const std::string& media_type,
                                  const std::string& body) override {
    Reference ref = name.empty() ? repo_.WithDigest(DigestString(Sha256::Of(AsBytes(body))))
                                 : repo_.WithTag(name);
    return client_->PutManifest(ref, media_type, body);
  }

 private:
  Reference Named(const std::string& name) const {
    return name.starts_with("sha256:") ? repo_.WithDigest(name) : repo_.WithTag(name);
  }
  std::unique_ptr<RegistryClient> client_;
  Reference repo_;
};

// Held while index.json is read and written anew. Where the file system has no locks, nothing is.
UniqueFd LockLayout(const std::string& directory) {
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  while (fd.valid() && ::flock(fd.get(), LOCK_EX) != 0 && errno == EINTR) continue;
  return fd;
}

class LayoutStore : public ImageStore {
 public:
  explicit LayoutStore(std::string directory) : directory_(std::move(directory)) {}
  using ImageStore::PutBlob;

  Result<Json> Index() {
    FASTOCI_TRY(std::string text, ReadFile(directory_ + "/index.json", kMaxManifestBytes));
    Json j = ParseForeignJson<Json>(text);
    if (!JsonChild(j, "manifests").is_array())
      return InvalidError(directory_ + "/index.json is damaged");
    return j;
  }

  Result<Manifest> GetManifest(const std::string& name) override {
    Manifest m;
    m.digest = name;
    if (!name.starts_with("sha256:")) {
      FASTOCI_TRY(Json index, Index());
      m.digest.clear();
      for (const Json& d : index["manifests"])
        if (TagOf(d) == name) m.digest = JsonText(d, "digest");
      if (m.digest.empty()) return NotFoundError("no tag " + name + " in " + directory_);
    }
    FASTOCI_TRY(m.body, ReadBlob(m.digest, kMaxManifestBytes));
    m.media_type = JsonText(ParseForeignJson<Json>(m.body), "mediaType");
    if (m.media_type.empty()) m.media_type = TypeOfContent(m.body);
    if (m.media_type.empty()) m.media_type = kOciManifest;
    return m;
  }

  Result<std::string> ReadBlob(const std::string& digest, uint64_t max_bytes) override {
    FASTOCI_TRY(std::string path, BlobPath(digest));
    FASTOCI_TRY(std::string data, ReadFile(path, max_bytes));
    if (DigestString(Sha256::Of(AsBytes(data))) != digest)
      return MismatchError("blob " + digest + " is damaged");
    return data;
  }

  Status GetBlob(const std::string& digest, uint64_t, const BlobSink& sink) override {
    FASTOCI_TRY(std::string path, BlobPath(digest));
    FASTOCI_TRY(const UniqueFd fd, OpenToRead(path));
    // The digest is computed on another thread, because the sink is slow enough.
    Sha256 hash;
    DataStage hasher([&hash](ByteSpan data) {
      hash.Update(data);
      return OkStatus();
    });
    Bytes buffer(kReadBytes);
    for (;;) {
      ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoError("read " + path);
      if (n == 0) break;
      ByteSpan part(buffer.data(), static_cast<size_t>(n));
      FASTOCI_CHECK_OK(hasher.Push(part));
      FASTOCI_CHECK_OK(sink(part));
    }
    FASTOCI_CHECK_OK(hasher.Finish());
    if (DigestString(hash.Finish()) != digest) return MismatchError("blob " + digest + " is damaged");
    return OkStatus();
  }

  Status PutBlob(const std::string& digest, uint64_t bytes, const BlobSource& source) override {
    FASTOCI_TRY(std::string path, BlobPath(digest));
    struct stat st;
    if (::stat(path.c_str(), &st) == 0 && static_cast<uint64_t>(st.st_size) == bytes)
      return OkStatus();
    FASTOCI_CHECK_OK(MakeDirs(directory_ + "/blobs/sha256"));
    std::string partial;
    FASTOCI_TRY(UniqueFd fd, CreateBeside(path, 0644, &partial));
    Status written = WriteBlob(fd.get(), digest, bytes, source);
    if (written.ok()) return Publish(fd, partial, path);
    ::unlink(partial.c_str());
    return written;
  }

  static Status WriteBlob(int fd, const std::string& digest, uint64_t bytes,
                          const BlobSource& source) {
    Sha256 hash;
    Bytes buffer;
    for (uint64_t at = 0; at < bytes; at += buffer.size()) {
      buffer.resize(std::min<uint64_t>(kReadBytes, bytes - at));
      FASTOCI_CHECK_OK(source(at, buffer));
      hash.Update(buffer);
      FASTOCI_CHECK_OK(PwriteFull(fd, buffer, at, "blob " + digest));
    }
    if (DigestString(hash.Finish()) != digest)
      return MismatchError("blob " + digest + " is damaged");
    return OkStatus();
  }

  Result<std::string> PutManifest(const std::string& name, const std::string& media_type,
                                  const std::string& body) override {
    std::string digest = DigestString(Sha256::Of(AsBytes(body)));
    FASTOCI_CHECK_OK(PutBlob(digest, AsBytes(body)));
    const UniqueFd lock = LockLayout(directory_);
    FASTOCI_TRY(Json index, Index());
    Json kept = Json::array();
    for (const Json& d : index["manifests"]) {
      bool same = JsonText(d, "digest") == digest;
      bool replaced = name.empty() ? same && TagOf(d).empty()
                                   : TagOf(d) == name || (same && TagOf(d).empty());
      if (!replaced) kept.push_back(d);
    }
    Json d = {{"mediaType", media_type}, {"digest", digest}, {"size", body.size()}};
    if (!name.empty()) d["annotations"] = {{kRefName, name}};
    kept.push_back(d);
    index["manifests"] = kept;
    std::string text = index.dump(1, ' ', false, Json::error_handler_t::replace);
    FASTOCI_CHECK_OK(WriteFileAtomic(directory_ + "/index.json", AsBytes(text)));
    return digest;
  }

  Result<std::string> Referrers(const std::string& digest,
                                const std::string& artifact_type) override {
    FASTOCI_TRY(Json index, Index());
    Json found = Json::array();
    for (const Json& d : index["manifests"]) {
      FASTOCI_TRY(Manifest m, GetManifest(JsonText(d, "digest")));
      Json j = ParseForeignJson<Json>(m.body);
      if (JsonText(JsonChild(j, "subject"), "digest") != digest) continue;
      if (!artifact_type.empty() && JsonText(j, "artifactType") != artifact_type) continue;
      found.push_back(d);
      if (j.contains("artifactType")) found.back()["artifactType"] = j["artifactType"];
    }
    Json out = {{"schemaVersion", 2}, {"mediaType", kOciIndex}, {"manifests", found}};
    return out.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

 private:
  static std::string TagOf(const Json& d) {
    return JsonText(JsonChild(d, "annotations"), kRefName);
  }
  Result<std::string> BlobPath(const std::string& digest) const {
    FASTOCI_CHECK_OK(ParseDigest(digest));  // so it names nothing outside
    return LayoutBlobPath(directory_, digest);
  }
  std::string directory_;
};

}  // namespace

Status ImageStore::PutBlob(const std::string& digest, ByteSpan data) {
  return PutBlob(digest, data.size(), [data](uint64_t offset, std::span<uint8_t> out) -> Status {
    if (offset > data.size() || out.size() > data.size() - offset)
      return InvalidError("read past the end of a blob");
    std::copy_n(data.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
    return OkStatus();
  });
}

Result<std::unique_ptr<ImageStore>> OpenRegistryStore(const std::string& repository,
                                                      RegistryOptions options,
                                                      CredentialSourcePtr credentials) {
  FASTOCI_TRY(Reference repo, ParseReference(repository));
  repo.tag.clear();  // what is not named goes under its digest
  FASTOCI_TRY(auto client, RegistryClient::Open(std::move(options), std::move(credentials)));
  return std::unique_ptr<ImageStore>(new RegistryStore(std::move(client), std::move(repo)));
}

Result<std::unique_ptr<ImageStore>> OpenRegistryStore(const std::string& repository,
                                                      RegistryOptions options,
                                                      Credentials credentials) {
  return OpenRegistryStore(repository, std::move(options),
                           FixedSource(std::move(credentials), ""));
}

Result<std::unique_ptr<ImageStore>> OpenLayoutStore(const std::string& directory, bool create) {
  if (create && ::access((directory + "/index.json").c_str(), F_OK) != 0) {
    constexpr char kLayout[] = R"({"imageLayoutVersion": "1.0.0"})";
    constexpr char kNoManifests[] = R"({"schemaVersion": 2, "manifests": []})";
    FASTOCI_CHECK_OK(MakeDirs(directory + "/blobs/sha256"));
    const UniqueFd lock = LockLayout(directory);
    if (::access((directory + "/index.json").c_str(), F_OK) != 0) {  // nobody else made it meanwhile
      FASTOCI_CHECK_OK(WriteFileAtomic(directory + "/oci-layout", AsBytes(kLayout)));
      FASTOCI_CHECK_OK(WriteFileAtomic(directory + "/index.json", AsBytes(kNoManifests)));
    }
  }
  auto store = std::make_unique<LayoutStore>(directory);
  Result<Json> index = store->Index();
  if (!index.ok()) return index.error().Wrap("OCI layout " + directory);
  return std::unique_ptr<ImageStore>(std::move(store));
}

Result<std::vector<std::string>> ListLayout(const std::string& directory) {
  FASTOCI_TRY(const Json index, LayoutStore(directory).Index());
  std::vector<std::string> digests;
  for (const Json& d : index["manifests"]) {
    const std::string digest = JsonText(d, "digest");
    if (std::find(digests.begin(), digests.end(), digest) == digests.end()) digests.push_back(digest);
  }
  return digests;
}

std::string LayoutBlobPath(const std::string& directory, const std::string& digest) {
  return directory + "/blobs/sha256/" + digest.substr(digest.find(':') + 1);
}

std::optional<LayoutName> ParseLayoutName(const std::string& text) {
  if (!text.starts_with(kLayoutPrefix)) return std::nullopt;
  std::string rest = text.substr(sizeof(kLayoutPrefix) - 1);
  size_t colon = rest.rfind(':');
  if (colon == std::string::npos || rest.find('/', colon) != std::string::npos)
    return LayoutName{rest, ""};
  return LayoutName{rest.substr(0, colon), rest.substr(colon + 1)};
}

Result<NamedImage> OpenNamedImage(const std::string& text, RegistryOptions options,
                                  CredentialSourcePtr credentials, bool create) {
  NamedImage image;
  if (auto layout = ParseLayoutName(text)) {
    if (layout->tag.empty()) return InvalidError(text + ": the tag is missing; write oci:DIR:TAG");
    image.name = layout->tag;
    FASTOCI_TRY(image.store, OpenLayoutStore(layout->directory, create));
    return image;
  }
  FASTOCI_TRY(Reference ref, ParseReference(text));
  image.name = ref.Identifier();
  FASTOCI_TRY(image.store, OpenRegistryStore(ref.host + "/" + ref.repository, std::move(options),
                                             std::move(credentials)));
  return image;
}

}  // namespace fastoci
