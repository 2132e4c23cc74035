#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""logwrites.py LOG REPLAY COW BLOB POINTS SEED: caches at points of their disk's life.

LOG is what dm-log-writes recorded of a file system's device, REPLAY a copy of that device from before, both complete. The log
is replayed up to POINTS random entries, and up to each mark. What a disk could have had then is looked at through a
snapshot, so that journals may be recovered: the file system mounts, and the databases are sound. Each row of the cache "fills",
which never evicts, promises bytes that are in their slot and are the blob's. In "evicts" a slot may hold a newer chunk than
its row says, until the row's removal is committed: its digest tells. Marks "quiet-CACHE-N" and "busy" enclose times when
nothing was written: there N rows must be left at least, and all be true. Prints KTAP.

The log (drivers/md/dm-log-writes.c): a superblock in its first sector; then entries of one sector, each with its data behind
it, in the order in which a disk could have had them: writes that completed are logged by the next flush.
"""
import hashlib, os, random, sqlite3, struct, subprocess, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ktap import check, end

MAGIC, CHUNK = 0x6A736677736872, 65536
DISCARD, MARK = 4, 8
MOUNT = "/run/selftest/replayed"
DB, FILE = "cache.db", "cache.img"


class Log:
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY)
        magic, version, self.nr, self.sector = struct.unpack("<QQQI", os.pread(self.fd, 28, 0))
        if magic != MAGIC or version != 1:
            raise SystemExit(f"{path}: no log of dm-log-writes")

    def entries(self):
        """(offset, data, mark) of each: data is None for a discard."""
        at = self.sector
        for _ in range(self.nr):
            head = os.pread(self.fd, self.sector, at)
            sector, nr, flags, data_len = struct.unpack("<QQQQ", head[:32])
            at += self.sector
            if flags & MARK:
                yield 0, b"", head[32:32 + data_len].rstrip(b"\0").decode()
            elif flags & DISCARD:
                yield sector * self.sector, None, ""
            else:
                yield sector * self.sector, os.pread(self.fd, nr * self.sector, at), ""
                at += nr * self.sector


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def look(replay, cow, sectors, blob):
    """{cache: (rows, those that are not true, what is wrong)} on a snapshot of what was replayed."""
    run("dmsetup", "create", "replayed", "--table", f"0 {sectors} snapshot {replay} {cow} N 8")
    try:
        run("mount", "-t", "ext4", "/dev/mapper/replayed", MOUNT)
        try:
            return {cache: rows_of(os.path.join(MOUNT, cache), blob) for cache in ("fills", "evicts")}
        finally:
            run("umount", MOUNT)
    except RuntimeError as e:
        return {"fills": (0, 0, str(e)), "evicts": (0, 0, "")}
    finally:
        run("dmsetup", "remove", "replayed")


def rows_of(folder, blob):
    path = os.path.join(folder, DB)
    if not os.path.exists(path):
        return 0, 0, ""
    try:
        db = sqlite3.connect(path)
        sound = db.execute("PRAGMA integrity_check").fetchone()[0]
        tables = [name for name, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = db.execute("SELECT slot, chunk, digest FROM slots").fetchall() if "slots" in tables else []
        db.close()
    except sqlite3.Error as e:
        return 0, 0, f"{path}: {e}"
    if sound != "ok":
        return len(rows), 0, f"{path}: {sound}"
    untrue = 0
    with open(os.path.join(folder, FILE), "rb") as f:
        for slot, chunk, digest in rows:
            want = blob[chunk * CHUNK:(chunk + 1) * CHUNK]
            f.seek((slot + 1) * CHUNK)
            untrue += f.read(CHUNK) != want.ljust(CHUNK, b"\0")
            if hashlib.sha256(want).digest() != digest:
                return len(rows), untrue, f"{path}: the row of slot {slot} has another digest than chunk {chunk}"
    return len(rows), untrue, ""


def main():
    log_path, replay_path, cow, blob_path, nr_points, seed = sys.argv[1:7]
    rnd, log = random.Random(int(seed)), Log(log_path)
    with open(blob_path, "rb") as f:
        blob = f.read()
    replay = os.open(replay_path, os.O_RDWR)
    sectors = os.lseek(replay, 0, os.SEEK_END) // 512
    os.makedirs(MOUNT, exist_ok=True)
    points = set(rnd.sample(range(log.nr), min(int(nr_points), log.nr)))
    print(f"# {log.nr} entries, {len(points)} points, seed {seed}", flush=True)
    quiet, most, nr_quiet, stale, bad, lost = None, 0, 0, 0, [], []
    for i, (at, data, mark) in enumerate(log.entries()):
        if data:
            os.pwrite(replay, data, at)
        if mark:
            quiet = mark.split("-")[1:] if mark.startswith("quiet-") else None
        if i not in points and not quiet:
            continue
        os.fsync(replay)
        for cache, (rows, untrue, wrong) in look(replay_path, cow, sectors, blob).items():
            most, stale = max(most, rows), stale + untrue
            if untrue and cache == "fills":
                wrong = f"{untrue} of {rows} rows promise what is not in their slot"
            if wrong:
                bad.append(f"entry {i}: {wrong}")
            if quiet and quiet[0] == cache:
                nr_quiet += 1
                if rows < int(quiet[1]) or untrue:
                    lost.append(f"entry {i}: {rows} rows of {quiet[1]}, {untrue} untrue")
    print(f"# {stale} rows whose slot had a newer chunk already", flush=True)
    check(f"at {len(points)} random points no row promised what never was there", not bad, "\n".join(bad[:10]))
    check(f"at {nr_quiet} quiet ones all durable chunks were there", not lost and nr_quiet > 3, "\n".join(lost[:10]))
    check(f"rows were there to look at (up to {most})", most > 30)
    end()


if __name__ == "__main__":
    main()
