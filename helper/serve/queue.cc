// SPDX-License-Identifier: Apache-2.0
#include "serve/queue.h"

#include <sqlite3.h>

namespace fastoci {
namespace {

constexpr int kBusyTimeoutMs = 10000;
constexpr int kSchema = 1;
constexpr size_t kMaxMessage = 500;
constexpr char kColumns[] =
    "id, repository, tag, digest, state, tries, queued_at, next_at, begun_at, ended_at, bytes, "
    "result, message";

// A statement with its values. Step() returns the error if anything failed.
class Statement {
 public:
  Statement(sqlite3* db, const std::string& sql) {
    rc_ = sqlite3_prepare_v2(db, sql.c_str(), -1, &stmt_, nullptr);
  }
  ~Statement() { sqlite3_finalize(stmt_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  Statement& Bind(const std::string& text) {
    Keep(sqlite3_bind_text(stmt_, ++bound_, text.data(), static_cast<int>(text.size()),
                           SQLITE_TRANSIENT));
    return *this;
  }
  Statement& Bind(int64_t n) {
    Keep(sqlite3_bind_int64(stmt_, ++bound_, n));
    return *this;
  }
  int Step() { return rc_ == SQLITE_OK ? sqlite3_step(stmt_) : rc_; }
  int64_t Int(int i) { return sqlite3_column_int64(stmt_, i); }
  std::string Text(int i) {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(stmt_, i));
    return text ? std::string(text, static_cast<size_t>(sqlite3_column_bytes(stmt_, i))) : "";
  }

 private:
  void Keep(int rc) {
    if (rc_ == SQLITE_OK) rc_ = rc;
  }
  sqlite3_stmt* stmt_ = nullptr;
  int rc_ = SQLITE_OK;
  int bound_ = 0;
};

ServeJob Row(Statement* s) {
  ServeJob j;
  j.id = s->Int(0);
  j.repository = s->Text(1);
  j.tag = s->Text(2);
  j.digest = s->Text(3);
  j.state = s->Text(4);
  j.tries = static_cast<uint64_t>(s->Int(5));
  j.queued_at = s->Int(6);
  j.next_at = s->Int(7);
  j.begun_at = s->Int(8);
  j.ended_at = s->Int(9);
  j.bytes = static_cast<uint64_t>(s->Int(10));
  j.result = s->Text(11);
  j.message = s->Text(12);
  return j;
}

}  // namespace

Error ServeQueue::Failed(const std::string& what) {
  return {ErrorKind::kIo, EIO,
          "queue: " + what + ": " + (db_ ? sqlite3_errmsg(db_) : "out of memory")};
}

Status ServeQueue::Execute(const char* sql) {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK)
    return Failed(std::string("cannot run ") + sql);
  return OkStatus();
}

Result<std::unique_ptr<ServeQueue>> ServeQueue::Open(const std::string& path) {
  std::unique_ptr<ServeQueue> q(new ServeQueue);
  std::lock_guard lock(q->mutex_);
  if (sqlite3_open_v2(path.c_str(), &q->db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr) !=
      SQLITE_OK)
    return q->Failed("cannot open " + path);
  sqlite3_busy_timeout(q->db_, kBusyTimeoutMs);
  FASTOCI_CHECK_OK(q->Execute("PRAGMA journal_mode=WAL"));
  FASTOCI_CHECK_OK(q->Execute("PRAGMA synchronous=FULL"));
  {
    Statement version(q->db_, "PRAGMA user_version");
    if (version.Step() != SQLITE_ROW) return q->Failed("cannot open " + path);
    if (version.Int(0) > kSchema)
      return InvalidError(path +
                          " was written by a newer version of this program: use that version, or "
                          "delete the file to begin with an empty queue");
  }
  FASTOCI_CHECK_OK(q->Execute(
      "CREATE TABLE IF NOT EXISTS jobs(id INTEGER PRIMARY KEY, repository TEXT NOT NULL, tag TEXT "
      "NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0, "
      "queued_at INTEGER NOT NULL, next_at INTEGER NOT NULL, begun_at INTEGER NOT NULL DEFAULT 0, "
      "ended_at INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, result TEXT NOT NULL "
      "DEFAULT '', message TEXT NOT NULL DEFAULT '', UNIQUE(repository, digest))"));
  FASTOCI_CHECK_OK(q->Execute("CREATE INDEX IF NOT EXISTS by_state ON jobs(state, next_at)"));
  FASTOCI_CHECK_OK(q->Execute("PRAGMA user_version=1"));
  FASTOCI_CHECK_OK(q->Execute("UPDATE jobs SET state='waiting' WHERE state='running'"));
  return q;
}

ServeQueue::~ServeQueue() { sqlite3_close(db_); }

Result<bool> ServeQueue::Add(const std::string& repository, const std::string& tag,
                             const std::string& digest, int64_t now) {
  std::lock_guard lock(mutex_);
  Statement add(db_,
                "INSERT INTO jobs(repository, tag, digest, state, queued_at, next_at) "
                "VALUES(?, ?, ?, 'waiting', ?, ?) ON CONFLICT(repository, digest) DO UPDATE SET "
                "state='waiting', tries=0, next_at=excluded.next_at, queued_at=excluded.queued_at, "
                "tag=excluded.tag, message='' WHERE state='failed'");
  add.Bind(repository).Bind(tag).Bind(digest).Bind(now).Bind(now);
  if (add.Step() != SQLITE_DONE) return Failed("cannot add a conversion");
  return sqlite3_changes(db_) > 0;
}

Result<std::optional<ServeJob>> ServeQueue::Take(int64_t now) {
  std::lock_guard lock(mutex_);
  Statement take(db_, std::string("UPDATE jobs SET state='running', tries=tries+1, begun_at=?, "
                                  "ended_at=0 WHERE id=(SELECT id FROM jobs WHERE state='waiting' AND "
                                  "next_at<=? ORDER BY queued_at, id LIMIT 1) RETURNING ") +
                          kColumns);
  take.Bind(now).Bind(now);
  const int rc = take.Step();
  if (rc == SQLITE_DONE) return std::optional<ServeJob>();
  if (rc != SQLITE_ROW) return Failed("cannot take a conversion");
  ServeJob job = Row(&take);
  if (take.Step() != SQLITE_DONE) return Failed("cannot take a conversion");
  return std::optional<ServeJob>(std::move(job));
}

Status ServeQueue::SetBytes(int64_t id, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  Statement set(db_, "UPDATE jobs SET bytes=? WHERE id=?");
  set.Bind(static_cast<int64_t>(bytes)).Bind(id);
  return set.Step() == SQLITE_DONE ? OkStatus() : Status(Failed("cannot record an image's size"));
}

Status ServeQueue::Finish(int64_t id, const std::string& result, int64_t now) {
  std::lock_guard lock(mutex_);
  Statement set(db_, "UPDATE jobs SET state='done', result=?, message='', ended_at=? WHERE id=?");
  set.Bind(result).Bind(now).Bind(id);
  return set.Step() == SQLITE_DONE ? OkStatus() : Status(Failed("cannot record a result"));
}

Status ServeQueue::Skip(int64_t id, const std::string& why, int64_t now) {
  std::lock_guard lock(mutex_);
  Statement set(db_, "UPDATE jobs SET state='skipped', message=?, ended_at=? WHERE id=?");
  set.Bind(why.substr(0, kMaxMessage)).Bind(now).Bind(id);
  return set.Step() == SQLITE_DONE ? OkStatus()
                                   : Status(Failed("cannot record that an image is skipped"));
}

Status ServeQueue::Retry(int64_t id, const std::string& why, int64_t now, int64_t next_at,
                         bool final) {
  std::lock_guard lock(mutex_);
  Statement set(db_, "UPDATE jobs SET state=?, message=?, ended_at=?, next_at=? WHERE id=?");
  set.Bind(std::string(final ? "failed" : "waiting")).Bind(why.substr(0, kMaxMessage));
  set.Bind(now).Bind(next_at).Bind(id);
  return set.Step() == SQLITE_DONE ? OkStatus() : Status(Failed("cannot record a failure"));
}

Result<std::optional<int64_t>> ServeQueue::NextAt() {
  std::lock_guard lock(mutex_);
  Statement next(db_, "SELECT next_at FROM jobs WHERE state='waiting' ORDER BY next_at LIMIT 1");
  const int rc = next.Step();
  if (rc == SQLITE_DONE) return std::optional<int64_t>();
  if (rc != SQLITE_ROW) return Failed("cannot look for the next conversion");
  return std::optional<int64_t>(next.Int(0));
}

Result<std::map<std::string, uint64_t>> ServeQueue::CountByState() {
  std::lock_guard lock(mutex_);
  std::map<std::string, uint64_t> counts = {
      {"waiting", 0}, {"running", 0}, {"done", 0}, {"skipped", 0}, {"failed", 0}};
  Statement count(db_, "SELECT state, COUNT(*) FROM jobs GROUP BY state");
  int rc;
  while ((rc = count.Step()) == SQLITE_ROW)
    counts[count.Text(0)] = static_cast<uint64_t>(count.Int(1));
  if (rc != SQLITE_DONE) return Failed("cannot count the conversions");
  return counts;
}

Result<std::vector<ServeJob>> ServeQueue::List(size_t limit) {
  std::lock_guard lock(mutex_);
  std::vector<ServeJob> jobs;
  Statement list(db_, std::string("SELECT ") + kColumns +
                          " FROM jobs ORDER BY state='running' DESC, state='waiting' DESC, "
                          "MAX(ended_at, queued_at) DESC, id DESC LIMIT ?");
  list.Bind(static_cast<int64_t>(limit));
  int rc;
  while ((rc = list.Step()) == SQLITE_ROW) jobs.push_back(Row(&list));
  if (rc != SQLITE_DONE) return Failed("cannot list the conversions");
  return jobs;
}

Status ServeQueue::Forget(int64_t before) {
  std::lock_guard lock(mutex_);
  Statement forget(db_,
                   "DELETE FROM jobs WHERE state IN ('done', 'skipped', 'failed') AND ended_at<?");
  forget.Bind(before);
  return forget.Step() == SQLITE_DONE ? OkStatus()
                                      : Status(Failed("cannot delete old conversions"));
}

}  // namespace fastoci
