#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""faults.py META_DEV CACHE_DEV TEXT_START TEXT_END MODULE: allocations of the module that fail, with fault injection.

First each operation is repeated with its first, second, ... allocation failing (/proc/thread-self/fail-nth, the filters
for reclaim off), until it has none left that could: it may fail, with a clear error, and afterwards it must work. The
same with calls that fastoci-fail.ko makes fail. Then readers go on for a while with a part of all allocations below the
module's text failing, and with I/O errors on the cache device: a read may fail, but never be wrong, and nothing may
hang. Prints KTAP; leaks are the case's to find.
"""
import ctypes, errno, mmap, os, random, struct, subprocess, sys, threading, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mkmeta
import dmdevice
import ktap
from dmdevice import Device, write
from driver import *
from ktap import check
from metaimage import CacheSb

DEBUGFS = "/sys/kernel/debug"
META, CACHE_DEV, START, END, MODULE = sys.argv[1:6]


def knob(fault, **values):
    for name, value in values.items():
        with open(f"{DEBUGFS}/{fault}/{name.replace('_', '-')}", "w") as f:
            f.write(str(value))


class Live(Device):
    """A device whose table is refused with an errno."""

    def load(self, sectors):
        line = f"{META} {CACHE_DEV}".encode() + b"\0"
        line += bytes(-len(line) % 8)
        self.ioctl(dmdevice.LOAD, 1, struct.pack("<QQiI16s", 0, sectors, 0, 40 + len(line), b"fastoci") + line)

    def up(self, sectors):
        self.load(sectors)
        self.resume()


def patiently(call, *args):
    """Tries again what failed for want of memory; ENOBUFS is also what a socket reports later of a lost answer."""
    for _ in range(2000):
        try:
            return call(*args)
        except TimeoutError:
            raise
        except OSError as e:
            if e.errno not in (errno.ENOMEM, errno.ENOBUFS, errno.EIO, errno.ENOSPC):
                raise
            time.sleep(0.005)
    raise RuntimeError("no memory for ever")


def each_nth(name, operation, repair=lambda: None, most=3000):
    """Fails one allocation after another of @operation; @repair undoes what it did when it succeeded."""
    errors, n = set(), 0
    while n < most:
        n += 1
        fd = os.open("/proc/thread-self/fail-nth", os.O_RDWR)
        os.write(fd, str(n).encode())
        err = 0
        try:
            operation()
        except OSError as e:
            err = e.errno
        left = int(os.pread(fd, 20, 0))
        os.pwrite(fd, b"0", 0)
        os.close(fd)
        if err:
            errors.add(errno.errorcode.get(err, err))
        else:
            patiently(repair)
        if left:
            break
    try:
        patiently(operation)
        patiently(repair)
        works = True
    except OSError as e:
        works = False
        errors.add(f"then {e}")
    check(f"{name}: each of its {n - 1} allocations may fail", works and n < most, f"{n - 1} points: {sorted(map(str, errors))}")


# What fault injection does not reach, with what it returns then: a pointer's end or an errno.
CONSTRUCTOR = dict(pcpu_alloc_noprof=0, bioset_init=-errno.ENOMEM, __init_srcu_struct=-errno.ENOMEM,
                   dm_io_client_create=-errno.ENOMEM, __xa_alloc_cyclic=-errno.ENOMEM, dm_get_device=-errno.ENODEV,
                   dm_io=-errno.EIO)
MODULE_INIT = dict(alloc_workqueue=0, __kmem_cache_create_args=0, netlink_register_notifier=-errno.ENOMEM,
                   genl_register_family=-errno.ENOMEM, dm_register_target=-errno.EEXIST)
FAIL = "/sys/module/fastoci_fail/parameters/"


def fail_calls(name, functions, operation, repair):
    """Fails one call after another of each of @functions that @operation makes."""
    for function, value in functions.items():
        bad, n = [], 0
        while n < 200:
            n += 1
            with open(FAIL + "at", "w") as f:
                f.write(f"{function} {value} {n}")
            try:
                operation()
                err = 0
            except OSError as e:
                err = e.errno
            with open(FAIL + "failed") as f:
                failed = f.read().strip() == "Y"
            with open(FAIL + "at", "w") as f:
                f.write("\n")
            if not err:
                repair()
            if not failed:
                if err:
                    bad.append(f"then {errno.errorcode[err]}")
                break
            if err != (-value or errno.ENOMEM):
                bad.append(f"call {n}: {err}")
        check(f"{name}: each of its {n - 1} calls of {function} may fail", not bad and 1 < n < 200, f"{n - 1} calls: {bad}")


def syscall(*args):
    if LIBC.syscall(*args):
        raise OSError(ctypes.get_errno(), "module")


LIBC = ctypes.CDLL(None, use_errno=True)


def module_phase(path):
    """The module is loaded anew while what its init calls fails."""
    unload = lambda: syscall(176, b"dm_fastoci", os.O_NONBLOCK)
    with open(path, "rb") as f:
        load = lambda: syscall(313, f.fileno(), b"", 0)
        unload()
        each_nth("load the module", load, unload)
        fail_calls("load the module", MODULE_INIT, load, unload)
        load()


def nth_phase(image, sectors):
    dev = Live("t")
    each_nth("load a table", lambda: dev.load(sectors), lambda: dev.clear())
    fail_calls("load a table", CONSTRUCTOR, lambda: dev.load(sectors), lambda: dev.clear())
    dev.up(sectors)
    each_nth("reload", lambda: dev.load(sectors), lambda: dev.clear())
    each_nth("status", lambda: dev.status())
    each_nth("a message", lambda: dev.message("suspend_grace_ms 1000"))
    each_nth("REGISTER", lambda: Helper(register=True).sock.close())
    h = Helper()
    cache, space = u32(h.dump("GET_CACHES")[0][CACHE]), u32(h.dump("GET_SPACES")[0][A_SPACE])
    slots = lambda: [dict(attrs(dict(attrs(i[CHUNKS]))[CHUNK])) for i in h.dump("GET_SLOTS", attr(CACHE, cache))]

    def give_back():
        mine = [u32(s[SLOT]) for s in slots() if s[STATE][0] == RESERVED]
        if mine:
            h.do("RETURN", cache, attr(SLOTS, struct.pack(f"={len(mine)}I", *mine)))

    each_nth("ALLOC", lambda: h.do("ALLOC", cache, attr(COUNT, 3)), give_back)
    patiently(give_back)
    check("no failed ALLOC left a slot behind", not patiently(slots))
    slot = u32(dict(attrs(patiently(h.do, "ALLOC", cache, attr(COUNT, 1))))[SLOTS])
    each_nth("FILL", lambda: h.do("FILL", cache, chunk(space, 1, attr(SLOT, slot))))

    def evict():
        h.do("EVICT", cache, attr(FLAGS, 1), chunk(space, 1))
        for _ in range(500):
            if any(u32(s[SLOT]) == slot and s[STATE][0] == RESERVED for s in slots()):
                break
            time.sleep(0.01)
        h.do("FILL", cache, chunk(space, 1, attr(SLOT, slot)))

    each_nth("EVICT and FILL again", evict)
    one = attr(CHUNKS, attr(CHUNK, attr(CHUNK_NO, 3) + attr(SLOT, 60), True), True)
    each_nth("RESTORE of a new space", lambda: h.do("RESTORE", cache, attr(SPACE_ID, b"n" * 32),
                                                      attr(DATA_BYTES, struct.pack("=Q", 1 << 20)), one),
             lambda: h.do("RETURN", cache, attr(SLOTS, struct.pack("=I", 60))))
    for cmd in ("GET_CACHES", "GET_IMAGES", "GET_SPACES"):
        each_nth(cmd, lambda: h.dump(cmd))
    each_nth("GET_SLOTS", slots)
    each_nth("GET_PENDING", lambda: h.dump("GET_PENDING", attr(GENERATION, h.generation)))
    h.sock.close()

    def remove():
        dev.remove()

    def again():
        dev.ioctl(dmdevice.CREATE)
        dev.up(sectors)

    each_nth("remove", remove, again)
    dev.remove()


def requests_fail(percent):
    """Of those to the cache."""
    with open(f"/sys/block/{os.path.basename(CACHE_DEV)}/make-it-fail", "w") as f:
        f.write(str(int(percent > 0)))
    knob("fail_make_request", verbose=0, interval=1, times=-1, probability=percent)


def nowait_phase():
    """Here, as device-mapper's targets that fail do not know NOWAIT."""
    h, (at, no, want) = Driver(CACHE_DEV), Chunks(META).fresh()
    slot, read = h.serve(no), lambda: Reader("/dev/mapper/t", at, os.RWF_NOWAIT).done()
    requests_fail(100)
    got = read()
    requests_fail(0)
    check("a NOWAIT hit whose read fails is EAGAIN", got == errno.EAGAIN, str(got))
    check("its slot stays in use, as it was not tried again", h.slots()[slot][STATE][0] == PRESENT)
    check("and once the device reads, it is a hit", read() == want)
    h.close()


class PatientHelper(threading.Thread):
    """Serves misses, evicts, and tries again what failed for want of memory."""

    def __init__(self):
        super().__init__(daemon=True)
        self.blob = mkmeta.blob_data(mkmeta.BLOB_BYTES)
        self.h, self.over = patiently(Helper), False
        self.h.sock.settimeout(0.2)
        self.start()

    def run(self):
        size = mkmeta.CHUNK
        dev, filled = os.open(CACHE_DEV, os.O_RDWR | os.O_SYNC), []
        while not self.over:
            try:
                msg = self.h.event()
            except TimeoutError:
                continue
            except OSError as e:
                if e.errno == errno.ENOBUFS:
                    patiently(self.h.dump, "GET_PENDING", attr(GENERATION, self.h.generation))
                    continue
                raise
            if msg[0] != CMD["MISS"]:
                continue
            got = dict(attrs(msg[4:]))
            cache, misses = u32(got[CACHE]), [dict(attrs(a)) for _, a in attrs(got[CHUNKS])]
            do = lambda *args: patiently(self.h.do, *args)
            do("ACK", cache, attr(COUNT, len(misses)))
            for m in misses:
                space, no = u32(m[SPACE]), u32(m[CHUNK_NO])
                slot = u32(dict(attrs(do("ALLOC", cache, attr(COUNT, 1))))[SLOTS])
                patiently(os.pwrite, dev, self.blob[no * size:(no + 1) * size].ljust(size, b"\0"), (slot + 1) * size)
                do("FILL", cache, chunk(space, no, attr(SLOT, slot)))
                filled.append((space, no))
                if len(filled) > 8:
                    do("EVICT", cache, chunk(*filled.pop(0)))


def read_for(seconds, content, path="/dev/mapper/t"):
    """(right, failed, wrong) reads of random blocks."""
    fd, buf = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096)
    rnd, end, tally = random.Random(os.urandom(4)), time.monotonic() + seconds, [0, 0, 0]
    while time.monotonic() < end:
        at = rnd.randrange(len(content) // 4096) * 4096
        try:
            os.preadv(fd, [buf], at)
            tally[0 if buf[:] == content[at:at + 4096] else 2] += 1
        except OSError:
            tally[1] += 1
    os.close(fd)
    return tally


def random_phase(name, content, seconds, begin, end):
    helper, results = PatientHelper(), []
    begin()
    readers = [threading.Thread(target=lambda: results.append(read_for(seconds, content))) for _ in range(3)]
    for r in readers:
        r.start()
    for r in readers:
        r.join(seconds + 60)
    end()
    right, bad, wrong = (sum(r[i] for r in results) for i in range(3))
    check(f"{name}: no reader hangs", len(results) == 3)
    check(f"{name}: of {right + bad + wrong} reads, {bad} failed, none was wrong", wrong == 0 and right > 0)
    check(f"{name}: the helper lives", helper.is_alive())
    after = read_for(2, content)
    check(f"{name}: afterwards all reads are right", after[0] > 0 and after[1] == after[2] == 0, str(after))
    helper.over = True
    helper.join(30)
    helper.h.sock.close()


def main():
    image, content = mkmeta.small_image()
    fd = os.open(CACHE_DEV, os.O_RDONLY)
    nr_slots = os.lseek(fd, 0, os.SEEK_END) // mkmeta.CHUNK - 1
    os.close(fd)
    write(META, bytes(image))
    write(CACHE_DEV, bytes(CacheSb(nr_slots)))
    for fault in "failslab", "fail_page_alloc":
        knob(fault, verbose=0, ignore_gfp_wait=0)
    knob("fail_page_alloc", min_order=0, ignore_gfp_highmem=0)
    nth_phase(image, image.device_sectors)

    dev = Live("t")
    dev.up(image.device_sectors)
    subprocess.run(["dmsetup", "mknodes"], check=True)
    nowait_phase()
    text = dict(require_start=START, require_end=END, stacktrace_depth=32)

    def slab(on):
        for fault in "failslab", "fail_page_alloc":
            if on:
                knob(fault, **text)
            knob(fault, interval=1, times=-1, probability=10 if on else 0)

    random_phase("one allocation of ten fails", content, 8, lambda: slab(True), lambda: slab(False))

    random_phase("one request of five to the cache fails", content, 8, lambda: requests_fail(20),
                 lambda: requests_fail(0))
    dev.remove()
    module_phase(MODULE)
    ktap.end()


if __name__ == "__main__":
    main()
