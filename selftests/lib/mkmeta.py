#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mkmeta.py META CACHE DATA: makes a small assembled meta image, a cache and the device's expected content.

The device: extent i % 4 == 0 zeros, 1 metadata, 2 and 3 runs of one blob of 40 chunks, in scattered order. With
FASTOCI_BREAK=FIELD one field is made bad, to be refused. The cache file must exist with its size.
"""
import hashlib, os, random, struct, sys, uuid

CHUNK = 65536
TABLE = []
for i in range(256):
    c = i
    for _ in range(8):
        c = c >> 1 ^ 0x82F63B78 if c & 1 else c >> 1
    TABLE.append(c)


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c = c >> 8 ^ TABLE[(c ^ b) & 255]
    return c ^ 0xFFFFFFFF


def blob_data(size):
    """Content of the blob, known to the fake helper, too."""
    return random.Random(7).randbytes(size)


BLOB_BYTES = 40 * CHUNK - 1000


def with_crc(sb):
    return sb[:28] + struct.pack("<I", crc32c(sb[:28] + bytes(4) + sb[32:])) + sb[32:]


def region(offset, data, crc=True):
    if not data:
        return struct.pack("<QQII", 0, 0, 0, 0)
    return struct.pack("<QQII", offset, len(data), crc32c(data) if crc else 0, 0)


def main():
    meta_path, cache_path, data_path = sys.argv[1:4]
    bad = os.environ.get("FASTOCI_BREAK", "")
    rnd = random.Random(3)
    blob = blob_data(BLOB_BYTES) + bytes(1000)
    metadata = rnd.randbytes(64 * 512)
    md_at = 32768
    keys, payloads, content, sector = [], [], [], 0
    order = list(range(0, len(blob) // 512 - 96, 67))
    rnd.shuffle(order)
    for i in range(120):
        n = rnd.randrange(1, 90)
        kind = i % 4
        keys.append(sector)
        if kind == 0:
            payloads.append(0)
            content.append(bytes(n * 512))
        elif kind == 1:
            n = min(n, 40)
            at = rnd.randrange(0, 64 - n + 1)
            payloads.append(1 << 62 | (md_at // 512 + at))
            content.append(metadata[at * 512:(at + n) * 512])
        else:
            at = order[i % len(order)] if i else 0
            payloads.append(2 << 62 | at)
            content.append(blob[at * 512:(at + n) * 512])
        sector += n
    while sector % 8:  # a whole number of 4 KiB blocks
        content[-1] = content[-1] + blob[(payloads[-1] & (1 << 48) - 1) * 512 + len(content[-1]):][:512]
        sector += 1
    if bad == "keys":
        keys[5] = keys[4]
    if bad == "target":
        payloads[2] = 2 << 62 | (BLOB_BYTES // 512 + 1)
    if bad == "blob":
        payloads[2] = 2 << 62 | 9 << 48
    if bad == "metadata":
        payloads[1] = 1 << 62 | 8
    if bad == "type":
        payloads[2] |= 3 << 62
    kd = struct.pack(f"<{len(keys)}I", *keys)
    pd = struct.pack(f"<{len(payloads)}Q", *payloads)
    sid = hashlib.sha256(b"space").digest()
    bd = sid + hashlib.sha256(blob).digest() + struct.pack(
        "<QQIIQQQQII", BLOB_BYTES, BLOB_BYTES, 0, 0, 0, 0, 0, 0, 0, 0)
    total = md_at + len(metadata)
    regions = (region(4096, bd) + region(8192, kd) + region(12288, pd) + region(md_at, metadata, False)
               + region(0, b"") + region(0, b""))
    if bad == "overlap":
        regions = region(4096, bd) + region(4096, kd) + regions[48:]
    if bad == "crc-keys":
        kd = kd[:-1] + bytes([kd[-1] ^ 1])
    head = struct.pack("<8sIIIIII", b"XASTOCIm" if bad == "magic" else b"FASTOCIm", 2 if bad == "version" else 1,
                       4096, 0, 0, 4 if bad == "incompat" else 0, 0)
    sb = head + hashlib.sha256(b"image").digest() + struct.pack(
        "<QQII", sector, total + (1 << 40 if bad == "truncated" else 0), 1, len(keys)) + regions
    sb = with_crc(sb.ljust(4096, b"\1" if bad == "reserved" else b"\0"))
    if bad == "crc":
        sb = sb[:90] + bytes([sb[90] ^ 255]) + sb[91:]
    image = bytearray(total)
    for at, data in ((0, sb), (4096, bd), (8192, kd), (12288, pd), (md_at, metadata)):
        image[at:at + len(data)] = data
    with open(meta_path, "wb") as f:
        f.write(image)
    nr_slots = os.path.getsize(cache_path) // CHUNK - 1
    csb = struct.pack("<8sIIIIII", b"FASTOCIc", 1, 4096, 0, 0, 0, 0) + uuid.UUID(int=42).bytes + struct.pack(
        "<IIQ", 16, nr_slots, CHUNK)
    with open(cache_path, "r+b") as f:
        f.write(with_crc(csb.ljust(4096, b"\0")))
    with open(data_path, "wb") as f:
        f.write(b"".join(content))
    print(sector)


if __name__ == "__main__":
    main()
