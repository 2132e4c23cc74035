#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""reread.py DM_NAME META CACHE_DEV: reads of hits that fail (kmod/reread.c).

The device is one of mkmeta.py's image with the policy `hold`; it has its cache, CACHE_DEV, by a linear device "c".
Prints KTAP.
"""
import errno, os, signal, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ktap, mkmeta
from dmdevice import Device, swap_table
from driver import *
from ktap import check

MAX_FAILURES = 4  # kmod/reread.c
SLOT_SECTORS = mkmeta.CHUNK // 512


class Rereads:
    def __init__(self, name, meta, cache_dev):
        self.dev, self.path, self.cache_dev = Device(name, create=False), f"/dev/mapper/{name}", cache_dev
        self.helper, self.chunks = Driver(cache_dev), Chunks(meta)
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

    def not_for_ever(self):
        at, no, want = self.chunks.fresh()
        before, slots = self.dev.errors(), [self.helper.serve(no)]
        self.bad(*slots)
        r = Reader(self.path, at)
        for _ in range(MAX_FAILURES - 1):
            self.helper.asked(no)
            slot, = self.helper.alloc()
            slots.append(slot)
            self.bad(*slots)
            self.helper.write(slot, no)
            self.helper.fill(no, slot)
        check("a chunk that fails too often is an error", r.done() == errno.EIO, str(r.result))
        check("which is counted once", self.dev.errors() == before + 1)
        check("the last slot is kept", [self.state(s) for s in slots] == [BAD] * (MAX_FAILURES - 1) + [PRESENT])
        self.bad()
        check("and serves when the device is well again", Reader(self.path, at).done() == want)


def main():
    rereads = Rereads(*sys.argv[1:4])
    for test in rereads.run_of_slots, rereads.readahead, rereads.not_for_ever:
        test()
    ktap.end()


if __name__ == "__main__":
    signal.alarm(120)
    main()
