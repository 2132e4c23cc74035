#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""addlayer.py HOST/REPOSITORY TAG NEWTAG LAYER.tar.gz [KEY=VALUE...]: pushes the image with one more, ordinary, layer on top,
as a build from it would make it. KEY=VALUE: overlaybd's annotations of the layer; those of its digest and size are added."""
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
    name, tag, new, path, *notes = sys.argv[1:]
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
    added = {"mediaType": kind, "digest": push(base, layer), "size": len(layer)}
    if notes:
        notes = dict(note.split("=", 1) for note in notes) | {"blob-digest": added["digest"], "blob-size": str(added["size"])}
        added["annotations"] = {"containerd.io/snapshot/overlaybd/" + key: value for key, value in notes.items()}
    manifest["layers"].append(added)
    body = json.dumps(config).encode()
    manifest["config"].update(digest=push(base, body), size=len(body))
    manifest.pop("subject", None)
    ask(f"{base}/manifests/{new}", "PUT", json.dumps(manifest).encode(), Content_Type=manifest["mediaType"])


if __name__ == "__main__":
    main()
