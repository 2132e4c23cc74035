// SPDX-License-Identifier: Apache-2.0
// CacheDb and a power cut at every step. A shim between SQLite and the file
// system records writes, truncations, removals and syncs of the database's
// files, beside the flushes of the cache device. For each point of that record
// the files are made as a disk could have them: what was synced is there, of
// what was not any subset is. Then: the database opens, a row that is there was
// added after its slot had been flushed, and every commit that had returned is
// there in full.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>

#include "base/unique_fd.h"
#include "cache/cache_db.h"

namespace fastoci {
namespace {

struct Event {
  enum Kind { kWrite, kTruncate, kRemove, kSync, kFlush, kCommitted } kind;
  std::string file;
  uint64_t offset = 0;  // kTruncate: size; kFlush: slots flushed; kCommitted: rows
  Bytes data;
};

std::vector<Event>* g_log;

// ---- the shim: a VFS whose files log and pass on ----

struct ShimFile {
  sqlite3_file base;
  sqlite3_file* real;
  std::string* name;
};

sqlite3_file* Real(sqlite3_file* f) { return reinterpret_cast<ShimFile*>(f)->real; }
const std::string& Name(sqlite3_file* f) { return *reinterpret_cast<ShimFile*>(f)->name; }

int Close(sqlite3_file* f) {
  auto* shim = reinterpret_cast<ShimFile*>(f);
  int rc = Real(f)->pMethods ? Real(f)->pMethods->xClose(Real(f)) : SQLITE_OK;
  sqlite3_free(shim->real);
  delete shim->name;
  return rc;
}
int Write(sqlite3_file* f, const void* data, int n, sqlite3_int64 at) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  g_log->push_back({Event::kWrite, Name(f), static_cast<uint64_t>(at), Bytes(bytes, bytes + n)});
  return Real(f)->pMethods->xWrite(Real(f), data, n, at);
}
int Truncate(sqlite3_file* f, sqlite3_int64 size) {
  g_log->push_back({Event::kTruncate, Name(f), static_cast<uint64_t>(size), {}});
  return Real(f)->pMethods->xTruncate(Real(f), size);
}
int Sync(sqlite3_file* f, int flags) {
  g_log->push_back({Event::kSync, Name(f), 0, {}});
  return Real(f)->pMethods->xSync(Real(f), flags);
}

const sqlite3_io_methods kMethods = {
    2,
    Close,
    [](sqlite3_file* f, void* p, int n, sqlite3_int64 at) {
      return Real(f)->pMethods->xRead(Real(f), p, n, at);
    },
    Write,
    Truncate,
    Sync,
    [](sqlite3_file* f, sqlite3_int64* size) {
      return Real(f)->pMethods->xFileSize(Real(f), size);
    },
    [](sqlite3_file* f, int lock) { return Real(f)->pMethods->xLock(Real(f), lock); },
    [](sqlite3_file* f, int lock) { return Real(f)->pMethods->xUnlock(Real(f), lock); },
    [](sqlite3_file* f, int* out) { return Real(f)->pMethods->xCheckReservedLock(Real(f), out); },
    [](sqlite3_file* f, int op, void* arg) {
      return Real(f)->pMethods->xFileControl(Real(f), op, arg);
    },
    [](sqlite3_file* f) { return Real(f)->pMethods->xSectorSize(Real(f)); },
    [](sqlite3_file* f) { return Real(f)->pMethods->xDeviceCharacteristics(Real(f)); },
    [](sqlite3_file* f, int page, int size, int extend, void volatile** out) {
      return Real(f)->pMethods->xShmMap(Real(f), page, size, extend, out);
    },
    [](sqlite3_file* f, int offset, int n, int flags) {
      return Real(f)->pMethods->xShmLock(Real(f), offset, n, flags);
    },
    [](sqlite3_file* f) { Real(f)->pMethods->xShmBarrier(Real(f)); },
    [](sqlite3_file* f, int remove) { return Real(f)->pMethods->xShmUnmap(Real(f), remove); },
    nullptr,
    nullptr,
};

sqlite3_vfs* g_real_vfs;

int Open(sqlite3_vfs*, const char* name, sqlite3_file* f, int flags, int* out_flags) {
  auto* shim = reinterpret_cast<ShimFile*>(f);
  shim->base.pMethods = nullptr;
  shim->real = static_cast<sqlite3_file*>(sqlite3_malloc(g_real_vfs->szOsFile));
  std::memset(shim->real, 0, static_cast<size_t>(g_real_vfs->szOsFile));
  int rc = g_real_vfs->xOpen(g_real_vfs, name, shim->real, flags, out_flags);
  if (rc != SQLITE_OK) {
    sqlite3_free(shim->real);
    return rc;
  }
  shim->name = new std::string(std::filesystem::path(name ? name : "").filename());
  shim->base.pMethods = &kMethods;
  return SQLITE_OK;
}
int Remove(sqlite3_vfs*, const char* name, int sync) {
  const std::string file = std::filesystem::path(name).filename();
  g_log->push_back({Event::kRemove, file, 0, {}});
  if (sync) g_log->push_back({Event::kSync, file, 0, {}});  // the directory is synced, too
  return g_real_vfs->xDelete(g_real_vfs, name, sync);
}

class Shim {
 public:
  explicit Shim(std::vector<Event>* log) {
    g_log = log;
    g_real_vfs = sqlite3_vfs_find(nullptr);
    vfs_ = *g_real_vfs;
    vfs_.zName = "recording";
    vfs_.szOsFile = sizeof(ShimFile);
    vfs_.xOpen = Open;
    vfs_.xDelete = Remove;
    sqlite3_vfs_register(&vfs_, 1);
  }
  ~Shim() {
    sqlite3_vfs_unregister(&vfs_);
    sqlite3_vfs_register(g_real_vfs, 1);
  }

 private:
  sqlite3_vfs vfs_;
};

// ---- disks that could be ----

using Files = std::map<std::string, Bytes>;

void Apply(const Event& e, Files* files) {
  Bytes& f = (*files)[e.file];
  if (e.kind == Event::kRemove) {
    files->erase(e.file);
  } else if (e.kind == Event::kTruncate) {
    f.resize(e.offset);
  } else {
    if (f.size() < e.offset + e.data.size()) f.resize(e.offset + e.data.size());
    std::copy(e.data.begin(), e.data.end(), f.begin() + static_cast<ptrdiff_t>(e.offset));
  }
}

// The disk after the first n events: each unsynced one is there by a throw of
// the coin, a torn write in part.
Files DiskAfter(const std::vector<Event>& log, size_t n, std::mt19937* rng) {
  std::map<std::string, size_t> synced;  // events of a file before that are safe
  for (size_t i = 0; i < n; i++)
    if (log[i].kind == Event::kSync) synced[log[i].file] = i;
  Files files;
  for (size_t i = 0; i < n; i++) {
    Event e = log[i];
    if (e.kind != Event::kWrite && e.kind != Event::kTruncate && e.kind != Event::kRemove) continue;
    const bool safe = synced.count(e.file) && i < synced[e.file];
    if (!safe && (*rng)() % 2) continue;
    if (!safe && e.kind == Event::kWrite && e.data.size() > 512 && (*rng)() % 3 == 0)
      e.data.resize((*rng)() % (e.data.size() / 512) * 512);
    Apply(e, &files);
  }
  return files;
}

SlotRow Row(uint32_t n) {
  SlotRow r;
  r.space_id[0] = static_cast<uint8_t>(n % 3);
  r.chunk_no = n;
  r.slot = n % 40;  // slots are used again
  r.digest[0] = static_cast<uint8_t>(n);
  r.data_bytes = 1 << 20;
  return r;
}

TEST(PowerLoss, NoRowWithoutItsSlotAndNoCommitLost) {
  char name[] = "build/power.XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string dir = name;
  std::vector<Event> log;
  constexpr uint32_t kRows = 120;
  {
    Shim shim(&log);
    auto db = CacheDb::Open(dir + "/db", {1});
    ASSERT_TRUE(db.ok()) << db.error().message;
    for (uint32_t n = 0; n < kRows;) {
      for (int i = 0; i < 5; i++) (*db)->Add(Row(n++));
      ASSERT_TRUE((*db)
                      ->Commit([&] {
                        log.push_back({Event::kFlush, "", n, {}});
                        return OkStatus();
                      })
                      .ok());
      log.push_back({Event::kCommitted, "", n, {}});
    }
  }
  std::mt19937 rng(5);
  int opened = 0;
  for (size_t point = 1; point <= log.size(); point++) {
    const std::string at = dir + "/cut";
    std::filesystem::remove_all(at);
    std::filesystem::create_directory(at);
    for (const auto& [file, bytes] : DiskAfter(log, point, &rng)) {
      UniqueFd fd(::open((at + "/" + file).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
      ASSERT_TRUE(WriteFull(fd.get(), bytes, file).ok());
    }
    uint64_t flushed = 0, committed = 0;
    for (size_t i = 0; i < point; i++) {
      if (log[i].kind == Event::kFlush) flushed = log[i].offset;
      if (log[i].kind == Event::kCommitted) committed = log[i].offset;
    }
    auto db = CacheDb::Open(at + "/db", {1});
    if (!db.ok()) {  // only before anything was promised
      EXPECT_EQ(committed, 0u) << "event " << point << ": " << db.error().message;
      continue;
    }
    opened++;
    uint64_t found = 0;
    Status read = (*db)->ForEach([&](const SlotRow& r) {
      found++;
      EXPECT_LT(r.chunk_no, flushed) << "event " << point << ": a row before its slot's flush";
      EXPECT_EQ(r.digest, Row(r.chunk_no).digest);
      EXPECT_EQ(r.slot, Row(r.chunk_no).slot);
    });
    EXPECT_TRUE(read.ok()) << "event " << point << ": " << read.error().message;
    EXPECT_GE(found, std::min<uint64_t>(committed, 40)) << "event " << point;
  }
  EXPECT_GT(opened, 100);
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace fastoci
