#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mkhelpermeta.py META CACHE DATA BLOB: mkmeta.py's image with what a helper needs besides: chunk digests and the JSON
part, whose only source is the file BLOB (absolute), which is written too."""
import hashlib, json, os, struct, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mkmeta

mkmeta.main()
meta_path, blob_path = sys.argv[1], sys.argv[4]
blob = mkmeta.blob_data(mkmeta.BLOB_BYTES)
with open(blob_path, "wb") as f:
    f.write(blob)
with open(meta_path, "rb") as f:
    image = bytearray(f.read())
digests = b"".join(hashlib.sha256(blob[i:i + 65536]).digest() for i in range(0, len(blob), 65536))
parts = json.dumps({"version": 1, "image": "test", "manifest_digest": "sha256:" + "0" * 64, "blobs": [{
    "digest": "sha256:" + hashlib.sha256(blob).hexdigest(), "size": len(blob),
    "media_type": "application/vnd.oci.image.layer.v1.tar",
    "sources": [{"type": "file", "path": blob_path}]}]}).encode()
entry = bytearray(image[4096:4096 + 128])
entry[32:64] = hashlib.sha256(blob).digest()
entry[:32] = hashlib.sha256(entry[32:64] + struct.pack("<QI", len(blob), 0) + hashlib.sha256(digests).digest()).digest()
entry[120:124] = struct.pack("<I", len(digests) // 32)
image[4096:4096 + 128] = entry
regions = {88: (4096, entry)}
for at, data in ((184, digests), (208, parts)):
    image += bytes(-len(image) % 4096)
    regions[at] = (len(image), data)
    image += data
for at, (offset, data) in regions.items():
    image[at:at + 24] = mkmeta.region(offset, bytes(data))
image[72:80] = struct.pack("<Q", len(image))
image[:4096] = mkmeta.with_crc(bytes(image[:4096]))
with open(meta_path, "wb") as f:
    f.write(image)
