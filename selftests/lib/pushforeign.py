#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""pushforeign.py HOST:PORT/REPOSITORY TAG [options] LAYER...: an image as the reference implementation pushes it.

LAYER, bottom first: META=TARGET   a turboOCI layer and the original layer (tar or tar.gz), which is pushed as a blob too
                     FILE          a native overlaybd layer
                     accel:FILE    the same, marked as an acceleration layer
Options: --oci     OCI media types, not docker's
         --legacy  the annotations and the marker file that turboOCI had when its name was fastoci
The manifests are those of selftests/fixtures/examples. A meta layer whose target is a plain tar goes without gzip.meta,
as the reference makes it then.
"""
import gzip, hashlib, io, json, sys, tarfile, urllib.request

PREFIX = "containerd.io/snapshot/overlaybd/"


class Registry:
    def __init__(self, place):
        self.host, _, self.repository = place.partition("/")
        self.base = f"http://{self.host}/v2/{self.repository}"

    def put(self, url, data, content_type):
        request = urllib.request.Request(url, data=data, method="PUT", headers={"Content-Type": content_type})
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 201, answer.status

    def blob(self, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        begin = urllib.request.Request(f"{self.base}/blobs/uploads/", data=b"", method="POST")
        with urllib.request.urlopen(begin) as answer:
            place = answer.headers["Location"]
        if place.startswith("/"):
            place = f"http://{self.host}{place}"
        self.put(f"{place}{'&' if '?' in place else '?'}digest={digest}", data, "application/octet-stream")
        return digest


def repack(meta, legacy, with_index):
    """The same members in the same order, but for what the options change."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(meta)) as old, tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as new:
        for member in old:
            data = old.extractfile(member).read()
            if member.name == "gzip.meta" and not with_index:
                continue
            if member.name == ".turbo.ociv1" and legacy:
                member.name = ".fastoci.overlaybd"
            new.addfile(member, io.BytesIO(data))
    return gzip.compress(out.getvalue(), mtime=0)


def layer_of(registry, spec, oci, legacy):
    """A descriptor and its diff_id."""
    zipped_type, tar_type = (("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar") if oci else
                             ("application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar"))
    meta_path, turbo, target_path = spec.partition("=")
    accelerates = meta_path.startswith("accel:")
    with open(meta_path.removeprefix("accel:"), "rb") as f:
        data = f.read()
    notes = {"version": "0.1.0"}
    if turbo:
        with open(target_path, "rb") as f:
            target = f.read()
        zipped = target[:2] == b"\x1f\x8b"
        if legacy or not zipped:
            data = repack(data, legacy, zipped)
        name = "fastoci" if legacy else "turbo-oci"
        notes = {name + "/target-digest": registry.blob(target),
                 name + "/target-media-type": zipped_type if zipped else tar_type,
                 "version": "0.1.0-fastoci" if legacy else "0.1.0-turbo.ociv1"}
    if accelerates:
        notes["acceleration-layer"] = "yes"
    digest = registry.blob(data)
    notes.update({"blob-digest": digest, "blob-size": str(len(data))})
    diff_id = "sha256:" + hashlib.sha256(gzip.decompress(data)).hexdigest() if turbo else digest
    return {"mediaType": zipped_type if turbo else tar_type, "digest": digest, "size": len(data),
            "annotations": {PREFIX + key: value for key, value in sorted(notes.items())}}, diff_id


def main():
    options = {a for a in sys.argv[1:] if a.startswith("--")}
    place, tag, *layers = [a for a in sys.argv[1:] if not a.startswith("--")]
    assert options <= {"--oci", "--legacy"}, options
    oci, registry = "--oci" in options, Registry(place)
    made = [layer_of(registry, spec, oci, "--legacy" in options) for spec in layers]
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                         "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]}}).encode()
    config_type, manifest_type = (
        ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.manifest.v1+json") if oci else
        ("application/vnd.docker.container.image.v1+json", "application/vnd.docker.distribution.manifest.v2+json"))
    manifest = json.dumps({"schemaVersion": 2, "mediaType": manifest_type,
                           "config": {"mediaType": config_type, "digest": registry.blob(config), "size": len(config)},
                           "layers": [descriptor for descriptor, _ in made]}).encode()
    registry.put(f"{registry.base}/manifests/{tag}", manifest, manifest_type)


if __name__ == "__main__":
    main()
