// SPDX-License-Identifier: Apache-2.0
#include "serve/queue.h"

namespace fastoci {
namespace {

constexpr int kSchema = 1;
constexpr size_t kMaxMessage = 500;
constexpr char kColumns[] =
    "id, repository, tag, digest, state, tries, queued_at, next_at, begun_at, ended_at, bytes, "
    "result, message";

// A statement without rows. what: that failed.
Status Run(SqliteStatement* s, const char* what) {
  Status done = s->Run();
  return done.ok() ? done : Status(done.error().Wrap(what));
}

Result<bool> Step(SqliteStatement* s, const char* what) {
  auto row = s->Step();
  if (!row.ok()) return row.error().Wrap(what);
  return row;
}

ServeJob RowOf(const SqliteStatement& s) {
  ServeJob j;
  j.id = s.Int(0);
  j.repository = s.Text(1);
  j.tag = s.Text(2);
  j.digest = s.Text(3);
  j.state = s.Text(4);
  j.tries = static_cast<uint64_t>(s.Int(5));
  j.queued_at = s.Int(6);
  j.next_at = s.Int(7);
  j.begun_at = s.Int(8);
  j.ended_at = s.Int(9);
  j.bytes = static_cast<uint64_t>(s.Int(10));
  j.result = s.Text(11);
  j.message = s.Text(12);
  return j;
}

}  // namespace

Result<std::unique_ptr<ServeQueue>> ServeQueue::Open(const std::string& path) {
  std::unique_ptr<ServeQueue> q(new ServeQueue);
  std::lock_guard lock(q->mutex_);
  FASTOCI_TRY(q->db_, SqliteDb::Open(path, "queue"));
  FASTOCI_TRY(const int64_t version, q->db_->UserVersion());
  if (version > kSchema)
    return InvalidError(path +
                        " was written by a newer version of this program: use that version, or "
                        "delete the file to begin with an empty queue");
  for (const char* sql :
       {"CREATE TABLE IF NOT EXISTS jobs(id INTEGER PRIMARY KEY, repository TEXT NOT NULL, tag TEXT "
        "NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0, "
        "queued_at INTEGER NOT NULL, next_at INTEGER NOT NULL, begun_at INTEGER NOT NULL DEFAULT 0, "
        "ended_at INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, result TEXT NOT NULL "
        "DEFAULT '', message TEXT NOT NULL DEFAULT '', UNIQUE(repository, digest))",
        "CREATE INDEX IF NOT EXISTS by_state ON jobs(state, next_at)", "PRAGMA user_version=1"})
    FASTOCI_CHECK_OK(q->db_->Exec(sql));
  return q;
}

Result<bool> ServeQueue::Add(const std::string& repository, const std::string& tag,
                             const std::string& digest, int64_t now) {
  constexpr char kWhat[] = "cannot add a conversion";
  std::lock_guard lock(mutex_);
  SqliteStatement add(db_.get(),
                      "INSERT INTO jobs(repository, tag, digest, state, queued_at, next_at) "
                      "VALUES(?1, ?2, ?3, 'waiting', ?4, ?4) ON CONFLICT(repository, digest) DO UPDATE SET "
                      "state='waiting', tries=0, next_at=excluded.next_at, queued_at=excluded.queued_at, "
                      "tag=excluded.tag, message='' WHERE state IN ('failed', 'skipped') RETURNING id");
  add.Bind(1, repository).Bind(2, tag).Bind(3, digest).Bind(4, now);
  FASTOCI_TRY(const bool added, Step(&add, kWhat));
  if (added) FASTOCI_CHECK_OK(Step(&add, kWhat));  // its end
  return added;
}

Result<std::optional<ServeJob>> ServeQueue::Take(int64_t now) {
  constexpr char kWhat[] = "cannot take a conversion";
  std::lock_guard lock(mutex_);
  const std::string sql = std::string("UPDATE jobs SET state='running', tries=tries+1, begun_at=?1, "
                                      "ended_at=0 WHERE id=(SELECT id FROM jobs WHERE state='waiting' AND "
                                      "next_at<=?1 ORDER BY queued_at, id LIMIT 1) RETURNING ") +
                          kColumns;
  SqliteStatement take(db_.get(), sql.c_str());
  FASTOCI_TRY(const bool row, Step(&take.Bind(1, now), kWhat));
  if (!row) return std::optional<ServeJob>();
  ServeJob job = RowOf(take);
  FASTOCI_CHECK_OK(Step(&take, kWhat));  // its end
  return std::optional<ServeJob>(std::move(job));
}

Status ServeQueue::SetBytes(int64_t id, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  SqliteStatement set(db_.get(), "UPDATE jobs SET bytes=? WHERE id=?");
  return Run(&set.Bind(1, static_cast<int64_t>(bytes)).Bind(2, id), "cannot record an image's size");
}

Status ServeQueue::Finish(int64_t id, const std::string& result, int64_t now) {
  std::lock_guard lock(mutex_);
  SqliteStatement set(db_.get(), "UPDATE jobs SET state='done', result=?, message='', ended_at=? WHERE id=?");
  return Run(&set.Bind(1, result).Bind(2, now).Bind(3, id), "cannot record a result");
}

Status ServeQueue::Skip(int64_t id, const std::string& why, int64_t now) {
  std::lock_guard lock(mutex_);
  SqliteStatement set(db_.get(), "UPDATE jobs SET state='skipped', message=?, ended_at=? WHERE id=?");
  return Run(&set.Bind(1, why.substr(0, kMaxMessage)).Bind(2, now).Bind(3, id),
             "cannot record that an image is skipped");
}

Status ServeQueue::Retry(int64_t id, const std::string& why, int64_t now, int64_t next_at,
                         bool final) {
  std::lock_guard lock(mutex_);
  SqliteStatement set(db_.get(), "UPDATE jobs SET state=?, message=?, ended_at=?, next_at=? WHERE id=?");
  set.Bind(1, std::string(final ? "failed" : "waiting")).Bind(2, why.substr(0, kMaxMessage));
  return Run(&set.Bind(3, now).Bind(4, next_at).Bind(5, id), "cannot record a failure");
}

Status ServeQueue::PutBack(bool tried) {
  std::lock_guard lock(mutex_);
  SqliteStatement back(db_.get(), "UPDATE jobs SET state='waiting', tries=MAX(tries-?, 0) WHERE state='running'");
  return Run(&back.Bind(1, static_cast<int64_t>(tried ? 0 : 1)), "cannot put the conversions back that run");
}

Result<std::optional<int64_t>> ServeQueue::NextAt() {
  std::lock_guard lock(mutex_);
  SqliteStatement next(db_.get(), "SELECT next_at FROM jobs WHERE state='waiting' ORDER BY next_at LIMIT 1");
  FASTOCI_TRY(const bool row, Step(&next, "cannot look for the next conversion"));
  return row ? std::optional<int64_t>(next.Int(0)) : std::nullopt;
}

Result<std::map<std::string, uint64_t>> ServeQueue::CountByState() {
  std::lock_guard lock(mutex_);
  std::map<std::string, uint64_t> counts = {
      {"waiting", 0}, {"running", 0}, {"done", 0}, {"skipped", 0}, {"failed", 0}};
  SqliteStatement count(db_.get(), "SELECT state, COUNT(*) FROM jobs GROUP BY state");
  for (;;) {
    FASTOCI_TRY(const bool row, Step(&count, "cannot count the conversions"));
    if (!row) return counts;
    counts[count.Text(0)] = static_cast<uint64_t>(count.Int(1));
  }
}

Result<std::vector<ServeJob>> ServeQueue::List(size_t limit) {
  std::lock_guard lock(mutex_);
  std::vector<ServeJob> jobs;
  const std::string sql = std::string("SELECT ") + kColumns +
                          " FROM jobs ORDER BY state='running' DESC, state='waiting' DESC, "
                          "MAX(ended_at, queued_at) DESC, id DESC LIMIT ?";
  SqliteStatement list(db_.get(), sql.c_str());
  list.Bind(1, static_cast<int64_t>(limit));
  for (;;) {
    FASTOCI_TRY(const bool row, Step(&list, "cannot list the conversions"));
    if (!row) return jobs;
    jobs.push_back(RowOf(list));
  }
}

Status ServeQueue::Forget(int64_t before) {
  std::lock_guard lock(mutex_);
  SqliteStatement forget(db_.get(),
                         "DELETE FROM jobs WHERE state IN ('done', 'skipped', 'failed') AND ended_at<?");
  return Run(&forget.Bind(1, before), "cannot delete old conversions");
}

}  // namespace fastoci
