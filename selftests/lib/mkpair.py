#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mkpair.py FOLDER CHUNKS: two images of CHUNKS chunks each that share half of them, for a real helper.

Image N, 0 or 1, is FOLDER/metaN, its device's content FOLDER/dataN: a layer that both have and one of its own, in runs of
up to 200 sectors in scattered order. The layers are files in FOLDER, uncompressed, with digests. Prints the devices'
sectors, which are the same.
"""
import hashlib, json, os, random, struct, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from metaimage import BLOB, CHUNK, Blob, MetaImage


class DigestedBlob(Blob):
    """One whose digests begin at that byte of the helper region."""

    def __init__(self, data, digests_at):
        digest = hashlib.sha256(data).digest()
        chunks = b"".join(hashlib.sha256(data[at:at + CHUNK]).digest() for at in range(0, len(data), CHUNK))
        space = digest + struct.pack("<QI", len(data), 0) + hashlib.sha256(chunks).digest()
        super().__init__(len(data), hashlib.sha256(space).digest(), digest)
        self.digests_at = digests_at

    def __bytes__(self):
        entry = super().__bytes__()
        return entry[:112] + struct.pack("<QI", self.digests_at, self.data_bytes // CHUNK) + entry[124:]


def main():
    folder, half = os.path.abspath(sys.argv[1]), int(sys.argv[2]) // 2
    layers = {name: random.Random(name).randbytes(half * CHUNK) for name in ("shared", "own0", "own1")}
    for name, data in layers.items():
        with open(f"{folder}/{name}", "wb") as f:
            f.write(data)
    for number in 0, 1:
        rnd, names = random.Random(number), ("shared", f"own{number}")
        cuts = []
        for blob in range(2):
            at = 0
            while at < half * CHUNK // 512:
                n = min(rnd.randrange(1, 201), half * CHUNK // 512 - at)
                cuts.append((blob, at, n))
                at += n
        rnd.shuffle(cuts)
        keys, content = [0], []
        for blob, at, n in cuts:
            keys.append(keys[-1] + n)
            content.append(layers[names[blob]][at * 512:(at + n) * 512])
        image = MetaImage(keys[:-1], [BLOB | blob << 48 | at for blob, at, _ in cuts],
                          [DigestedBlob(layers[name], i * half * 32) for i, name in enumerate(names)], keys[-1],
                          image_id=hashlib.sha256(names[1].encode()).digest())
        image.regions["helper"].data = b"".join(hashlib.sha256(layers[name][at:at + CHUNK]).digest()
                                                for name in names for at in range(0, half * CHUNK, CHUNK))
        image.regions["json"].data = json.dumps({"version": 1, "image": names[1], "manifest_digest": "sha256:" + "0" * 64, "blobs": [{
            "digest": "sha256:" + hashlib.sha256(layers[name]).hexdigest(), "size": len(layers[name]),
            "media_type": "application/vnd.oci.image.layer.v1.tar",
            "sources": [{"type": "file", "path": f"{folder}/{name}"}]} for name in names]}).encode()
        with open(f"{folder}/meta{number}", "wb") as f:
            f.write(bytes(image))
        with open(f"{folder}/data{number}", "wb") as f:
            f.write(b"".join(content))
    print(keys[-1])


if __name__ == "__main__":
    main()
