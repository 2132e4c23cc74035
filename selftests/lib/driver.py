# SPDX-License-Identifier: Apache-2.0
"""driver.py - what the tests of the miss protocol share: readers of mkmeta.py's image, and a helper led step by step."""
import mmap, os, threading

from fakehelper import *

BLOB = mkmeta.blob_data(mkmeta.BLOB_BYTES).ljust(40 * mkmeta.CHUNK, b"\0")


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


def misses_of(msg):
    """The chunk numbers of an event, none if it is no MISS."""
    if msg[0] != CMD["MISS"]:
        return []
    return [u32(dict(attrs(a))[CHUNK_NO]) for _, a in attrs(dict(attrs(msg[4:]))[CHUNKS])]


class Reader(threading.Thread):
    """Reads one sector directly, in a thread of its own; .result is bytes or an errno."""

    def __init__(self, path, sector, flags=0):
        super().__init__(daemon=True)
        self.path, self.sector, self.flags, self.result = path, sector, flags, None
        self.start()

    def run(self):
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        buf = mmap.mmap(-1, 4096)
        try:
            n = os.preadv(fd, [memoryview(buf)[:512]], self.sector * 512, self.flags)
            self.result = buf[:n]
        except OSError as e:
            self.result = e.errno
        finally:
            os.close(fd)

    def done(self, seconds=20):
        self.join(seconds)
        return self.result


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

    def asked(self, no):
        """Waits for the miss of a chunk, and acknowledges what came."""
        while True:
            got = misses_of(self.event())
            if got:
                self.do("ACK", self.cache, attr(COUNT, len(got)))
            if no in got:
                return
