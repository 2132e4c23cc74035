// SPDX-License-Identifier: Apache-2.0
#include "attach/state.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include "base/byte_reader.h"
#include "base/json.h"
#include "kernel/dm_control.h"

namespace fastoci {
namespace {

constexpr int64_t kPollMs = 50;
constexpr uint64_t kMaxStateBytes = 1 << 20;
constexpr int kStateVersion = 1;

using DirPtr = std::unique_ptr<DIR, int (*)(DIR*)>;

std::vector<std::string> Entries(const std::string& path) {
  std::vector<std::string> names;
  DirPtr dir(::opendir(path.c_str()), ::closedir);
  if (!dir) return names;
  while (struct dirent* e = ::readdir(dir.get())) {
    std::string name = e->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

Result<StateDir> StateDir::Open(const std::string& root, const std::string& name,
                                int64_t timeout_ms) {
  if (!IsImageName(name)) return InvalidError("not a valid name of an image: " + name);
  auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  StateDir dir;
  dir.path_ = root + "/" + name;
  for (;;) {
    FASTOCI_CHECK_OK(MakeDirs(root, 0755));
    FASTOCI_CHECK_OK(MakeDirs(dir.path_, 0700));
    dir.lock_.reset(::open(dir.path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!dir.lock_.valid()) return ErrnoError("open " + dir.path_);
    if (::flock(dir.lock_.get(), LOCK_EX | LOCK_NB) == 0) {
      // Whoever held it before may have removed the directory.
      struct stat locked, now;
      if (::fstat(dir.lock_.get(), &locked) == 0 && ::stat(dir.path_.c_str(), &now) == 0 &&
          locked.st_ino == now.st_ino && locked.st_dev == now.st_dev) {
        return dir;
      }
    } else if (errno != EWOULDBLOCK && errno != EINTR) {
      return ErrnoError("lock " + dir.path_);
    }
    if (std::chrono::steady_clock::now() > end) {
      return Error{ErrorKind::kUnavailable, EBUSY,
                   "another fastoci command is working on " + name + "; try again"};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs));
  }
}

StateDir::~StateDir() {
  if (lock_.valid()) ::flock(lock_.get(), LOCK_UN);
}

Result<ImageState> StateDir::Load() const {
  FASTOCI_TRY(std::string text, ReadFile(path_ + "/state.json", kMaxStateBytes));
  return StateFromJson(text);
}

Status StateDir::Save(const ImageState& state) const {
  return WriteFileAtomic(path_ + "/state.json", AsBytes(StateToJson(state)), 0600);
}

Status StateDir::SaveAccess(const Access& access) const {
  const std::string path = path_ + "/access.json";
  if (access.empty()) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return ErrnoError("remove " + path);
    return OkStatus();
  }
  return WriteFileAtomic(path, AsBytes(AccessToJson(access).Reveal()), 0600);
}

Status StateDir::Remove() {
  for (const std::string& name : Entries(path_)) {
    std::string file = path_ + "/" + name;
    if (::unlink(file.c_str()) != 0 && errno != ENOENT) return ErrnoError("remove " + file);
  }
  if (::rmdir(path_.c_str()) != 0 && errno != ENOENT) return ErrnoError("remove " + path_);
  return OkStatus();
}

Result<ImageState> ReadState(const std::string& root, const std::string& name) {
  if (!IsImageName(name)) return NotFoundError("no image " + name);
  FASTOCI_TRY(std::string text, ReadFile(root + "/" + name + "/state.json", kMaxStateBytes));
  return StateFromJson(text);
}

Result<Access> ReadAccess(const std::string& root, const std::string& name) {
  if (!IsImageName(name)) return NotFoundError("no image " + name);
  const std::string path = root + "/" + name + "/access.json";
  FASTOCI_TRY(std::string text, ReadFile(path, kMaxAccessBytes));
  auto access = AccessFromJson(text);
  if (!text.empty()) ::explicit_bzero(text.data(), text.size());
  if (!access.ok()) return access.error().Wrap(path);
  return access;
}

Status UpdateState(const std::string& root, const std::string& name, int64_t timeout_ms,
                   const std::function<void(ImageState*)>& change) {
  if (::access((root + "/" + name + "/state.json").c_str(), F_OK) != 0) return OkStatus();
  FASTOCI_TRY(StateDir dir, StateDir::Open(root, name, timeout_ms));
  FASTOCI_TRY(ImageState state, dir.Load());
  change(&state);
  return dir.Save(state);
}

std::vector<std::string> StateNames(const std::string& root) {
  std::vector<std::string> names = Entries(root);
  std::erase_if(names, [](const std::string& name) { return !IsImageName(name); });
  return names;
}

std::string StateToJson(const ImageState& s) {
  nlohmann::ordered_json j = {{"version", kStateVersion},
                              {"name", s.name},
                              {"ref", s.ref},
                              {"manifest_digest", s.manifest_digest},
                              {"meta_path", s.meta_path},
                              {"meta_sha256", s.meta_sha256},
                              {"fsck_sha256", s.fsck_sha256},
                              {"seeded", s.seeded},
                              {"seed_keys", s.seed_keys},
                              {"attached", s.attached},
                              {"policy", s.policy},
                              {"cache_device", s.cache_device},
                              {"mounts", s.mounts}};
  return j.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

Result<ImageState> StateFromJson(const std::string& text) {
  auto j = nlohmann::json::parse(text, nullptr, false);
  if (!j.is_object()) return InvalidError("state.json is damaged; detach the image and attach it again");
  auto version = j.find("version");
  if (version == j.end() || !version->is_number_integer() || *version != kStateVersion) {
    return InvalidError("state.json is of another version of FastOCI; detach the image and attach it again");
  }
  ImageState s;
  s.name = JsonText(j, "name");
  s.ref = JsonText(j, "ref");
  s.manifest_digest = JsonText(j, "manifest_digest");
  s.meta_path = JsonText(j, "meta_path");
  s.meta_sha256 = JsonText(j, "meta_sha256");
  s.fsck_sha256 = JsonText(j, "fsck_sha256");
  s.seeded = JsonChild(j, "seeded") == true;
  s.seed_keys = JsonText(j, "seed_keys");
  s.attached = JsonChild(j, "attached") == true;
  s.policy = JsonText(j, "policy");
  s.cache_device = JsonText(j, "cache_device");
  if (auto mounts = j.find("mounts"); mounts != j.end() && mounts->is_array()) {
    for (const auto& dir : *mounts) {
      if (dir.is_string()) s.mounts.push_back(dir.get<std::string>());
    }
  }
  return s;
}

}  // namespace fastoci
