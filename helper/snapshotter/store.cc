// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/store.h"

#include <algorithm>
#include <chrono>

namespace fastoci {
namespace {

constexpr int64_t kSchemaVersion = 1;
constexpr char kSchema[] =
    "CREATE TABLE snapshots("
    " id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " parent INTEGER REFERENCES snapshots(id), kind INTEGER NOT NULL,"
    " created_ns INTEGER NOT NULL, updated_ns INTEGER NOT NULL,"
    " bytes INTEGER NOT NULL DEFAULT 0, inodes INTEGER NOT NULL DEFAULT 0,"
    " layer TEXT NOT NULL DEFAULT '', device TEXT NOT NULL DEFAULT '');"
    "CREATE INDEX snapshots_parent ON snapshots(parent);"
    "CREATE INDEX snapshots_device ON snapshots(device);"
    "CREATE TABLE labels("
    " snapshot INTEGER NOT NULL REFERENCES snapshots(id) ON DELETE CASCADE,"
    " key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY(snapshot, key)) WITHOUT ROWID;"
    "PRAGMA user_version=1";
constexpr char kColumns[] =
    "SELECT s.id, s.name, coalesce(p.name, ''), s.kind, s.created_ns, s.updated_ns, s.bytes, s.inodes,"
    " s.layer, s.device FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent";

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

Error Taken(const std::string& name) {
  return {ErrorKind::kIo, kMarkTaken, "snapshot " + name + " is there already"};
}

Error Missing(const std::string& name) {
  return {ErrorKind::kNotFound, kMarkMissing, "snapshot " + name + " does not exist"};
}

Snapshot RowOf(const SqliteStatement& s) {
  Snapshot out;
  out.id = s.Int(0);
  out.name = s.Text(1);
  out.parent = s.Text(2);
  out.kind = static_cast<SnapshotKind>(s.Int(3));
  out.created_ns = s.Int(4);
  out.updated_ns = s.Int(5);
  out.usage = {s.Int(6), s.Int(7)};
  out.layer = s.Text(8);
  out.device = s.Text(9);
  return out;
}

}  // namespace

const char* SnapshotKindName(SnapshotKind kind) {
  switch (kind) {
    case SnapshotKind::kView: return "view";
    case SnapshotKind::kActive: return "active";
    case SnapshotKind::kCommitted: return "committed";
  }
  return "unknown";
}

Result<std::unique_ptr<SnapshotStore>> SnapshotStore::Open(const std::string& path) {
  std::unique_ptr<SnapshotStore> store(new SnapshotStore);
  FASTOCI_TRY(store->db_, SqliteDb::Open(path, "the snapshots' database"));
  FASTOCI_TRY(int64_t version, store->db_->UserVersion());
  if (version > kSchemaVersion)
    return InvalidError(path + " was written by a newer fastoci-snapshotter (version " + std::to_string(version) +
                        ", this one knows " + std::to_string(kSchemaVersion) +
                        "): install that version again, or remove all images and containers with it first");
  if (version == 0) {
    FASTOCI_TRY(auto transaction, SqliteTransaction::Begin(store->db_.get()));
    FASTOCI_CHECK_OK(store->db_->Exec(kSchema));
    FASTOCI_CHECK_OK(transaction.Commit());
  }
  SqliteStatement s(store->db_.get(), "SELECT coalesce(max(id), 0) FROM snapshots");
  FASTOCI_TRY(bool row, s.Step());
  if (row) store->SkipIds(s.Int(0));
  return store;
}

void SnapshotStore::SkipIds(int64_t used) {
  std::lock_guard lock(mutex_);
  next_id_ = std::max(next_id_, used + 1);
}

int64_t SnapshotStore::NextId() {
  std::lock_guard lock(mutex_);
  return next_id_++;
}

Result<int64_t> SnapshotStore::IdOf(const std::string& name) {
  SqliteStatement s(db_.get(), "SELECT id FROM snapshots WHERE name = ?");
  FASTOCI_TRY(bool row, s.Bind(1, name).Step());
  if (!row) return Missing(name);
  return s.Int(0);
}

Status SnapshotStore::ReadLabels(Snapshot* snapshot) {
  SqliteStatement s(db_.get(), "SELECT key, value FROM labels WHERE snapshot = ?");
  s.Bind(1, snapshot->id);
  for (;;) {
    FASTOCI_TRY(bool row, s.Step());
    if (!row) return OkStatus();
    snapshot->labels[s.Text(0)] = s.Text(1);
  }
}

Status SnapshotStore::PutLabels(int64_t id, const Labels& labels) {
  SqliteStatement remove(db_.get(), "DELETE FROM labels WHERE snapshot = ?");
  FASTOCI_CHECK_OK(remove.Bind(1, id).Run());
  SqliteStatement insert(db_.get(), "INSERT INTO labels(snapshot, key, value) VALUES(?, ?, ?)");
  for (const auto& [key, value] : labels)
    FASTOCI_CHECK_OK(insert.Bind(1, id).Bind(2, key).Bind(3, value).Run());
  return OkStatus();
}

Result<Snapshot> SnapshotStore::GetLocked(const std::string& name) {
  SqliteStatement s(db_.get(), (std::string(kColumns) + " WHERE s.name = ?").c_str());
  FASTOCI_TRY(bool row, s.Bind(1, name).Step());
  if (!row) return Missing(name);
  Snapshot out = RowOf(s);
  FASTOCI_CHECK_OK(ReadLabels(&out));
  return out;
}

Result<Snapshot> SnapshotStore::Get(const std::string& name) {
  std::lock_guard lock(mutex_);
  return GetLocked(name);
}

Result<std::vector<Snapshot>> SnapshotStore::List() {
  std::lock_guard lock(mutex_);
  std::vector<Snapshot> out;
  SqliteStatement s(db_.get(), (std::string(kColumns) + " ORDER BY s.id").c_str());
  for (;;) {
    FASTOCI_TRY(bool row, s.Step());
    if (!row) break;
    out.push_back(RowOf(s));
  }
  SqliteStatement labels(db_.get(), "SELECT snapshot, key, value FROM labels ORDER BY snapshot");
  auto at = out.begin();
  for (;;) {
    FASTOCI_TRY(bool row, labels.Step());
    if (!row) return out;
    while (at != out.end() && at->id < labels.Int(0)) ++at;
    if (at != out.end() && at->id == labels.Int(0)) at->labels[labels.Text(1)] = labels.Text(2);
  }
}

Result<std::vector<ChainLink>> SnapshotStore::Chain(const std::string& name) {
  std::lock_guard lock(mutex_);
  SqliteStatement s(db_.get(),
                    "WITH RECURSIVE chain(depth, id, parent) AS ("
                    " SELECT 0, id, parent FROM snapshots WHERE name = ?"
                    " UNION ALL SELECT depth + 1, s.id, s.parent FROM chain JOIN snapshots s ON s.id = chain.parent)"
                    " SELECT s.id, s.kind, s.name, s.layer, s.device FROM chain JOIN snapshots s ON s.id = chain.id"
                    " ORDER BY chain.depth");
  s.Bind(1, name);
  std::vector<ChainLink> out;
  for (;;) {
    FASTOCI_TRY(bool row, s.Step());
    if (!row) break;
    out.push_back({s.Int(0), static_cast<SnapshotKind>(s.Int(1)), s.Text(2), s.Text(3), s.Text(4)});
  }
  if (out.empty()) return Missing(name);
  return out;
}

Status SnapshotStore::Create(const Snapshot& snapshot) {
  std::lock_guard lock(mutex_);
  FASTOCI_TRY(auto transaction, SqliteTransaction::Begin(db_.get()));
  if (IdOf(snapshot.name).ok()) return Taken(snapshot.name);
  SqliteStatement s(db_.get(),
                    "INSERT INTO snapshots(id, name, parent, kind, created_ns, updated_ns, layer, device, bytes, inodes)"
                    " VALUES(?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7, ?8, ?9)");
  if (snapshot.parent.empty()) {
    s.BindNull(3);
  } else {
    auto parent = GetLocked(snapshot.parent);
    if (!parent.ok()) return parent.error().Wrap("the parent");
    if (parent->kind != SnapshotKind::kCommitted)
      return InvalidError("the parent " + snapshot.parent + " is not committed");
    s.Bind(3, parent->id);
  }
  s.Bind(1, snapshot.id).Bind(2, snapshot.name).Bind(4, static_cast<int64_t>(snapshot.kind));
  s.Bind(5, NowNs()).Bind(6, snapshot.layer).Bind(7, snapshot.device);
  s.Bind(8, snapshot.usage.bytes).Bind(9, snapshot.usage.inodes);
  FASTOCI_CHECK_OK(s.Run());
  FASTOCI_CHECK_OK(PutLabels(snapshot.id, snapshot.labels));
  return transaction.Commit();
}

Status SnapshotStore::Commit(const Committing& c) {
  std::lock_guard lock(mutex_);
  FASTOCI_TRY(auto transaction, SqliteTransaction::Begin(db_.get()));
  FASTOCI_TRY(Snapshot active, GetLocked(c.key));
  if (active.kind != SnapshotKind::kActive)
    return Error{ErrorKind::kInvalid, kMarkState, "snapshot " + c.key + " is not active"};
  if (c.name != c.key && IdOf(c.name).ok()) return Taken(c.name);
  if (!c.parent.empty()) {
    FASTOCI_TRY(Snapshot parent, GetLocked(c.parent));
    if (parent.kind != SnapshotKind::kCommitted)
      return InvalidError("the parent " + c.parent + " is not committed");
    if (!active.parent.empty() && active.parent != c.parent)
      return InvalidError("snapshot " + c.key + " has another parent already");
    SqliteStatement s(db_.get(), "UPDATE snapshots SET parent = ? WHERE id = ?");
    FASTOCI_CHECK_OK(s.Bind(1, parent.id).Bind(2, active.id).Run());
  }
  SqliteStatement s(db_.get(),
                    "UPDATE snapshots SET name = ?1, kind = ?2, created_ns = ?3, updated_ns = ?3,"
                    " bytes = ?4, inodes = ?5, layer = ?6, device = ?7 WHERE id = ?8");
  s.Bind(1, c.name).Bind(2, static_cast<int64_t>(SnapshotKind::kCommitted)).Bind(3, NowNs());
  s.Bind(4, c.usage.bytes).Bind(5, c.usage.inodes).Bind(6, c.layer).Bind(7, c.device).Bind(8, active.id);
  FASTOCI_CHECK_OK(s.Run());
  FASTOCI_CHECK_OK(PutLabels(active.id, c.labels));
  return transaction.Commit();
}

Result<Snapshot> SnapshotStore::Remove(const std::string& name) {
  std::lock_guard lock(mutex_);
  FASTOCI_TRY(auto transaction, SqliteTransaction::Begin(db_.get()));
  FASTOCI_TRY(Snapshot snapshot, GetLocked(name));
  SqliteStatement children(db_.get(), "SELECT name FROM snapshots WHERE parent = ? LIMIT 1");
  FASTOCI_TRY(bool row, children.Bind(1, snapshot.id).Step());
  if (row)
    return Error{ErrorKind::kInvalid, kMarkState, "cannot remove snapshot " + name + ": it has a child, " + children.Text(0)};
  SqliteStatement s(db_.get(), "DELETE FROM snapshots WHERE id = ?");
  FASTOCI_CHECK_OK(s.Bind(1, snapshot.id).Run());
  FASTOCI_CHECK_OK(transaction.Commit());
  return snapshot;
}

Result<Snapshot> SnapshotStore::UpdateLabels(const std::string& name, const std::function<Status(Labels*)>& change) {
  std::lock_guard lock(mutex_);
  FASTOCI_TRY(auto transaction, SqliteTransaction::Begin(db_.get()));
  FASTOCI_TRY(Snapshot snapshot, GetLocked(name));
  FASTOCI_CHECK_OK(change(&snapshot.labels));
  snapshot.updated_ns = NowNs();
  FASTOCI_CHECK_OK(PutLabels(snapshot.id, snapshot.labels));
  SqliteStatement s(db_.get(), "UPDATE snapshots SET updated_ns = ? WHERE id = ?");
  FASTOCI_CHECK_OK(s.Bind(1, snapshot.updated_ns).Bind(2, snapshot.id).Run());
  FASTOCI_CHECK_OK(transaction.Commit());
  return snapshot;
}

Status SnapshotStore::SetUsage(int64_t id, const DiskUsage& usage) {
  std::lock_guard lock(mutex_);
  SqliteStatement s(db_.get(), "UPDATE snapshots SET bytes = ?, inodes = ? WHERE id = ? AND kind = ?");
  return s.Bind(1, usage.bytes).Bind(2, usage.inodes).Bind(3, id)
      .Bind(4, static_cast<int64_t>(SnapshotKind::kActive)).Run();
}

Result<SnapshotStore::DeviceUse> SnapshotStore::UseOf(const std::string& device) {
  std::lock_guard lock(mutex_);
  SqliteStatement s(db_.get(), "SELECT coalesce(sum(kind != 3), 0), coalesce(sum(kind = 3), 0) FROM snapshots WHERE device = ?");
  FASTOCI_TRY(bool row, s.Bind(1, device).Step());
  if (!row) return DeviceUse{};
  return DeviceUse{s.Int(0), s.Int(1)};
}

Result<bool> SnapshotStore::HasId(int64_t id) {
  std::lock_guard lock(mutex_);
  SqliteStatement s(db_.get(), "SELECT 1 FROM snapshots WHERE id = ?");
  return s.Bind(1, id).Step();
}

}  // namespace fastoci
