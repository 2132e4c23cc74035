#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""corrupt.py META_DEV CACHE_DEV: every field of both superblocks and every table, made bad one at a time.

A row names what is bad, makes it so, and says which words the constructor must find for it. The words of two rows of
one format are the same only where the kernel cannot tell the two apart. Prints KTAP.
"""
import copy, os, subprocess, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ktap, mkmeta
from dmdevice import Device, write
from ktap import check
from metaimage import BLOB, CHUNK, META, REGIONS, Blob, CacheSb

TYPE3 = 3 << 62


def sets(**fields):
    """A mutation that sets fields."""
    def mutate(x):
        for name, value in fields.items():
            assert hasattr(x, name)
            setattr(x, name, value)
    return mutate


def region(name, **fields):
    return lambda image: sets(**fields)(image.regions[name])


def entry(table, i, value):
    """keys or payloads [i] = value, or value(old, image) if that can be called."""
    def mutate(image):
        t = getattr(image, table)
        t[i] = value(t[i], image) if callable(value) else value
    return mutate


def blob(**fields):
    return lambda image: sets(**fields)(image.blobs[0])


def reserved_byte(at):
    """The reserved bytes of the superblock with one that is not zero."""
    def mutate(x):
        r = bytearray(x.reserved)
        r[at] = 1
        x.reserved = bytes(r)
    return mutate


def two_sizes(image):
    image.blobs.append(Blob(mkmeta.BLOB_BYTES - 512, image.blobs[0].space_id))
    move_metadata(image)


def too_many_chunks(image):
    """Blobs within their own cap whose chunks together pass FASTOCI_MAX_IMAGE_CHUNKS."""
    image.blobs += [Blob(1 << 39, bytes([i + 1]) * 32) for i in range(3)]
    move_metadata(image)


def move_metadata(image):
    by = (image.metadata_at(len(image.keys), len(image.blobs)) - image.metadata_at(len(image.keys))) // 512
    image.payloads = [p + by if p >> 62 == 1 else p for p in image.payloads]


META_ROWS = [
    # superblock
    ("magic", sets(magic=b"XASTOCIm"), "meta: bad magic, not an assembled meta image"),
    ("version 0", sets(version=0), "meta: unsupported version"),
    ("version 2", sets(version=2), "meta: unsupported version"),
    ("sb_bytes", sets(sb_bytes=8192), "meta: bad superblock size"),
    ("crc", sets(crc=1), "meta: superblock checksum mismatch"),
    ("incompat", sets(incompat=4), "meta: unknown incompatible feature"),
    ("reserved, first byte", reserved_byte(0), "meta: reserved bytes of the superblock are not zero"),
    ("reserved, last byte", reserved_byte(-1), "meta: reserved bytes of the superblock are not zero"),
    ("device_sectors 0", sets(device_sectors=0), "meta: device size out of range"),
    ("device_sectors 2^32", sets(device_sectors=1 << 32), "meta: device size out of range"),
    ("total_bytes over the device", sets(total_bytes=1 << 40), "meta: truncated, total_bytes exceeds the device"),
    ("total_bytes all ones", sets(total_bytes=(1 << 64) - 1), "meta: truncated, total_bytes exceeds the device"),
    ("total_bytes 0", sets(total_bytes=0), "meta: the blobs region ends behind total_bytes"),
    ("nr_blobs 0", sets(nr_blobs=0), "meta: blob table has the wrong size"),
    ("nr_blobs 2", sets(nr_blobs=2), "meta: blob table has the wrong size"),
    ("nr_blobs 257", sets(nr_blobs=257), "meta: too many blobs"),
    ("nr_extents 0", sets(nr_extents=0), "meta: number of extents out of range"),
    ("nr_extents 2^23 + 1", sets(nr_extents=(8 << 20) + 1), "meta: number of extents out of range"),
    ("nr_extents one less", sets(nr_extents=mkmeta.NR_EXTENTS - 1), "meta: key table has the wrong size"),
    ("nr_extents one more", sets(nr_extents=mkmeta.NR_EXTENTS + 1), "meta: key table has the wrong size"),
    # what it says of regions
    ("bytes of the blob table", region("blobs", bytes=127), "meta: blob table has the wrong size"),
    ("bytes of the key table", region("keys", bytes=4), "meta: key table has the wrong size"),
    ("bytes of the payload table", region("payloads", bytes=8), "meta: payload table has the wrong size"),
    ("an empty region's offset", region("helper", offset=4096), "meta: the helper region is empty and has an offset"),
    ("overlap of tables", region("keys", offset=4096), "meta: the keys region overlaps another"),
    ("overlap of metadata and a table", region("metadata", offset=8192), "meta: the metadata region overlaps another"),
    ("a region that ends at 2^64", region("metadata", offset=(1 << 64) - 4096),
     "meta: the metadata region ends behind total_bytes"),
    ("a region whose end overflows", region("metadata", bytes=(1 << 64) - 4096),
     "meta: the metadata region ends behind total_bytes"),
    # tables
    ("checksum of the blob table", region("blobs", crc=1), "meta: checksum of the blob table is wrong"),
    ("checksum of the key table", region("keys", crc=1), "meta: checksum of the key table is wrong"),
    ("checksum of the payload table", region("payloads", crc=1), "meta: checksum of the payload table is wrong"),
    ("data_bytes 0", blob(data_bytes=0), "meta: size of a data space out of range"),
    ("data_bytes over 16 TiB", blob(data_bytes=(1 << 44) + 1), "meta: size of a data space out of range"),
    ("a blob's flags", blob(flags=1), "meta: unknown flag of a blob"),
    ("data_bytes shorter than the extents", blob(data_bytes=CHUNK), "meta: an extent points behind its data space"),
    ("chunks of all blobs", too_many_chunks, "too many chunks in all data spaces"),
    ("one data space id with two sizes", two_sizes, "a data space is known with another size"),
    ("first key", entry("keys", 0, 1), "meta: the first extent does not begin at sector 0"),
    ("a key twice", entry("keys", 5, lambda _, i: i.keys[4]), "meta: extents are not sorted"),
    ("keys out of order", entry("keys", 5, lambda _, i: i.keys[7]), "meta: extents are not sorted"),
    ("a key behind the device", entry("keys", -1, lambda _, i: i.device_sectors),
     "meta: the last extent begins behind the device"),
    ("a key far behind it, which stretches the extent before", entry("keys", -1, (1 << 32) - 1),
     "meta: an extent points behind its data space"),
    ("target of a zero extent", entry("payloads", 0, 1), "meta: a zero extent has a target"),
    ("metadata before its area", entry("payloads", 1, META | 8), "meta: an extent points outside of the metadata area"),
    ("metadata behind its area", entry("payloads", 1, lambda p, _: p + 64),
     "meta: an extent points outside of the metadata area"),
    ("metadata at 2^48 - 1", entry("payloads", 1, META | (1 << 48) - 1),
     "meta: an extent points outside of the metadata area"),
    ("metadata with a blob", entry("payloads", 1, lambda p, _: p | 1 << 48),
     "meta: an extent of the metadata area names a blob"),
    ("blob number", entry("payloads", 2, BLOB | 1 << 48), "meta: an extent names a blob that does not exist"),
    ("sector of a blob", entry("payloads", 2, BLOB | mkmeta.BLOB_BYTES // 512),
     "meta: an extent points behind its data space"),
    ("sector 2^48 - 1 of a blob", entry("payloads", 2, BLOB | (1 << 48) - 1),
     "meta: an extent points behind its data space"),
    ("extent type", entry("payloads", 2, lambda p, _: p | TYPE3), "meta: an extent has an unknown type"),
]
for r in REGIONS:
    META_ROWS.append((f"reserved of the {r} region", region(r, reserved=1),
                      f"meta: reserved bytes of the {r} region are not zero"))
    if r not in ("helper", "json"):
        META_ROWS += [
            (f"offset of the {r} region, in the superblock", region(r, offset=0),
             f"meta: the {r} region covers the superblock"),
            (f"offset of the {r} region, not aligned", region(r, offset=8192 + 512),
             f"meta: the {r} region is not aligned to 4096"),
            (f"offset of the {r} region, behind the end", region(r, offset=1 << 40),
             f"meta: the {r} region ends behind total_bytes"),
        ]

META_GOOD = [
    ("compat", sets(compat=1 << 31)),
    ("ro_compat", sets(ro_compat=1)),
    ("image_id", sets(image_id=bytes(32))),
    ("checksum of the metadata area, which is not the kernel's", region("metadata", crc=7)),
]

CACHE_ROWS = [
    ("magic", sets(magic=b"FASTOCIm"), "cache: bad magic, not a cache device"),
    ("version", sets(version=2), "cache: unsupported version"),
    ("sb_bytes", sets(sb_bytes=0), "cache: bad superblock size"),
    ("crc", sets(crc=1), "cache: superblock checksum mismatch"),
    ("incompat", sets(incompat=1), "cache: unknown incompatible feature"),
    ("reserved, first byte", reserved_byte(0), "cache: reserved bytes of the superblock are not zero"),
    ("reserved, last byte", reserved_byte(-1), "cache: reserved bytes of the superblock are not zero"),
    ("chunk_shift 15", sets(chunk_shift=15), "cache: chunk size out of range"),
    ("chunk_shift 23", sets(chunk_shift=23), "cache: chunk size out of range"),
    ("chunk_shift 2^32 - 1", sets(chunk_shift=(1 << 32) - 1), "cache: chunk size out of range"),
    ("nr_slots 0", sets(nr_slots=0), "cache: number of slots out of range"),
    ("nr_slots 2^28 + 1", sets(nr_slots=(1 << 28) + 1), "cache: number of slots out of range"),
    ("nr_slots over the device", sets(nr_slots=1 << 20), "cache: the slots do not fit the device"),
    ("slots_offset 0", sets(slots_offset=0), "cache: the slots do not begin at a multiple of the chunk size"),
    ("slots_offset not aligned", sets(slots_offset=CHUNK + 4096),
     "cache: the slots do not begin at a multiple of the chunk size"),
    ("slots_offset behind the device", sets(slots_offset=1 << 40), "cache: the slots do not fit the device"),
    ("slots_offset 2^64 - 64 KiB", sets(slots_offset=(1 << 64) - CHUNK), "cache: the slots do not fit the device"),
]
CACHE_GOOD = [("compat", sets(compat=1)), ("ro_compat", sets(ro_compat=1)), ("a bigger chunk", sets(chunk_shift=20,
               slots_offset=1 << 20, nr_slots=2))]


class Constructor(Device):
    """Nothing of a table that was accepted stays."""

    def refusal(self, *args):
        log = super().refusal(*args)
        if log is None:
            self.clear()
        return log


def refused(name, words, log):
    check(f"refused, in its own words: {name}", log is not None and f": {words} (" in log,
          f"wanted: {words}\ngot: {log}")


def truncations(device, image, cache):
    """The image on devices that end too early: within each part, and at its end."""
    path = "/dev/shm/truncated"
    data = bytes(image)
    ends = {"half a superblock": 2048, "no table at all": 4096}
    for name, (at, part) in zip(REGIONS, image.layout()):
        if part:
            ends[f"the middle of {name}"] = (at + len(part) // 2) & ~511
            ends[f"the last sector of {name}"] = (at + len(part) - 1) & ~511
    for name, end in ends.items():
        with open(path, "wb") as f:
            f.write(data[:end])
        loop = subprocess.run(["losetup", "-f", "--show", path], capture_output=True, text=True, check=True).stdout.strip()
        words = "meta: truncated, " + ("the device is smaller than a superblock" if end < 4096 else
                                       "total_bytes exceeds the device")
        refused(f"truncated within {name}", words, device.refusal(image.device_sectors, loop, cache))
        if end >= 4096:  # and when the superblock does not admit it
            liar = copy.deepcopy(image)
            liar.total_bytes = end
            with open(path, "r+b") as f:
                f.write(bytes(liar)[:4096])
            subprocess.run(["blockdev", "--flushbufs", loop], check=True)
            which = next(n for n, (at, part) in zip(REGIONS, image.layout()) if part and at + len(part) > end)
            refused(f"total_bytes says so, within {name}", f"meta: the {which} region ends behind total_bytes",
                    device.refusal(image.device_sectors, loop, cache))
        subprocess.run(["losetup", "-d", loop], check=True)


def unreadable(device, image, meta, cache):
    """I/O errors in the superblock and in each table."""
    total = 8192  # sectors of the table below
    for name, at in [("superblock", 0)] + [(n[:-1] + " table", a) for n, (a, d) in zip(REGIONS, image.layout())][:3]:
        at //= 512
        table = (f"0 {at} linear {meta} 0\n" if at else "") + f"{at} 1 error\n{at + 1} {total - at - 1} linear {meta} {at + 1}\n"
        subprocess.run(["dmsetup", "create", "e", "--readonly"], input=table, text=True, check=True)
        refused(f"unreadable {name}", f"meta: cannot read the {name}",
                device.refusal(image.device_sectors, "/dev/mapper/e", cache))
        subprocess.run(["dmsetup", "remove", "e"], check=True)


def main():
    meta, cache = sys.argv[1:3]
    good, _ = mkmeta.small_image()
    fd = os.open(cache, os.O_RDONLY)
    good_cache = CacheSb(os.lseek(fd, 0, os.SEEK_END) // CHUNK - 1)
    os.close(fd)
    device = Constructor("t")
    write(meta, bytes(good))
    write(cache, bytes(good_cache))
    log = device.refusal(good.device_sectors, meta, cache)
    check("the image itself is accepted", log is None, str(log))
    for name, mutate, words in META_ROWS:
        image = copy.deepcopy(good)
        mutate(image)
        write(meta, bytes(image))
        refused(name, words, device.refusal(image.device_sectors or 8, meta, cache))
    for name, mutate in META_GOOD:
        image = copy.deepcopy(good)
        mutate(image)
        write(meta, bytes(image))
        log = device.refusal(image.device_sectors, meta, cache)
        check(f"accepted: {name}", log is None, str(log))
    write(meta, bytes(good))
    refused("a table line of another length", "the table's length is not the image's device size",
            device.refusal(good.device_sectors - 8, meta, cache))
    truncations(device, good, cache)
    unreadable(device, good, meta, cache)
    for name, mutate, words in CACHE_ROWS:
        sb = copy.deepcopy(good_cache)
        mutate(sb)
        write(cache, bytes(sb))
        refused("cache " + name, words, device.refusal(good.device_sectors, meta, cache))
    for name, mutate in CACHE_GOOD:
        sb = copy.deepcopy(good_cache)
        mutate(sb)
        write(cache, bytes(sb))
        log = device.refusal(good.device_sectors, meta, cache)
        check(f"accepted: cache {name}", log is None, str(log))
    write(cache, bytes(good_cache))
    log = device.refusal(good.device_sectors, meta, cache)
    check("after all of that the image itself is accepted", log is None, str(log))
    device.remove()
    ktap.end()


if __name__ == "__main__":
    main()
