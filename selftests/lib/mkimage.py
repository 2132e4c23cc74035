#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mkimage.py LAYOUT TAG LAYER...: adds an image of these layers (tar, tar.gz, tar.zst; bottom first) to an OCI layout.
A LAYER overlaybd:FILE is a native overlaybd layer.
"""
import gzip, hashlib, json, os, subprocess, sys


def put(layout, data):
    digest = hashlib.sha256(data).hexdigest()
    os.makedirs(f"{layout}/blobs/sha256", exist_ok=True)
    with open(f"{layout}/blobs/sha256/{digest}", "wb") as f:
        f.write(data)
    return "sha256:" + digest


def main():
    layout, tag, paths = sys.argv[1], sys.argv[2], sys.argv[3:]
    layers, diff_ids = [], []
    for path in paths:
        native, path = path.startswith("overlaybd:"), path.removeprefix("overlaybd:")
        with open(path, "rb") as f:
            blob = f.read()
        tar, suffix = blob, ""
        if blob[:2] == b"\x1f\x8b":
            tar, suffix = gzip.decompress(blob), "+gzip"
        elif blob[:4] == b"\x28\xb5\x2f\xfd" or blob[1:4] == b"\x2a\x4d\x18":
            tar, suffix = subprocess.run(["zstd", "-dqc", path], stdout=subprocess.PIPE, check=True).stdout, "+zstd"
        diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())
        layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar" + suffix,
                       "digest": put(layout, blob), "size": len(blob)})
        if native:
            prefix = "containerd.io/snapshot/overlaybd/"
            layers[-1]["annotations"] = {prefix + "version": "0.1.0", prefix + "blob-size": str(len(blob)),
                                         prefix + "blob-digest": layers[-1]["digest"]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": json.loads(os.environ.get("IMAGE_CONFIG", "{}")),
                         "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                           "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                                      "digest": put(layout, config), "size": len(config)},
                           "layers": layers}).encode()
    with open(f"{layout}/oci-layout", "w") as f:
        json.dump({"imageLayoutVersion": "1.0.0"}, f)
    index = {"schemaVersion": 2, "manifests": []}
    if os.path.exists(f"{layout}/index.json"):
        with open(f"{layout}/index.json") as f:
            index = json.load(f)
    name = "org.opencontainers.image.ref.name"
    index["manifests"] = [m for m in index["manifests"] if m.get("annotations", {}).get(name) != tag]
    index["manifests"].append({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": put(layout, manifest),
                               "size": len(manifest), "annotations": {name: tag}})
    with open(f"{layout}/index.json", "w") as f:
        json.dump(index, f)


if __name__ == "__main__":
    main()
