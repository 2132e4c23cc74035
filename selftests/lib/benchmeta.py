#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""benchmeta.py META CACHE_SB EXTENTS: an image of EXTENTS extents of 4 KiB to 256 KiB, most of them small, each at a
random place of one 64 MiB blob (EXTENTS 1: one extent, all of the blob), and the superblock of a cache that can hold all of it. Prints the device's sectors."""
import array, hashlib, os, random, struct, sys, uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from metaimage import CHUNK, region, with_crc

CHUNKS = 1024


def main():
    meta, cache, nr = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rnd = random.Random(nr)
    places, keys, sector = array.array("Q"), array.array("I"), 0
    for _ in range(nr):
        blocks = 1 << rnd.choice((0, 0, 0, 1, 1, 2, 3, 6)) if nr > 1 else CHUNKS * CHUNK // 4096
        places.append(2 << 62 | rnd.randrange(CHUNKS * CHUNK // 4096 - blocks + 1) * 8)
        keys.append(sector)
        sector += blocks * 8
    keys = keys.tobytes()
    payloads = places.tobytes()
    blob = hashlib.sha256(b"bench").digest() * 2 + struct.pack("<QQIIQQQQII", CHUNKS * CHUNK, CHUNKS * CHUNK,
                                                               0, 0, 0, 0, 0, 0, 0, 0)
    up = lambda n: (n + 4095) & ~4095
    keys_at, pay_at = 8192, 8192 + up(len(keys))
    total = pay_at + len(payloads)
    none = region(0, b"")
    sb = struct.pack("<8sIIIIII", b"FASTOCIm", 1, 4096, 0, 0, 0, 0) + hashlib.sha256(b"b").digest() + struct.pack(
        "<QQII", sector, total, 1, nr) + region(4096, blob) + region(keys_at, keys) + region(pay_at, payloads) + none * 3
    with open(meta, "wb") as f:
        for at, data in ((0, with_crc(sb.ljust(4096, b"\0"))), (4096, blob), (keys_at, keys), (pay_at, payloads)):
            f.seek(at)
            f.write(data)
        f.truncate(up(total))
    csb = struct.pack("<8sIIIIII", b"FASTOCIc", 1, 4096, 0, 0, 0, 0) + uuid.UUID(int=nr).bytes + struct.pack(
        "<IIQ", 16, CHUNKS, CHUNK)
    with open(cache, "wb") as f:
        f.write(with_crc(csb.ljust(4096, b"\0")))
    print(sector)


if __name__ == "__main__":
    main()
