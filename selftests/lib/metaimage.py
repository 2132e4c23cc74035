# SPDX-License-Identifier: Apache-2.0
"""metaimage.py - the two on-disk formats of include/uapi/fastoci_meta.h, written by a second hand.

A MetaImage or a CacheSb holds every field as an attribute; tests change one and take bytes(). A field that is None
gets its right value there. Checksums are right unless they are set.
"""
import hashlib, struct, uuid

from crc32c import crc32c

CHUNK = 65536
ALIGN = 4096
ZERO, META, BLOB = 0, 1 << 62, 2 << 62
REGIONS = ("blobs", "keys", "payloads", "metadata", "helper", "json")


def up(n):
    return (n + ALIGN - 1) & ~(ALIGN - 1)


def with_crc(sb):
    """A superblock of 4096 bytes with its checksum, which is at the same place in both formats."""
    return sb[:28] + struct.pack("<I", crc32c(sb[:28] + bytes(4) + sb[32:])) + sb[32:]


def region(offset, data, crc=True):
    if not data:
        return struct.pack("<QQII", 0, 0, 0, 0)
    return struct.pack("<QQII", offset, len(data), crc32c(data) if crc else 0, 0)


class Region:
    """A part of the image: its content, and what the superblock says about it."""

    def __init__(self, data=b"", checked=True):
        self.data, self.checked = data, checked
        self.offset = self.bytes = self.crc = None
        self.reserved = 0

    def entry(self, place):
        crc = self.crc
        if crc is None:
            crc = crc32c(self.data) if self.data and self.checked else 0
        return struct.pack("<QQII", (place if self.data else 0) if self.offset is None else self.offset,
                           len(self.data) if self.bytes is None else self.bytes, crc, self.reserved)


class Blob:
    def __init__(self, data_bytes, space_id, blob_digest=bytes(32)):
        self.data_bytes, self.space_id, self.blob_digest = data_bytes, space_id, blob_digest
        self.flags = 0

    def __bytes__(self):
        return self.space_id + self.blob_digest + struct.pack(
            "<QQIIQQQQII", self.data_bytes, self.data_bytes, 0, 0, 0, 0, 0, 0, 0, self.flags)


class MetaImage:
    def __init__(self, keys, payloads, blobs, device_sectors, metadata=b"", image_id=hashlib.sha256(b"image").digest()):
        """keys and payloads: lists of int (or the packed tables); metadata's place is self.metadata_at."""
        self.magic, self.version, self.sb_bytes = b"FASTOCIm", 1, 4096
        self.compat = self.ro_compat = self.incompat = 0
        self.crc, self.image_id, self.device_sectors = None, image_id, device_sectors
        self.total_bytes = self.nr_blobs = self.nr_extents = None
        self.keys, self.payloads, self.blobs, self.metadata = keys, payloads, blobs, metadata
        self.regions = {name: Region(checked=name != "metadata") for name in REGIONS}
        self.reserved = bytes(4096 - 232)

    @staticmethod
    def metadata_at(nr_extents, nr_blobs=1):
        """Byte offset of the metadata area in an image of that many extents and blobs."""
        return ALIGN + up(128 * nr_blobs) + up(4 * nr_extents) + up(8 * nr_extents)

    def layout(self):
        """(offset, data) of each region, in order."""
        r = self.regions
        r["blobs"].data = b"".join(bytes(b) for b in self.blobs)
        for name, code in ("keys", "I"), ("payloads", "Q"):
            table = getattr(self, name)
            r[name].data = table if isinstance(table, bytes) else struct.pack(f"<{len(table)}{code}", *table)
        r["metadata"].data = self.metadata
        places, at = [], ALIGN
        for name in REGIONS:
            places.append((at, r[name].data))
            at += up(len(r[name].data))
        return places

    def parts(self):
        """(offset, data) of the superblock and of each region."""
        places = self.layout()
        total = max(at + len(data) for at, data in places if data)
        value = lambda v, right: right if v is None else v
        sb = struct.pack("<8sIIIIII", self.magic, self.version, self.sb_bytes, self.compat, self.ro_compat,
                         self.incompat, 0) + self.image_id
        sb += struct.pack("<QQII", self.device_sectors, value(self.total_bytes, total),
                          value(self.nr_blobs, len(self.blobs)),
                          value(self.nr_extents, len(self.regions["keys"].data) // 4))
        sb += b"".join(self.regions[name].entry(at) for name, (at, _) in zip(REGIONS, places)) + self.reserved
        sb = with_crc(sb) if self.crc is None else sb[:28] + struct.pack("<I", self.crc) + sb[32:]
        return [(0, sb)] + [p for p in places if p[1]]

    def __bytes__(self):
        parts = self.parts()
        image = bytearray(max(at + len(data) for at, data in parts))
        for at, data in parts:
            image[at:at + len(data)] = data
        return bytes(image)


class CacheSb:
    def __init__(self, nr_slots, chunk_shift=16, uuid=uuid.UUID(int=42)):
        self.magic, self.version, self.sb_bytes = b"FASTOCIc", 1, 4096
        self.compat = self.ro_compat = self.incompat = 0
        self.crc, self.uuid, self.chunk_shift, self.nr_slots = None, uuid, chunk_shift, nr_slots
        self.slots_offset = 1 << chunk_shift
        self.reserved = bytes(4096 - 64)

    def __bytes__(self):
        sb = struct.pack("<8sIIIIII", self.magic, self.version, self.sb_bytes, self.compat, self.ro_compat,
                         self.incompat, 0) + self.uuid.bytes
        sb += struct.pack("<IIQ", self.chunk_shift, self.nr_slots, self.slots_offset) + self.reserved
        return with_crc(sb) if self.crc is None else sb[:28] + struct.pack("<I", self.crc) + sb[32:]
