#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""recompress.py IN.tar.gz OUT FORM: the same layer, compressed in another form that occurs.

members   gzip: many members, empty ones between them, zeros behind
odd       gzip: one member with extra field, name, comment and header checksum; stored blocks, then others; no end marker in
          the tar; zeros behind
zstd      one frame with a checksum
frames    zstd: a skippable frame, then a frame per MiB with an empty one and a skippable one behind it
"""
import gzip, struct, subprocess, sys, zlib

MIB = 1 << 20


def without_end(tar):
    return tar.rstrip(b"\0").ljust((len(tar.rstrip(b"\0")) + 511) // 512 * 512, b"\0")


def members(tar):
    out = b""
    for at in range(0, len(tar), 700001):
        out += gzip.compress(tar[at:at + 700001], 6, mtime=0) + gzip.compress(b"", mtime=0)
    return out + bytes(1000)


def odd(tar):
    tar = without_end(tar)
    header = b"\x1f\x8b\x08\x1e" + struct.pack("<IBB", 1700000000, 2, 3)  # FHCRC, FEXTRA, FNAME, FCOMMENT
    header += struct.pack("<H", 300) + bytes(300) + b"layer.tar\0" + b"a comment\0"
    header += struct.pack("<H", zlib.crc32(header) & 0xffff)
    stored = b"".join(b"\0" + struct.pack("<HH", len(p), len(p) ^ 0xffff) + p
                      for p in (tar[i:i + 60000] for i in range(0, min(len(tar), 3 * MIB), 60000)))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    rest = packer.compress(tar[min(len(tar), (3 * MIB + 59999) // 60000 * 60000):]) + packer.flush()
    return header + stored + rest + struct.pack("<II", zlib.crc32(tar), len(tar)) + bytes(1000)


def zstd(tar):
    return subprocess.run(["zstd", "-qc", "-3"], input=tar, stdout=subprocess.PIPE, check=True).stdout


def frames(tar):
    skippable = b"\x52\x2a\x4d\x18" + struct.pack("<I", 1000) + bytes(range(250)) * 4
    return skippable + b"".join(zstd(tar[at:at + MIB]) + zstd(b"") + skippable for at in range(0, len(tar), MIB))


def main():
    source, out, form = sys.argv[1:]
    with gzip.open(source) as f:
        tar = f.read()
    with open(out, "wb") as f:
        f.write({"members": members, "odd": odd, "zstd": zstd, "frames": frames}[form](tar))


if __name__ == "__main__":
    main()
