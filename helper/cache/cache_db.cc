// SPDX-License-Identifier: Apache-2.0
#include "cache/cache_db.h"

#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "fastoci_meta.h"

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

// False: the file is not our database, and is treated as if it were missing.
bool ReadRow(Statement* s, SlotRow* row) {
  const int64_t slot = s->Int(0), chunk = s->Int(2), data_bytes = s->Int(4);
  if (slot < 0 || slot > UINT32_MAX || chunk < 0 || chunk > UINT32_MAX || data_bytes <= 0)
    return false;
  row->slot = static_cast<uint32_t>(slot);
  row->chunk_no = static_cast<uint32_t>(chunk);
  row->data_bytes = static_cast<uint64_t>(data_bytes);
  return s->Column(1, &row->space_id) && s->Column(3, &row->digest);
}

Status Exec(sqlite3* db, const char* sql) {
  if (sqlite3_exec(db, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return DbError(db, sql);
  return OkStatus();
}

// All of write() or nothing.
Status Transaction(sqlite3* db, const std::function<Status()>& write) {
  FASTOCI_CHECK_OK(Exec(db, "BEGIN IMMEDIATE"));
  Status status = write();
  if (status.ok()) status = Exec(db, "COMMIT");
  if (!status.ok()) (void)sqlite3_exec(db, "ROLLBACK", nullptr, nullptr, nullptr);
  return status;
}

}  // namespace

void CacheDb::Close::operator()(sqlite3* db) const { sqlite3_close(db); }

Result<CacheDb::Connection> CacheDb::Connect(const std::string& path) {
  sqlite3* db = nullptr;
  const int rc = sqlite3_open_v2(
      path.c_str(), &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX,
      nullptr);
  Connection connection(db);
  if (rc != SQLITE_OK) return DbError(db, path);
  sqlite3_busy_timeout(db, kBusyTimeoutMs);
  // No mmap: an I/O error must be an error and not a signal.
  FASTOCI_CHECK_OK(Exec(db, "PRAGMA mmap_size=0"));
  return connection;
}

Result<std::unique_ptr<CacheDb>> CacheDb::Open(const std::string& path,
                                               const std::array<uint8_t, 16>& uuid,
                                               size_t max_queued) {
  std::unique_ptr<CacheDb> db(new CacheDb(uuid, max_queued));
  MutexLock lock(db->write_mutex_);
  FASTOCI_TRY(db->write_db_, Connect(path));
  FASTOCI_CHECK_OK(db->Prepare(path));
  FASTOCI_TRY(db->read_db_, Connect(path));
  FASTOCI_CHECK_OK(db->LoadCommitted());
  FASTOCI_CHECK_OK(db->LoadPins());
  lock.Unlock();
  return db;
}

Status CacheDb::Prepare(const std::string& path) {
  sqlite3* db = write_db_.get();
  // First, and EXTRA: the switch to WAL removes a rollback journal, which a power
  // cut could bring back to roll all of the database away. For WAL it is FULL.
  FASTOCI_CHECK_OK(Exec(db, "PRAGMA synchronous=EXTRA"));
  FASTOCI_CHECK_OK(Exec(db, "PRAGMA journal_mode=WAL"));
  int64_t version = 0;
  {
    Statement s(db, "PRAGMA user_version");
    if (s.Step() != SQLITE_ROW) return DbError(db, "version");
    version = s.Int(0);
  }
  if (version == 1 || version == 2)  // of before the first release
    FASTOCI_CHECK_OK(Exec(db, "DROP TABLE IF EXISTS slots; DROP TABLE IF EXISTS spaces"));
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
    FASTOCI_CHECK_OK(Exec(db, sql));
  return OkStatus();
}

CacheDb::~CacheDb() = default;

Status CacheDb::LoadCommitted() {
  Statement s(write_db_.get(), "SELECT slot FROM slots WHERE cache=?");
  s.Bind(1, uuid_);
  MutexLock lock(mutex_);  // nobody else has this object yet
  for (;;) {
    const int rc = s.Step();
    if (rc == SQLITE_DONE) return OkStatus();
    if (rc != SQLITE_ROW) return DbError(write_db_.get(), "load");
    const int64_t slot = s.Int(0);
    if (slot >= 0 && slot < FASTOCI_MAX_SLOTS) committed_.Insert(static_cast<uint32_t>(slot));
  }
}

bool CacheDb::Add(const SlotRow& row) {
  MutexLock lock(mutex_);
  committed_.Erase(row.slot);
  return queue_.Add(row);
}

void CacheDb::Remove(uint32_t slot) {
  MutexLock lock(mutex_);
  committed_.Erase(slot);
  queue_.Remove(slot);
}

size_t CacheDb::nr_queued() const {
  MutexLock lock(mutex_);
  return queue_.nr_changes();
}

bool CacheDb::NearlyFull() const {
  MutexLock lock(mutex_);
  return queue_.nr_rows() >= max_queued_ / 2;
}

uint64_t CacheDb::Count() const {
  MutexLock lock(mutex_);
  return committed_.size();
}

// ---- committing ----

Status CacheDb::Apply(const RowQueue::Batch& batch, SlotSet* replaced) {
  sqlite3* db = write_db_.get();
  Statement add(
      db, "INSERT OR REPLACE INTO slots(cache, slot, space_id, chunk, digest) VALUES(?,?,?,?,?)");
  Statement other(db, "SELECT slot FROM slots WHERE cache=? AND space_id=? AND chunk=?");
  Statement remove(db, "DELETE FROM slots WHERE cache=? AND slot=?");
  Statement space(db,
                  "INSERT INTO spaces(cache, space_id, data_bytes) VALUES(?,?,?)"
                  " ON CONFLICT DO UPDATE SET data_bytes=excluded.data_bytes");
  Status status = OkStatus();
  batch.removed.ForEach([&](uint32_t slot) {
    if (!status.ok()) return;
    remove.Bind(1, uuid_);
    remove.Bind(2, slot);
    status = remove.Run("delete");
  });
  FASTOCI_CHECK_OK(status);
  Sha256Digest last{};
  for (const auto& [order, row] : batch.rows) {
    if (row.space_id != last) {
      space.Bind(1, uuid_);
      space.Bind(2, row.space_id);
      space.Bind(3, row.data_bytes);
      FASTOCI_CHECK_OK(space.Run("insert"));
      last = row.space_id;
    }
    other.Bind(1, uuid_);
    other.Bind(2, row.space_id);
    other.Bind(3, row.chunk_no);
    const int rc = other.Step();
    if (rc == SQLITE_ROW && other.Int(0) != row.slot)
      replaced->Insert(static_cast<uint32_t>(other.Int(0)));
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) return DbError(db, "insert");
    other.Reset();
    add.Bind(1, uuid_);
    add.Bind(2, row.slot);
    add.Bind(3, row.space_id);
    add.Bind(4, row.chunk_no);
    add.Bind(5, row.digest);
    FASTOCI_CHECK_OK(add.Run("insert"));
    replaced->Erase(row.slot);
  }
  return OkStatus();
}

Status CacheDb::WriteBatch(const RowQueue::Batch& batch, SlotSet* replaced) {
  return Transaction(write_db_.get(), [&]() REQUIRES(write_mutex_) {
    return Apply(batch, replaced);
  });
}

void CacheDb::MarkCommitted(const RowQueue::Batch& batch, const SlotSet& replaced) {
  MutexLock lock(mutex_);
  for (const auto& [order, row] : batch.rows)
    if (!queue_.Has(row.slot)) committed_.Insert(row.slot);
  replaced.ForEach([this](uint32_t slot) REQUIRES(mutex_) { committed_.Erase(slot); });
}

Status CacheDb::Commit(const std::function<Status()>& flush, std::vector<uint32_t>* lost) {
  RowQueue::Batch batch;
  uint64_t removals;
  {
    MutexLock lock(mutex_);
    if (queue_.empty()) return OkStatus();
    batch = queue_.Take();
    removals = removals_;
  }
  Status status = flush();
  MutexLock writing(write_mutex_);
  {
    MutexLock lock(mutex_);
    if (removals != removals_) return OkStatus();  // RemoveAll() came between: it holds for these
  }
  SlotSet replaced;
  if (status.ok()) status = WriteBatch(batch, &replaced);
  if (status.ok()) {
    MarkCommitted(batch, replaced);
    return status;
  }
  MutexLock lock(mutex_);
  std::vector<uint32_t> not_kept = queue_.PutBack(std::move(batch));
  if (lost) *lost = std::move(not_kept);
  return status;
}

Status CacheDb::RemoveAll() {
  MutexLock writing(write_mutex_);
  {
    MutexLock lock(mutex_);
    queue_.Clear();
    committed_.Clear();
    removals_++;
  }
  Statement s(write_db_.get(), "DELETE FROM slots WHERE cache=?");
  s.Bind(1, uuid_);
  return s.Run("delete");
}

Status CacheDb::ForEach(const std::function<void(const SlotRow&)>& each) const {
  MutexLock lock(read_mutex_);
  const std::string sql =
      std::string(kRowColumns) + " WHERE slots.cache=? ORDER BY slots.space_id, chunk";
  Statement s(read_db_.get(), sql.c_str());
  s.Bind(1, uuid_);
  for (;;) {
    int rc = s.Step();
    if (rc == SQLITE_DONE) return OkStatus();
    if (rc != SQLITE_ROW) return DbError(read_db_.get(), "load");
    SlotRow row;
    if (ReadRow(&s, &row)) each(row);
  }
}

Result<std::optional<SlotRow>> CacheDb::Find(uint32_t slot) const {
  MutexLock lock(read_mutex_);
  const std::string sql = std::string(kRowColumns) + " WHERE slots.cache=? AND slot=?";
  Statement s(read_db_.get(), sql.c_str());
  s.Bind(1, uuid_);
  s.Bind(2, slot);
  int rc = s.Step();
  if (rc == SQLITE_DONE) return std::optional<SlotRow>();
  if (rc != SQLITE_ROW) return DbError(read_db_.get(), "find");
  SlotRow row;
  return ReadRow(&s, &row) ? std::optional<SlotRow>(row) : std::nullopt;
}

// ---- pins and digests ----

Status CacheDb::LoadPins() {
  Statement s(write_db_.get(), "SELECT image_id, space_id FROM pins WHERE cache=?");
  s.Bind(1, uuid_);
  MutexLock lock(mutex_);
  for (;;) {
    int rc = s.Step();
    if (rc == SQLITE_DONE) return OkStatus();
    if (rc != SQLITE_ROW) return DbError(write_db_.get(), "pins");
    std::pair<Sha256Digest, Sha256Digest> p;
    if (s.Column(0, &p.first) && s.Column(1, &p.second)) pins_.push_back(p);
  }
}

Status CacheDb::Pin(const Sha256Digest& image_id, std::span<const Sha256Digest> spaces) {
  MutexLock writing(write_mutex_);
  sqlite3* db = write_db_.get();
  FASTOCI_CHECK_OK(Transaction(db, [&]() -> Status {
    Statement s(db, "INSERT OR REPLACE INTO pins(cache, image_id, space_id) VALUES(?,?,?)");
    for (const Sha256Digest& space : spaces) {
      s.Bind(1, uuid_);
      s.Bind(2, image_id);
      s.Bind(3, space);
      FASTOCI_CHECK_OK(s.Run("pin"));
    }
    return OkStatus();
  }));
  MutexLock lock(mutex_);
  for (const Sha256Digest& space : spaces)
    if (std::find(pins_.begin(), pins_.end(), std::pair(image_id, space)) == pins_.end())
      pins_.emplace_back(image_id, space);
  return OkStatus();
}

Status CacheDb::Unpin(const Sha256Digest& image_id) {
  MutexLock writing(write_mutex_);
  {
    Statement s(write_db_.get(), "DELETE FROM pins WHERE cache=? AND image_id=?");
    s.Bind(1, uuid_);
    s.Bind(2, image_id);
    FASTOCI_CHECK_OK(s.Run("unpin"));
  }
  MutexLock lock(mutex_);
  std::erase_if(pins_, [&](const auto& pin) { return pin.first == image_id; });
  return OkStatus();
}

Result<bool> CacheDb::UnpinEverywhere(const std::string& path, const Sha256Digest& image_id) {
  FASTOCI_TRY(auto db, Open(path, {}));
  MutexLock lock(db->write_mutex_);
  Statement s(db->write_db_.get(), "DELETE FROM pins WHERE image_id=?");
  s.Bind(1, image_id);
  FASTOCI_CHECK_OK(s.Run("unpin"));
  return sqlite3_changes(db->write_db_.get()) > 0;
}

CacheDb::PinList CacheDb::Pins() const {
  MutexLock lock(mutex_);
  return pins_;
}

Status CacheDb::RecordDigests(const Sha256Digest& space_id,
                              std::span<const Sha256Digest> digests) {
  MutexLock writing(write_mutex_);
  Statement s(write_db_.get(),
              "INSERT INTO spaces(cache, space_id, digests) VALUES(?,?,?)"
              " ON CONFLICT DO UPDATE SET digests=excluded.digests");
  s.Bind(1, uuid_);
  s.Bind(2, space_id);
  s.BindBytes(3, {reinterpret_cast<const uint8_t*>(digests.data()), digests.size_bytes()});
  return s.Run("digests");
}

Result<std::vector<Sha256Digest>> CacheDb::Digests(const Sha256Digest& space_id) const {
  MutexLock lock(read_mutex_);
  Statement s(read_db_.get(), "SELECT digests FROM spaces WHERE cache=? AND space_id=?");
  s.Bind(1, uuid_);
  s.Bind(2, space_id);
  int rc = s.Step();
  if (rc != SQLITE_DONE && rc != SQLITE_ROW) return DbError(read_db_.get(), "digests");
  if (rc == SQLITE_DONE) return std::vector<Sha256Digest>();
  return s.Digests(0);
}

}  // namespace fastoci
