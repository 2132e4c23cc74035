// SPDX-License-Identifier: Apache-2.0
#include "store/cache_db.h"

#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <set>

namespace fastoci {
namespace {

constexpr int kBusyTimeoutMs = 5000;
constexpr int kSchemaVersion = 3;
constexpr char kRowColumns[] =
    "SELECT slot, slots.space_id, chunk, digest, data_bytes FROM slots"
    " JOIN spaces ON spaces.cache = slots.cache AND spaces.space_id = slots.space_id";

Error DbError(sqlite3* db, const std::string& what) {
  return {ErrorKind::kIo, EIO,
          "cache database: " + what + ": " + (db ? sqlite3_errmsg(db) : "no memory")};
}

class Statement {
 public:
  Statement(sqlite3* db, const char* sql) : db_(db) {
    rc_ = sqlite3_prepare_v2(db, sql, -1, &stmt_, nullptr);
  }
  ~Statement() { sqlite3_finalize(stmt_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  template <size_t N>
  void Bind(int i, const std::array<uint8_t, N>& blob) {
    Keep(sqlite3_bind_blob(stmt_, i, blob.data(), static_cast<int>(N), SQLITE_TRANSIENT));
  }
  void BindBytes(int i, std::span<const uint8_t> bytes) {
    Keep(sqlite3_bind_blob64(stmt_, i, bytes.data(), bytes.size(), SQLITE_TRANSIENT));
  }
  void Bind(int i, uint64_t v) { Keep(sqlite3_bind_int64(stmt_, i, static_cast<int64_t>(v))); }
  int Step() { return rc_ == SQLITE_OK ? sqlite3_step(stmt_) : rc_; }
  // Runs to the end and makes ready for the next set of values.
  Status Run(const char* what) {
    int rc = Step();
    if (rc != SQLITE_DONE) return DbError(db_, what);
    Reset();
    return OkStatus();
  }
  void Reset() { sqlite3_reset(stmt_); }
  template <size_t N>
  bool Column(int i, std::array<uint8_t, N>* out) {
    if (sqlite3_column_bytes(stmt_, i) != static_cast<int>(N)) return false;
    std::copy_n(static_cast<const uint8_t*>(sqlite3_column_blob(stmt_, i)), N, out->begin());
    return true;
  }
  // Empty if the column does not hold whole digests.
  std::vector<Sha256Digest> Digests(int i) {
    const auto bytes = static_cast<size_t>(sqlite3_column_bytes(stmt_, i));
    if (bytes % sizeof(Sha256Digest) != 0) return {};
    std::vector<Sha256Digest> out(bytes / sizeof(Sha256Digest));
    if (bytes > 0) std::memcpy(out.data(), sqlite3_column_blob(stmt_, i), bytes);
    return out;
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

// False: not ours, as good as absent.
bool ReadRow(Statement* s, SlotRow* row) {
  const int64_t slot = s->Int(0), chunk = s->Int(2), data_bytes = s->Int(4);
  if (slot < 0 || slot > UINT32_MAX || chunk < 0 || chunk > UINT32_MAX || data_bytes <= 0)
    return false;
  row->slot = static_cast<uint32_t>(slot);
  row->chunk_no = static_cast<uint32_t>(chunk);
  row->data_bytes = static_cast<uint64_t>(data_bytes);
  return s->Column(1, &row->space_id) && s->Column(3, &row->digest);
}

}  // namespace

Result<std::unique_ptr<CacheDb>> CacheDb::Open(const std::string& path,
                                               const std::array<uint8_t, 16>& uuid) {
  std::unique_ptr<CacheDb> db(new CacheDb);
  db->uuid_ = uuid;
  if (sqlite3_open_v2(path.c_str(), &db->db_,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX,
                      nullptr) != SQLITE_OK)
    return DbError(db->db_, path);
  sqlite3_busy_timeout(db->db_, kBusyTimeoutMs);
  FASTOCI_CHECK_OK(db->Prepare(path));
  return db;
}

Status CacheDb::Prepare(const std::string& path) {
  // No mmap: an I/O error must be an error and not a signal.
  FASTOCI_CHECK_OK(Exec("PRAGMA mmap_size=0"));
  // First, and EXTRA: the switch to WAL removes a rollback journal, which a power
  // cut could bring back to roll all of the database away. For WAL it is FULL.
  FASTOCI_CHECK_OK(Exec("PRAGMA synchronous=EXTRA"));
  FASTOCI_CHECK_OK(Exec("PRAGMA journal_mode=WAL"));
  int64_t version = 0;
  {
    Statement s(db_, "PRAGMA user_version");
    if (s.Step() != SQLITE_ROW) return DbError(db_, "version");
    version = s.Int(0);
  }
  if (version == 1 || version == 2)  // of before the first release
    FASTOCI_CHECK_OK(Exec("DROP TABLE IF EXISTS slots; DROP TABLE IF EXISTS spaces"));
  else if (version != 0 && version != kSchemaVersion)
    return InvalidError("cache database: " + path + ": unknown version " + std::to_string(version));
  for (const char* sql :
       {"CREATE TABLE IF NOT EXISTS slots(cache BLOB NOT NULL, slot INTEGER NOT NULL,"
        " space_id BLOB NOT NULL, chunk INTEGER NOT NULL, digest BLOB NOT NULL,"
        " PRIMARY KEY(cache, slot), UNIQUE(cache, space_id, chunk)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS spaces(cache BLOB NOT NULL, space_id BLOB NOT NULL,"
        " data_bytes INTEGER NOT NULL DEFAULT 0, digests BLOB NOT NULL DEFAULT x'',"
        " PRIMARY KEY(cache, space_id)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS pins(cache BLOB NOT NULL, image_id BLOB NOT NULL,"
        " space_id BLOB NOT NULL, PRIMARY KEY(cache, image_id, space_id)) WITHOUT ROWID",
        "PRAGMA user_version=3"})
    FASTOCI_CHECK_OK(Exec(sql));
  return OkStatus();
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
  Statement add(
      db_, "INSERT OR REPLACE INTO slots(cache, slot, space_id, chunk, digest) VALUES(?,?,?,?,?)");
  Statement remove(db_, "DELETE FROM slots WHERE cache=? AND slot=?");
  Statement space(db_,
                  "INSERT INTO spaces(cache, space_id, data_bytes) VALUES(?,?,?)"
                  " ON CONFLICT DO UPDATE SET data_bytes=excluded.data_bytes");
  Sha256Digest last{};
  for (const Change& c : changes) {
    if (c.add) {
      if (c.row.space_id != last) {
        space.Bind(1, uuid_);
        space.Bind(2, c.row.space_id);
        space.Bind(3, c.row.data_bytes);
        FASTOCI_CHECK_OK(space.Run("insert"));
        last = c.row.space_id;
      }
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

Status CacheDb::RemoveAll() {
  std::lock_guard db_lock(db_mutex_);
  {
    std::lock_guard lock(mutex_);
    queue_.clear();
  }
  Statement s(db_, "DELETE FROM slots WHERE cache=?");
  s.Bind(1, uuid_);
  return s.Run("delete");
}

Status CacheDb::ForEach(const std::function<void(const SlotRow&)>& each) const {
  std::lock_guard db_lock(db_mutex_);
  const std::string sql =
      std::string(kRowColumns) + " WHERE slots.cache=? ORDER BY slots.space_id, chunk";
  Statement s(db_, sql.c_str());
  s.Bind(1, uuid_);
  for (;;) {
    int rc = s.Step();
    if (rc == SQLITE_DONE) return OkStatus();
    if (rc != SQLITE_ROW) return DbError(db_, "load");
    SlotRow row;
    if (ReadRow(&s, &row)) each(row);
  }
}

Result<std::optional<SlotRow>> CacheDb::Find(uint32_t slot) const {
  std::lock_guard db_lock(db_mutex_);
  const std::string sql = std::string(kRowColumns) + " WHERE slots.cache=? AND slot=?";
  Statement s(db_, sql.c_str());
  s.Bind(1, uuid_);
  s.Bind(2, slot);
  int rc = s.Step();
  if (rc == SQLITE_DONE) return std::optional<SlotRow>();
  if (rc != SQLITE_ROW) return DbError(db_, "find");
  SlotRow row;
  return ReadRow(&s, &row) ? std::optional<SlotRow>(row) : std::nullopt;
}

Result<uint64_t> CacheDb::Count() const {
  std::lock_guard db_lock(db_mutex_);
  std::set<uint32_t> changed;
  {
    std::lock_guard lock(mutex_);
    for (const Change& c : queue_) changed.insert(c.row.slot);
  }
  Statement s(db_, "SELECT count(*) FROM slots WHERE cache=?");
  s.Bind(1, uuid_);
  if (s.Step() != SQLITE_ROW) return DbError(db_, "count");
  auto count = static_cast<uint64_t>(s.Int(0));
  Statement stale(db_, "SELECT 1 FROM slots WHERE cache=? AND slot=?");
  for (uint32_t slot : changed) {
    stale.Bind(1, uuid_);
    stale.Bind(2, slot);
    const int rc = stale.Step();
    if (rc == SQLITE_ROW) count--;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) return DbError(db_, "count");
    stale.Reset();
  }
  return count;
}

Status CacheDb::Pin(const Sha256Digest& image_id, std::span<const Sha256Digest> spaces) {
  std::lock_guard db_lock(db_mutex_);
  FASTOCI_CHECK_OK(Exec("BEGIN IMMEDIATE"));
  Status status = OkStatus();
  {
    Statement s(db_, "INSERT OR REPLACE INTO pins(cache, image_id, space_id) VALUES(?,?,?)");
    for (const Sha256Digest& space : spaces) {
      s.Bind(1, uuid_);
      s.Bind(2, image_id);
      s.Bind(3, space);
      status = s.Run("pin");
      if (!status.ok()) break;
    }
  }
  if (status.ok()) status = Exec("COMMIT");
  if (!status.ok()) (void)sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
  return status;
}

Status CacheDb::Unpin(const Sha256Digest& image_id) {
  std::lock_guard db_lock(db_mutex_);
  Statement s(db_, "DELETE FROM pins WHERE cache=? AND image_id=?");
  s.Bind(1, uuid_);
  s.Bind(2, image_id);
  return s.Run("unpin");
}

Result<std::vector<std::pair<Sha256Digest, Sha256Digest>>> CacheDb::Pins() const {
  std::lock_guard db_lock(db_mutex_);
  Statement s(db_, "SELECT image_id, space_id FROM pins WHERE cache=?");
  s.Bind(1, uuid_);
  std::vector<std::pair<Sha256Digest, Sha256Digest>> pins;
  for (;;) {
    int rc = s.Step();
    if (rc == SQLITE_DONE) return pins;
    if (rc != SQLITE_ROW) return DbError(db_, "pins");
    std::pair<Sha256Digest, Sha256Digest> p;
    if (s.Column(0, &p.first) && s.Column(1, &p.second)) pins.push_back(p);
  }
}

Status CacheDb::RecordDigests(const Sha256Digest& space_id,
                              std::span<const Sha256Digest> digests) {
  std::lock_guard db_lock(db_mutex_);
  Statement s(db_,
              "INSERT INTO spaces(cache, space_id, digests) VALUES(?,?,?)"
              " ON CONFLICT DO UPDATE SET digests=excluded.digests");
  s.Bind(1, uuid_);
  s.Bind(2, space_id);
  s.BindBytes(3, {reinterpret_cast<const uint8_t*>(digests.data()), digests.size_bytes()});
  return s.Run("digests");
}

Result<std::vector<Sha256Digest>> CacheDb::Digests(const Sha256Digest& space_id) const {
  std::lock_guard db_lock(db_mutex_);
  Statement s(db_, "SELECT digests FROM spaces WHERE cache=? AND space_id=?");
  s.Bind(1, uuid_);
  s.Bind(2, space_id);
  int rc = s.Step();
  if (rc != SQLITE_DONE && rc != SQLITE_ROW) return DbError(db_, "digests");
  if (rc == SQLITE_DONE) return std::vector<Sha256Digest>();
  return s.Digests(0);
}

}  // namespace fastoci
