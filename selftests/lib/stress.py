#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""stress.py SECONDS CONTENT META_DEV CACHE_DEV DEVICE...: everything at once on devices of mkmeta.py's image.

Readers of all devices compare what they get with CONTENT: a read may fail by policy or because its device goes, it may
not be wrong, and none may be left waiting at the end. Meanwhile helpers serve from a cache that is too small, evict,
fail chunks, are killed and taken over; devices are suspended, get new tables and policies; the cache device is
suspended; the last DEVICE is removed and made again; rmmod is tried. Each crew is a process. It takes SECONDS, or up to
six times as long on a machine that does not get enough done in that time. Prints KTAP.
"""
import errno, mmap, multiprocessing, os, random, signal, subprocess, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ktap
from dmdevice import Device, Log
from driver import *
from ktap import check

LIMIT = int(sys.argv[1]) * 7 + 300  # seconds, of each process
NR_READERS = 6
MAX_READ = 256 * 1024
# What happened at least, or the run proves nothing.
LEAST = dict(read=100, missed=20, evicted=20, failed_by_helper=1, killed=3, taken_over=1, suspended=5, reloaded=2, removed=1,
             cache_suspended=2)


class Counts:
    """What happened, a row for each process: no lock that a killed helper could keep."""
    NAMES = list(LEAST) + ["read_failed", "read_again", "wrong", "rmmod"]

    def __init__(self):
        self.rows = []

    def row(self):
        """Counts for a process that is started next."""
        own = Counts()
        own.rows = [multiprocessing.RawArray("q", len(self.NAMES))]
        self.rows += own.rows
        return own

    def add(self, name):
        self.rows[0][self.NAMES.index(name)] += 1

    def enough(self):
        return all(self[name] >= least for name, least in LEAST.items())

    def __getitem__(self, name):
        return sum(row[self.NAMES.index(name)] for row in self.rows)

    def __str__(self):
        return ", ".join(f"{n} {self[n]}" for n in self.NAMES)


class Crew:
    """A process that does one thing until `stop` is set."""

    def __init__(self, run, seed, stop, counts, *args):
        own = counts.row()

        def main():
            signal.alarm(LIMIT)
            try:
                random.seed(seed)
                while not stop.is_set():
                    run(own, *args)
            except BaseException as e:
                print(f"# {run.__name__}: {type(e).__name__}: {e}", flush=True)
                os._exit(1)
            os._exit(0)
        self.process = multiprocessing.Process(target=main, daemon=True)
        self.process.start()


# ---- readers ----

def read_some(counts, paths, content, leave):
    """A few reads through one descriptor, so that devices are free to be removed in between."""
    direct = random.random() < 0.8
    try:
        path = random.choice(paths[:-1] * 2 + ([] if leave.is_set() else paths[-1:]))
        fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    except OSError:
        return  # being made
    buffer = mmap.mmap(-1, MAX_READ)
    try:
        if not direct:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for _ in range(random.randrange(1, 8)):
            size = 512 << random.choice((0, 3, 3, 5, 7, 9))
            at = random.randrange(0, len(content) // 512 - size // 512) * 512
            flags = os.RWF_NOWAIT if direct and random.random() < 0.1 else 0
            try:
                n = os.preadv(fd, [memoryview(buffer)[:size]], at, flags)
            except OSError as e:
                counts.add("read_again" if e.errno == errno.EAGAIN else "read_failed")
                continue
            if n == 0 and path == paths[-1]:
                return  # it was opened between being made and its first table, and so is empty
            if buffer[:n] == content[at:at + n] and n:
                counts.add("read")
            else:
                counts.add("wrong")
                print(f"# wrong: {n} bytes at {at} of {path}, direct {direct}, flags {flags}", flush=True)
    finally:
        os.close(fd)


# ---- helpers ----

class Server(Driver):
    """Serves, evicts for room and for fun, and fails some chunks."""

    def __init__(self, counts, *args, **options):
        super().__init__(*args, **options)
        self.counts = counts
        self.present = {u32(s[CHUNK_NO]): n for n, s in self.slots().items() if s[STATE][0] == PRESENT}
        self.coming, self.mine = set(), []  # (chunk, slot) evicted with RESERVE; slots that came of it

    def evict_one(self):
        no, reserve = random.choice(list(self.present)), random.random() < 0.3
        slot = self.present.pop(no)
        self.collect()  # what an eviction before this one left
        if reserve:
            self.coming.add((no, slot))
        self.evict(no, reserve)
        self.counts.add("evicted")

    def collect(self):
        """Takes the slots out of the EVICTED events that came."""
        for msg in [m for m in self.events if m[0] == CMD["EVICTED"]]:
            self.events.remove(msg)
            for _, entry in attrs(dict(attrs(msg[4:]))[CHUNKS]):
                got = dict(attrs(entry))
                pair = u32(got[CHUNK_NO]), u32(got[SLOT])
                if pair in self.coming:
                    self.coming.remove(pair)
                    self.mine.append(pair[1])

    def take_slot(self):
        for _ in range(1000):
            self.dump("GET_CACHES")  # hears events
            self.collect()
            if self.mine:
                return self.mine.pop()
            try:
                return self.alloc()[0]
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
            if self.present:
                self.evict_one()
            time.sleep(0.005)
        raise SystemExit("no slot comes free")

    def serve_miss(self, no):
        self.counts.add("missed")
        if random.random() < 0.02:
            self.counts.add("failed_by_helper")
            self.do("FAIL", self.cache, chunk(self.space, no, attr(ERRNO, errno.EIO)))
            return
        if no in self.present:
            return  # it was asked for twice
        slot = self.take_slot()
        self.write(slot, no)
        time.sleep(random.choice((0, 0, 0, 0.002, 0.01)))
        self.fill(no, slot)
        self.present[no] = slot
        if len(self.present) > 4 and random.random() < 0.3:
            self.evict_one()

    def run(self):
        while True:
            got = misses_of(self.event())
            if got:
                self.do("ACK", self.cache, attr(COUNT, len(got)))
            for no in got:
                self.serve_miss(no)


def start_helper(counts, cache_dev, takeover):
    own = counts.row()

    def main():
        signal.alarm(LIMIT)
        try:
            server = Server(own, cache_dev, takeover=takeover)
            ready.set()
            server.run()
        except OSError as e:
            if e.errno != errno.ESTALE:  # taken over
                print(f"# helper: {e}", flush=True)
                os._exit(1)
        os._exit(0)

    ready = multiprocessing.Event()
    process = multiprocessing.Process(target=main, daemon=True)
    process.start()
    return process if ready.wait(60) else None


# ---- what happens to devices ----

def disturb(counts, dev, meta, cache, sectors):
    kind = random.randrange(4)
    if kind == 0:
        dev.suspend(noflush=True)
    elif kind == 1:
        dev.message(f"suspend_grace_ms {random.choice((0, 50, 500))}")
        dev.suspend()
    elif kind == 2:
        if dev.refusal(sectors, meta, cache) is None:
            counts.add("reloaded")
        dev.suspend(noflush=True)
    if kind < 3:
        counts.add("suspended")
        time.sleep(random.choice((0, 0.01, 0.1)))
        dev.resume()
    dev.message(random.choice(("fail_pending", "fail_after_ms 300", "fail_after_ms 5000", "hold", "hold")))
    time.sleep(random.choice((0.01, 0.1, 0.3)))


def replace(counts, name, meta, cache, sectors, log, leave):
    dev = Device(name, log, create=False)
    try:
        dev.remove()
    except OSError:  # it is open, and would hardly ever be closed by all six at a time
        leave.set()
        time.sleep(0.02)
        return
    leave.clear()
    counts.add("removed")
    dev = Device(name, log)
    words = dev.refusal(sectors, meta, cache)
    if words is not None:
        raise SystemExit(f"{name}: {words}")
    dev.resume()
    subprocess.run(["dmsetup", "mknodes", name], check=True)
    time.sleep(0.1)


def suspend_cache(counts, dev):
    dev.suspend()
    time.sleep(random.choice((0.01, 0.05)))
    dev.resume()
    counts.add("cache_suspended")
    time.sleep(0.5)


def try_rmmod(counts):
    if subprocess.run(["rmmod", "dm_fastoci"], stderr=subprocess.DEVNULL).returncode == 0:
        raise SystemExit("the module was unloaded")
    counts.add("rmmod")
    time.sleep(2)


def main():
    seconds, meta, cache, names = int(sys.argv[1]), sys.argv[3], sys.argv[4], sys.argv[5:]
    with open(sys.argv[2], "rb") as f:
        content = f.read()
    sectors, log, counts, seed = len(content) // 512, Log(), Counts(), int(os.environ.get("STRESS_SEED", time.time()))
    random.seed(seed)
    print(f"# STRESS_SEED={seed}", flush=True)
    stop_chaos, stop_readers, leave = (multiprocessing.Event() for _ in range(3))
    paths = [f"/dev/mapper/{name}" for name in names]
    own = counts.row()
    helper = start_helper(counts, cache, False)
    readers = [Crew(read_some, seed + i, stop_readers, counts, paths, content, leave) for i in range(NR_READERS)]
    devices = [Device(name, Log(), create=False) for name in names]
    chaos = [Crew(disturb, seed + 100 + i, stop_chaos, counts, dev, meta, cache, sectors)
             for i, dev in enumerate(devices[:-1])]
    chaos += [Crew(replace, seed + 200, stop_chaos, counts, names[-1], meta, cache, sectors, log, leave),
              Crew(suspend_cache, seed + 300, stop_chaos, counts, Device(os.path.basename(cache), log, create=False)),
              Crew(try_rmmod, seed + 400, stop_chaos, counts)]
    begin, turn = time.monotonic(), 0
    while helper and not counts["wrong"]:
        if time.monotonic() - begin > (seconds if counts.enough() else 6 * seconds):
            break
        time.sleep(random.uniform(0.2, 2))
        turn += 1
        old, takeover = helper, turn % 3 == 0
        if takeover:
            helper = start_helper(counts, cache, True)
            own.add("taken_over")
        old.kill()
        old.join()
        if not takeover:
            own.add("killed")
            helper = start_helper(counts, cache, False)
    stop_chaos.set()
    for crew in chaos:
        crew.process.join(60)
    check("all that disturbs ended well", all(c.process.exitcode == 0 for c in chaos), str([c.process for c in chaos]))
    for dev in devices[:-1]:
        dev.message("hold")
    time.sleep(1)  # readers without disturbance
    stop_readers.set()
    deadline = time.monotonic() + 60
    for crew in readers:
        crew.process.join(max(0, deadline - time.monotonic()))
    check("no read is left waiting", all(c.process.exitcode == 0 for c in readers),
          f"{[c.process for c in readers]} {[dev.status() for dev in devices]}")
    print(f"# {time.monotonic() - begin:.0f} s: {counts}", flush=True)
    check("no read was wrong", counts["wrong"] == 0)
    for name, least in LEAST.items():
        check(f"enough was done: {name}", counts[name] >= least, f"{counts[name]}, wanted {least}")
    check("a helper is there at the end", helper is not None and helper.is_alive())
    for name in names:
        with open(f"/dev/mapper/{name}", "rb", 0) as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            data = b"".join(iter(lambda f=f: f.read(1 << 20), b""))
        check(f"{name} reads right afterwards", data == content)
    helper.kill()
    helper.join()
    ktap.end()


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    signal.alarm(LIMIT)
    main()
