#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""reread.py DM_NAME META CACHE_DEV [DISK]: reads of hits that fail (kmod/reread.c).

The device is one of mkmeta.py's image with the policy `hold`; it has its cache, CACHE_DEV, by a linear device "c".
DISK is one of scsi_debug, for errors of the medium. Prints KTAP.
"""
import errno, os, signal, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ktap, mkmeta
from dmdevice import Device, Log, swap_table, write
from driver import *
from ktap import check

MAX_SLOTS = 4  # kmod/reread.c
SLOT_SECTORS = mkmeta.CHUNK // 512


class Rereads:
    def __init__(self, name, meta, cache_dev):
        self.dev, self.path, self.cache_dev = Device(name, create=False), f"/dev/mapper/{name}", cache_dev
        self.helper, self.chunks = Driver(cache_dev), Chunks(meta)
        set_parameter("retry_ms", 0)
        self.sectors = os.lseek(self.helper.disk, 0, os.SEEK_END) // 512

    def bad(self, *slots):
        """These slots cannot be read any more, all others can."""
        table, at = "", 0
        for s in sorted(slots):
            begin = (s + 1) * SLOT_SECTORS
            if begin > at:
                table += f"{at} {begin - at} linear {self.cache_dev} {at}\n"
            table += f"{begin} {SLOT_SECTORS} error\n"
            at = begin + SLOT_SECTORS
        table += f"{at} {self.sectors - at} linear {self.cache_dev} {at}\n"
        swap_table("c", table)

    def fails(self, whole):
        """The device as a whole fails, or is well."""
        swap_table("c", f"0 {self.sectors} error" if whole else f"0 {self.sectors} linear {self.cache_dev} 0")

    def device_number(self):
        node = os.stat(self.path).st_rdev
        return f"{os.major(node)}:{os.minor(node)}"

    def nr_bad(self):
        told = int(self.dev.status()[9])
        assert told == u32(self.helper.dump("GET_CACHES")[0][NR_BAD])
        return told

    def state(self, slot):
        return self.helper.slots()[slot][STATE][0]

    def serve_run(self, no, count):
        """Chunks behind each other in slots behind each other."""
        slots = self.helper.alloc(count)
        assert list(slots) == list(range(slots[0], slots[0] + count))
        for i, slot in enumerate(slots):
            self.helper.write(slot, no + i)
            self.helper.fill(no + i, slot)
        return slots

    def run_of_slots(self):
        for which, bad in ("first", 0), ("second", 1):
            at, n, no, want = self.chunks.fresh_run()
            slots = self.serve_run(no, 2)
            self.bad(slots[bad])
            r = Reader(self.path, at, sectors=n)
            self.helper.asked(no + bad)
            check(f"of a run only the {which} slot, which is bad, is read again elsewhere", r.result is None and
                  self.state(slots[bad]) == BAD and self.state(slots[1 - bad]) == PRESENT)
            self.helper.serve(no + bad)
            check("and all of it is right", r.done() == want)
        check("no read failed", self.dev.errors() == 0)

    def readahead(self):
        """Drivers give readahead up early, so it says nothing of a slot."""
        at, no, _ = self.chunks.fresh()
        slot = self.helper.serve(no)
        self.bad(slot)
        hits = self.dev.hits()
        fd = os.open(self.path, os.O_RDONLY)
        os.posix_fadvise(fd, at * 512, 512, os.POSIX_FADV_WILLNEED)
        os.close(fd)
        check("readahead is a hit", until(lambda: self.dev.hits() > hits))
        check("and takes no slot out of service when it fails", not until(lambda: self.state(slot) == BAD, 0.5))

    def for_a_moment(self):
        """A path that fails over: who reads sees nothing of it."""
        set_parameter("retry_ms", 60000)
        at, no, want = self.chunks.fresh()
        slot, errors, hits, bad = self.helper.serve(no), self.dev.errors(), self.dev.hits(), self.nr_bad()
        self.fails(True)
        r = Reader(self.path, at)
        check("a read of a device that fails does not end", not until(lambda: r.result is not None, 0.5))
        self.fails(False)
        check("as it is tried again, and right when it is well again", r.done() == want)
        check("it counts as one hit", self.dev.hits() == hits + 1)
        check("it took no slot out of service", self.state(slot) == PRESENT and self.nr_bad() == bad)
        check("and was no error", self.dev.errors() == errors)
        set_parameter("retry_ms", 0)

    def for_long(self):
        """A device that fails as a whole says nothing of its slots."""
        slots, places, bad = [], [self.chunks.fresh() for _ in range(4)], self.nr_bad()
        for at, no, want in places:
            slots.append(self.helper.serve(no))
        self.fails(True)
        log, events = Log(), self.dev.events()
        check("reads of a device that fails for long fail",
              [Reader(self.path, at).done() for at, _, _ in places] == [errno.EIO] * 4)
        check("which is an event", until(lambda: self.dev.events() > events))
        check("and the kernel names the device", f"{self.device_number()}: a read fails with error -5" in log.read())
        check("but its slots stay in service", [self.state(s) for s in slots] == [PRESENT] * 4 and self.nr_bad() == bad)
        self.fails(False)
        check("and serve when it is well again", all(Reader(self.path, at).done() == want for at, _, want in places))

    def medium(self, disk):
        """A drive that is locked has such errors everywhere, in its superblock, too."""
        def errors(first=0, count=0):
            for name, value in ("start", first), ("count", count):
                set_parameter("medium_error_" + name, value, "/sys/module/scsi_debug/parameters")
            set_parameter("opts", 2 if count else 0, "/sys/bus/pseudo/drivers/scsi_debug")

        at, no, want = self.chunks.fresh()
        slot, bad = self.helper.serve(no), self.nr_bad()
        write(disk, os.pread(self.helper.disk, self.sectors * 512, 0))
        swap_table("c", f"0 {self.sectors} linear {disk} 0")
        errors(count=self.sectors)
        check("a read of a drive with errors of the medium everywhere fails", Reader(self.path, at).done() == errno.ENODATA)
        check("but its slot stays in service", self.state(slot) == PRESENT and self.nr_bad() == bad)
        errors((slot + 1) * SLOT_SECTORS, SLOT_SECTORS)
        r = Reader(self.path, at)
        self.helper.asked(no)
        check("with such errors in that slot alone it is bad", self.state(slot) == BAD and self.nr_bad() == bad + 1)
        errors()
        self.fails(False)
        self.helper.serve(no)
        check("and its chunk is served elsewhere", r.done() == want)

    def used_again(self):
        at, no, want = self.chunks.fresh()
        slot, bad = self.helper.serve(no), self.nr_bad()
        self.bad(slot)
        events = self.dev.events()
        r = Reader(self.path, at)
        self.helper.asked(no)
        check("a slot that becomes bad is an event", until(lambda: self.dev.events() > events))
        check("a slot that alone cannot be read is counted as bad", self.state(slot) == BAD and self.nr_bad() == bad + 1)
        self.bad()
        self.helper.reuse(slot)
        gone = dict(attrs(dict(attrs(self.helper.wait_for("EVICTED")[CHUNKS]))[CHUNK]))
        check("it comes back when its helper asks for it", u32(gone[SLOT]) == slot and u32(gone[CHUNK_NO]) == no)
        check("and is reserved", self.state(slot) == RESERVED and self.nr_bad() == bad)
        self.helper.write(slot, no)
        self.helper.fill(no, slot)
        check("a chunk that is written to it is served", r.done() == want)

    def not_for_ever(self):
        at, no, want = self.chunks.fresh()
        before, slots = self.dev.errors(), [self.helper.serve(no)]
        self.bad(*slots)
        r = Reader(self.path, at)
        for _ in range(MAX_SLOTS - 1):
            self.helper.asked(no)
            slot, = self.helper.alloc()
            slots.append(slot)
            self.bad(*slots)
            self.helper.write(slot, no)
            self.helper.fill(no, slot)
        check("a chunk that fails too often is an error", r.done() == errno.EIO, str(r.result))
        check("which is counted once", self.dev.errors() == before + 1)
        check("the last slot is kept", [self.state(s) for s in slots] == [BAD] * (MAX_SLOTS - 1) + [PRESENT])
        self.bad()
        check("and serves when the device is well again", Reader(self.path, at).done() == want)


def main():
    rereads, disk = Rereads(*sys.argv[1:4]), sys.argv[4:]
    for test in (rereads.run_of_slots, rereads.readahead, rereads.for_a_moment, rereads.for_long, rereads.used_again,
                 rereads.not_for_ever):
        test()
    if disk:
        rereads.medium(*disk)
    ktap.end()


if __name__ == "__main__":
    signal.alarm(120)
    main()
