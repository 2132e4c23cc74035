#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""nlfuzz.py DM_DEVICE SECONDS [SEED]: feeds the netlink family malformed and random but well-formed messages, and the
device random dmsetup messages and table lines, as a root process that is now the helper and now is not.

Most messages are near the valid ones: right command, an attribute missing, doubled, of another size or out of range.
The kernel must survive (panic_on_warn tells), and its account of slots must stay consistent, which GET_SLOTS shows.
Prints KTAP; the seed is printed first and makes a run repeatable.
"""
import errno, os, random, struct, subprocess, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ktap
from fakehelper import *
from ktap import check

KINDS = {VERSION: 4, GENERATION: 8, FLAGS: 4, CACHE: 4, 5: 4, COUNT: 4, SLOTS: None, CHUNKS: None, CHUNK: None, A_SPACE: 4,
         SPACE_ID: 32, DATA_BYTES: 8, 13: 16, 14: 32, 15: 4, 25: 0, 26: 4}
EDGES = (0, 1, 2, 39, 40, 41, 62, 63, 64, 255, 256, 257, 4095, 4096, 1 << 24, 1 << 28, (1 << 29) - 1, 1 << 31,
         (1 << 32) - 1)


class Fuzzer(Helper):
    def __init__(self, rnd):
        self.rnd = rnd
        super().__init__(register=False)
        self.generation, self.slots = bytes(8), []
        self.sock.setblocking(False)

    def number(self):
        r = self.rnd.random()
        if r < 0.6:
            return self.rnd.randrange(64)
        return self.rnd.choice(EDGES) if r < 0.9 else self.rnd.getrandbits(32)

    def chunk_nest(self):
        parts = []
        for kind in (SPACE, CHUNK_NO, SLOT, ERRNO):
            if self.rnd.random() < 0.93:
                parts.append(attr(kind, self.rnd.choice((1, 1, self.space, self.number())) if kind == SPACE else
                                  self.rnd.choice(self.slots) if kind == SLOT and self.slots and self.rnd.random() < 0.7
                                  else self.number()))
        if self.rnd.random() < 0.03:
            parts.append(attr(self.rnd.randrange(16), self.rnd.randbytes(self.rnd.randrange(9))))
        self.rnd.shuffle(parts)
        return attr(CHUNK if self.rnd.random() < 0.98 else self.rnd.randrange(30), b"".join(parts), self.rnd.random() < 0.98)

    def attribute(self, kind):
        if kind == CHUNKS:
            n = self.rnd.choice((0, 1, 1, 2, 5, 255, 256, 257)) if self.rnd.random() < 0.3 else 1
            return attr(CHUNKS, b"".join(self.chunk_nest() for _ in range(n)), self.rnd.random() < 0.98)
        if kind == SLOTS:
            n = self.rnd.choice((0, 1, 2, 17, 256, 257))
            data = b"".join(struct.pack("=I", self.number()) for _ in range(n))
            return attr(SLOTS, data[:len(data) - self.rnd.choice((0, 0, 0, 0, 1, 3))])
        size = KINDS.get(kind, 4) or 0
        if self.rnd.random() < 0.03:
            size = self.rnd.randrange(70)
        if kind == GENERATION and self.rnd.random() < 0.95:
            return attr(kind, self.generation)
        if kind == CACHE and self.rnd.random() < 0.9:
            return attr(kind, self.cache)
        if kind == VERSION and self.rnd.random() < 0.9:
            return attr(kind, PROTOCOL_VERSION)
        if kind == SPACE_ID and self.rnd.random() < 0.9:
            return attr(kind, bytes([self.rnd.randrange(4)]) * 32)
        if kind == DATA_BYTES:
            return attr(kind, struct.pack("=Q", self.rnd.choice((0, 1, 65536, 1 << 20, 1 << 20, 1 << 40, (1 << 64) - 1))))
        if size == 4:
            return attr(kind, self.number())
        return attr(kind, self.rnd.randbytes(size))

    WANTS = {"REGISTER": (VERSION, FLAGS), "ALLOC": (GENERATION, CACHE, COUNT), "RETURN": (GENERATION, CACHE, SLOTS),
             "ACK": (GENERATION, CACHE, COUNT), "FILL": (GENERATION, CACHE, CHUNKS), "FAIL": (GENERATION, CACHE, CHUNKS),
             "EVICT": (GENERATION, CACHE, FLAGS, CHUNKS), "GET_SLOTS": (CACHE, FLAGS), "GET_PENDING": (GENERATION,),
             "RESTORE": (GENERATION, CACHE, SPACE_ID, DATA_BYTES, CHUNKS), "GET_CACHES": (), "GET_IMAGES": (),
             "GET_SPACES": (), "MISS": (CACHE, CHUNKS), "CACHE_REMOVED": (), "REUSE": (GENERATION, CACHE, SLOTS)}

    def message(self):
        name = self.rnd.choice(tuple(self.WANTS))
        body = []
        for kind in self.WANTS[name]:
            for _ in range(self.rnd.choice((1,) * 30 + (0, 2))):
                body.append(self.attribute(kind))
        if self.rnd.random() < 0.05:
            body.append(self.attribute(self.rnd.choice(tuple(KINDS))))
        data = b"".join(body)
        cmd = CMD[name] if self.rnd.random() < 0.98 else self.rnd.randrange(256)
        if self.rnd.random() < 0.05:  # malformed
            data = bytearray(data or b"\0" * 8)
            for _ in range(self.rnd.randrange(1, 4)):
                data[self.rnd.randrange(len(data))] = self.rnd.choice((0, 1, 3, 4, 255, self.rnd.randrange(256)))
            data = bytes(data)[:self.rnd.randrange(len(data) + 1)]
        flags = 5 | (0x300 if name.startswith("GET") or self.rnd.random() < 0.02 else 0)
        self.seq += 1
        head = struct.pack("=IHHII", 20 + len(data), self.family, flags, self.seq, 0)
        try:
            self.sock.send(head + struct.pack("=BBH", cmd, 1, self.rnd.choice((0,) * 50 + (1,))) + data)
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EBUSY):
                raise

    def drain(self):
        """Reads what there is; learns its generation. The number of commands that succeeded."""
        good = 0
        for _ in range(50):
            try:
                data = self.sock.recv(1 << 20)
            except BlockingIOError:
                break
            except OSError as e:
                if e.errno == errno.ENOBUFS:
                    continue
                raise
            while len(data) >= 16:
                n, kind, _, seq, _ = struct.unpack_from("=IHHII", data)
                msg, data = data[16:n], data[(n + 3) & ~3:]
                if kind in (2, 3) and struct.unpack_from("=i", msg)[0] == 0:
                    good += 1
                if kind == self.family and seq and msg[0] == CMD["REGISTER"]:
                    self.generation = dict(attrs(msg[4:])).get(GENERATION, self.generation)
                if kind == self.family and seq and msg[0] == CMD["ALLOC"]:
                    got = dict(attrs(msg[4:])).get(SLOTS, b"")
                    self.slots = list(struct.unpack(f"={len(got) // 4}I", got))
        return good


def consistent(name):
    """The kernel's account of slots: no chunk in two slots, free and busy ones add up to all."""
    h = Helper(register=False)
    for c in h.dump("GET_CACHES"):
        seen, states = set(), 0
        for item in h.dump("GET_SLOTS", attr(CACHE, u32(c[CACHE]))):
            s = dict(attrs(dict(attrs(item[CHUNKS]))[CHUNK]))
            states += 1
            if s[STATE][0] == PRESENT:
                key = u32(s[SPACE]), u32(s[CHUNK_NO])
                if key in seen:
                    return False
                seen.add(key)
        present = sum(u32(i[21]) for i in h.dump("GET_SPACES"))
        free, slots = u32(h.dump("GET_CACHES")[0][19]), u32(c[18])
        if len(seen) != present or free + states != slots:
            print(f"# present {len(seen)}/{present}, free {free} + busy {states} of {slots}")
            return False
    h.sock.close()
    return True


def dmsetup_noise(rnd, name):
    words = ("hold", "fail_after_ms", "suspend_grace_ms", "fail_pending", "0", "1", "-1", "86400001", "4294967296", "x" * 300,
             "", "%s%n", "3", "5", "fail_after_ms 1")
    args = [rnd.choice(words) for _ in range(rnd.randrange(1, 5))]
    if rnd.random() < 0.5:
        subprocess.run(["dmsetup", "message", name, "0", *args], capture_output=True)
    else:
        line = f"{rnd.choice((0, 0, 0, 8))} {rnd.choice((8, 4824, 1 << 32))} fastoci /dev/ram0 /dev/ram1 " + " ".join(args)
        subprocess.run(["dmsetup", "create", "noise", "--readonly", "--table", line], capture_output=True)
        subprocess.run(["dmsetup", "remove", "noise"], capture_output=True)


def main():
    name, seconds = os.path.basename(sys.argv[1]), float(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else int.from_bytes(os.urandom(4), "little")
    print(f"# seed {seed}")
    rnd = random.Random(seed)
    fuzzers, sent, good, noise, end = [], 0, 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        if len(fuzzers) < 3 or rnd.random() < 0.002:
            fuzzers.append(Fuzzer(rnd))
            probe = Helper(register=False)
            fuzzers[-1].cache = u32(probe.dump("GET_CACHES")[0][CACHE])
            fuzzers[-1].space = u32(probe.dump("GET_SPACES")[0][A_SPACE])
            probe.sock.close()
        if len(fuzzers) > 3:
            fuzzers.pop(rnd.randrange(len(fuzzers))).sock.close()
        f = rnd.choice(fuzzers) if rnd.random() < 0.4 else max(fuzzers, key=lambda f: f.generation)  # mostly the helper
        for _ in range(rnd.randrange(1, 30)):
            f.message()
            sent += 1
        good += f.drain()
        if rnd.random() < 0.03:
            dmsetup_noise(rnd, name)
            noise += 1
    print(f"# {sent} messages, {good} acknowledged, {noise} times dmsetup")
    check("many messages were sent", sent > 500)
    check("and a good part was well-formed enough to succeed", good * 20 > sent)
    for f in fuzzers:
        f.sock.close()
    for _ in range(50):  # grace periods end
        if consistent(name):
            break
        time.sleep(0.1)
    check("the kernel's account of slots is consistent", consistent(name))
    ktap.end()


if __name__ == "__main__":
    main()
