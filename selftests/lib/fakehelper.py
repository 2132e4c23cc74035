#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""fakehelper.py CACHE_DEV: the smallest helper: fills each miss from mkmeta.py's blob. Raw generic netlink, no library.

Prints "ready" when it is registered. FAKEHELPER=fail answers every miss with FAIL(EIO), FAKEHELPER=evict evicts each
chunk some time after it was filled, FAKEHELPER=evict-all first evicts what is present and prints "evicted",
FAKEHELPER=silent answers nothing.
"""
import errno, os, socket, struct, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mkmeta

CMD = dict(REGISTER=1, ALLOC=2, RETURN=3, ACK=4, FILL=5, FAIL=6, EVICT=7, RESTORE=8, GET_CACHES=9, GET_IMAGES=10,
           GET_SPACES=11, GET_SLOTS=12, GET_PENDING=13, MISS=14, EVICTED=15, IMAGE_ADDED=16, IMAGE_REMOVED=17, CACHE_ADDED=18,
           CACHE_REMOVED=19, SLOT_BAD=20, REUSE=21)
PROTOCOL_VERSION = 3
VERSION, GENERATION, FLAGS, CACHE, COUNT, SLOTS, CHUNKS, CHUNK = 1, 2, 3, 4, 6, 7, 8, 9
A_SPACE, SPACE_ID, DATA_BYTES, NR_FREE, NR_PRESENT, NR_PENDING, NR_USERS = 10, 11, 12, 19, 21, 22, 23
NR_HITS, NR_MISSED, NR_ERRORS, NR_PARKED, HIT_TIMES, HIT_NS, NR_BAD = 25, 26, 27, 28, 29, 30, 31
SPACE, CHUNK_NO, SLOT, CLASS, ERRNO, STATE, ACCESSED = 1, 2, 3, 4, 5, 6, 7
AHEAD, MAYBE, DEMAND = range(3)
FREE, RESERVED, RESTORED, PRESENT, EVICTING, BAD = range(6)


SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11


def attr(kind, data, nested=False):
    if isinstance(data, int):
        data = struct.pack("=I", data)
    body = struct.pack("=HH", 4 + len(data), kind | (0x8000 if nested else 0)) + data
    return body + bytes(-len(body) % 4)


def attrs(data):
    while len(data) >= 4:
        n, kind = struct.unpack_from("=HH", data)
        yield kind & 0x3FFF, data[4:n]
        data = data[(n + 3) & ~3:]


def u32(data):
    return struct.unpack("=I", data)[0]


class Helper:
    def __init__(self, register=True, takeover=False):
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 16)
        self.sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self.sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self.sock.bind((0, 0))
        self.seq, self.events = 0, []
        reply = self.call(16, 3, attr(2, b"fastoci\0"))
        self.family = struct.unpack("=H", dict(attrs(reply))[1])[0]
        if register:
            self.register(takeover)

    def register(self, takeover=False, version=PROTOCOL_VERSION):
        body = attr(VERSION, version) + (attr(FLAGS, 1) if takeover else b"")
        self.generation = dict(attrs(self.call(self.family, CMD["REGISTER"], body)))[GENERATION]

    def send(self, family, cmd, flags, body):
        self.seq += 1
        self.sock.send(struct.pack("=IHHII", 20 + len(body), family, flags, self.seq, 0)
                       + struct.pack("=BBH", cmd, 1, 0) + body)

    def dump(self, cmd, body=b""):
        """All items of a dump, each as a dict of attributes."""
        self.send(self.family, CMD[cmd], 0x301, body)
        items = []
        while True:
            data = self.sock.recv(1 << 20)
            while len(data) >= 16:
                n, kind, _, seq, _ = struct.unpack_from("=IHHII", data)
                msg, data = data[16:n], data[(n + 3) & ~3:]
                if seq == 0:
                    self.events.append(msg)
                elif seq != self.seq:
                    pass  # of a request whose answer was given up
                elif kind in (2, 3):
                    err = struct.unpack_from("=i", msg)[0]
                    if err:
                        raise OSError(-err, os.strerror(-err), cmd)
                    return items
                else:
                    items.append(dict(attrs(msg[4:])))

    def call(self, family, cmd, body):
        """Sends, collects events that come first, returns the reply's attributes; raises OSError on an error."""
        self.send(family, cmd, 5, body)
        reply = b""
        while True:
            data = self.sock.recv(1 << 20)
            while len(data) >= 16:
                n, kind, _, seq, _ = struct.unpack_from("=IHHII", data)
                msg, data = data[16:n], data[(n + 3) & ~3:]
                if seq == 0:
                    self.events.append(msg)
                elif seq != self.seq:
                    pass
                elif kind == 2:
                    err = struct.unpack_from("=i", msg)[0]
                    if err:
                        words = dict(attrs(msg[20:])).get(1, b"").rstrip(b"\0").decode()  # NLMSGERR_ATTR_MSG
                        raise OSError(-err, words or os.strerror(-err), str(cmd))
                    return reply
                else:
                    reply = msg[4:]

    def do(self, cmd, cache, *more):
        return self.call(self.family, CMD[cmd], attr(GENERATION, self.generation) + attr(CACHE, cache) + b"".join(more))

    def wait_for(self, cmd):
        """The attributes of the next event of that kind; others are dropped."""
        while True:
            msg = self.event()
            if msg[0] == CMD[cmd]:
                return dict(attrs(msg[4:]))

    def event(self):
        if not self.events:
            data = self.sock.recv(1 << 20)
            self.events.append(data[16:])
        return self.events.pop(0)


def chunk(space, no, *more):
    return attr(CHUNKS, attr(CHUNK, attr(SPACE, space) + attr(CHUNK_NO, no) + b"".join(more), True), True)


def main():
    mode = os.environ.get("FAKEHELPER", "")
    blob = mkmeta.blob_data(mkmeta.BLOB_BYTES)
    dev = os.open(sys.argv[1], os.O_RDWR | os.O_SYNC)
    h = Helper()
    print("ready", flush=True)
    if mode == "evict-all":
        cache = u32(h.dump("GET_CACHES")[0][CACHE])
        for item in h.dump("GET_SLOTS", attr(CACHE, cache)):
            slot = dict(attrs(dict(attrs(item[CHUNKS]))[CHUNK]))
            if slot[STATE][0] == PRESENT:
                h.do("EVICT", cache, chunk(u32(slot[SPACE]), u32(slot[CHUNK_NO])))
        print("evicted", flush=True)
    filled = []
    while True:
        msg = h.event()
        if msg[0] != CMD["MISS"] or mode == "silent":
            continue
        got = dict(attrs(msg[4:]))
        cache, misses = u32(got[CACHE]), [dict(attrs(a)) for _, a in attrs(got[CHUNKS])]
        h.do("ACK", cache, attr(COUNT, len(misses)))
        for m in misses:
            space, no = u32(m[SPACE]), u32(m[CHUNK_NO])
            if mode == "fail":
                h.do("FAIL", cache, chunk(space, no, attr(ERRNO, errno.EIO)))
                continue
            slot = u32(dict(attrs(h.do("ALLOC", cache, attr(COUNT, 1))))[SLOTS])
            data = blob[no * mkmeta.CHUNK:(no + 1) * mkmeta.CHUNK].ljust(mkmeta.CHUNK, b"\0")
            os.pwrite(dev, data, (slot + 1) * mkmeta.CHUNK)
            h.do("FILL", cache, chunk(space, no, attr(SLOT, slot)))
            filled.append((space, no))
            if mode == "evict" and len(filled) > 3:
                h.do("EVICT", cache, chunk(*filled.pop(0)))


if __name__ == "__main__":
    main()
