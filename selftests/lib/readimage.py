#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""readimage.py LAYOUT TAG OUT: the block device that a converted image (turboOCI or native overlaybd) describes.

A second reader of what the convertor writes, from the formats alone and sharing nothing with the helper: manifest and
config, the meta layers' tar, tar wrapper, ZFile (lz4 and zstd), LSMT, the gzip index (decoded from every entry to the end
of the next span and compared with the plain stream), the index of zstd frames (decoded from entry to entry), and the
digests in fastoci.chunks. OUT is written as a sparse file. Whatever does not fit ends the program.
"""
import ctypes, gzip, hashlib, io, json, os, struct, subprocess, sys, tarfile, zlib

PREFIX = "containerd.io/snapshot/overlaybd/"
TURBO_VERSION, OWN_VERSION = "0.1.0-turbo.ociv1", "0.2.0-fastoci"
CRC_TABLE = []
for i in range(256):
    c = i
    for _ in range(8):
        c = c >> 1 ^ 0x82F63B78 if c & 1 else c >> 1
    CRC_TABLE.append(c)


def need(ok, what):
    if not ok:
        sys.exit("readimage: " + what)


def crc32c(seed, data):
    c = seed
    for b in data:
        c = c >> 8 ^ CRC_TABLE[(c ^ b) & 255]
    return c


def lz4(src, size):
    out, i = bytearray(), 0

    def length(n):
        nonlocal i
        while n >= 15:
            n += src[i]
            i += 1
            if src[i - 1] != 255:
                break
        return n
    while i < len(src):
        token = src[i]
        i += 1
        n = length(token >> 4)
        out += src[i:i + n]
        i += n
        if i >= len(src):
            break
        distance = src[i] | src[i + 1] << 8
        i += 2
        for _ in range(length(token & 15) + 4):
            out.append(out[-distance])
    need(len(out) == size, "an lz4 block of a wrong size")
    return bytes(out)


def zstd_block(src, size):
    lib, out = ctypes.CDLL("libzstd.so.1"), ctypes.create_string_buffer(size)
    lib.ZSTD_decompress.restype, lib.ZSTD_decompress.argtypes = ctypes.c_size_t, [ctypes.c_char_p, ctypes.c_size_t] * 2
    need(lib.ZSTD_decompress(out, size, src, len(src)) == size, "a zstd block that does not decode to its size")
    return out.raw


def unzstd(frames):
    """Of any number of frames, without a word about their sizes."""
    if not frames:
        return b""
    done = subprocess.run(["zstd", "-dqc"], input=frames, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    need(done.returncode == 0, f"zstd: {done.stderr.decode()}")
    return done.stdout


def unzfile(data):
    """The content of a ZFile, or data itself if it is none."""
    if data[:8] != b"ZFile\0\1\0":
        return data

    def header(b):
        need(b[:24] == b"ZFile\0\1\0tuji.yyf@Alibaba" and not any(b[96:512]), "ZFile magic")
        need(crc32c(0, b[:28] + bytes(4) + b[32:512]) == struct.unpack_from("<I", b, 28)[0], "ZFile header digest")
        return struct.unpack_from("<IIQQQQIIIBBBBIIB", b, 24)
    h, t = header(data[:512]), header(data[-512:])
    need(h[0] == 96 and h[2] & 0x17 == 0b10011 and t[2] & 0x1F == 0b10110, "ZFile flags")
    if h[2] & 8:  # else the trailer alone tells
        need(h[3:10] == t[3:10], "ZFile header and trailer differ")
    index_at, nr, size, index_crc, block, algorithm, verify = t[3], t[4], t[5], t[6], t[8], t[9], t[15]
    need(block == 4096 and algorithm in (1, 2) and verify == 1 and index_at + 4 * nr + 512 == len(data), "ZFile layout")
    unpack = {1: lz4, 2: zstd_block}[algorithm]
    need(crc32c(0, data[index_at:index_at + 4 * nr]) == index_crc, "ZFile index crc")
    out, at = [], 512
    for i, n in enumerate(struct.unpack_from(f"<{nr}I", data, index_at)):
        stored, crc = data[at:at + n - 4], struct.unpack_from("<I", data, at + n - 4)[0]
        need(crc32c(100007, stored) == crc, f"ZFile block {i} crc")
        out.append(unpack(stored, min(block, size - i * block)))
        at += n
    need(at == index_at, "ZFile blocks")
    return b"".join(out)


def lsmt(data):
    """(virtual size, uuid, [(sector, sectors, mapped, zeroed, tag)]) of a committed file.

    Refuses what overlaybd's own reader refuses: more than 1,000,000 entries, entries out of order, and an entry, a zeroed
    one too, that is mapped to a place outside of the file's data.
    """
    def header(b):
        need(b[:24].hex() == "4c534d5400010200657e63d29444084ca2d2c8ec4fcfae8a", "LSMT magic")
        size, flags, index, entries, virtual = struct.unpack_from("<IIQQQ", b, 24)
        need(size == 390 and b[132:134] == b"\1\1" and not any(b[390:4096]), "LSMT header")
        return flags, index, entries, virtual, b[56:93]
    (hf, hi, he, hv, huuid), (tf, index, entries, virtual, uuid) = header(data[:4096]), header(data[-4096:])
    need((hf, hi, he, hv) == (7, 0, 0, virtual) and tf == 6 and huuid == uuid, "LSMT flags")
    need(index >= 4096 and index + 16 * entries <= len(data) - 4096 and entries <= 1000000, "LSMT index")
    out, end, data_end = [], 0, index // 512
    for i in range(entries):
        a, b = struct.unpack_from("<QQ", data, index + 16 * i)
        s = (a & (1 << 50) - 1, a >> 50, b & (1 << 55) - 1, b >> 55 & 1, b >> 56)
        if s[:2] == ((1 << 50) - 1, 0):
            continue  # padding
        need(s[0] >= end and s[1] > 0 and s[0] + s[1] <= virtual // 512, "LSMT entries out of order")
        end = s[0] + s[1]
        if s[3]:
            need(8 <= s[2] <= data_end, f"LSMT entry {i}, of zeros, is mapped to {s[2]}, not within [8, {data_end}]")
        elif not s[4]:  # tags other than 0 are places in the layer's tar
            need(8 <= s[2] < s[2] + s[1] <= data_end, f"LSMT entry {i} is mapped outside of the data")
        out.append(s)
    return virtual, uuid, out


def members_of(blob):
    """[(offset in the blob, its length, offset in the stream, length there)] of each gzip member."""
    out, at, data_at = [], 0, 0
    while blob[at:].strip(b"\0"):
        at = len(blob) - len(blob[at:].lstrip(b"\0"))
        z = zlib.decompressobj(31)
        n = len(z.decompress(blob[at:]))
        used = len(blob) - at - len(z.unused_data)
        need(z.eof, "a gzip member that does not end")
        out.append((at, used, data_at, n))
        at, data_at = at + used, data_at + n
    return out


def index_entries(meta, version):
    need(meta[:10] == b"ddgzidx\0" + bytes([version, 0]), "gzip index magic or version")
    need(crc32c(0, meta[:329]) == struct.unpack_from("<I", meta, 329)[0], "gzip index header crc")
    algorithm, _, _, span, window, entry, nr, gz_bytes, file_bytes, data_bytes = struct.unpack_from("<BBBiiiqqqq", meta, 10)
    start, length = struct.unpack_from("<qq", meta, 313)
    need((algorithm, window, entry) == (1, 32768, 29) and file_bytes == len(meta), "gzip index fields")
    table = zlib.decompress(meta[start:start + length])
    need(len(table) == 29 * nr, "gzip index table")
    return span, gz_bytes, data_bytes, [struct.unpack_from("<qqqBI", table, 29 * i) for i in range(nr)]


def check_index(meta, blob, data, members):
    """Version 1: of one member; version 2: of many, with an entry where each begins that is not empty."""
    span, gz_bytes, data_bytes, entries = index_entries(meta, 1 if len(members) == 1 else 2)
    need(gz_bytes == len(blob) and data_bytes == len(data), "gzip index sizes")
    starts = [at for _, _, at, n in members if n or len(members) == 1]
    need(set(starts) <= {e[0] for e in entries}, "a member without an entry")
    last = -1
    for i, (at, compressed, window_at, bits, window_len) in enumerate(entries):
        need(at > last and (at < len(data) or not data), f"gzip index entry {i} out of order")
        need(at in starts or at - last >= span, f"gzip index entry {i} within the span of the one before")
        last = at
        window = zlib.decompress(meta[window_at:window_at + window_len])
        need(len(window) == 32768, f"window {i}")
        # Over the next entry, if that is in the same member: readers keep one stream.
        end = min([e[0] for e in entries[i + 2:i + 3]] + [s for s in starts if s > at] + [len(data), at + span + 200000])
        got = inflate_from(blob, compressed, bits, window, end - at)
        need(got == data[at:end], f"gzip index entry {i} gives other bytes")


class ZStream(ctypes.Structure):
    _fields_ = [("next_in", ctypes.c_void_p), ("avail_in", ctypes.c_uint), ("total_in", ctypes.c_ulong),
                ("next_out", ctypes.c_void_p), ("avail_out", ctypes.c_uint), ("total_out", ctypes.c_ulong),
                ("msg", ctypes.c_char_p), ("state", ctypes.c_void_p), ("zalloc", ctypes.c_void_p),
                ("zfree", ctypes.c_void_p), ("opaque", ctypes.c_void_p), ("data_type", ctypes.c_int),
                ("adler", ctypes.c_ulong), ("reserved", ctypes.c_ulong)]


def inflate_from(blob, compressed, bits, window, nr_bytes):
    """nr_bytes from an entry on; Python's zlib module has no inflatePrime."""
    z, lib = ZStream(), ctypes.CDLL("libz.so.1")
    raw, out = blob[compressed:compressed + nr_bytes + 65536], ctypes.create_string_buffer(nr_bytes)
    source = ctypes.create_string_buffer(raw, len(raw))
    need(lib.inflateInit2_(ctypes.byref(z), -15, b"1.2.11", ctypes.sizeof(z)) == 0, "inflateInit2")
    z.next_in, z.avail_in = ctypes.addressof(source), len(raw)
    z.next_out, z.avail_out = ctypes.addressof(out), nr_bytes
    if bits:
        need(lib.inflatePrime(ctypes.byref(z), bits, blob[compressed - 1] >> 8 - bits) == 0, "inflatePrime")
    need(lib.inflateSetDictionary(ctypes.byref(z), window, len(window)) == 0, "inflateSetDictionary")
    code = lib.inflate(ctypes.byref(z), 0)
    need(code in (0, 1) or (code == -5 and z.avail_out == 0), f"an entry does not inflate ({code})")
    lib.inflateEnd(ctypes.byref(z))
    return out.raw[:nr_bytes - z.avail_out]


def check_frames(index, blob, data):
    """fastoci.zstd: each entry is where a frame begins, and what is decoded from there to the next one is right."""
    need(index[:12] == b"focizstd\1\0\0\0", "zstd index magic or version")
    need(~crc32c(0xFFFFFFFF, index[:-4]) & 0xFFFFFFFF == struct.unpack("<I", index[-4:])[0], "zstd index crc")
    blob_bytes, data_bytes, nr = struct.unpack_from("<QQQ", index, 12)
    need((blob_bytes, data_bytes) == (len(blob), len(data)) and len(index) == 36 + 16 * nr + 4, "zstd index sizes")
    entries = [struct.unpack_from("<QQ", index, 36 + 16 * i) for i in range(nr)] + [(len(data), len(blob))]
    # Skippable frames may come first; they hold no data.
    need(nr > 0 and entries[0][0] == 0 and unzstd(blob[:entries[0][1]]) == b"", "the first entry of a zstd index")
    for i, ((at, begin), (next_at, end)) in enumerate(zip(entries, entries[1:])):
        need(at < next_at and begin < end and (i == nr - 1 or next_at - at >= 256 << 10), f"zstd index entry {i} out of order")
        need(unzstd(blob[begin:end]) == data[at:next_at], f"zstd index entry {i} gives other bytes")


def read_meta_layer(path, annotations, store):
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        for m in members:
            need((m.uid, m.gid, m.mtime, m.uname, m.gname, m.pax_headers) == (0, 0, 0, "", "", {}), "tar header of " + m.name)
        names = [m.name for m in members]
        files = {m.name: tar.extractfile(m).read() for m in members}
    turbo = annotations[PREFIX + "version"] == TURBO_VERSION
    if turbo:
        fs = [n for n in names if n.endswith(".fs.meta")]
        need(len(fs) == 1 and names[1] == ".turbo.ociv1" and files[".turbo.ociv1"] == b"", f"members {names}")
    else:  # not for readers of turboOCI
        fs = [n for n in names if n in ("fastoci.ext4", "fastoci.erofs")]
        need(len(fs) == 1 and not any(n.endswith(".meta") or n == ".turbo.ociv1" for n in names), f"members {names}")
    target = annotations[PREFIX + "turbo-oci/target-digest"]
    with open(store(target), "rb") as f:
        blob = f.read()
    about = json.loads(files["fastoci.json"])
    need(about["targetDigest"] == target == "sha256:" + hashlib.sha256(blob).hexdigest(), "target digest")
    media_type = annotations[PREFIX + "turbo-oci/target-media-type"]
    zipped, zstd = media_type.endswith("gzip"), media_type.endswith("zstd")
    data = gzip.decompress(blob) if zipped else unzstd(blob) if zstd else blob
    need(about["dataBytes"] == len(data) and about["targetSize"] == len(blob), "sizes in fastoci.json")
    indexes = [n for n in ("gzip.meta", "fastoci.gzip", "fastoci.zstd") if n in files]
    members = members_of(blob) if zipped else []
    wanted = ["fastoci.zstd"] if zstd and data else ["gzip.meta" if len(members) == 1 else "fastoci.gzip"] if zipped else []
    need(indexes == wanted and turbo == (not zstd and wanted != ["fastoci.gzip"]), f"indexes {indexes}")
    if zipped:
        check_index(files[indexes[0]], blob, data, members)
    if zstd and data:
        check_frames(files[indexes[0]], blob, data)
    digests = b"".join(hashlib.sha256(data[i:i + 65536]).digest() for i in range(0, len(data), 65536))
    need(files.get("fastoci.chunks", b"") == digests, "fastoci.chunks")
    return unzfile(files[fs[0]]), data


def read_native(path, annotations):
    with open(path, "rb") as f:
        blob = f.read()
    need(annotations[PREFIX + "blob-digest"] == "sha256:" + hashlib.sha256(blob).hexdigest(), "blob digest")
    if blob[:5] == b"ZFile":  # a base layer below meta layers
        return unzfile(blob), b""
    # A base layer has a plain header.
    begin = 1536 if blob[:14] == b"overlaybd.pax\0" and blob[156:157] == b"x" else 512
    with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
        members = tar.getmembers()
        need([m.name for m in members] == ["overlaybd.commit"] and members[0].offset_data == begin, "tar wrapper")
        payload = blob[begin:begin + members[0].size]
    need(blob[begin + (len(payload) + 511) // 512 * 512:] == bytes(1024), "end of the tar wrapper")
    return unzfile(payload), b""


def main():
    layout, tag, out_path = sys.argv[1:4]

    def store(digest):
        return f"{layout}/blobs/sha256/{digest.removeprefix('sha256:')}"

    def document(digest):
        with open(store(digest), "rb") as f:
            body = f.read()
        need("sha256:" + hashlib.sha256(body).hexdigest() == digest, f"{digest} is damaged")
        return json.loads(body)
    with open(f"{layout}/index.json", "rb") as f:
        entries = json.load(f)["manifests"]
    found = [m["digest"] for m in entries if m.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag]
    need(len(found) == 1, f"{len(found)} images with the tag {tag}")
    manifest = document(found[0])
    if "manifests" in manifest:
        manifest = document(manifest["manifests"][0]["digest"])
    diff_ids = document(manifest["config"]["digest"])["rootfs"]["diff_ids"]
    need(len(diff_ids) == len(manifest["layers"]) <= 255, "number of layers")
    with open(out_path, "wb") as out:
        for layer, diff_id in zip(manifest["layers"], diff_ids):
            path, notes = store(layer["digest"]), layer["annotations"]
            version = notes[PREFIX + "version"]
            # Without these overlaybd's snapshotter refuses a layer that has a target.
            named = (None, None) if version == OWN_VERSION else (layer["digest"], str(layer["size"]))
            need((notes.get(PREFIX + "blob-digest"), notes.get(PREFIX + "blob-size")) == named, "blob-digest and blob-size")
            need(os.path.getsize(path) == layer["size"], "size of " + layer["digest"])
            turbo = version in (TURBO_VERSION, OWN_VERSION)
            with (gzip.open if turbo else open)(path, "rb") as f:
                need("sha256:" + hashlib.sha256(f.read()).hexdigest() == diff_id, "diff id of " + layer["digest"])
            meta, data = read_meta_layer(path, notes, store) if turbo else read_native(path, notes)
            virtual, uuid, segments = lsmt(meta)
            need(turbo == (uuid == b"00000000-0000-0000-0000-000000000000\0"), "uuid")
            out.truncate(max(virtual, os.fstat(out.fileno()).st_size))
            for sector, n, mapped, zeroed, tag_byte in segments:
                need(zeroed or tag_byte <= (1 if turbo else 0), "tag")
                source = data if tag_byte else meta
                piece = b"" if zeroed else source[mapped * 512:(mapped + n) * 512]
                out.seek(sector * 512)
                out.write(piece + bytes(n * 512 - len(piece)))


if __name__ == "__main__":
    main()
