#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""peerpull.py LAYOUT TAG OUT [OURS]: what overlaybd's snapshotter and reader make of a converted image.

Pulls the image as containerd does with that snapshotter: from a layer's annotations it decides whether the layer is a
native one, a turboOCI one or an ordinary one, and what it needs of it. Then OUT becomes the block device as its reader
shows it. The gzip index of a turboOCI layer is used if the target's media type is one of two; the target of every other
type is read as a plain tar. Ends with status 3 and a reason if the pull fails, with status 4 if the device does, and with
status 5 if OUT is not the same device as OURS.
"""
import gzip, io, json, os, sys, tarfile

import readimage
from readimage import PREFIX

GZIP_TYPES = ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip")


def fail(status, what):
    print("peerpull: " + what, file=sys.stderr)
    sys.exit(status)


def pull(manifest, read):
    """The layers of the device, bottom first: dicts with what its config.v1.json says."""
    lowers, ordinary = [], 0
    for number, layer in enumerate(manifest["layers"], 1):
        labels = {k: v for k, v in layer.get("annotations", {}).items() if k.startswith("containerd.io/snapshot/")}
        named = PREFIX + "blob-digest" in labels and PREFIX + "blob-size" in labels
        target = labels.get(PREFIX + "turbo-oci/target-digest") or labels.get(PREFIX + "fastoci/target-digest")
        kind = labels.get(PREFIX + "turbo-oci/target-media-type") or labels.get(PREFIX + "fastoci/target-media-type")
        if target is None and not named:
            ordinary += 1  # unpacked into a directory; a device on top of it has no config to go on from
            continue
        if ordinary:
            fail(3, f"layer {number}: its parent has no config.v1.json")
        if not named:
            fail(3, f"layer {number}: unexpected storage while its overlaybd spec is made")
        if not labels[PREFIX + "blob-size"].isdigit():
            fail(3, f"layer {number}: its blob-size is no number")
        if target is None:
            lowers.append({"digest": labels[PREFIX + "blob-digest"]})
            continue
        with tarfile.open(fileobj=io.BytesIO(read(layer["digest"]))) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
        meta = lowers[0]["file"] if lowers else "erofs.fs.meta" if "erofs.fs.meta" in files else "ext4.fs.meta"
        lowers.append({"file": meta, "files": files, "target": target, "gzip": kind in GZIP_TYPES})
    if ordinary:
        fail(3, "an image of ordinary layers, without a device")
    return lowers


def device(lowers, read, out):
    if len(lowers) > 255:
        fail(4, "more than 255 layers")
    for number, lower in enumerate(lowers, 1):
        if "digest" in lower:
            blob = read(lower["digest"])
            begin = 1536 if blob[:14] == b"overlaybd.pax\0" else 512 if blob[257:262] == b"ustar" else 0
            size = len(blob)
            if begin:
                with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
                    size = tar.getmembers()[0].size
            meta, data = readimage.unzfile(blob[begin:begin + size]), b""
        else:
            if lower["file"] not in lower["files"]:
                fail(4, f"layer {number} has no {lower['file']}")
            meta, data = readimage.unzfile(lower["files"][lower["file"]]), read(lower["target"])
            if lower["gzip"]:
                if "gzip.meta" not in lower["files"]:
                    fail(4, f"layer {number} has no gzip.meta")
                index = lower["files"]["gzip.meta"]
                entries = readimage.index_entries(index, 1)
                data = gzip.decompress(data)[:entries[2]]  # the index of one of several members ends there
        virtual, _, segments = readimage.lsmt(meta)
        least = min((s[4] for s in segments), default=0)
        out.truncate(max(virtual, os.fstat(out.fileno()).st_size))
        for sector, n, mapped, zeroed, tag in segments:
            source = data if tag - least and "digest" not in lower else meta
            piece = b"" if zeroed else source[mapped * 512:(mapped + n) * 512]
            out.seek(sector * 512)
            out.write(piece + bytes(n * 512 - len(piece)))


def blocks(f):
    """(offset, 64 KiB) of a sparse file, without those that are zeros."""
    end, size = 0, f.seek(0, os.SEEK_END)
    while end < size:
        try:
            data_at = os.lseek(f.fileno(), end, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        begin = max(end, data_at // 65536 * 65536)
        end = os.lseek(f.fileno(), data_at, os.SEEK_HOLE)
        end += -end % 65536
        for at in range(begin, end, 65536):
            data = os.pread(f.fileno(), 65536, at)
            if any(data):
                yield at, data


def same(path, other):
    with open(path, "rb") as a, open(other, "rb") as b:
        return os.path.getsize(path) == os.path.getsize(other) and dict(blocks(a)) == dict(blocks(b))


def main():
    layout, tag, out_path = sys.argv[1:4]

    def read(digest):
        with open(f"{layout}/blobs/sha256/{digest.removeprefix('sha256:')}", "rb") as f:
            return f.read()
    with open(f"{layout}/index.json", "rb") as f:
        entries = json.load(f)["manifests"]
    name = "org.opencontainers.image.ref.name"
    manifest = json.loads(read(next(m["digest"] for m in entries if m.get("annotations", {}).get(name) == tag)))
    with open(out_path, "wb") as out:
        device(pull(manifest, read), read, out)
    if len(sys.argv) > 4 and not same(out_path, sys.argv[4]):
        fail(5, f"{out_path} is not {sys.argv[4]}")


if __name__ == "__main__":
    main()
