# SPDX-License-Identifier: Apache-2.0
"""driver.py - what the tests of the miss protocol share: readers of mkmeta.py's image, and a helper led step by step."""
import mmap, os, threading, time

from dmdevice import write
from fakehelper import *

BLOB = mkmeta.blob_data(mkmeta.BLOB_BYTES).ljust(40 * mkmeta.CHUNK, b"\0")


OTHER_DEV = "/dev/ram2"


def other_image(space_id, data_bytes=mkmeta.BLOB_BYTES):
    """The same image with another data space, onto OTHER_DEV; its length in sectors."""
    image, _ = mkmeta.small_image()
    image.blobs[0].space_id, image.blobs[0].data_bytes = space_id, data_bytes
    write(OTHER_DEV, bytes(image))
    return image.device_sectors


def blob_places(meta):
    """(device sector, sectors, data sector) of each blob extent."""
    with open(meta, "rb") as f:
        image = f.read()
    sectors, = struct.unpack_from("<Q", image, 64)
    nr = struct.unpack_from("<I", image, 84)[0]
    keys = list(struct.unpack_from(f"<{nr}I", image, 8192)) + [sectors]
    payloads = struct.unpack_from(f"<{nr}Q", image, 12288)
    return [(k, keys[i + 1] - k, p & (1 << 48) - 1) for i, (k, p) in enumerate(zip(keys, payloads)) if p >> 62 == 2]


class Chunks:
    """Chunks that no test has used yet."""

    def __init__(self, meta):
        self.places, self.used = blob_places(meta), set()

    def fresh(self):
        """A device sector within such a chunk, its number, the sector's content."""
        for at, n, data in self.places:
            if data // 128 not in self.used and (data + n - 1) // 128 == data // 128:
                self.used.add(data // 128)
                return at, data // 128, BLOB[data * 512:data * 512 + 512]
        raise SystemExit("no chunk left")

    def fresh_run(self):
        """The same of two chunks behind each other: a device sector, how many sectors, the first one's number, content."""
        for at, n, data in self.places:
            first, last = data // 128, (data + n - 1) // 128
            if first + 1 == last and not {first, last} & self.used:
                self.used |= {first, last}
                return at, n, first, BLOB[data * 512:(data + n) * 512]
        raise SystemExit("no two chunks left")


def misses_of(msg):
    """The chunk numbers of an event, none if it is no MISS."""
    if msg[0] != CMD["MISS"]:
        return []
    return [u32(dict(attrs(a))[CHUNK_NO]) for _, a in attrs(dict(attrs(msg[4:]))[CHUNKS])]


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def set_parameter(name, value, folder="/sys/module/dm_fastoci/parameters"):
    """Of the module, if not told otherwise."""
    with open(f"{folder}/{name}", "w") as f:
        f.write(str(value))


class Call(threading.Thread):
    """Calls it in a thread of its own."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self.function, self.args, self.result, self.well = function, args, None, False
        self.start()

    def run(self):
        try:
            self.result = self.function(*self.args)
            self.well = True
        except OSError as e:
            self.result = e.errno

    def done(self, seconds=20):
        """What it returned, or an errno."""
        self.join(seconds)
        return self.result

    def ended(self):
        """Whether it returned, without an error."""
        self.join(20)
        return self.well


def read_sectors(path, sector, flags, sectors):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buf = mmap.mmap(-1, sectors * 512)
        return buf[:os.preadv(fd, [memoryview(buf)[:sectors * 512]], sector * 512, flags)]
    finally:
        os.close(fd)


class Reader(Call):
    """Reads directly, one sector if not told otherwise."""

    def __init__(self, path, sector, flags=0, sectors=1):
        super().__init__(read_sectors, path, sector, flags, sectors)


class Driver(Helper):
    """Serves the only cache and its only space, when it is told to."""

    def __init__(self, cache_dev, **options):
        super().__init__(**options)
        self.disk = os.open(cache_dev, os.O_RDWR | os.O_SYNC)
        self.find()

    def find(self):
        self.cache = u32(self.dump("GET_CACHES")[0][CACHE])
        self.space = u32(self.dump("GET_SPACES")[0][A_SPACE])

    def close(self):
        self.sock.close()
        os.close(self.disk)

    def alloc(self, count=1):
        got = dict(attrs(self.do("ALLOC", self.cache, attr(COUNT, count))))[SLOTS]
        return struct.unpack(f"={len(got) // 4}I", got)

    def give_back(self, *slots):
        self.do("RETURN", self.cache, attr(SLOTS, struct.pack(f"={len(slots)}I", *slots)))

    def reuse(self, *slots):
        self.do("REUSE", self.cache, attr(SLOTS, struct.pack(f"={len(slots)}I", *slots)))

    def slots(self):
        """Slot number -> attributes, of those that are not free."""
        items = [dict(attrs(dict(attrs(i[CHUNKS]))[CHUNK])) for i in self.dump("GET_SLOTS", attr(CACHE, self.cache))]
        return {u32(i[SLOT]): i for i in items}

    def write(self, slot, no):
        os.pwrite(self.disk, BLOB[no * mkmeta.CHUNK:(no + 1) * mkmeta.CHUNK], (slot + 1) * mkmeta.CHUNK)

    def fill(self, no, slot):
        self.do("FILL", self.cache, chunk(self.space, no, attr(SLOT, slot)))

    def serve(self, no):
        """Writes and publishes the chunk; returns its slot."""
        slot, = self.alloc()
        self.write(slot, no)
        self.fill(no, slot)
        return slot

    def evict(self, no, reserve=False):
        self.do("EVICT", self.cache, attr(FLAGS, int(reserve)), chunk(self.space, no))

    def pending(self):
        return u32(self.dump("GET_CACHES")[0][NR_PENDING])

    def evict_all(self):
        for slot in self.slots().values():
            if slot[STATE][0] == PRESENT:
                self.evict(u32(slot[CHUNK_NO]))
                self.wait_for("EVICTED")

    def asked(self, no):
        """Waits for the miss of a chunk, and acknowledges what came."""
        while True:
            got = misses_of(self.event())
            if got:
                self.do("ACK", self.cache, attr(COUNT, len(got)))
            if no in got:
                return
