// SPDX-License-Identifier: Apache-2.0
// A thin layer over SQLite. Errors are Results, values are bound and read by type, and a
// transaction rolls back unless it was committed. There is one connection. Threads that
// share it must lock it.
#ifndef FASTOCI_BASE_SQLITE_H_
#define FASTOCI_BASE_SQLITE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace fastoci {

class SqliteDb {
 public:
  // Makes the file if it does not exist. Uses a write-ahead log and no mmap. A commit that
  // has returned survives a power cut. name: for messages.
  static Result<std::unique_ptr<SqliteDb>> Open(const std::string& path, const std::string& name);
  ~SqliteDb();
  SqliteDb(const SqliteDb&) = delete;
  SqliteDb& operator=(const SqliteDb&) = delete;

  Status Exec(const std::string& sql);
  Result<int64_t> UserVersion();
  Error LastError(const std::string& what) const;
  sqlite3* handle() { return db_; }

 private:
  SqliteDb() = default;
  sqlite3* db_ = nullptr;
  std::string name_;
};

class SqliteStatement {
 public:
  SqliteStatement(SqliteDb* db, const char* sql);
  ~SqliteStatement();
  SqliteStatement(const SqliteStatement&) = delete;
  SqliteStatement& operator=(const SqliteStatement&) = delete;

  // Parameters are counted from 1.
  SqliteStatement& Bind(int i, int64_t value);
  SqliteStatement& Bind(int i, const std::string& text);
  SqliteStatement& BindNull(int i);
  // True: there is a row. False: there are no more rows.
  Result<bool> Step();
  // For statements without rows; may be bound and run again.
  Status Run();
  // Columns are counted from 0.
  int64_t Int(int i) const;
  std::string Text(int i) const;

 private:
  void Keep(int rc);
  SqliteDb* db_;
  sqlite3_stmt* stmt_ = nullptr;
  int rc_ = 0;
};

class SqliteTransaction {
 public:
  // Takes the write lock at once.
  static Result<SqliteTransaction> Begin(SqliteDb* db);
  ~SqliteTransaction();
  SqliteTransaction(SqliteTransaction&& o) noexcept : db_(std::exchange(o.db_, nullptr)) {}
  SqliteTransaction& operator=(SqliteTransaction&&) = delete;
  Status Commit();

 private:
  explicit SqliteTransaction(SqliteDb* db) : db_(db) {}
  SqliteDb* db_;
};

}  // namespace fastoci

#endif  // FASTOCI_BASE_SQLITE_H_
