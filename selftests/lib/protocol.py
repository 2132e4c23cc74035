#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""protocol.py DM_DEVICE META CACHE_DEV: drives the miss protocol step by step over a device made by mkmeta.py's image.
protocol.py left-behind DM_NAME: removes it and the module while helpers live.

Each check is a KTAP line; the device must be fresh (no chunk present) and have the policy `hold`.
"""
import ctypes, errno, hashlib, os, select, signal, socket, subprocess, sys, time, uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ktap, mkmeta
from dmdevice import IMA, STATUS, Device, dmsetup, write
from driver import *
from ktap import check
from metaimage import CacheSb


def refused(name, err, call, *args, words=""):
    """It fails with that errno, and the kernel's words contain those."""
    try:
        call(*args)
        check(name, False)
    except OSError as e:
        check(name, e.errno == err and words in e.strerror, f"got {e}")


def full_socket(device, cache_dev, places):
    """A helper whose socket takes a few messages, and which never asks for what it may have lost."""
    h = Driver(cache_dev, register=False)
    h.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    h.register()
    want = {}
    for at, n, data in places:
        want.setdefault(data // 128, at)
    for at in want.values():
        Reader(device, at, os.RWF_NOWAIT).done()
    h.send(h.family, CMD["ALLOC"], 5, attr(GENERATION, h.generation) + attr(CACHE, h.cache) + attr(COUNT, 3))
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
    check("what an ALLOC got whose answer was lost is free", not any(s[STATE][0] == RESERVED for s in h.slots().values()))
    h.do("ACK", h.cache, attr(COUNT, 1000))
    h.close()


def unanswered(device, cache_dev, place):
    """A helper that takes a miss and forgets it."""
    at, no, _ = place
    h, name = Driver(cache_dev), os.path.basename(device)
    first = Reader(device, at)
    h.asked(no)
    dmsetup("message", name, "0", "fail_pending")
    check("fail_pending ends the reader", first.done() == errno.EIO)
    second = Reader(device, at)
    h.asked(no)
    check("whose miss went with it: the next reader's is sent", second.result is None)
    with open("/sys/module/dm_fastoci/parameters/ask_again_ms", "w") as f:
        f.write("300")
    dmsetup("message", name, "0", "fail_after_ms", "60000")  # runs the timer
    h.asked(no)
    h.asked(no)
    check("what is not answered is asked for again and again", second.result is None)
    h.do("FAIL", h.cache, chunk(h.space, no, attr(ERRNO, errno.ENODATA)))
    check("until it is", second.done() == errno.ENODATA)
    Reader(device, at, os.RWF_NOWAIT).done()
    h.asked(no)
    check("what nobody waits for is pending, too", h.pending() == 1)
    check("but forgotten where it is not answered", until(lambda: h.pending() == 0))
    dmsetup("message", name, "0", "hold")
    h.close()


def readahead_classes(device, cache_dev, places):
    """The chunks of one large readahead: those near its start may hold a page that somebody wants, the others do not."""
    h, classes, near = Driver(cache_dev), {}, 256 << 10
    h.evict_all()
    node = os.stat(device).st_rdev
    with open(f"/sys/dev/block/{os.major(node)}:{os.minor(node)}/queue/read_ahead_kb", "w") as f:
        f.write("8192")
    fd = os.open(device, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    want = {data // 128 for _, _, data in places}
    while not want <= set(classes):
        msg = h.event()
        if msg[0] != CMD["MISS"]:
            continue
        got = [dict(attrs(a)) for _, a in attrs(dict(attrs(msg[4:]))[CHUNKS])]
        h.do("ACK", h.cache, attr(COUNT, len(got)))
        for m in got:
            no = u32(m[CHUNK_NO])
            classes[no] = max(classes.get(no, 0), m[CLASS][0])
    first = {data // 128 for at, _, data in places if at * 512 < near}
    check("readahead near its start may be wanted", first and all(classes[no] == MAYBE for no in first), str(classes))
    check("what is behind is ahead", AHEAD in classes.values() and DEMAND not in classes.values(), str(classes))
    for no in classes:
        h.do("FAIL", h.cache, chunk(h.space, no))
    os.close(fd)
    h.close()


def misses_of_a_space(device, cache_dev, places):
    """Those that nobody waits for go with the last table of their data space, and others stay."""
    h, name, (at, _, _) = Driver(cache_dev), os.path.basename(device), places[0]
    line = dmsetup("table", name)
    h.evict_all()
    dmsetup("create", "other", "--readonly", "--table", f"0 {other_image(b'o' * 32)} fastoci {OTHER_DEV} {cache_dev}")
    for path in device, "/dev/mapper/other":
        Reader(path, at, os.RWF_NOWAIT).done()
    check("two images' misses are pending", h.pending() == 2)
    dmsetup("remove", name)
    check("one's go with it", h.pending() == 1)
    dmsetup("create", name, "--readonly", "--table", line)
    dmsetup("remove", "other")
    check("and the other's with that", h.pending() == 0)
    h.close()


def one_space(cache_dev):
    """Two tables at once, of an image whose data space is new: a large one, so that its map takes a while to make."""
    devices, h, good = [Device("one"), Device("two")], Helper(register=False), 0
    for i in range(20):
        space_id = hashlib.sha256(b"%d" % i).digest()
        sectors = other_image(space_id, 1 << 36)
        loads = [Call(d.refusal, sectors, OTHER_DEV, cache_dev) for d in devices]
        ended = all([load.ended() and load.result is None for load in loads])
        users = [u32(s[NR_USERS]) for s in h.dump("GET_SPACES") if s[SPACE_ID] == space_id]
        good += ended and users == [2]
        for d in devices:
            d.clear()
    for d in devices:
        d.remove()
    check("two tables that come at once share their data space", good == 20, f"{good} of 20")


def one_geometry(device, cache_dev):
    """What has this cache's UUID and is not the same, while it is in use or a former helper may still write to it."""
    name = os.path.basename(device)
    line = dmsetup("table", name)
    _, sectors, _, meta_dev, *_ = line.split()
    with open(cache_dev, "rb") as f:
        sb = f.read(4096)
    smaller = bytes(CacheSb(struct.unpack_from("<I", sb, 52)[0] - 1))
    second = Device("second")

    def refusal(words, cache):
        log = second.refusal(int(sectors), meta_dev, cache)
        check(f"refused: {words}", log is not None and words in log, str(log))

    def accepted(name, cache):
        log = second.refusal(int(sectors), meta_dev, cache)
        check(name, log is None, str(log))

    other = bytes(CacheSb(8, uuid=uuid.UUID(int=43)))
    write(OTHER_DEV, other)
    accepted("another cache is accepted beside it", OTHER_DEV)
    second.clear()
    write(OTHER_DEV, sb)
    refusal("cache: another device with this UUID is in use", OTHER_DEV)
    write(cache_dev, smaller)
    refusal("cache: the superblock changed while the cache is in use", cache_dev)
    old = Driver(cache_dev)
    old.alloc(2)
    new = Driver(cache_dev, register=False)
    dmsetup("remove", name)
    new.register(takeover=True)
    refusal("cache: a live helper owns slots of the former geometry", cache_dev)
    write(OTHER_DEV, other)
    accepted("another cache is accepted", OTHER_DEV)
    check("and has all its slots", u32(new.dump("GET_CACHES")[0][NR_FREE]) == 8)
    second.clear()
    old.close()
    accepted("accepted when he has gone", cache_dev)
    second.remove()
    new.close()
    write(cache_dev, sb)
    dmsetup("create", name, "--readonly", "--table", line)


def taken_over(old, device, cache_dev, line, later):
    """A helper is taken over, while one of its writes may hang: before its cache comes back or after it did. Returns the
    new one."""
    name, mine = os.path.basename(device), old.alloc(2)
    new = Driver(cache_dev, register=False)
    dmsetup("remove", name)
    if not later:
        new.register(takeover=True)
    dmsetup("create", name, "--readonly", "--table", line)
    if later:
        new.register(takeover=True)
    new.find()
    when = "after its cache came back" if later else "while its cache was gone"
    state = new.slots()
    check(f"the slots of a helper that was taken over {when} are in quarantine",
          sorted(state) == sorted(mine) and all(i[STATE][0] == RESERVED for i in state.values()))
    check("they are not handed out", not set(mine) & set(new.alloc(256)))
    new.do("RETURN", new.cache)
    check("nor given back by the RETURN of another", sorted(new.slots()) == sorted(mine))
    old.close()
    check("until its socket is closed", not new.slots())
    return new


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
    dmsetup("remove", name)
    new.wait_for("CACHE_REMOVED")
    check("the module goes, although helpers live", subprocess.run(["rmmod", "dm_fastoci"]).returncode == 0)
    ktap.end()


def main():
    device, meta, cache_dev = sys.argv[1:4]
    name = os.path.basename(device)
    chunks = Chunks(meta)
    fresh = chunks.fresh
    a = Driver(cache_dev, register=False)
    refused("a helper that is too old is told so", errno.EPROTONOSUPPORT, a.register, False, PROTOCOL_VERSION - 1,
            words="the helper is older than dm-fastoci")
    refused("one that is too new, too", errno.EPROTONOSUPPORT, a.register, False, PROTOCOL_VERSION + 1,
            words="the helper is newer than dm-fastoci")
    a.register()
    cache, space = a.cache, a.space
    check("GET_IMAGES names the image", len(a.dump("GET_IMAGES")) == 1)

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
    slot, = a.alloc()
    refused("FILL of a slot that nobody reserved is refused", errno.EPERM, a.fill, no, slot + 1)
    refused("FILL behind the space is refused", errno.EINVAL, a.fill, 40, slot)
    a.write(slot, no)
    a.fill(no, slot)
    check("a NOWAIT read of a present chunk is a hit", Reader(device, at, os.RWF_NOWAIT).done() == want)
    counts = a.dump("GET_IMAGES")[0]
    check("GET_IMAGES counts both", [struct.unpack("=Q", counts[k])[0] for k in (NR_HITS, NR_MISSED, NR_ERRORS)] == [1, 1, 0])
    check("and who waits", u32(counts[NR_PARKED]) == 0)
    times = struct.unpack("=24Q", counts[HIT_TIMES])
    ns, = struct.unpack("=Q", counts[HIT_NS])
    floor = sum(n << 9 + i for i, n in enumerate(times) if i)
    check("a CPU's first hit is timed", sum(times) == 1 and floor < ns, f"{times} {ns}")
    a.fill(no, slot)
    check("the same FILL again succeeds", True)
    second, = a.alloc()
    a.fill(no, second)
    state = a.slots()
    check("FILL of a present chunk keeps the sender's slot reserved", state[second][STATE][0] == RESERVED)
    check("GET_SLOTS tells chunk and state", state[slot][STATE][0] == PRESENT and u32(state[slot][CHUNK_NO]) == no)
    a.give_back(second)
    check("RETURN frees it", second not in a.slots())
    refused("RETURN of a slot in use is refused", errno.EINVAL, a.give_back, slot)

    # the errno of a FAIL
    at, no, _ = fresh()
    for told, seen in (errno.ETIMEDOUT,) * 2, (errno.EILSEQ,) * 2, (errno.EAGAIN, errno.EIO):
        r = Reader(device, at)
        a.wait_for("MISS")
        a.do("FAIL", cache, chunk(space, no, attr(ERRNO, told)))
        check(f"a FAIL with {errno.errorcode[told]} is {errno.errorcode[seen]} to the reader", r.done() == seen)
    r = Reader(device, at)
    a.wait_for("MISS")
    a.serve(no)
    r.done()
    counts = a.dump("GET_IMAGES")[0]
    check("a read that waited for its chunk is a miss and no hit",
          [struct.unpack("=Q", counts[k])[0] for k in (NR_HITS, NR_MISSED, NR_ERRORS)] == [1, 5, 3])
    a.evict(no)
    a.wait_for("EVICTED")
    refused("FAIL behind the space is refused", errno.EINVAL, a.do, "FAIL", cache, chunk(space, 40))

    # eviction that hands its slot over
    at, no, want = fresh()
    slot = a.serve(no)
    check("FILL without a miss is served", Reader(device, at).done() == want)
    a.evict(no, reserve=True)
    gone = dict(attrs(dict(attrs(a.wait_for("EVICTED")[CHUNKS]))[CHUNK]))
    check("EVICTED names chunk and slot", u32(gone[SLOT]) == slot and u32(gone[CHUNK_NO]) == no)
    check("an eviction with RESERVE gives the slot to its sender", a.slots()[slot][STATE][0] == RESERVED)
    a.fill(no, slot)
    check("which can fill it again", Reader(device, at).done() == want)

    # takeover and quarantine
    mine = a.alloc(4)
    b = Driver(cache_dev, register=False)
    refused("a second helper is refused", errno.EBUSY, b.register, words="another helper is registered")
    b.register(takeover=True)
    check("but may take over", True)
    refused("the old helper is stale", errno.ESTALE, a.alloc)
    refused("also for GET_PENDING", errno.ESTALE, send_pending, a)
    refused("GET_PENDING names its generation", errno.EINVAL, b.dump, "GET_PENDING")
    refused("a socket registers once", errno.EALREADY, b.register)
    refused("also after it was taken over", errno.EALREADY, a.register, True)
    send_pending(b)
    check("the helper's own GET_PENDING succeeds", True)
    theirs = b.alloc(256)
    check("its slots are in quarantine", not set(mine) & set(theirs))
    refused("ALLOC without a free slot is refused", errno.ENOSPC, b.alloc)
    b.give_back(*theirs)
    a.close()
    check("until its socket is closed", not set(mine) & set(b.slots()))

    # RESTORE
    at, no, want = fresh()
    sid = hashlib.sha256(b"space").digest()

    def restore(chunk_no, slot, size=mkmeta.BLOB_BYTES):
        one = attr(CHUNKS, attr(CHUNK, attr(CHUNK_NO, chunk_no) + attr(SLOT, slot), True), True)
        return b.do("RESTORE", cache, attr(SPACE_ID, sid), attr(DATA_BYTES, struct.pack("=Q", size)), one)

    b.write(50, no)
    restore(no, 50)
    restore(no, 50)
    check("RESTORE takes a free slot, twice the same is fine", b.slots()[50][STATE][0] == RESTORED)
    refused("RESTORE of a taken slot is refused", errno.EEXIST, restore, no + 1, 50)
    batch = attr(CHUNKS, attr(CHUNK, attr(CHUNK_NO, no) + attr(SLOT, 50), True) * 257, True)
    refused("a RESTORE of too many is refused", errno.E2BIG, b.do, "RESTORE", cache, attr(SPACE_ID, sid),
            attr(DATA_BYTES, struct.pack("=Q", mkmeta.BLOB_BYTES)), batch)
    refused("unknown flags are refused", errno.EINVAL, b.do, "EVICT", cache, attr(FLAGS, 2), chunk(space, no))
    refused("RESTORE with another size is refused", errno.EEXIST, restore, no, 51, 7)
    refused("RESTORE behind the space is refused", errno.EINVAL, restore, 40, 51)
    r = Reader(device, at)
    b.wait_for("MISS")
    check("a restored chunk is not served before its FILL", r.result is None)
    b.fill(no, 50)
    check("and is afterwards, without an ALLOC", r.done() == want)
    refused("RESTORE of a present chunk is refused", errno.EEXIST, restore, no, 51)
    _, other, _ = fresh()
    slot, = b.alloc()
    restore(other, slot)
    check("RESTORE takes a slot that its sender reserved", b.slots()[slot][STATE][0] == RESTORED)
    b.give_back(slot)
    check("RETURN gives a restored slot back", slot not in b.slots())

    # access bits
    check("a slot that was read is marked", ACCESSED in b.slots()[50])
    b.dump("GET_SLOTS", attr(CACHE, cache) + attr(FLAGS, 1))
    check("until a dump that clears the marks", ACCESSED not in b.slots()[50])
    Reader(device, at).done()
    check("and by the next read again", ACCESSED in b.slots()[50])

    # what is not there
    b.do("EVICT", cache, chunk(space + 1000, 0))
    b.evict(fresh()[1])
    check("EVICT of what is not present succeeds", True)
    refused("EVICT behind the space is refused", errno.EINVAL, b.evict, 40, words="chunk refused")
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
    dev = Device(name, create=False)
    events = dev.events()
    r = Reader(device, at)
    for _ in range(100):
        status = dmsetup("status", name)
        if " stalled " in status:
            break
        time.sleep(0.1)
    check("a helper that acknowledges nothing is stalled", " stalled " in status)
    check("which is an event", until(lambda: dev.events() > events))
    events = dev.events()
    b.do("ACK", cache, attr(COUNT, 1000))
    status = dmsetup("status", name)
    check("until it has acknowledged all", " ready " in status)
    check("as is that", until(lambda: dev.events() > events))

    # a flushing suspend ends what the helper does not
    dmsetup("message", name, "0", "suspend_grace_ms", "300")
    done = subprocess.run(["dmsetup", "suspend", name], timeout=60).returncode
    check("a flushing suspend ends after its grace", done == 0)
    check("and fails what was parked", r.done() == errno.EIO)
    dmsetup("resume", name)
    r = Reader(device, at)
    b.wait_for("MISS")
    b.serve(no)
    check("a resumed device works", r.done() == want)

    # a cache that goes and comes back
    mine = b.alloc(3)
    line = dmsetup("table", name)
    dmsetup("remove", name)
    check("a cache goes with its last table", b.wait_for("CACHE_REMOVED") is not None)
    check("and is in no dump", b.dump("GET_CACHES") == b.dump("GET_SPACES") == b.dump("GET_IMAGES") == [])
    dmsetup("create", name, "--readonly", "--table", line)
    b.find()
    check("it comes back under another number", b.cache != cache)
    refused("the old number is gone", errno.ENOENT, b.do, "ALLOC", cache, attr(COUNT, 1))
    state = b.slots()
    check("what its helper had reserved is still its own",
          sorted(state) == sorted(mine) and all(i[STATE][0] == RESERVED for i in state.values()))
    check("so it is not handed out", not set(mine) & set(b.alloc(8)))
    b.do("RETURN", b.cache)
    check("a RETURN that names no slot gives all of them back", not b.slots())
    at, no, want = fresh()
    b.serve(no)
    check("it serves", Reader(device, at).done() == want)
    c = taken_over(b, device, cache_dev, line, later=False)
    c = taken_over(c, device, cache_dev, line, later=True)
    lost = c.alloc(2)
    dmsetup("remove", name)
    c.close()
    dmsetup("create", name, "--readonly", "--table", line)
    d = Driver(cache_dev)
    check("also where it ends while the cache is gone", len(lost) == 2 and not d.slots())
    dev = Device(name, create=False)
    events = dev.events()
    d.close()
    check("the loss of the helper is an event", until(lambda: dev.events() > events))
    events = dev.events()
    d = Driver(cache_dev)
    check("and a new one", until(lambda: dev.events() > events))
    d.close()
    readahead_classes(device, cache_dev, chunks.places)
    misses_of_a_space(device, cache_dev, chunks.places)
    one_space(cache_dev)
    one_geometry(device, cache_dev)
    full_socket(device, cache_dev, chunks.places)
    unanswered(device, cache_dev, fresh())
    ktap.end()


if __name__ == "__main__":
    signal.alarm(150)
    if sys.argv[1] == "left-behind":
        left_behind(sys.argv[2])
    main()
