#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""addlayer.py HOST/REPOSITORY TAG NEWTAG LAYER.tar.gz: pushes the image with one more, ordinary, layer on top, as a build
from it would make it."""
import gzip, hashlib, json, sys, urllib.request

KINDS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


def ask(url, method="GET", data=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method))


def push(base, data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    where = ask(f"{base}/blobs/uploads/", "POST", b"").headers["Location"]
    ask(where + ("&" if "?" in where else "?") + "digest=" + digest, "PUT", data, Content_Type="application/octet-stream")
    return digest


def main():
    name, tag, new, path = sys.argv[1:]
    host, repository = name.split("/", 1)
    base = f"http://{host}/v2/{repository}"
    manifest = json.load(ask(f"{base}/manifests/{tag}", Accept=KINDS))
    config = json.load(ask(f"{base}/blobs/{manifest['config']['digest']}"))
    with open(path, "rb") as f:
        layer = f.read()
    config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(gzip.decompress(layer)).hexdigest())
    kind = "application/vnd.oci.image.layer.v1.tar+gzip"
    if "docker" in manifest["mediaType"]:
        kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    manifest["layers"].append({"mediaType": kind, "digest": push(base, layer), "size": len(layer)})
    body = json.dumps(config).encode()
    manifest["config"].update(digest=push(base, body), size=len(body))
    manifest.pop("subject", None)
    ask(f"{base}/manifests/{new}", "PUT", json.dumps(manifest).encode(), Content_Type=manifest["mediaType"])


if __name__ == "__main__":
    main()
