#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""seeds.py FOLDER: small images for meta_fuzz to begin with."""
import os, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../selftests/lib"))
from metaimage import BLOB, META, ZERO, Blob, MetaImage

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)


def save(name, keys, payloads, blobs, sectors, metadata=b""):
    with open(os.path.join(folder, name), "wb") as f:
        f.write(bytes(MetaImage(keys, payloads, blobs, sectors, metadata)))


save("zero", [0], [ZERO], [], 8)
at = MetaImage.metadata_at(2, 0) // 512
save("metadata", [0, 8], [ZERO, META | at], [], 10, bytes(1024))
save("blob", [0, 8, 16], [ZERO, BLOB | 1, BLOB], [Blob(4097, bytes(32))], 24)
at = MetaImage.metadata_at(64, 2) // 512
save("all", [i * 7 for i in range(64)], [(ZERO, META | at, BLOB | 5, BLOB | 1 << 48 | 2)[i % 4] for i in range(64)],
     [Blob(1 << 20, bytes([i]) * 32) for i in range(2)], 64 * 7 + 1, bytes(4096))
