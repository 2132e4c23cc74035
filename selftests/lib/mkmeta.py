#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mkmeta.py META CACHE DATA [quiet]: makes a small assembled meta image, a cache and the device's expected content.

The device: extent i % 4 == 0 zeros, 1 metadata, 2 and 3 runs of one blob of 40 chunks, in scattered order. The cache
file must exist with its size. Prints the device's sectors. With "quiet" zeros surround it, so that blkid, which reads
up to 4 MiB and in the last 2 MiB, needs no helper.
"""
import hashlib, os, random, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from metaimage import BLOB, CHUNK, META, ZERO, Blob, CacheSb, MetaImage, region, with_crc  # noqa: F401 for others

BLOB_BYTES = 40 * CHUNK - 1000
SPACE_ID = hashlib.sha256(b"space").digest()
NR_EXTENTS = 120


def blob_data(size):
    """Content of the blob, known to the fake helper, too."""
    return random.Random(7).randbytes(size)


def small_image(quiet=False):
    """The image and the device's content."""
    rnd = random.Random(3)
    blob = blob_data(BLOB_BYTES) + bytes(1000)
    metadata = rnd.randbytes(64 * 512)
    md_first = MetaImage.metadata_at(NR_EXTENTS) // 512  # the same for two extents more
    keys, payloads, content, sector = [], [], [], 0
    order = list(range(0, len(blob) // 512 - 96, 67))
    rnd.shuffle(order)
    for i in range(NR_EXTENTS):
        n = rnd.randrange(1, 90)
        kind = i % 4
        keys.append(sector)
        if kind == 0:
            payloads.append(ZERO)
            content.append(bytes(n * 512))
        elif kind == 1:
            n = min(n, 40)
            at = rnd.randrange(0, 64 - n + 1)
            payloads.append(META | md_first + at)
            content.append(metadata[at * 512:(at + n) * 512])
        else:
            at = order[i % len(order)] if i else 0
            payloads.append(BLOB | at)
            content.append(blob[at * 512:(at + n) * 512])
        sector += n
    while sector % 8:  # a whole number of 4 KiB blocks
        content[-1] = content[-1] + blob[(payloads[-1] & (1 << 48) - 1) * 512 + len(content[-1]):][:512]
        sector += 1
    if quiet:
        head, tail = 5 << 11, 2 << 11
        keys = [0] + [head + k for k in keys] + [head + sector]
        payloads = [ZERO] + payloads + [ZERO]
        content = [bytes(head * 512)] + content + [bytes(tail * 512)]
        sector += head + tail
    blobs = [Blob(BLOB_BYTES, SPACE_ID, hashlib.sha256(blob).digest())]
    return MetaImage(keys, payloads, blobs, sector, metadata), b"".join(content)


def main():
    meta_path, cache_path, data_path = sys.argv[1:4]
    image, content = small_image(quiet=sys.argv[4:] == ["quiet"])
    with open(meta_path, "wb") as f:
        f.write(bytes(image))
    with open(cache_path, "r+b") as f:
        f.write(bytes(CacheSb(os.path.getsize(cache_path) // CHUNK - 1)))
    with open(data_path, "wb") as f:
        f.write(content)
    print(image.device_sectors)


if __name__ == "__main__":
    main()
