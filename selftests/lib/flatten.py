#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""flatten.py META OUT LAYER...: the whole device of an assembled meta image as a sparse file, from the original layers.

A plain second reader of the format of fastoci_meta.h: it checks what the kernel checks, and digests and data space ids
besides. LAYER: the blobs (tar or tar.gz) in the order of the blob table.
"""
import gzip, hashlib, mmap, os, struct, sys

from crc32c import crc32c


def need(ok, what):
    if not ok:
        sys.exit("flatten: " + what)


def regions_of(sb, meta):
    regions = [struct.unpack_from("<QQII", sb, 88 + 24 * i) for i in range(6)]
    total, = struct.unpack_from("<Q", sb, 72)
    need(total <= len(meta), "truncated")
    end = 4096
    for offset, size, crc, reserved in sorted(regions):
        need(reserved == 0 and (size or not offset), "bad region")
        if not size:
            continue
        need(offset % 4096 == 0 and offset >= end and offset + size <= total, "region out of place")
        end = offset + size
    for i in (0, 1, 2, 4, 5):
        offset, size, crc, _ = regions[i]
        need(not size or crc32c(meta[offset:offset + size]) == crc, f"crc of region {i}")
    return [meta[o:o + n] for o, n, _, _ in regions], regions[3][0]


def data_of(path, entry, helper, number):
    with open(path, "rb") as f:
        blob = f.read()
    space, digest, data_bytes, blob_bytes, codec, nr_spans, spans_at, index_at, index_bytes, digests_at, nr_digests, flags = (
        struct.unpack("<32s32sQQIIQQQQII", entry))
    need(hashlib.sha256(blob).digest() == digest and len(blob) == blob_bytes, f"blob {number} is another one")
    data = gzip.decompress(blob) if codec == 1 else blob
    need(len(data) == data_bytes and flags == 0, f"size of data space {number}")
    if nr_digests:
        digests = helper[digests_at:digests_at + 32 * nr_digests]
        want = b"".join(hashlib.sha256(data[i:i + 65536]).digest() for i in range(0, len(data), 65536))
        need(digests == want, f"chunk digests of {number}")
        tail = hashlib.sha256(digests).digest()
        need(space == hashlib.sha256(digest + struct.pack("<QI", data_bytes, codec) + tail).digest(), "data space id")
    spans = [struct.unpack_from("<QQ", helper, spans_at + 16 * i) for i in range(nr_spans)]
    need(codec != 1 or (spans and spans[0][0] == 0), "no first span")
    for a, b in zip(spans, spans[1:]):
        need(a[0] < b[0] < data_bytes and a[1] <= b[1] < blob_bytes, "spans out of order")
    return data


def main():
    meta_path, out_path, layers = sys.argv[1], sys.argv[2], sys.argv[3:]
    with open(meta_path, "rb") as f:
        meta = f.read()
    sb = meta[:4096]
    need(sb[:8] == b"FASTOCIm" and struct.unpack_from("<II", sb, 8) == (1, 4096), "magic or version")
    need(crc32c(sb[:28] + bytes(4) + sb[32:]) == struct.unpack_from("<I", sb, 28)[0], "superblock crc")
    device_sectors, _, nr_blobs, nr_extents = struct.unpack_from("<QQII", sb, 64)
    (blobs, keys, payloads, metadata, helper, json), md_at = regions_of(sb, meta)
    need(nr_blobs == len(layers) and len(blobs) == 128 * nr_blobs, "number of blobs")
    data = [data_of(p, blobs[128 * i:128 * i + 128], helper, i) for i, p in enumerate(layers)]
    keys = list(struct.unpack(f"<{nr_extents}I", keys)) + [device_sectors]
    payloads = struct.unpack(f"<{nr_extents}Q", payloads)
    need(keys[0] == 0, "first key")
    counts = [0, 0, 0]
    with open(out_path, "wb") as out:
        out.truncate(device_sectors * 512)
        for i, p in enumerate(payloads):
            n = (keys[i + 1] - keys[i]) * 512
            need(n > 0, "keys do not grow")
            kind, blob, sector = p >> 62, p >> 48 & 0x3FFF, p & (1 << 48) - 1
            need(kind < 3 and (kind or p == 0), "bad extent")
            counts[kind] += 1
            if kind == 0:
                continue
            source, at = (meta, sector * 512) if kind == 1 else (data[blob], sector * 512)
            if kind == 1:
                need(md_at <= at and at + n <= md_at + len(metadata), "extent outside of the metadata area")
            else:
                need(at + n <= (len(data[blob]) + 511) // 512 * 512, "extent behind the data space")
            out.seek(keys[i] * 512)
            out.write(source[at:at + n])
    print(f"extents: {counts[0]} zero, {counts[1]} metadata, {counts[2]} data; metadata {len(metadata)} bytes, "
          f"helper area {len(helper)} bytes")


if __name__ == "__main__":
    main()
