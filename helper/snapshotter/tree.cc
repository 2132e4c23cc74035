// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace fastoci {
namespace {

UniqueFd OpenDirectory(int parent, const char* name) {
  struct open_how how = {};
  how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS;
  return UniqueFd(static_cast<int>(::syscall(SYS_openat2, parent, name, &how, sizeof(how))));
}

struct Place {
  dev_t dev = 0;
  ino_t ino = 0;
  bool operator==(const Place&) const = default;
};

Place PlaceOf(const UniqueFd& fd) {
  struct stat st;
  return fd.valid() && ::fstat(fd.get(), &st) == 0 ? Place{st.st_dev, st.st_ino} : Place{};
}

bool IsDirectory(int parent, const struct dirent& e) {
  if (e.d_type != DT_UNKNOWN) return e.d_type == DT_DIR;
  struct stat st;
  return ::fstatat(parent, e.d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

class Walk {
 public:
  Walk(const std::string& path, const TreeVisitor& visitor) : path_(path), visitor_(visitor) {}

  Status Run() {
    UniqueFd top(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!top.valid() && errno == ENOENT) return NotFoundError("there is no " + path_);
    if (!top.valid()) return ErrnoError("open " + path_);
    top_.reset(::fcntl(top.get(), F_DUPFD_CLOEXEC, 0));
    if (!top_.valid()) return ErrnoError("open " + path_);
    Descend("", std::move(top));
    while (levels_.size() > 1 || !levels_.back().directories.empty()) {
      if (levels_.back().directories.empty()) {
        Leave();
        continue;
      }
      const std::string name = std::move(levels_.back().directories.back());
      levels_.back().directories.pop_back();
      Enter(name);
    }
    return first_;
  }

 private:
  // From the top down to where the walk is.
  struct Level {
    std::string name;
    Place place;
    std::vector<std::string> directories;  // that were not entered yet
  };

  void Keep(const std::string& what, const std::string& name, int err) {
    if (first_.ok() && err != ENOENT) first_ = ErrnoError(what + " " + name + " in " + path_, err);
  }

  void Enter(const std::string& name) {
    UniqueFd fd = OpenDirectory(at_.get(), name.c_str());
    if (fd.valid()) return Descend(name, std::move(fd));
    if (errno == EXDEV) return Keep("something is mounted at", name, EBUSY);
    Keep("open", name, errno);
    visitor_.directory(at_.get(), name.c_str());
  }

  // Visits the directory's files, and keeps the names of its directories.
  void Descend(const std::string& name, UniqueFd fd) {
    at_ = std::move(fd);
    levels_.push_back({name, PlaceOf(at_), {}});
    UniqueFd copy(::fcntl(at_.get(), F_DUPFD_CLOEXEC, 0));
    std::unique_ptr<DIR, int (*)(DIR*)> dir(copy.valid() ? ::fdopendir(copy.get()) : nullptr, ::closedir);
    if (!dir) return Keep("read", name, errno);
    (void)copy.release();
    errno = 0;
    for (struct dirent* e; (e = ::readdir(dir.get())) != nullptr; errno = 0) {
      if (std::strcmp(e->d_name, ".") == 0 || std::strcmp(e->d_name, "..") == 0) continue;
      if (IsDirectory(at_.get(), *e)) levels_.back().directories.emplace_back(e->d_name);
      else visitor_.file(at_.get(), e->d_name);
    }
    if (errno != 0) Keep("read", name, errno);
  }

  void Leave() {
    const std::string name = std::move(levels_.back().name);
    levels_.pop_back();
    UniqueFd up = OpenDirectory(at_.get(), "..");
    if (up.valid() && PlaceOf(up) == levels_.back().place) at_ = std::move(up);
    else Return();
    visitor_.directory(at_.get(), name.c_str());
  }

  // Somebody moved the directory. The walk goes on at the lowest level that is where it was.
  void Return() {
    at_ = OpenDirectory(top_.get(), ".");
    for (size_t i = 1; i < levels_.size(); i++) {
      UniqueFd down = OpenDirectory(at_.get(), levels_[i].name.c_str());
      if (!down.valid() || PlaceOf(down) != levels_[i].place) {
        levels_.resize(i);
        return;
      }
      at_ = std::move(down);
    }
  }

  const std::string& path_;
  const TreeVisitor& visitor_;
  UniqueFd top_, at_;  // at_: the directory of the last level
  std::vector<Level> levels_;
  Status first_ = OkStatus();
};

}  // namespace

Status WalkTree(const std::string& path, const TreeVisitor& visitor) { return Walk(path, visitor).Run(); }

Status RemoveTree(const std::string& path) {
  Status first = OkStatus();
  auto remove = [&](int parent, const char* name, int flags) {
    if (::unlinkat(parent, name, flags) != 0 && errno != ENOENT && first.ok())
      first = ErrnoError(std::string("remove ") + name + " in " + path);
  };
  // A directory that cannot be entered or emptied says why; that it is not empty then, says nothing.
  Status walked = WalkTree(path, {[&](int parent, const char* name) { remove(parent, name, 0); },
                                  [&](int parent, const char* name) { remove(parent, name, AT_REMOVEDIR); }});
  if (!walked.ok()) return walked.error().kind == ErrorKind::kNotFound ? OkStatus() : walked;
  if (first.ok() && ::rmdir(path.c_str()) != 0 && errno != ENOENT) return ErrnoError("remove " + path);
  return first;
}

}  // namespace fastoci
