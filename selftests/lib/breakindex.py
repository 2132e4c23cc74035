#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""breakindex.py HOST/REPOSITORY TAG: the FastOCI artifact that is listed as a referrer of that image gets a gzip index that
is cut off in the middle. All digests match, as if it had been made so."""
import gzip, hashlib, io, json, sys, tarfile

from addlayer import KINDS, ask, push

INDEX = "application/vnd.oci.image.index.v1+json"


def main():
    host, repository = sys.argv[1].split("/", 1)
    base = f"http://{host}/v2/{repository}"
    subject = ask(f"{base}/manifests/{sys.argv[2]}", Accept=KINDS).headers["Docker-Content-Digest"]
    tag = f"{base}/manifests/{subject.replace(':', '-')}"
    referrers = json.load(ask(tag, Accept=INDEX))
    entry = referrers["manifests"][0]
    manifest = json.load(ask(f"{base}/manifests/{entry['digest']}", Accept=KINDS))
    config = json.load(ask(f"{base}/blobs/{manifest['config']['digest']}"))
    for number, layer in enumerate(manifest["layers"]):
        with tarfile.open(fileobj=ask(f"{base}/blobs/{layer['digest']}"), mode="r|gz") as tar:
            members = [(m, tar.extractfile(m).read()) for m in tar]
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as new:
            for m, data in members:
                m.size = len(data) // 2 if m.name == "gzip.meta" else len(data)
                new.addfile(m, io.BytesIO(data[:m.size]))
        packed = gzip.compress(out.getvalue(), mtime=0)
        was, old_size = layer["digest"], str(layer["size"])
        layer.update(digest=push(base, packed), size=len(packed))
        for key, value in layer["annotations"].items():
            layer["annotations"][key] = {was: layer["digest"], old_size: str(len(packed))}.get(value, value)
        config["rootfs"]["diff_ids"][number] = "sha256:" + hashlib.sha256(out.getvalue()).hexdigest()
    body = json.dumps(config).encode()
    manifest["config"].update(digest=push(base, body), size=len(body))
    body = json.dumps(manifest).encode()
    entry.update(digest="sha256:" + hashlib.sha256(body).hexdigest(), size=len(body))
    ask(f"{base}/manifests/{entry['digest']}", "PUT", body, Content_Type=manifest["mediaType"])
    ask(tag, "PUT", json.dumps(referrers).encode(), Content_Type=INDEX)


if __name__ == "__main__":
    main()
