#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mkpatches.py DIR LAYER NUMBER BYTES: NUMBER files 00, 01, ... of BYTES of text that compresses to about a half, in DIR and in
the layer LAYER (tar.gz): places to read that are more than a span apart."""
import gzip, io, os, random, sys, tarfile

folder, layer, number, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
os.makedirs(folder, exist_ok=True)
with gzip.GzipFile(layer, "wb", compresslevel=1, mtime=0) as z, tarfile.open(fileobj=z, mode="w") as tar:
    for i in range(number):
        content = random.Random(i).randbytes(size // 2).hex().encode()
        with open(f"{folder}/{i:02}", "wb") as f:
            f.write(content)
        info = tarfile.TarInfo(f"{i:02}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
