#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""lyingseed.py SEED data|space|layer: changes a seed of one image so that all digests of its blobs are right, but it lies.

data: other bytes in a piece; space: the id of another data space; layer: another original layer in the config."""
import hashlib, json, os, sys

seed, what = sys.argv[1:]


def path(digest):
    return f"{seed}/blobs/sha256/{digest.split(':')[1]}"


def put(content):
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    with open(path(digest), "wb") as f:
        f.write(content)
    return digest


def read(digest):
    with open(path(digest), "rb") as f:
        return f.read()


index = json.load(open(f"{seed}/index.json"))
entry = next(m for m in index["manifests"] if json.loads(read(m["digest"])).get("artifactType") == "application/vnd.fastoci.seed.v1+json")
manifest = json.loads(read(entry["digest"]))
if what == "layer":
    config = json.loads(read(manifest["config"]["digest"]))
    config["layers"][0]["digest"] = "sha256:" + "5" * 64
    text = json.dumps(config).encode()
    manifest["config"].update(digest=put(text), size=len(text))
else:
    layer = manifest["layers"][0]
    content = bytearray(read(layer["digest"]))
    content[1000 if what == "data" else len(content) - 64] ^= 1
    layer["digest"] = put(content)
    if what == "space":
        layer["annotations"]["org.fastoci.data-space"] = "sha256:" + bytes(content[-64:-32]).hex()
text = json.dumps(manifest).encode()
os.unlink(path(entry["digest"]))
entry.update(digest=put(text), size=len(text))
json.dump(index, open(f"{seed}/index.json", "w"))
