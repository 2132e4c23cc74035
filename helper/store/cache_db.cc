// SPDX-License-Identifier: Apache-2.0
#include "store/cache_db.h"

#include <sqlite3.h>

#include <algorithm>

namespace fastoci {
namespace {

constexpr int kBusyTimeoutMs = 5000;
constexpr int kSchemaVersion = 1;

Error DbError(sqlite3* db, const std::string& what) {
  return {ErrorKind::kIo, EIO, "cache database: " + what + ": " + (db ? sqlite3_errmsg(db) : "no memory")};
}

class Statement {
 public:
  Statement(sqlite3* db, const char* sql) : db_(db) { rc_ = sqlite3_prepare_v2(db, sql, -1, &stmt_, nullptr); }
  ~Statement() { sqlite3_finalize(stmt_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  template <size_t N>
  void Bind(int i, const std::array<uint8_t, N>& blob) {
    Keep(sqlite3_bind_blob(stmt_, i, blob.data(), static_cast<int>(N), SQLITE_TRANSIENT));
  }
  void Bind(int i, uint32_t v) { Keep(sqlite3_bind_int64(stmt_, i, v)); }
  int Step() { return rc_ == SQLITE_OK ? sqlite3_step(stmt_) : rc_; }
  // Runs to the end and makes ready for the next set of values.
  Status Run(const char* what) {
    int rc = Step();
    if (rc != SQLITE_DONE) return DbError(db_, what);
    sqlite3_reset(stmt_);
    return OkStatus();
  }
  template <size_t N>
  bool Column(int i, std::array<uint8_t, N>* out) {
    if (sqlite3_column_bytes(stmt_, i) != static_cast<int>(N)) return false;
    std::copy_n(static_cast<const uint8_t*>(sqlite3_column_blob(stmt_, i)), N, out->begin());
    return true;
  }
  int64_t Int(int i) { return sqlite3_column_int64(stmt_, i); }

 private:
  void Keep(int rc) {
    if (rc_ == SQLITE_OK) rc_ = rc;
  }
  sqlite3* db_;
  sqlite3_stmt* stmt_ = nullptr;
  int rc_ = SQLITE_OK;
};

}  // namespace

Result<std::unique_ptr<CacheDb>> CacheDb::Open(const std::string& path, const std::array<uint8_t, 16>& uuid) {
  std::unique_ptr<CacheDb> db(new CacheDb);
  db->uuid_ = uuid;
  if (sqlite3_open_v2(path.c_str(), &db->db_,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr) != SQLITE_OK)
    return DbError(db->db_, path);
  sqlite3_busy_timeout(db->db_, kBusyTimeoutMs);
  // No mmap: an I/O error must be an error and not a signal.
  FASTOCI_CHECK_OK(db->Exec("PRAGMA mmap_size=0"));
  FASTOCI_CHECK_OK(db->Exec("PRAGMA journal_mode=WAL"));
  FASTOCI_CHECK_OK(db->Exec("PRAGMA synchronous=FULL"));
  int64_t version = 0;
  {
    Statement s(db->db_, "PRAGMA user_version");
    if (s.Step() != SQLITE_ROW) return DbError(db->db_, "version");
    version = s.Int(0);
  }
  if (version != 0 && version != kSchemaVersion)
    return InvalidError("cache database: " + path + ": unknown version " + std::to_string(version));
  FASTOCI_CHECK_OK(
      db->Exec("CREATE TABLE IF NOT EXISTS slots(cache BLOB NOT NULL, slot INTEGER NOT NULL,"
               " space_id BLOB NOT NULL, chunk INTEGER NOT NULL, digest BLOB NOT NULL,"
               " PRIMARY KEY(cache, slot), UNIQUE(cache, space_id, chunk)) WITHOUT ROWID"));
  FASTOCI_CHECK_OK(db->Exec("PRAGMA user_version=1"));
  return db;
}

CacheDb::~CacheDb() { sqlite3_close(db_); }

Status CacheDb::Exec(const char* sql) const {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return DbError(db_, sql);
  return OkStatus();
}

void CacheDb::Add(const SlotRow& row) {
  std::lock_guard lock(mutex_);
  queue_.push_back({true, row});
}

void CacheDb::Remove(uint32_t slot) {
  SlotRow row;
  row.slot = slot;
  std::lock_guard lock(mutex_);
  queue_.push_back({false, row});
}

size_t CacheDb::nr_queued() const {
  std::lock_guard lock(mutex_);
  return queue_.size();
}

Status CacheDb::Apply(const std::vector<Change>& changes) {
  Statement add(db_, "INSERT OR REPLACE INTO slots(cache, slot, space_id, chunk, digest) VALUES(?,?,?,?,?)");
  Statement remove(db_, "DELETE FROM slots WHERE cache=? AND slot=?");
  for (const Change& c : changes) {
    if (c.add) {
      add.Bind(1, uuid_);
      add.Bind(2, c.row.slot);
      add.Bind(3, c.row.space_id);
      add.Bind(4, c.row.chunk_no);
      add.Bind(5, c.row.digest);
      FASTOCI_CHECK_OK(add.Run("insert"));
    } else {
      remove.Bind(1, uuid_);
      remove.Bind(2, c.row.slot);
      FASTOCI_CHECK_OK(remove.Run("delete"));
    }
  }
  return OkStatus();
}

Status CacheDb::Commit(const std::function<Status()>& flush) {
  std::lock_guard db_lock(db_mutex_);
  std::vector<Change> changes;
  {
    std::lock_guard lock(mutex_);
    changes.swap(queue_);
  }
  if (changes.empty()) return OkStatus();
  Status status = flush();
  if (status.ok()) status = Exec("BEGIN IMMEDIATE");
  if (status.ok()) {
    status = Apply(changes);
    if (status.ok()) status = Exec("COMMIT");
    if (!status.ok()) (void)sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
  }
  if (!status.ok()) {
    std::lock_guard lock(mutex_);
    queue_.insert(queue_.begin(), changes.begin(), changes.end());
  }
  return status;
}

Result<std::vector<SlotRow>> CacheDb::Load() const {
  std::lock_guard db_lock(db_mutex_);
  Statement s(db_, "SELECT slot, space_id, chunk, digest FROM slots WHERE cache=? ORDER BY slot");
  s.Bind(1, uuid_);
  std::vector<SlotRow> rows;
  for (;;) {
    int rc = s.Step();
    if (rc == SQLITE_DONE) return rows;
    if (rc != SQLITE_ROW) return DbError(db_, "load");
    SlotRow row;
    const int64_t slot = s.Int(0), chunk = s.Int(2);
    if (slot < 0 || slot > UINT32_MAX || chunk < 0 || chunk > UINT32_MAX || !s.Column(1, &row.space_id) ||
        !s.Column(3, &row.digest))
      continue;  // not ours: as good as absent
    row.slot = static_cast<uint32_t>(slot);
    row.chunk_no = static_cast<uint32_t>(chunk);
    rows.push_back(row);
  }
}

Result<uint64_t> CacheDb::Count() const {
  std::lock_guard db_lock(db_mutex_);
  Statement s(db_, "SELECT count(*) FROM slots WHERE cache=?");
  s.Bind(1, uuid_);
  if (s.Step() != SQLITE_ROW) return DbError(db_, "count");
  return static_cast<uint64_t>(s.Int(0));
}

}  // namespace fastoci
