// SPDX-License-Identifier: Apache-2.0
#include "store/slot_db.h"

#include <sqlite3.h>

#include <algorithm>
#include <cstdio>

#include "base/log.h"

namespace fastoci {
namespace {

constexpr char kSchema[] =
    "PRAGMA mmap_size=0;"
    "PRAGMA locking_mode=EXCLUSIVE;"
    "PRAGMA journal_mode=WAL;"
    "PRAGMA synchronous=FULL;"
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS cache(version INTEGER NOT NULL, uuid BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS spaces(id INTEGER PRIMARY KEY,"
    "  data_space_id BLOB NOT NULL UNIQUE, data_bytes INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS slots(slot INTEGER PRIMARY KEY,"
    "  space INTEGER NOT NULL REFERENCES spaces(id), chunk INTEGER NOT NULL, digest BLOB,"
    "  UNIQUE(space, chunk));"
    "COMMIT;";
constexpr int kSchemaVersion = 1;

Error SqlError(sqlite3* db, const char* what) {
  int code = db != nullptr ? sqlite3_extended_errcode(db) : SQLITE_NOMEM;
  Error e{ErrorKind::kIo, EIO, std::string("database: ") + what + ": " +
                                   (db != nullptr ? sqlite3_errmsg(db) : "no memory")};
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: e.kind = ErrorKind::kInvalid; break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: e = {ErrorKind::kUnavailable, EBUSY, e.message}; break;
    case SQLITE_FULL: e.err = ENOSPC; break;
    default: break;
  }
  return e;
}

class Statement {
 public:
  Statement(sqlite3* db, const char* sql) : db_(db) {
    failed_ = sqlite3_prepare_v2(db, sql, -1, &s_, nullptr) != SQLITE_OK;
  }
  ~Statement() { sqlite3_finalize(s_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Bind(int i, uint64_t v) {
    return Take(sqlite3_bind_int64(s_, i, static_cast<sqlite3_int64>(v)));
  }
  Statement& Bind(int i, ByteSpan b) {
    return Take(
        sqlite3_bind_blob(s_, i, b.data(), static_cast<int>(b.size()), SQLITE_TRANSIENT));
  }
  Statement& BindNull(int i) { return Take(sqlite3_bind_null(s_, i)); }
  // True: a row.
  Result<bool> Step() {
    if (failed_) return SqlError(db_, "prepare");
    int r = sqlite3_step(s_);
    if (r == SQLITE_ROW) return true;
    if (r != SQLITE_DONE) return SqlError(db_, "step");
    return false;
  }
  // For statements without rows; may be bound again after it.
  Status Run() {
    auto r = Step();
    sqlite3_reset(s_);
    if (!r.ok()) return r.error();
    return OkStatus();
  }
  void Reset() { sqlite3_reset(s_); }
  uint64_t Int(int column) const {
    return static_cast<uint64_t>(sqlite3_column_int64(s_, column));
  }
  ByteSpan Blob(int column) const {
    auto* p = static_cast<const uint8_t*>(sqlite3_column_blob(s_, column));
    return {p, p == nullptr ? 0 : static_cast<size_t>(sqlite3_column_bytes(s_, column))};
  }

 private:
  Statement& Take(int result) {
    failed_ = failed_ || result != SQLITE_OK;
    return *this;
  }
  sqlite3* db_;
  sqlite3_stmt* s_ = nullptr;
  bool failed_ = false;
};

Status Exec(sqlite3* db, const char* sql) {
  if (sqlite3_exec(db, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return SqlError(db, "exec");
  return OkStatus();
}

bool CopyDigest(ByteSpan blob, Sha256Digest* out) {
  if (blob.size() != out->size()) return false;
  std::copy(blob.begin(), blob.end(), out->begin());
  return true;
}

}  // namespace

SlotDb::~SlotDb() { sqlite3_close_v2(db_); }

Result<std::unique_ptr<SlotDb>> SlotDb::OpenOnce(const std::string& path,
                                                 const std::array<uint8_t, 16>& uuid,
                                                 int busy_ms) {
  std::unique_ptr<SlotDb> db(new SlotDb);
  if (sqlite3_open_v2(path.c_str(), &db->db_,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                      nullptr) != SQLITE_OK)
    return SqlError(db->db_, path.c_str());
  sqlite3_busy_timeout(db->db_, busy_ms);
  FASTOCI_CHECK_OK(Exec(db->db_, kSchema));
  FASTOCI_CHECK_OK(db->CheckUuid(uuid));
  FASTOCI_TRY(uint64_t rows, db->CountRows());  // a damaged file shows here at the latest
  (void)rows;
  return db;
}

Result<std::unique_ptr<SlotDb>> SlotDb::Open(const std::string& path,
                                             const std::array<uint8_t, 16>& uuid, int busy_ms) {
  auto db = OpenOnce(path, uuid, busy_ms);
  if (db.ok() || db.error().kind != ErrorKind::kInvalid) return db;
  Log(LogLevel::kWarning, "%s; it is started anew, what is cached will be fetched again",
      db.error().message.c_str());
  std::string aside = path + ".damaged";
  if (std::rename(path.c_str(), aside.c_str()) != 0) return ErrnoError("rename " + path);
  for (const char* suffix : {"-wal", "-shm"}) std::remove((path + suffix).c_str());
  return OpenOnce(path, uuid, busy_ms);
}

Status SlotDb::CheckUuid(const std::array<uint8_t, 16>& uuid) {
  bool same = false, other = false;
  {
    Statement s(db_, "SELECT version, uuid FROM cache");
    FASTOCI_TRY(bool row, s.Step());
    if (row) {
      ByteSpan known = s.Blob(1);
      same = s.Int(0) == kSchemaVersion && std::equal(known.begin(), known.end(), uuid.begin(), uuid.end());
      other = !same;
    }
  }
  if (same) return OkStatus();
  if (other) Log(LogLevel::kWarning, "the database is of another cache; it is started anew");
  FASTOCI_CHECK_OK(Exec(db_, "BEGIN IMMEDIATE; DELETE FROM slots; DELETE FROM spaces;"
                             "DELETE FROM cache"));
  Statement s(db_, "INSERT INTO cache(version, uuid) VALUES(?, ?)");
  Status status = s.Bind(1, static_cast<uint64_t>(kSchemaVersion)).Bind(2, ByteSpan(uuid)).Run();
  if (status.ok()) status = Exec(db_, "COMMIT");
  if (!status.ok()) (void)Exec(db_, "ROLLBACK");
  return status;
}

Result<std::vector<SlotRow>> SlotDb::Load() const {
  std::vector<SlotRow> rows;
  Statement s(db_, "SELECT slot, data_space_id, data_bytes, chunk, digest FROM slots"
                   " JOIN spaces ON spaces.id = slots.space ORDER BY space, chunk");
  for (;;) {
    FASTOCI_TRY(bool more, s.Step());
    if (!more) return rows;
    SlotRow r;
    r.slot = static_cast<uint32_t>(s.Int(0));
    r.data_bytes = s.Int(2);
    r.chunk_no = static_cast<uint32_t>(s.Int(3));
    if (!CopyDigest(s.Blob(1), &r.data_space_id)) continue;
    Sha256Digest digest;
    if (CopyDigest(s.Blob(4), &digest)) r.digest = digest;
    rows.push_back(r);
  }
}

Result<uint64_t> SlotDb::CountRows() const {
  Statement s(db_, "SELECT count(*) FROM slots");
  FASTOCI_TRY(bool row, s.Step());
  return row ? s.Int(0) : 0;
}

Status SlotDb::WriteRows(std::span<const SlotRow> rows, std::span<const uint32_t> freed_slots) {
  Statement free_slot(db_, "DELETE FROM slots WHERE slot = ?");
  for (uint32_t slot : freed_slots) FASTOCI_CHECK_OK(free_slot.Bind(1, uint64_t{slot}).Run());
  Statement add_space(db_, "INSERT INTO spaces(data_space_id, data_bytes) VALUES(?, ?)"
                           " ON CONFLICT(data_space_id) DO NOTHING");
  Statement add_slot(db_, "INSERT OR REPLACE INTO slots(slot, space, chunk, digest)"
                          " VALUES(?, (SELECT id FROM spaces WHERE data_space_id = ?), ?, ?)");
  for (const SlotRow& r : rows) {
    FASTOCI_CHECK_OK(add_space.Bind(1, r.data_space_id).Bind(2, r.data_bytes).Run());
    add_slot.Bind(1, uint64_t{r.slot}).Bind(2, r.data_space_id).Bind(3, uint64_t{r.chunk_no});
    if (r.digest)
      add_slot.Bind(4, ByteSpan(*r.digest));
    else
      add_slot.BindNull(4);
    FASTOCI_CHECK_OK(add_slot.Run());
  }
  return OkStatus();
}

Status SlotDb::Commit(std::span<const SlotRow> rows, std::span<const uint32_t> freed_slots) {
  FASTOCI_CHECK_OK(Exec(db_, "BEGIN IMMEDIATE"));
  Status s = WriteRows(rows, freed_slots);
  if (s.ok()) s = Exec(db_, "COMMIT");
  if (!s.ok()) (void)Exec(db_, "ROLLBACK");
  return s;
}

}  // namespace fastoci
