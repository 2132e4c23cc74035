#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""protocol.py DM_DEVICE META CACHE_DEV: drives the miss protocol step by step over a device made by mkmeta.py's image.
protocol.py left-behind DM_NAME: removes it and the module while helpers live.

Each check is a KTAP line; the device must be fresh (no chunk present) and have the policy `hold`.
"""
import ctypes, errno, hashlib, os, select, signal, socket, subprocess, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ktap, mkmeta
from dmdevice import IMA, STATUS, Device
from driver import *
from ktap import check


def refused(name, err, call, *args, words=""):
    """It fails with that errno, and the kernel's words contain those."""
    try:
        call(*args)
        check(name, False)
    except OSError as e:
        check(name, e.errno == err and words in e.strerror, f"got {e}")


def full_socket(device, places):
    """A helper whose socket takes a few messages, and which never asks for what it may have lost."""
    h = Helper(register=False)
    h.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    h.register()
    cache = u32(h.dump("GET_CACHES")[0][CACHE])
    want = {}
    for at, n, data in places:
        want.setdefault(data // 128, at)
    for at in want.values():
        Reader(device, at, os.RWF_NOWAIT).done()
    lost, got, end = 0, set(), time.monotonic() + 20
    while got != set(want) and time.monotonic() < end:
        if not h.events and not select.select([h.sock], [], [], 1)[0]:
            continue
        try:
            got.update(misses_of(h.event()))
        except OSError as e:
            if e.errno != errno.ENOBUFS:
                raise
            lost += 1
    check("a socket that is too small loses messages", lost > 0 and len(want) > 20)
    check("and all misses arrive nevertheless, once it is read", got == set(want), f"missing {set(want) - got}")
    h.do("ACK", cache, attr(COUNT, 1000))
    h.sock.close()


def unanswered(device, cache_dev, place):
    """A helper that takes a miss and forgets it."""
    at, no, _ = place
    h, name = Driver(cache_dev), os.path.basename(device)
    first = Reader(device, at)
    h.asked(no)
    subprocess.run(["dmsetup", "message", name, "0", "fail_pending"], check=True)
    check("fail_pending ends the reader", first.done() == errno.EIO)
    second = Reader(device, at)
    h.asked(no)
    check("whose miss went with it: the next reader's is sent", second.result is None)
    with open("/sys/module/dm_fastoci/parameters/ask_again_ms", "w") as f:
        f.write("300")
    subprocess.run(["dmsetup", "message", name, "0", "fail_after_ms", "60000"], check=True)  # runs the timer
    h.asked(no)
    h.asked(no)
    check("what is not answered is asked for again and again", second.result is None)
    h.do("FAIL", h.cache, chunk(h.space, no, attr(ERRNO, errno.ENODATA)))
    check("until it is", second.done() == errno.ENODATA)
    subprocess.run(["dmsetup", "message", name, "0", "hold"], check=True)
    h.close()


CAP_NET_ADMIN = 1 << 12


def is_eperm(capabilities):
    """Whether who has only these may do nothing."""
    pid = os.fork()
    if pid == 0:
        sets = struct.pack("=6I", capabilities, capabilities, 0, 0, 0, 0)
        bad = ctypes.CDLL(None).capset(struct.pack("=Ii", 0x20080522, 0), sets)
        for call in (lambda h: h.register(), lambda h: h.dump("GET_IMAGES"), lambda h: h.dump("GET_SLOTS"),
                     lambda h: h.dump("GET_PENDING"), lambda h: h.call(h.family, CMD["ACK"], attr(COUNT, 1))):
            try:
                call(Helper(register=False))
                bad = 1
            except OSError as e:
                bad |= e.errno != errno.EPERM
        os._exit(bad)
    return os.waitpid(pid, 0)[1] == 0


def left_behind(name):
    """The module goes although a helper lives that was taken over, and whose slots are in quarantine."""
    old = Helper()
    old.do("ALLOC", u32(old.dump("GET_CACHES")[0][CACHE]), attr(COUNT, 3))
    new = Helper(takeover=True)
    subprocess.run(["dmsetup", "remove", name], check=True)
    new.wait_for("CACHE_REMOVED")
    check("the module goes, although helpers live", subprocess.run(["rmmod", "dm_fastoci"]).returncode == 0)
    ktap.end()


def main():
    device, meta, cache_dev = sys.argv[1:4]
    name = os.path.basename(device)
    chunks = Chunks(meta)
    fresh = chunks.fresh
    disk = os.open(cache_dev, os.O_RDWR | os.O_SYNC)

    def write(slot, chunk_no):
        os.pwrite(disk, BLOB[chunk_no * mkmeta.CHUNK:(chunk_no + 1) * mkmeta.CHUNK], (slot + 1) * mkmeta.CHUNK)

    a = Helper(register=False)
    refused("a helper that is too old is told so", errno.EPROTONOSUPPORT, a.register, False, PROTOCOL_VERSION - 1,
            words="the helper is older than dm-fastoci")
    refused("one that is too new, too", errno.EPROTONOSUPPORT, a.register, False, PROTOCOL_VERSION + 1,
            words="the helper is newer than dm-fastoci")
    a.register()
    cache = u32(a.dump("GET_CACHES")[0][CACHE])
    space = u32(a.dump("GET_SPACES")[0][A_SPACE])
    check("GET_IMAGES names the image", len(a.dump("GET_IMAGES")) == 1)

    def alloc(h, n=1):
        got = dict(attrs(h.do("ALLOC", cache, attr(COUNT, n))))[SLOTS]
        return struct.unpack(f"={len(got) // 4}I", got)

    def slots(h):
        items = [dict(attrs(dict(attrs(i[CHUNKS]))[CHUNK])) for i in h.dump("GET_SLOTS", attr(CACHE, cache))]
        return {u32(i[SLOT]): i for i in items}

    def fill(h, chunk_no, slot):
        return h.do("FILL", cache, chunk(space, chunk_no, attr(SLOT, slot)))

    def send_pending(h):
        h.dump("GET_PENDING", attr(GENERATION, h.generation))

    # a miss, filled; NOWAIT
    at, no, want = fresh()
    r = Reader(device, at, os.RWF_NOWAIT)
    check("a NOWAIT read of an absent chunk is EAGAIN", r.done() == errno.EAGAIN)
    miss = a.wait_for("MISS")
    a.do("ACK", cache, attr(COUNT, 1))
    got = dict(attrs(dict(attrs(miss[CHUNKS]))[CHUNK]))
    check("and its chunk is asked for", u32(got[CHUNK_NO]) == no and u32(got[SPACE]) == space)
    slot, = alloc(a)
    refused("FILL of a slot that nobody reserved is refused", errno.EPERM, fill, a, no, slot + 1)
    refused("FILL behind the space is refused", errno.EINVAL, fill, a, 40, slot)
    write(slot, no)
    fill(a, no, slot)
    check("a NOWAIT read of a present chunk is a hit", Reader(device, at, os.RWF_NOWAIT).done() == want)
    counts = a.dump("GET_IMAGES")[0]
    check("GET_IMAGES counts both", [struct.unpack("=Q", counts[k])[0] for k in (NR_HITS, NR_MISSED, NR_ERRORS)] == [1, 1, 0])
    check("and who waits", u32(counts[NR_PARKED]) == 0)
    times = struct.unpack("=24Q", counts[HIT_TIMES])
    ns, = struct.unpack("=Q", counts[HIT_NS])
    floor = sum(n << 9 + i for i, n in enumerate(times) if i)
    check("a CPU's first hit is timed", sum(times) == 1 and floor < ns, f"{times} {ns}")
    fill(a, no, slot)
    check("the same FILL again succeeds", True)
    second, = alloc(a)
    fill(a, no, second)
    state = slots(a)
    check("FILL of a present chunk keeps the sender's slot reserved", state[second][STATE][0] == RESERVED)
    check("GET_SLOTS tells chunk and state", state[slot][STATE][0] == PRESENT and u32(state[slot][CHUNK_NO]) == no)
    a.do("RETURN", cache, attr(SLOTS, struct.pack("=I", second)))
    check("RETURN frees it", second not in slots(a))
    refused("RETURN of a slot in use is refused", errno.EINVAL, a.do, "RETURN", cache,
            attr(SLOTS, struct.pack("=I", slot)))

    # the errno of a FAIL
    at, no, _ = fresh()
    for told, seen in (errno.ETIMEDOUT,) * 2, (errno.EILSEQ,) * 2, (errno.EAGAIN, errno.EIO):
        r = Reader(device, at)
        a.wait_for("MISS")
        a.do("FAIL", cache, chunk(space, no, attr(ERRNO, told)))
        check(f"a FAIL with {errno.errorcode[told]} is {errno.errorcode[seen]} to the reader", r.done() == seen)
    refused("FAIL behind the space is refused", errno.EINVAL, a.do, "FAIL", cache, chunk(space, 40))

    # eviction that hands its slot over
    at, no, want = fresh()
    slot, = alloc(a)
    write(slot, no)
    fill(a, no, slot)
    check("FILL without a miss is served", Reader(device, at).done() == want)
    a.do("EVICT", cache, attr(FLAGS, 1), chunk(space, no))
    gone = dict(attrs(dict(attrs(a.wait_for("EVICTED")[CHUNKS]))[CHUNK]))
    check("EVICTED names chunk and slot", u32(gone[SLOT]) == slot and u32(gone[CHUNK_NO]) == no)
    check("an eviction with RESERVE gives the slot to its sender", slots(a)[slot][STATE][0] == RESERVED)
    fill(a, no, slot)
    check("which can fill it again", Reader(device, at).done() == want)

    # takeover and quarantine
    mine = alloc(a, 4)
    b = Helper(register=False)
    refused("a second helper is refused", errno.EBUSY, b.register, words="another helper is registered")
    b.register(takeover=True)
    check("but may take over", True)
    refused("the old helper is stale", errno.ESTALE, alloc, a)
    refused("also for GET_PENDING", errno.ESTALE, send_pending, a)
    refused("GET_PENDING names its generation", errno.EINVAL, b.dump, "GET_PENDING")
    refused("a socket registers once", errno.EALREADY, b.register)
    refused("also after it was taken over", errno.EALREADY, a.register, True)
    send_pending(b)
    check("the helper's own GET_PENDING succeeds", True)
    theirs = alloc(b, 256)
    check("its slots are in quarantine", not set(mine) & set(theirs))
    refused("ALLOC without a free slot is refused", errno.ENOSPC, alloc, b)
    b.do("RETURN", cache, attr(SLOTS, struct.pack(f"={len(theirs)}I", *theirs)))
    a.sock.close()
    check("until its socket is closed", not set(mine) & set(slots(b)))

    # RESTORE
    at, no, want = fresh()
    sid = hashlib.sha256(b"space").digest()

    def restore(chunk_no, slot, size=mkmeta.BLOB_BYTES):
        one = attr(CHUNKS, attr(CHUNK, attr(CHUNK_NO, chunk_no) + attr(SLOT, slot), True), True)
        return b.do("RESTORE", cache, attr(SPACE_ID, sid), attr(DATA_BYTES, struct.pack("=Q", size)), one)

    write(50, no)
    restore(no, 50)
    restore(no, 50)
    check("RESTORE takes a free slot, twice the same is fine", slots(b)[50][STATE][0] == RESTORED)
    refused("RESTORE of a taken slot is refused", errno.EEXIST, restore, no + 1, 50)
    refused("RESTORE with another size is refused", errno.EEXIST, restore, no, 51, 7)
    refused("RESTORE behind the space is refused", errno.EINVAL, restore, 40, 51)
    r = Reader(device, at)
    b.wait_for("MISS")
    check("a restored chunk is not served before its FILL", r.result is None)
    fill(b, no, 50)
    check("and is afterwards, without an ALLOC", r.done() == want)
    refused("RESTORE of a present chunk is refused", errno.EEXIST, restore, no, 51)
    _, other, _ = fresh()
    slot, = alloc(b)
    restore(other, slot)
    check("RESTORE takes a slot that its sender reserved", slots(b)[slot][STATE][0] == RESTORED)
    b.do("RETURN", cache, attr(SLOTS, struct.pack("=I", slot)))
    check("RETURN gives a restored slot back", slot not in slots(b))

    # access bits
    check("a slot that was read is marked", ACCESSED in slots(b)[50])
    b.dump("GET_SLOTS", attr(CACHE, cache) + attr(FLAGS, 1))
    check("until a dump that clears the marks", ACCESSED not in slots(b)[50])

    # what is not there
    b.do("EVICT", cache, chunk(space + 1000, 0))
    b.do("EVICT", cache, chunk(space, fresh()[1]))
    check("EVICT of what is not present succeeds", True)
    refused("EVICT behind the space is refused", errno.EINVAL, b.do, "EVICT", cache, chunk(space, 40), words="chunk refused")
    one = chunk(space, 0, attr(SLOT, 0))
    for cmd, body in dict(ALLOC=attr(COUNT, 1), ACK=attr(COUNT, 1), RETURN=attr(SLOTS, bytes(4)), FILL=one,
                          RESTORE=attr(SPACE_ID, sid) + attr(DATA_BYTES, bytes(8)) + one).items():
        refused(f"{cmd} for a cache that is not there is refused", errno.ENOENT, b.do, cmd, cache + 1000, body)
    refused("GET_SLOTS, too", errno.ENOENT, b.dump, "GET_SLOTS", attr(CACHE, cache + 1000))
    refused("GET_SLOTS names its cache", errno.EINVAL, b.dump, "GET_SLOTS")
    status = Device(name, create=False).ioctl(STATUS, data=bytes(600), flags=IMA)
    check("a status for IMA names the image", b",image_id=" in status)

    # who may
    wrong = struct.pack("=Q", struct.unpack("=Q", b.generation)[0] + 1)
    refused("a wrong generation is refused", errno.ESTALE, b.call, b.family, CMD["ALLOC"],
            attr(GENERATION, wrong) + attr(CACHE, cache) + attr(COUNT, 1))
    check("without CAP_SYS_ADMIN all is EPERM, and without any capability", all(is_eperm(caps) for caps in (CAP_NET_ADMIN, 0)))

    # a helper that takes nothing
    with open("/sys/module/dm_fastoci/parameters/stall_ms", "w") as f:
        f.write("300")
    refused("stall_ms out of range is refused", errno.EINVAL,
            lambda: open("/sys/module/dm_fastoci/parameters/stall_ms", "wb", 0).write(b"1"))
    at, no, want = fresh()
    r = Reader(device, at)
    for _ in range(100):
        status = subprocess.run(["dmsetup", "status", name], capture_output=True, text=True).stdout
        if " stalled " in status:
            break
        time.sleep(0.1)
    check("a helper that acknowledges nothing is stalled", " stalled " in status)
    b.do("ACK", cache, attr(COUNT, 1000))
    status = subprocess.run(["dmsetup", "status", name], capture_output=True, text=True).stdout
    check("until it has acknowledged all", " ready " in status)

    # a flushing suspend ends what the helper does not
    subprocess.run(["dmsetup", "message", name, "0", "suspend_grace_ms", "300"], check=True)
    done = subprocess.run(["dmsetup", "suspend", name], timeout=60).returncode
    check("a flushing suspend ends after its grace", done == 0)
    check("and fails what was parked", r.done() == errno.EIO)
    subprocess.run(["dmsetup", "resume", name], check=True)
    r = Reader(device, at)
    b.wait_for("MISS")
    slot, = alloc(b)
    write(slot, no)
    fill(b, no, slot)
    check("a resumed device works", r.done() == want)

    # a cache that goes and comes back
    mine = alloc(b, 3)
    line = subprocess.run(["dmsetup", "table", name], capture_output=True, text=True, check=True).stdout
    subprocess.run(["dmsetup", "remove", name], check=True)
    check("a cache goes with its last table", b.wait_for("CACHE_REMOVED") is not None)
    check("and is in no dump", b.dump("GET_CACHES") == b.dump("GET_SPACES") == b.dump("GET_IMAGES") == [])
    subprocess.run(["dmsetup", "create", name, "--readonly", "--table", line], check=True)
    old, cache = cache, u32(b.dump("GET_CACHES")[0][CACHE])
    space = u32(b.dump("GET_SPACES")[0][A_SPACE])
    check("it comes back under another number", cache != old)
    refused("the old number is gone", errno.ENOENT, b.do, "ALLOC", old, attr(COUNT, 1))
    check("what its helper had reserved is free", len(mine) == 3 and not slots(b))
    at, no, want = fresh()
    mine = alloc(b, 3)
    write(mine[0], no)
    fill(b, no, mine[0])
    check("it serves", Reader(device, at).done() == want)
    subprocess.run(["dmsetup", "remove", name], check=True)
    c = Helper(register=False)
    c.register(takeover=True)
    subprocess.run(["dmsetup", "create", name, "--readonly", "--table", line], check=True)
    cache = u32(c.dump("GET_CACHES")[0][CACHE])
    state = slots(c)
    check("after a takeover while the cache was gone, the former helper's slots are in quarantine",
          sorted(state) == sorted(mine[1:]) and all(i[STATE][0] == RESERVED for i in state.values()))
    check("so they are not handed out", not set(mine[1:]) & set(alloc(c, 8)))
    b.sock.close()
    check("until its socket is closed", not set(mine[1:]) & set(slots(c)))
    lost = alloc(c, 2)
    subprocess.run(["dmsetup", "remove", name], check=True)
    c.sock.close()
    d = Helper()
    subprocess.run(["dmsetup", "create", name, "--readonly", "--table", line], check=True)
    cache = u32(d.dump("GET_CACHES")[0][CACHE])
    check("also where it ends while the cache is gone", len(lost) == 2 and not slots(d))
    d.sock.close()
    full_socket(device, chunks.places)
    unanswered(device, cache_dev, fresh())
    ktap.end()


if __name__ == "__main__":
    signal.alarm(150)
    if sys.argv[1] == "left-behind":
        left_behind(sys.argv[2])
    main()
