#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""races.py DM_NAME META CACHE_DEV: the races that the design names, each in the order that hurts.

One side is held by fastoci-pause.ko where it enters a function, the other side runs, and then the first goes on. The
device is one of mkmeta.py's image with the policy `hold`; it has its cache, CACHE_DEV, by a linear device "c". Prints
KTAP.
races.py rmmod DM_NAME CACHE_DEV: the device and the module go while the socket of a helper is closed.
"""
import contextlib, errno, os, signal, subprocess, sys, time, uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ktap
from dmdevice import Device, dmsetup, swap_table
from driver import *
from ktap import check
from metaimage import CacheSb

PARAMETERS = "/sys/module/fastoci_pause/parameters/"


class Pause:
    """Holds the first who enters one of these functions, from `with` until go(); then the next one, and so on to @holds
    of them. asleep: other CPUs may wait for who is held."""

    def __init__(self, name, *functions, holds=1, asleep=False):
        self.name, self.functions, self.holds, self.asleep, self.gone = name, ",".join(functions), holds, asleep, 0

    @staticmethod
    def read(name):
        with open(PARAMETERS + name) as f:
            return f.read().strip()

    @staticmethod
    def write(name, value):
        with open(PARAMETERS + name, "w") as f:
            f.write(str(value))

    def entered(self, count):
        return until(lambda: int(self.read("entered")) >= count)

    def held(self):
        """Waits until the next one is."""
        if not until(lambda: int(self.read("held")) > self.gone):
            raise SystemExit(f"{self.name}: after {self.gone} nobody entered {self.functions}")

    def go(self):
        self.gone += 1
        self.write("go", self.gone)

    def __enter__(self):
        self.write("asleep", "NY"[self.asleep])
        self.write("holds", self.holds)
        self.write("at", self.functions + "\n")
        return self

    def __exit__(self, *error):
        forced = self.gone == self.holds and self.read("expired") == "N"
        self.write("at", "\n")
        if not any(error):
            check(f"{self.name}: the order was forced", forced)


class Races:
    def __init__(self, name, meta, cache_dev):
        self.dev, self.path = Device(name, create=False), f"/dev/mapper/{name}"
        self.chunks, self.cache_dev = Chunks(meta), cache_dev
        self.helper = Driver(cache_dev)
        self.watcher = Helper(register=False)  # for good, as a socket's end waits for commands

    def fresh(self):
        return self.chunks.fresh()

    def new_helper(self, **options):
        self.helper = Driver(self.cache_dev, **options)

    # ---- a bio that is about to park, against ... ----

    def park_and_fill(self):
        at, no, want = self.fresh()
        with Pause("park, fill", "fastoci_park") as p:
            r = Reader(self.path, at)
            p.held()
            self.helper.serve(no)
            p.go()
            check("a chunk that is filled while a read parks is a hit", r.done() == want)
        check("and no miss", not any(no in misses_of(e) for e in self.helper.events))

    def park_and_evict(self):
        at, no, want = self.fresh()
        with Pause("park, fill and evict", "fastoci_park") as p:
            r = Reader(self.path, at)
            p.held()
            self.helper.serve(no)
            self.helper.evict(no)
            p.go()
            self.helper.asked(no)
            check("a chunk that comes and goes while a read parks is asked for", r.result is None)
            self.helper.serve(no)
            check("and served", r.done() == want)

    def park_fill_and_evict(self):
        at, no, want = self.fresh()
        with Pause("park, fill, evict, look-up", "fastoci_try_hit", "fastoci_park", holds=3) as p:
            r = Reader(self.path, at)
            p.held()  # its first look-up
            p.go()
            p.held()
            self.helper.serve(no)
            p.go()
            p.held()  # it looks up again
            self.helper.evict(no)
            p.go()
            self.helper.asked(no)
            check("a chunk that goes before the read that saw it come is asked for", r.result is None)
            self.helper.serve(no)
            check("and served", r.done() == want)

    def park_and_policy(self):
        at, _, _ = self.fresh()
        with Pause("park, policy", "fastoci_park") as p:
            r = Reader(self.path, at)
            p.held()
            self.dev.message("fail_after_ms 0")
            p.go()
            check("a policy that comes while a read parks ends it", r.done() == errno.EIO)
        self.dev.message("hold")

    def park_and_fail_pending(self):
        """It ends what is parked, so a read that comes a moment later waits."""
        at, no, want = self.fresh()
        with Pause("park, fail_pending", "fastoci_park") as p:
            r = Reader(self.path, at)
            p.held()
            self.dev.message("fail_pending")
            p.go()
            self.helper.asked(no)
            check("fail_pending ends no read that parks after it", r.result is None)
            self.helper.serve(no)
            check("which is served", r.done() == want)

    def park_and_helper_loss(self):
        at, _, _ = self.fresh()
        fd = os.open(self.path, os.O_RDONLY)
        with Pause("readahead parks, helper goes", "fastoci_park") as p:
            readahead = Call(os.posix_fadvise, fd, at * 512, 4096, os.POSIX_FADV_WILLNEED)
            p.held()
            self.helper.close()
            p.go()
            readahead.done()
        check("readahead does not park when the helper has gone", until(lambda: self.dev.parked() == 0))
        os.close(fd)
        self.new_helper()

    def park_and_suspend(self):
        at, no, want = self.fresh()
        with Pause("park, no-flush suspend", "fastoci_park", "fastoci_sweep_locked") as p:
            r = Reader(self.path, at)
            p.held()
            suspend = Call(self.dev.suspend, True)
            check("presuspend sweeps first", p.entered(2))
            p.go()
            check("a suspend that comes while a read parks ends", suspend.ended() and r.result is None)
        check("nothing is parked while suspended", self.dev.parked() == 0)
        self.dev.resume()
        self.helper.asked(no)
        self.helper.serve(no)
        check("and the read goes on after it", r.done() == want)

    def park_and_interrupted_suspend(self):
        """Between the end of device-mapper's suspend and presuspend_undo, nothing that is requeued comes back."""
        at, no, want = self.fresh()
        busy, busy_no, busy_want = self.fresh()
        self.helper.serve(busy_no)
        dmsetup("suspend", "c")
        hits = self.dev.hits()
        hit = Reader(self.path, busy)  # keeps the suspend waiting
        check("a hit waits for its cache device", until(lambda: self.dev.hits() > hits))
        with Pause("park, interrupted suspend", "end_suspend", asleep=True) as p:
            suspend = subprocess.Popen(["dmsetup", "suspend", "--noflush", self.dev.name], stderr=subprocess.DEVNULL)
            self.blocked(suspend.pid)
            miss = Reader(self.path, at)
            suspend.send_signal(signal.SIGINT)
            p.held()
            self.helper.asked(no)
            check("a read that comes then parks", miss.result is None)
            p.go()
        check("the suspend was interrupted", suspend.wait() != 0)
        self.helper.serve(no)
        dmsetup("resume", "c")
        check("and its reader is served", miss.done() == want)
        check("as is the hit", hit.done() == busy_want)

    @staticmethod
    def blocked(pid):
        """Until the process waits for device-mapper's bios."""
        def waits():
            with open(f"/proc/{pid}/wchan") as f:
                where = f.read()
            return "dm_wait" in where or "dm_suspend" in where
        if not until(waits):
            raise SystemExit("dmsetup suspend does not wait")

    def sweep_and_interrupted_suspend(self):
        """What presuspend swept is released after the suspend was interrupted."""
        at, no, want = self.fresh()
        busy, busy_no, busy_want = self.fresh()
        self.helper.serve(busy_no)
        dmsetup("suspend", "c")
        hits = self.dev.hits()
        hit = Reader(self.path, busy)
        until(lambda: self.dev.hits() > hits)
        miss = Reader(self.path, at)
        self.helper.asked(no)
        with Pause("swept bio, interrupted suspend", "release_reads", asleep=True) as p:
            suspend = subprocess.Popen(["dmsetup", "suspend", "--noflush", self.dev.name], stderr=subprocess.DEVNULL)
            p.held()
            self.blocked(suspend.pid)
            suspend.send_signal(signal.SIGINT)
            check("a suspend with a swept bio is interrupted", suspend.wait() != 0)
            p.go()
            self.helper.asked(no)
            check("the bio parks again", miss.result is None)
        self.helper.serve(no)
        dmsetup("resume", "c")
        check("and is served", miss.done() == want)
        check("as is the hit beside it", hit.done() == busy_want)

    # ---- a bio that is released, against ... ----

    def release_and_evict(self):
        at, no, want = self.fresh()
        r = Reader(self.path, at)
        self.helper.asked(no)
        with Pause("released bio, evict", "fastoci_try_hit") as p:
            self.helper.serve(no)
            p.held()
            self.helper.evict(no)
            p.go()
            self.helper.asked(no)
            check("a chunk that goes while its read is released is asked for again", r.result is None)
            self.helper.serve(no)
            check("and served", r.done() == want)

    def release_and_suspend(self):
        at, no, want = self.fresh()
        r = Reader(self.path, at)
        self.helper.asked(no)
        with Pause("released bio, no-flush suspend", "fastoci_try_hit", "fastoci_sweep_locked") as p:
            self.helper.serve(no)
            p.held()
            suspend = Call(self.dev.suspend, True)
            p.entered(2)
            p.go()
            check("a suspend waits for what is released", suspend.ended())
        self.dev.resume()
        check("which is read", r.done() == want)

    # ---- a released bio whose chunk has gone, and which is about to park again, against ... ----

    @contextlib.contextmanager
    def parks_again(self, name):
        """(pause, read, its content, chunk)"""
        at, no, want = self.fresh()
        r = Reader(self.path, at)
        self.helper.asked(no)
        with Pause(name, "fastoci_try_hit", "fastoci_park", "fastoci_sweep_locked", holds=2) as p:
            self.helper.serve(no)
            p.held()
            self.helper.evict(no)
            p.go()
            p.held()
            yield p, r, want, no

    def release_evict_and_fill(self):
        with self.parks_again("released bio, evict, FILL") as (p, r, want, no):
            self.helper.serve(no)
            p.go()
            check("a chunk that is back when its read parks again is a hit", r.done() == want)

    def release_evict_and_suspend(self):
        with self.parks_again("released bio, evict, no-flush suspend") as (p, r, want, no):
            suspend = Call(self.dev.suspend, True)
            check("presuspend has swept", p.entered(3))
            p.go()
            check("a suspend that comes when a read parks again ends", suspend.ended())
        check("nothing is parked while suspended", self.dev.parked() == 0)
        self.dev.resume()
        self.helper.asked(no)
        self.helper.serve(no)
        check("and the read goes on after it", r.done() == want)

    def release_evict_and_policy(self):
        with self.parks_again("released bio, evict, policy") as (p, r, _, _):
            self.dev.message("fail_after_ms 0")
            p.go()
            check("a policy that comes when a read parks again ends it", r.done() == errno.EIO)
        self.dev.message("hold")

    def timer_and_fill(self):
        at, no, want = self.fresh()
        with Pause("deadline, fill", "run_timer") as p:
            self.dev.message("fail_after_ms 1000")  # runs it
            p.held()
            r = Reader(self.path, at)
            self.helper.asked(no)
            self.helper.serve(no)
            check("a fill before the deadline serves", r.done() == want)
            p.go()
        self.dev.message("hold")

    # ---- an eviction, against ... ----

    def evict_and_reader(self):
        at, no, want = self.fresh()
        slot = self.helper.serve(no)
        with Pause("a read ends, evict", "fastoci_end_io") as p:
            r = Reader(self.path, at)
            p.held()
            self.helper.evict(no)
            check("a slot that is read is not given back", self.helper.slots()[slot][STATE][0] == EVICTING)
            mine = self.helper.alloc(256)
            check("nor handed out", slot not in mine)
            self.helper.give_back(*mine)
            p.go()
            check("the read is right", r.done() == want)
        self.helper.wait_for("EVICTED")
        check("and then the slot is free", slot not in self.helper.slots())

    def evict_and_alloc(self):
        _, no, _ = self.fresh()
        slot = self.helper.serve(no)
        with Pause("a slot is given back, ALLOC", "send_evicted_event") as p:
            self.helper.evict(no)
            p.held()
            alloc = Call(self.helper.alloc, 256)
            early = alloc.done(0.5)
            p.go()
            got = alloc.done()
        told = any(m[0] == CMD["EVICTED"] for m in self.helper.events)
        check("a slot is not handed out before its EVICTED was sent", not early and told and slot in got)
        self.helper.give_back(*got)

    def reserve_and_death(self):
        _, no, _ = self.fresh()
        slot = self.helper.serve(no)
        with Pause("grace period ends, helper dies", "grace_period_over") as p:
            self.helper.evict(no, reserve=True)
            p.held()
            self.helper.close()
            p.go()
        self.new_helper()
        check("a slot that was to be a dead helper's is free", until(lambda: slot not in self.helper.slots()))

    def reserve_and_takeover(self):
        _, no, _ = self.fresh()
        old = self.helper
        slot = old.serve(no)
        with Pause("grace period ends, takeover", "grace_period_over") as p:
            old.evict(no, reserve=True)
            p.held()
            self.new_helper(takeover=True)
            p.go()
        check("nor is it its successor's", until(lambda: slot not in self.helper.slots()))
        old.close()

    # ---- a read of the cache device that failed, against ... ----

    def cache_fails(self, fails):
        """All slots do, the superblock does not. Not while somebody is held: a change of a table waits for all processors."""
        size, first = os.lseek(self.helper.disk, 0, os.SEEK_END) // 512, mkmeta.CHUNK // 512
        table = f"0 {size} linear {self.cache_dev} 0"
        if fails:
            table = f"0 {first} linear {self.cache_dev} 0\n{first} {size - first} error"
        swap_table("c", table)

    def retire_and_evict(self):
        at, no, want = self.fresh()
        slot = self.helper.serve(no)
        self.cache_fails(True)
        with Pause("a read failed, evict", "fastoci_cache_retire") as p:
            r = Reader(self.path, at)
            p.held()
            self.helper.evict(no)
            p.go()
            self.helper.wait_for("SLOT_BAD")
        self.cache_fails(False)
        self.helper.asked(no)
        other = self.helper.serve(no)
        check("the chunk of a slot that fails while it is evicted goes elsewhere", other != slot and r.done() == want)
        self.helper.evict(no)
        gone = dict(attrs(dict(attrs(self.helper.wait_for("EVICTED")[CHUNKS]))[CHUNK]))
        check("the slot is bad and not given back",
              u32(gone[SLOT]) == other and self.helper.slots()[slot][STATE][0] == BAD)

    def retire_evict_and_reuse(self):
        """The slot is evicted twice at a time, and the end of the first must not be taken for that of the second."""
        at, no, want = self.fresh()
        slot = self.helper.serve(no)
        state = lambda: self.helper.slots().get(slot, {}).get(STATE, b"\0")[0]
        self.cache_fails(True)
        with Pause("a read failed, evict, REUSE", "fastoci_cache_retire", "grace_period_over", holds=3) as p:
            r = Reader(self.path, at)
            p.held()
            self.helper.evict(no)
            p.go()
            self.helper.wait_for("SLOT_BAD")
            p.held()
            self.helper.reuse(slot)
            p.go()
            p.held()
            check("a slot that is used again stays when its eviction ends", not until(lambda: state() != EVICTING, 0.5))
            p.go()
        self.cache_fails(False)
        check("and comes back to its helper", until(lambda: state() == RESERVED))
        self.helper.asked(no)
        self.helper.write(slot, no)
        self.helper.fill(no, slot)
        check("who fills it", r.done() == want)

    def retire_and_retire(self):
        at, no, want = self.fresh()
        slot = self.helper.serve(no)
        self.cache_fails(True)
        with Pause("two reads of a slot failed", "fastoci_cache_retire") as p:
            readers = [Reader(self.path, at)]
            p.held()
            before = self.dev.hits()
            readers.append(Reader(self.path, at))
            check("both were hits", until(lambda: self.dev.hits() > before))
            p.go()
            self.helper.wait_for("SLOT_BAD")
        self.cache_fails(False)
        self.helper.asked(no)
        self.helper.serve(no)
        check("both reads go on by another slot", all(r.done() == want for r in readers))
        state = self.helper.slots()[slot][STATE][0]  # after it, what the kernel has sent is here
        check("of the bad one the helper hears once", state == BAD and
              not any(m[0] == CMD["SLOT_BAD"] for m in self.helper.events))

    def retire_and_fill(self):
        at, no, want = self.fresh()
        slot = self.helper.serve(no)
        self.cache_fails(True)
        with Pause("a slot is retired, FILL", "send_slot_bad_event") as p:
            r = Reader(self.path, at)
            p.held()
            fill = Call(self.helper.fill, no, slot)
            early = fill.done(0.5)
            p.go()
            check("a bad slot is not filled", not early and fill.done() == errno.EPERM)
        check("and who tried was told before", any(m[0] == CMD["SLOT_BAD"] for m in self.helper.events))
        self.cache_fails(False)
        self.helper.asked(no)
        self.helper.serve(no)
        check("and its read goes on", r.done() == want)

    # ---- a FILL, against the removal of the last table with its data space ----

    def space_of(self):
        """What the kernel says of the data space; none: it has gone."""
        return next((s for s in self.watcher.dump("GET_SPACES") if u32(s[A_SPACE]) == self.helper.space), None)

    def with_another_table(self):
        """Another image on the same cache, which so outlives the table; of whose data space no chunk is left."""
        self.helper.evict_all()
        table = f"0 {other_image(bytes(32))} fastoci {OTHER_DEV} /dev/mapper/c"
        dmsetup("create", "other", "--readonly", "--table", table)

    def table_again(self, table):
        dmsetup("create", self.dev.name, "--readonly", "--table", table)
        self.helper.find()

    def fill_and_removal(self):
        _, no, _ = self.fresh()
        slot, = self.helper.alloc()
        table = dmsetup("table", self.dev.name)
        self.with_another_table()
        with Pause("FILL, its data space goes", "fastoci_missq_fill", asleep=True) as p:
            fill = Call(self.helper.fill, no, slot)
            p.held()
            dmsetup("remove", self.dev.name)
            check("a table goes while a FILL for it is under way", not self.space_of())
            p.go()
            check("which is refused", fill.done() == errno.EINVAL)
        check("and its slot is still the helper's", self.helper.slots()[slot][STATE][0] == RESERVED)
        self.helper.give_back(slot)
        check("who can give it back", slot not in self.helper.slots())
        self.table_again(table)
        dmsetup("remove", "other")

    def fill_and_removal_of_cache(self):
        at, no, want = self.fresh()
        slot, = self.helper.alloc()
        table = dmsetup("table", self.dev.name)
        with Pause("FILL, its cache goes", "fastoci_missq_fill", asleep=True) as p:
            fill = Call(self.helper.fill, no, slot)
            p.held()
            dmsetup("remove", self.dev.name)
            check("a cache stays as long as a FILL for it is under way", self.watcher.dump("GET_CACHES"))
            p.go()
            check("which is refused", fill.done() == errno.EINVAL)
        self.helper.wait_for("CACHE_REMOVED")
        self.table_again(table)
        check("and then goes, and its slot is reserved in the next one",
              [(s, i[STATE][0]) for s, i in self.helper.slots().items()] == [(slot, RESERVED)])
        self.helper.give_back(slot)
        r = Reader(self.path, at)
        self.helper.asked(no)
        self.helper.serve(no)
        check("the next table's chunk is absent, and served", r.done() == want)

    def removal_and_fill(self):
        at, no, want = self.fresh()
        slot, = self.helper.alloc()
        self.helper.write(slot, no)
        table = dmsetup("table", self.dev.name)
        self.with_another_table()
        with Pause("the data space goes, FILL", "fastoci_space_put", asleep=True) as p:
            remove = Call(dmsetup, "remove", self.dev.name)
            p.held()
            self.helper.fill(no, slot)
            p.go()
            check("a table goes after a FILL for it", remove.ended())
        left = self.space_of()
        check("its data space stays without a user, as it has a slot",
              left and (u32(left[NR_USERS]), u32(left[NR_PRESENT])) == (0, 1))
        self.table_again(table)
        check("which the next table reads", Reader(self.path, at).done() == want)
        dmsetup("remove", self.dev.name)
        self.helper.evict(no)
        self.helper.wait_for("EVICTED")
        check("and it goes with its last slot", not self.space_of() and slot not in self.helper.slots())
        self.table_again(table)
        dmsetup("remove", "other")

    # ---- a command or a table that waits for memory, against all other commands ----

    def memory_and_register(self):
        _, no, _ = self.fresh()
        slot, = self.helper.alloc()
        where = attr(SPACE_ID, b"m" * 32) + attr(DATA_BYTES, struct.pack("=Q", 40 * mkmeta.CHUNK))
        one = attr(CHUNKS, attr(CHUNK, attr(CHUNK_NO, no) + attr(SLOT, slot), True), True)
        for name, function, call in (
                ("RESTORE", "fastoci_space_get", lambda: self.helper.do("RESTORE", self.helper.cache, where, one)),
                ("EVICT", "fastoci_eviction_new", lambda: self.helper.evict(no))):
            with Pause(f"{name} waits for memory, REGISTER", function, asleep=True) as p:
                waits = Call(call)
                p.held()
                check(f"no command waits for the memory of {name}", Call(Helper).done(5) == errno.EBUSY)
                p.go()
                check("which then succeeds", waits.ended())
        self.helper.give_back(slot)

    def memory_and_dump(self):
        table = dmsetup("table", self.dev.name).split()
        write(OTHER_DEV, bytes(CacheSb(8, uuid=uuid.UUID(int=43))))
        second = Device("second")
        with Pause("a new cache waits for memory, GET_CACHES", "fastoci_missq_setup", asleep=True) as p:
            load = Call(second.refusal, int(table[1]), table[3], OTHER_DEV)
            p.held()
            dump = Call(self.watcher.dump, "GET_CACHES")
            check("no command waits for the memory of a new cache", len(dump.done(5) or []) == 1)
            p.go()
            check("which is then made", load.ended() and load.result is None)
        second.clear()
        second.remove()

    # ---- a cache that is dead, but not freed yet, against ... ----

    def death_and_next(self):
        old, table = self.helper, dmsetup("table", self.dev.name)
        slot, = old.alloc()
        self.new_helper(takeover=True)
        with Pause("a cache is freed, its next comes", "free_cache", asleep=True) as p:
            dmsetup("remove", self.dev.name)
            p.held()
            check("a dead cache is in no dump", not self.watcher.dump("GET_CACHES"))
            self.table_again(table)
            check("the next one keeps a former helper's slots reserved", list(self.helper.slots()) == [slot])
            p.go()
        old.close()
        check("until he goes", until(lambda: not self.helper.slots()))

    def death_and_helper_loss(self):
        old, table = self.helper, dmsetup("table", self.dev.name)
        old.alloc()
        self.new_helper(takeover=True)
        with Pause("a cache is freed, its helper dies", "free_cache", asleep=True) as p:
            dmsetup("remove", self.dev.name)
            p.held()
            old.close()
            self.table_again(table)
            check("a helper's slots go with him, also from a dead cache", not self.helper.slots())
            p.go()

    # ---- a message that is about to be sent, against ... ----

    def send_and_death(self):
        at, no, want = self.fresh()
        with Pause("send, helper dies", "send_misses_event") as p:
            r = Reader(self.path, at)
            p.held()
            self.helper.close()
            p.go()
        self.new_helper()
        self.helper.asked(no)
        self.helper.serve(no)
        check("a miss that was on its way to a dead helper is sent to the next", r.done() == want)
        self.helper.evict(no)
        self.helper.wait_for("EVICTED")
        self.chunks.used.remove(no)  # the races need one more than the image has

    def send_and_takeover(self):
        at, no, want = self.fresh()
        old = self.helper
        with Pause("send, takeover", "send_misses_event") as p:
            r = Reader(self.path, at)
            p.held()
            self.new_helper(takeover=True)
            p.go()
        self.helper.asked(no)
        old.close()
        self.helper.serve(no)
        check("one that was on its way at a takeover reaches the new helper", r.done() == want)


def rmmod_and_close(name, cache_dev):
    """The quarantines are not freed while the end of a helper walks them."""
    old = Driver(cache_dev)
    old.alloc()
    new = Driver(cache_dev, takeover=True)
    dmsetup("remove", name)
    new.wait_for("CACHE_REMOVED")
    with Pause("a socket is closed, rmmod", "fastoci_quarantine_end", "fastoci_quarantine_free", asleep=True) as p:
        close = Call(old.close)
        p.held()
        rmmod = Call(subprocess.run, ["rmmod", "dm_fastoci"])
        check("rmmod frees no quarantine that is looked at", not until(lambda: int(p.read("entered")) > 1, 1))
        p.go()
        check("and then the socket's end is over, and the module's", close.ended() and rmmod.done().returncode == 0)
    ktap.end()


def main():
    if sys.argv[1] == "rmmod":
        return rmmod_and_close(*sys.argv[2:])
    set_parameter("retry_ms", 0)  # a slot that cannot be read is bad at once
    races = Races(*sys.argv[1:4])
    for name, method in vars(Races).items():
        if "_and_" in name:
            method(races)
    ktap.end()


if __name__ == "__main__":
    signal.alarm(240)
    main()
