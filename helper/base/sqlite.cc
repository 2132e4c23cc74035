// SPDX-License-Identifier: Apache-2.0
#include "base/sqlite.h"

#include <sqlite3.h>

namespace fastoci {
namespace {

constexpr int kBusyTimeoutMs = 10000;

}  // namespace

Result<std::unique_ptr<SqliteDb>> SqliteDb::Open(const std::string& path, const std::string& name) {
  std::unique_ptr<SqliteDb> db(new SqliteDb);
  db->name_ = name;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;
  if (sqlite3_open_v2(path.c_str(), &db->db_, flags, nullptr) != SQLITE_OK)
    return db->LastError("open " + path);
  sqlite3_busy_timeout(db->db_, kBusyTimeoutMs);
  // No mmap: an I/O error must be an error and not a signal.
  for (const char* sql : {"PRAGMA mmap_size=0", "PRAGMA synchronous=EXTRA", "PRAGMA journal_mode=WAL",
                          "PRAGMA foreign_keys=ON"})
    FASTOCI_CHECK_OK(db->Exec(sql));
  return db;
}

SqliteDb::~SqliteDb() { sqlite3_close(db_); }

Status SqliteDb::Exec(const std::string& sql) {
  if (sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK) return OkStatus();
  return LastError(sql.substr(0, 60));
}

Result<int64_t> SqliteDb::UserVersion() {
  SqliteStatement s(this, "PRAGMA user_version");
  FASTOCI_TRY(bool row, s.Step());
  return row ? s.Int(0) : 0;
}

Error SqliteDb::LastError(const std::string& what) const {
  return {ErrorKind::kIo, EIO, name_ + ": " + what + ": " + (db_ ? sqlite3_errmsg(db_) : "no memory")};
}

SqliteStatement::SqliteStatement(SqliteDb* db, const char* sql) : db_(db) {
  rc_ = sqlite3_prepare_v2(db->handle(), sql, -1, &stmt_, nullptr);
}

SqliteStatement::~SqliteStatement() { sqlite3_finalize(stmt_); }

void SqliteStatement::Keep(int rc) {
  if (rc_ == SQLITE_OK) rc_ = rc;
}

SqliteStatement& SqliteStatement::Bind(int i, int64_t value) {
  Keep(sqlite3_bind_int64(stmt_, i, value));
  return *this;
}

SqliteStatement& SqliteStatement::Bind(int i, const std::string& text) {
  Keep(sqlite3_bind_text64(stmt_, i, text.data(), text.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
  return *this;
}

SqliteStatement& SqliteStatement::BindNull(int i) {
  Keep(sqlite3_bind_null(stmt_, i));
  return *this;
}

Result<bool> SqliteStatement::Step() {
  const int rc = rc_ == SQLITE_OK ? sqlite3_step(stmt_) : rc_;
  if (rc == SQLITE_ROW) return true;
  if (rc == SQLITE_DONE) return false;
  return db_->LastError(stmt_ ? std::string(sqlite3_sql(stmt_)).substr(0, 60) : "prepare");
}

Status SqliteStatement::Run() {
  FASTOCI_TRY(bool row, Step());
  (void)row;
  sqlite3_reset(stmt_);
  return OkStatus();
}

int64_t SqliteStatement::Int(int i) const { return sqlite3_column_int64(stmt_, i); }

std::string SqliteStatement::Text(int i) const {
  const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(stmt_, i));
  return text ? std::string(text, static_cast<size_t>(sqlite3_column_bytes(stmt_, i))) : "";
}

Result<SqliteTransaction> SqliteTransaction::Begin(SqliteDb* db) {
  FASTOCI_CHECK_OK(db->Exec("BEGIN IMMEDIATE"));
  return SqliteTransaction(db);
}

SqliteTransaction::~SqliteTransaction() {
  if (db_) (void)db_->Exec("ROLLBACK").ok();
}

Status SqliteTransaction::Commit() {
  FASTOCI_CHECK_OK(db_->Exec("COMMIT"));
  db_ = nullptr;
  return OkStatus();
}

}  // namespace fastoci
