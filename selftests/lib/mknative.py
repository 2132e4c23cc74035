#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mknative.py OUT FORM SOURCE: a native overlaybd layer.

SOURCE   META=LAYER   what a turboOCI meta layer (ext4) and its layer (tar.gz) show, now with its data inside
         IMAGE        a file system
FORM     lsmt         an LSMT file and nothing around it
         tar          the same in a tar with a plain header
         sealed       a sealed one, as overlaybd.sealed is
         sparse       not sealed, no index: each byte at its place, holes where there is none
         lz4, zstd    in a ZFile in overlaybd's tar wrapper
         zfile        in a ZFile (lz4) and nothing around it, as base layers are
The decoder is that of the fixtures (fixtures/fmt.py), the encoder is written from the formats' description.
"""
import ctypes, gzip, io, os, struct, sys, tarfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)) + "/../fixtures")
import fmt

SECTOR, BLOCK, MOST = 512, 4096, 16383
LSMT_MAGIC = bytes.fromhex("4c534d5400010200 657e63d294440 84ca2d2c8ec4fcfae8a".replace(" ", ""))
ZFILE_MAGIC = bytes.fromhex("5a46696c65000100 74756a692e79796640416c6962616261".replace(" ", ""))


def of_image(path):
    """The size of the device, and (sector, data) of what is not zeros in it."""
    runs, end = [], 0
    with open(path, "rb") as f:
        size = f.seek(0, os.SEEK_END)
        while True:
            try:
                begin = f.seek(max(os.lseek(f.fileno(), end, os.SEEK_DATA) // BLOCK * BLOCK, end))
            except OSError:  # nothing but a hole is left
                return size, runs
            end = os.lseek(f.fileno(), begin, os.SEEK_HOLE)
            end += -end % BLOCK
            f.seek(begin)
            for at in range(begin, end, BLOCK):
                block = f.read(BLOCK)
                if any(block):
                    runs.append((at // SECTOR, block))


def of_meta_layer(meta, layer):
    with tarfile.open(meta) as tar:
        stored = tar.extractfile("ext4.fs.meta").read()
    with gzip.open(layer) as f:
        tar = f.read()
    file = fmt.ZF(stored) if stored[:5] == b"ZFile" else fmt.Raw(stored)
    trailer = fmt.ht(file.read(file.size - 4096, 4096))
    entries = [e for e in fmt.segs(file.read(trailer["index_offset"], 16 * trailer["index_size"])) if e[1]]
    least, runs = min(e[4] for e in entries), []
    for sector, count, mapped, zeroed, tag in entries:
        at, size = mapped * SECTOR, count * SECTOR
        data = b"" if zeroed else file.read(at, size) if tag == least else tar[at:at + size]
        runs.append((sector, data.ljust(size, b"\0")))
    # Native layers hold whole blocks: zeros behind each file's end.
    for i, (sector, data) in enumerate(runs):
        end = sector + len(data) // SECTOR
        free = (runs[i + 1][0] if i + 1 < len(runs) else end + 8) - end
        runs[i] = sector, data + bytes(min(free, -end % (BLOCK // SECTOR)) * SECTOR)
    return trailer["virtual_size"], runs


def header(flags, virtual, index_at=0, entries=0):
    uuid = b"01234567-89AB-CDEF-0123-456789ABCDEF\0"
    h = LSMT_MAGIC + struct.pack("<IIQQQ", 390, flags, index_at, entries, virtual) + uuid + bytes(37)
    return (h + bytes(2) + b"\1\1").ljust(4096, b"\0")


def lsmt(virtual, runs, first_flags=7):
    data, index, at = io.BytesIO(), b"", 8
    for sector, part in runs:
        for i in range(0, len(part), MOST * SECTOR):
            piece = part[i:i + MOST * SECTOR]
            index += struct.pack("<QQ", sector + i // SECTOR | len(piece) // SECTOR << 50, at)
            data.write(piece)
            at += len(piece) // SECTOR
    entries = len(index) // 16
    index += struct.pack("<QQ", (1 << 50) - 1, 0) * (-entries % 256)
    return (header(first_flags, virtual) + data.getvalue() + index + header(6, virtual, at * SECTOR, len(index) // 16))


def compressor(form):
    out = ctypes.create_string_buffer(2 * BLOCK)
    zstd, lz4 = ctypes.CDLL("libzstd.so.1").ZSTD_compress, ctypes.CDLL("liblz4.so.1").LZ4_compress_default
    zstd.restype, zstd.argtypes = ctypes.c_size_t, [ctypes.c_char_p, ctypes.c_size_t] * 2 + [ctypes.c_int]

    def pack(block):
        size = zstd(out, len(out), block, len(block), 3) if form == "zstd" else lz4(block, out, len(block), len(out))
        assert 0 < size <= len(out)
        return out.raw[:size]
    return pack


def zfile(data, form):
    pack, blocks, lengths = compressor(form), [], []
    for at in range(0, len(data), BLOCK):
        block = pack(data[at:at + BLOCK])
        blocks.append(block + struct.pack("<I", fmt.crc32c_raw(block, 100007)))
        lengths.append(len(blocks[-1]))
    table, body = struct.pack(f"<{len(lengths)}I", *lengths), b"".join(blocks)

    def end(flags):
        h = bytearray((ZFILE_MAGIC + struct.pack("<IIQQQQII", 96, 0, flags, 512 + len(body), len(lengths), len(data),
                                                 fmt.crc32c_raw(table, 0), 0)
                       + struct.pack("<IBBBBIIB", BLOCK, 2 if form == "zstd" else 1, 0, 0, 0, 0, 0, 1)).ljust(512, b"\0"))
        h[28:32] = struct.pack("<I", fmt.crc32c_raw(bytes(h), 0))
        return bytes(h)

    return end(0b10011) + body + table + end(0b10110)  # as a streamed one: the trailer tells


def tar_of(payload, wrapped):
    out = io.BytesIO()
    info = tarfile.TarInfo("overlaybd.commit")
    info.size = len(payload)
    begin = b""
    if wrapped:
        record = f"size={len(payload)}\n"
        record = f"{len(record) + 3 + (len(record) + 3 > 99)} {record}".encode()
        pax = tarfile.TarInfo("overlaybd.pax")
        pax.type, pax.size = tarfile.XHDTYPE, len(record)
        begin = pax.tobuf(tarfile.USTAR_FORMAT) + record.ljust(SECTOR, b"\0")
        info.size = 0
    out.write(begin + info.tobuf(tarfile.USTAR_FORMAT) + payload + bytes(-len(payload) % SECTOR) + bytes(2 * SECTOR))
    return out.getvalue()


def main():
    out, form, source = sys.argv[1:]
    meta, _, layer = source.partition("=")
    virtual, runs = of_meta_layer(meta, layer) if layer else of_image(source)
    with open(out, "wb") as f:
        if form == "sparse":
            f.truncate(4096 + virtual)
            f.write(header(0x13, virtual))
            for sector, data in runs:
                f.seek(4096 + sector * SECTOR)
                f.write(data)
        elif form in ("lz4", "zstd"):
            f.write(tar_of(zfile(lsmt(virtual, runs), form), True))
        elif form == "zfile":
            f.write(zfile(lsmt(virtual, runs), "lz4"))
        elif form == "tar":
            f.write(tar_of(lsmt(virtual, runs), False))
        else:
            f.write(lsmt(virtual, runs, 3 if form == "sealed" else 7))


if __name__ == "__main__":
    main()
