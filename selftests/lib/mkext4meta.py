#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mkext4meta.py META CACHE BLOB_FILE: an assembled meta image that holds a mountable ext4 file system.

Its file /data holds mkmeta.py's blob and is mapped to it; everything else is metadata. The same content goes to BLOB_FILE.
FASTOCI_EXT4=journal|mntopts|damaged makes a file system that must be refused, erofs another one, all of it metadata. The
cache file must exist with its size.
"""
import hashlib, os, struct, subprocess, sys, tempfile, uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mkmeta

BLOCK = 4096


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_fs(path, data, kind):
    with tempfile.TemporaryDirectory() as root:
        with open(root + "/data", "wb") as f:
            f.write(data)
        os.makedirs(root + "/etc")
        with open(root + "/etc/motd", "w") as f:
            f.write("hello\n")
        if kind == "erofs":
            os.unlink(root + "/data")
            run("mkfs.erofs", "--quiet", path, root)
            with open(path, "r+b") as f:
                f.truncate(1 << 20)
            return
        features = "^metadata_csum," + ("has_journal" if kind == "journal" else "^has_journal")
        run("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-I", "256", "-O", features, "-d", root, path, "8M")
    if kind == "mntopts":
        run("tune2fs", "-E", "mount_opts=debug_want_extra_isize=64", path)
    if kind == "damaged":
        run("debugfs", "-w", "-R", "clri /etc", path)
    if kind == "panic":  # asks for a panic on the first error, and has one
        run("tune2fs", "-e", "panic", path)
        run("debugfs", "-w", "-R", "sif /etc/motd block[0] 0xdeadbeef", path)


def blocks_of(path, name):
    """Physical blocks of a file, in order."""
    return [int(b) for b in run("debugfs", "-R", f"blocks {name}", path).split()]


def main():
    meta_path, cache_path, blob_path = sys.argv[1:4]
    blob = mkmeta.blob_data(mkmeta.BLOB_BYTES)
    with tempfile.NamedTemporaryFile() as t:
        kind = os.environ.get("FASTOCI_EXT4", "")
        make_fs(t.name, blob, kind)
        with open(t.name, "rb") as f:
            fs = f.read()
        blocks = [] if kind == "erofs" else blocks_of(t.name, "/data")
    while blocks and fs[blocks[0] * BLOCK:(blocks[0] + 1) * BLOCK] != blob[:BLOCK]:
        del blocks[0]  # extent tree blocks, if any, come before
    position = {b: i for i, b in enumerate(blocks)}
    keys, payloads, metadata = [], [], bytearray()
    md_at = 1 << 16
    previous = None
    for b in range(len(fs) // BLOCK):
        content = fs[b * BLOCK:(b + 1) * BLOCK]
        if b in position:
            payload, state = 2 << 62 | position[b] * 8, ("blob", position[b])
        elif not any(content):
            payload, state = 0, ("zero", 0)
        else:
            payload, state = 1 << 62 | (md_at + len(metadata)) // 512, ("meta", 0)
            metadata += content
        joined = previous and state[0] == previous[0] and (state[0] != "blob" or state[1] == previous[1] + 1)
        if not joined:
            keys.append(b * 8)
            payloads.append(payload)
        previous = state
        left = len(blob) - position.get(b, 0) * BLOCK
        if b in position and left < BLOCK:  # behind the end of the blob: zeros
            keys.append(b * 8 + -(-left // 512))
            payloads.append(0)
            previous = None
    kd = struct.pack(f"<{len(keys)}I", *keys)
    pd = struct.pack(f"<{len(payloads)}Q", *payloads)
    assert len(pd) <= 4096 * 4 and len(kd) <= 4096 * 4
    bd = hashlib.sha256(b"ext4 space").digest() + hashlib.sha256(blob).digest() + struct.pack(
        "<QQIIQQQQII", len(blob), len(blob), 0, 0, 0, 0, 0, 0, 0, 0)
    places = ((4096, bd), (8192, kd), (8192 + 16384, pd), (md_at, bytes(metadata)))
    regions = b"".join(mkmeta.region(o, d, i < 3) for i, (o, d) in enumerate(places)) + mkmeta.region(0, b"") * 2
    total = md_at + len(metadata)
    head = struct.pack("<8sIIIIII", b"FASTOCIm", 1, 4096, 0, 0, 0, 0)
    sb = mkmeta.with_crc((head + hashlib.sha256(b"ext4 image").digest() + struct.pack(
        "<QQII", len(fs) // 512, total, 1, len(keys)) + regions).ljust(4096, b"\0"))
    image = bytearray(total)
    for offset, part in ((0, sb),) + places:
        image[offset:offset + len(part)] = part
    with open(meta_path, "wb") as f:
        f.write(image)
    with open(blob_path, "wb") as f:
        f.write(blob)
    nr_slots = os.path.getsize(cache_path) // mkmeta.CHUNK - 1
    csb = struct.pack("<8sIIIIII", b"FASTOCIc", 1, 4096, 0, 0, 0, 0) + uuid.UUID(int=43).bytes + struct.pack(
        "<IIQ", 16, nr_slots, mkmeta.CHUNK)
    with open(cache_path, "r+b") as f:
        f.write(mkmeta.with_crc(csb.ljust(4096, b"\0")))


if __name__ == "__main__":
    main()
