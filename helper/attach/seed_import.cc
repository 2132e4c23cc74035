// SPDX-License-Identifier: Apache-2.0
// ImportSeed(): a look at all of the seed first, then one image after the other.
//
//   read -> for each image: policy, assemble, compare the data     nothing has changed until here
//        -> for each image: state, attach, pin, data into the cache, detach if it was not attached
//
// What fails in the second part (the helper ends, a disk is full) undoes its image. Data that is in
// the cache by then stays there: it was compared with its digests, and nothing uses it.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <list>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "attach/seed.h"
#include "attach/seed_chunks.h"
#include "attach/signature.h"
#include "base/foreign_json.h"
#include "base/format.h"
#include "base/json.h"
#include "cache/cache_device.h"
#include "control/seed_feed.h"
#include "image/meta_image_file.h"
#include "image/seed_data.h"

namespace fastoci {
namespace {

constexpr int64_t kLockMs = 60000;
constexpr int64_t kControlMs = 10000;
constexpr char kCheckDir[] = "/var/tmp";

// Whole chunks of a node's cache that a run has all of.
struct Whole {
  uint64_t begin = 0, end = 0;  // of the data space
};
Whole WholeChunks(const SeedTable& table, const SeedRun& run, uint64_t chunk_bytes) {
  const uint64_t first = run.first * kSeedPieceBytes, last = first + table.BytesOf(run);
  const uint64_t begin = (first + chunk_bytes - 1) / chunk_bytes * chunk_bytes;
  const uint64_t end = last == table.data_bytes ? last : last / chunk_bytes * chunk_bytes;
  return {std::min(begin, end), end};
}

// An image of the seed, and what was found out about it.
struct Candidate {
  SeedConfig config;
  SeedManifest manifest;
  Reference ref;
  std::string name;
  std::string meta_path;  // assembled, in the work directory
  MetaImage meta;
  Access access;          // for the helper
  std::string seed_keys;
  std::list<SeedDataFile> files;
  uint64_t seeded_bytes() const {
    uint64_t bytes = 0;
    for (const SeedDataFile& file : files) bytes += file.table().piece_bytes();
    return bytes;
  }
};

class WorkDirectory {
 public:
  ~WorkDirectory() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  Status Make(const std::string& parent) {
    path_ = parent + "/.seed.XXXXXX";
    if (::mkdtemp(path_.data()) != nullptr) return OkStatus();
    path_.clear();
    return ErrnoError("make a directory in " + parent);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class Importer {
 public:
  Importer(const AttachPaths& paths, const SeedImportRequest& request, Progress* progress)
      : paths_(paths), request_(request), progress_(*progress) {}

  Result<std::vector<SeedImage>> Run() {
    FASTOCI_TRY(node_, LoadConfig(paths_.config));
    FASTOCI_CHECK_OK(Read());
    if (!request_.check_only) FASTOCI_CHECK_OK(MakeDirs(paths_.state_dir, 0755));
    FASTOCI_CHECK_OK(work_.Make(request_.check_only ? kCheckDir : paths_.state_dir));
    std::vector<SeedImage> out;
    for (Candidate& c : candidates_)
      if (Status checked = Check(&c); !checked.ok()) return checked.error().Wrap(c.config.ref);
    if (!request_.check_only) FASTOCI_CHECK_OK(CheckNode());
    for (const Candidate& c : candidates_) {
      SeedImage image{.name = c.name, .ref = c.config.ref, .manifest_digest = c.manifest.image_digest,
                      .seeded_bytes = c.seeded_bytes()};
      for (const BlobInfo& blob : c.meta.blobs) image.data_bytes += blob.data_bytes;
      if (!request_.check_only)
        if (Status taken = Take(c, &image.nr_chunks); !taken.ok())
          return taken.error().Wrap(c.config.ref + " is not imported");
      out.push_back(std::move(image));
    }
    return out;
  }

 private:
  // ---- the look ----

  Status Read() {
    progress_.Step("reading " + request_.directory);
    FASTOCI_TRY(const auto store, OpenLayoutStore(request_.directory));
    FASTOCI_TRY(const std::vector<std::string> digests, ListLayout(request_.directory));
    std::set<std::string> missing(request_.images.begin(), request_.images.end());
    for (const std::string& digest : digests) {
      const auto of = [&](const Error& e) { return e.Wrap(request_.directory + ": manifest " + digest); };
      auto body = store->GetManifest(digest);
      if (!body.ok()) return of(body.error());
      auto manifest = ParseSeedManifest(body->body);
      if (!manifest.ok() && manifest.error().kind == ErrorKind::kMismatch) {
        if (Status whole = CheckBlobs(store.get(), body->body); !whole.ok()) return of(whole.error());
        continue;
      }
      if (!manifest.ok()) return of(manifest.error());
      auto text = store->ReadBlob(manifest->config.digest, kMaxSeedConfigBytes);
      auto config = text.ok() ? ParseSeedConfig(*text) : Result<SeedConfig>(text.error());
      if (!config.ok()) return of(config.error());
      if (!request_.images.empty() && !std::count(request_.images.begin(), request_.images.end(), config->ref))
        continue;
      missing.erase(config->ref);
      Candidate c;
      c.config = std::move(*config);
      c.manifest = std::move(*manifest);
      FASTOCI_CHECK_OK(Name(&c));
      candidates_.push_back(std::move(c));
    }
    if (!missing.empty()) return NotFoundError("the image " + *missing.begin() + " is not in " + request_.directory);
    if (candidates_.empty()) return NotFoundError(request_.directory + " is no seed: it has no image that was exported");
    return OkStatus();
  }

  // What a manifest that is not the seed's own names: an image's, or an artifact's.
  static Status CheckBlobs(ImageStore* store, const std::string& manifest) {
    const auto j = ParseForeignJson(manifest);
    std::vector<std::string> digests;
    if (const auto& config = JsonChild(j, "config"); config.is_object()) digests.push_back(JsonText(config, "digest"));
    for (const auto& layer : JsonChild(j, "layers")) digests.push_back(JsonText(layer, "digest"));
    for (const std::string& digest : digests)
      FASTOCI_CHECK_OK(store->GetBlob(digest, 0, [](ByteSpan) { return OkStatus(); }));
    return OkStatus();
  }

  Status Name(Candidate* c) {
    auto ref = ParseReference(c->config.ref);
    if (!ref.ok()) return ref.error().Wrap(request_.directory);
    c->ref = std::move(*ref);
    c->name = DefaultImageName(c->ref.repository, c->ref.Identifier());
    for (const Candidate& other : candidates_)
      if (other.name == c->name)
        return InvalidError(request_.directory + ": " + other.config.ref + " and " + c->config.ref +
                            " would have the same name, " + c->name + "; name one of them: fastoci seed import DIR IMAGE");
    return OkStatus();
  }

  Status Check(Candidate* c) {
    const std::vector<std::string>& only = request_.digests;
    if (!only.empty() && !std::count(only.begin(), only.end(), c->manifest.image_digest))
      return MismatchError("the seed has the manifest " + c->manifest.image_digest + ", which is none of those that --digest names");
    RegistryAccess access = request_.access;
    if (access.node_hosts_dir.empty()) access.node_hosts_dir = node_.hosts_dir;
    FASTOCI_TRY(ImagePuller puller, ImagePuller::Open(access, node_.signatures));
    FASTOCI_TRY(const ResolvedImage image,
                puller.ResolveSeed(request_.directory, c->manifest.image_digest, c->config, &progress_));
    FASTOCI_CHECK_OK(puller.CheckPolicy(image, &progress_));
    FASTOCI_TRY(c->seed_keys, SeedKeysOf(node_.signatures, c->config.ref));
    ResolvedImage remote = image;  // what the helper asks for the rest
    remote.layout = nullptr;
    FASTOCI_TRY(c->access, puller.AccessFor(remote));
    FASTOCI_TRY(const Sha256Digest digest, ParseDigest(c->manifest.image_digest));
    c->access.image_id = HexEncode(digest);
    c->meta_path = work_.path() + "/" + c->name + ".img";
    FASTOCI_CHECK_OK(puller.Assemble(image, work_.path(), c->meta_path, &progress_));
    FASTOCI_TRY(c->meta, ReadMetaImageFile(c->meta_path));
    return CheckData(c);
  }

  Status CheckData(Candidate* c) {
    progress_.Step("checking the data of " + c->config.ref);
    uint64_t total = 0, done = 0;
    for (const SeedManifest::Data& data : c->manifest.data) {
      FASTOCI_TRY(SeedDataFile file, SeedDataFile::Open(LayoutBlobPath(request_.directory, data.file.digest)));
      if (file.file_bytes() != data.file.bytes)
        return MismatchError(file.path() + " has " + std::to_string(file.file_bytes()) + " bytes instead of " +
                             std::to_string(data.file.bytes));
      total += file.table().piece_bytes();
      c->files.push_back(std::move(file));
    }
    auto data = c->manifest.data.begin();
    for (const SeedDataFile& file : c->files) {
      const auto blob = std::find_if(c->meta.blobs.begin(), c->meta.blobs.end(),
                                     [&](const BlobInfo& b) { return b.data_space_id == data->space_id; });
      if (blob == c->meta.blobs.end())
        return MismatchError(file.path() + ": the image has no data space " + DigestString(data->space_id));
      FASTOCI_CHECK_OK(file.Check(*blob, data->file.digest, [&](uint64_t bytes) {
        done += bytes;
        progress_.Bytes(done, total);
      }));
      ++data;
    }
    return OkStatus();
  }

  // Whether the cache can take it, and no image is in the way.
  Status CheckNode() {
    if (!node_.keep_cache)
      return InvalidError("the configuration has keepCache off (gzipCacheConfig.enable): the cache would be emptied with the last image");
    FASTOCI_TRY(const std::string device, HelperCacheDevice(paths_.control_socket, kControlMs));
    FASTOCI_TRY(const auto cache, CacheDevice::Open(device));
    chunk_bytes_ = cache->chunk_bytes();
    std::set<Sha256Digest> counted;
    uint64_t chunks = 0;
    for (const Candidate& c : candidates_) {
      for (const SeedDataFile& file : c.files)
        if (counted.insert(file.table().space_id).second) chunks += NrChunks(file);
      FASTOCI_CHECK_OK(CheckName(c));
    }
    const uint64_t room = cache->geometry().nr_slots / 10 * 9;
    if (chunks <= room) return OkStatus();
    return Error{ErrorKind::kIo, ENOSPC,
                 "the seed has " + std::to_string(chunks) + " chunks, and only " + std::to_string(room) +
                     " of the cache may be filled with it: use a larger cache"};
  }

  Status CheckName(const Candidate& c) {
    auto there = FindImage(paths_, c.name);
    if (!there.ok()) return there.error().kind == ErrorKind::kNotFound ? OkStatus() : Status(there.error());
    if (there->state.manifest_digest == c.manifest.image_digest) return OkStatus();
    return Error{ErrorKind::kIo, EEXIST,
                 "the node has another image of the name " + c.name +
                     (there->state.ref.empty() ? "" : " (" + there->state.ref + ", " + there->state.manifest_digest + ")") +
                     "; detach it first: fastoci detach " + c.name};
  }

  uint64_t NrChunks(const SeedDataFile& file) const {
    uint64_t n = 0;
    for (const SeedRun& run : file.table().runs) {
      const Whole whole = WholeChunks(file.table(), run, chunk_bytes_);
      n += (whole.end - whole.begin + chunk_bytes_ - 1) / chunk_bytes_;
    }
    return n;
  }

  // ---- the import of one image ----

  Status Take(const Candidate& c, uint64_t* nr_chunks) {
    auto before = FindImage(paths_, c.name);
    const bool known = before.ok(), attached = known && before->attached;
    Status status = attached ? OkStatus() : Keep(c);
    AttachRequest attach;
    attach.name = c.name;
    attach.kept = true;
    if (known && !before->state.policy.empty()) attach.policy = before->state.policy;
    if (status.ok() && !attached) {
      auto result = AttachImage(paths_, attach, &progress_);
      if (!result.ok()) status = result.error();
    }
    bool pinned = false;
    if (status.ok()) status = Fill(c, nr_chunks, &pinned);
    if (!status.ok()) {
      if (pinned) (void)CallHelper(paths_.control_socket, {{"op", "unpin"}, {"image_id", c.access.image_id}}, kControlMs).ok();
      if (!attached) Undo(c, known ? &before->state : nullptr);
      return status;
    }
    if (attached) return MarkSeeded(c);
    // After a reboot, restore would attach it.
    return known && before->state.attached ? OkStatus() : Detach(c, true);
  }

  // In place of what an earlier import or attach has left of it.
  Status Keep(const Candidate& c) {
    FASTOCI_TRY(StateDir dir, StateDir::Open(paths_.state_dir, c.name, kLockMs));
    ImageState state;
    if (auto loaded = dir.Load(); loaded.ok()) state = *loaded;
    state.name = c.name;
    state.ref = c.config.ref;
    state.manifest_digest = c.manifest.image_digest;
    state.seeded = true;
    state.seed_keys = c.seed_keys;
    state.meta_path = dir.MetaPath();
    FASTOCI_TRY(state.meta_sha256, HashFile(c.meta_path));
    // It was synced when it was made.
    if (::rename(c.meta_path.c_str(), state.meta_path.c_str()) != 0) return ErrnoError(state.meta_path + ": rename");
    FASTOCI_CHECK_OK(dir.SaveAccess(c.access));
    return dir.Save(state);
  }

  // before: what was kept of it before the import, if anything was.
  void Undo(const Candidate& c, const ImageState* before) {
    const Status detached = Detach(c, before != nullptr);
    if (before != nullptr) {
      (void)UpdateState(paths_.state_dir, c.name, kLockMs, [&](ImageState* state) {
        state->seeded = before->seeded;
        state->seed_keys = before->seed_keys;
        state->attached = before->attached;
        state->mounts = before->mounts;
      }).ok();
    } else if (!detached.ok() && detached.error().kind == ErrorKind::kNotFound) {
      if (auto dir = StateDir::Open(paths_.state_dir, c.name, kLockMs); dir.ok()) (void)dir->Remove().ok();
    } else if (!detached.ok()) {
      progress_.Warn(c.name + " could not be detached: " + detached.error().message);
    }
  }

  Status MarkSeeded(const Candidate& c) {
    return UpdateState(paths_.state_dir, c.name, kLockMs, [&](ImageState* state) {
      state->seeded = true;
      state->seed_keys = c.seed_keys;
    });
  }

  Status Detach(const Candidate& c, bool keep) {
    DetachRequest request;
    request.keep = keep;
    request.keep_seeded = false;
    return DetachImage(paths_, c.name, request, &progress_);
  }

  Status Fill(const Candidate& c, uint64_t* nr_chunks, bool* pinned) {
    const std::string& id = c.access.image_id;
    // The helper knows the image once it answers this.
    for (const SeedDataFile& file : c.files) {
      auto known = AskCachedChunks(paths_.control_socket, id, file.table().space_id);
      if (!known.ok()) return known.error();
    }
    // Before the data comes: what is pinned is not evicted while more comes.
    if (request_.pin) {
      auto reply = CallHelper(paths_.control_socket, {{"op", "pin"}, {"image_id", id}}, kControlMs);
      if (!reply.ok()) return reply.error();
      *pinned = true;
    }
    progress_.Step("copying the data of " + c.config.ref + " into the cache");
    FASTOCI_TRY(SeedFeed feed, SeedFeed::Open(paths_.control_socket, id));
    uint64_t done = 0;
    for (const SeedDataFile& file : c.files)
      if (Status fed = FillFile(file, c.seeded_bytes(), &done, &feed); !fed.ok()) return fed.error().Wrap(file.path());
    FASTOCI_CHECK_OK(feed.End());
    return Count(c, nr_chunks);
  }

  Status FillFile(const SeedDataFile& file, uint64_t total, uint64_t* done, SeedFeed* feed) {
    const SeedTable& table = file.table();
    uint64_t run_at = 0;  // in the file
    for (const SeedRun& run : table.runs) {
      const Whole whole = WholeChunks(table, run, chunk_bytes_);
      const uint64_t run_begin = run.first * kSeedPieceBytes;
      for (uint64_t at = whole.begin; at < whole.end;) {
        const uint64_t bytes = std::min(kSeedBatchBytes, whole.end - at);
        FASTOCI_TRY(const std::span<uint8_t> buffer, feed->Buffer());
        FASTOCI_CHECK_OK(file.Read(run_at + (at - run_begin), buffer.first(bytes)));
        FASTOCI_CHECK_OK(feed->Fill(table.space_id, at, bytes));
        at += bytes;
        progress_.Bytes(*done + (at - run_begin), total);
      }
      run_at += table.BytesOf(run);
      *done += table.BytesOf(run);
    }
    return OkStatus();
  }

  // A full cache may have evicted some while others came.
  Status Count(const Candidate& c, uint64_t* nr_chunks) {
    uint64_t wanted = 0;
    for (const SeedDataFile& file : c.files) {
      FASTOCI_TRY(const CachedChunks cached, AskCachedChunks(paths_.control_socket, c.access.image_id, file.table().space_id));
      std::vector<bool> there((file.table().data_bytes + chunk_bytes_ - 1) / chunk_bytes_);
      for (const ChunkRun& run : cached.runs)
        for (uint32_t i = 0; i < run.count; i++)
          if (run.chunk_no + i < there.size()) there[run.chunk_no + i] = true;
      for (const SeedRun& run : file.table().runs) {
        const Whole whole = WholeChunks(file.table(), run, chunk_bytes_);
        for (uint64_t at = whole.begin; at < whole.end; at += chunk_bytes_) {
          wanted++;
          *nr_chunks += there[at / chunk_bytes_];
        }
      }
    }
    if (*nr_chunks == wanted) return OkStatus();
    return Error{ErrorKind::kIo, ENOSPC,
                 std::to_string(wanted - *nr_chunks) + " of its " + Counted(wanted, "chunk") +
                     " were evicted again while others came: free the cache (fastoci gc), use a larger one, or import with --pin"};
  }

  const AttachPaths& paths_;
  const SeedImportRequest& request_;
  Progress& progress_;
  Config node_;
  WorkDirectory work_;
  std::list<Candidate> candidates_;
  uint64_t chunk_bytes_ = 0;
};

}  // namespace

Result<std::vector<SeedImage>> ImportSeed(const AttachPaths& paths, const SeedImportRequest& request,
                                          Progress* progress) {
  return Importer(paths, request, progress).Run();
}

}  // namespace fastoci
