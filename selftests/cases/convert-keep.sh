#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The original's layers outlive its tag: the convertor keeps it under another one, so that deleting the original and
# running docker-registry's garbage collection leaves a FastOCI image that attaches; `fastoci copy` carries all of it,
# to another repository and to a layout. Upload: what is there already is not sent again.
# once: the convertor and copy
# timeout: 400
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry skopeo curl "$BIN/convertor" "$BIN/fastoci" "$BIN/fastoci-decoderd"

tmp=$DISK/keep
use_disk
mkdir -p "$tmp/tree/etc" && cd "$tmp" || die "cd $tmp"
head -c 300000 /dev/urandom > tree/etc/data
tar -C tree -czf layer.tar.gz . || die tar
"$PYTHON" "$SELFTESTS/lib/mkimage.py" layout latest layer.tar.gz > mkimage.log 2>&1 || die "$(cat mkimage.log)"
layer=sha256:$(sha256sum layer.tar.gz | cut -d' ' -f1)
url=http://$REGISTRY/v2
accept='Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json'
digest_of() { curl -sI -H "$accept" "$url/$1/manifests/$2" | tr -d '\r' | sed -n 's/^Docker-Content-Digest: //Ip'; }
delete() { [ "$(curl -s -o /dev/null -w '%{http_code}' -X DELETE "$url/$1/manifests/$(digest_of "$1" "$2")")" = 202 ]; }
has_blob() { curl -sfI "$url/$1/blobs/$2" > /dev/null; }
collect() { # as an operator does it: with the registry stopped
	stop_registry
	docker-registry garbage-collect "$WORK/registry.yml" "$@" > gc.log 2>&1 || { cat gc.log; return 1; }
	start_registry
}
assembles() { "$BIN/fastoci" assemble "$REGISTRY/$1" -o out.img --plain; }

start_registry
push_image "$tmp/layout:latest" demo:latest
convert demo latest fast --oci
manifest=$(digest_of demo fast)
check 'the original is kept under a tag and digest of its own' [ "$(digest_of demo fast-original)" != "$(digest_of demo latest)" ]
check 'copy to another repository' "$BIN/fastoci" copy "$REGISTRY/demo:fast" "$REGISTRY/other:fast" --plain
is 'it has the same digest there' "$(digest_of other fast)" "$manifest"
check 'the original is deleted' delete demo latest
check 'garbage is collected' collect
check 'the layer is still there' has_blob demo "$layer"
check 'the image is assembled' assembles demo:fast
check 'garbage is collected with what has no tag' collect --delete-untagged
check 'the layer is still there' has_blob demo "$layer"
check 'the first repository goes' delete demo fast
check 'and what it kept' delete demo fast-original
check 'garbage is collected again' collect --delete-untagged
check 'the copy has its own' has_blob other "$layer"
check 'the copy is assembled' assembles other:fast
check 'copy to a layout' "$BIN/fastoci" copy "$REGISTRY/other:fast" "oci:$tmp/backup:fast" --plain
check 'which has the layer' test -f "$tmp/backup/blobs/sha256/${layer#sha256:}"
check 'and back' "$BIN/fastoci" copy "oci:$tmp/backup:fast" "$REGISTRY/third:fast" --plain
is 'with the same digest' "$(digest_of third fast)" "$manifest"
check 'it is assembled' assembles third:fast
for repository in other third; do
	check "$repository goes" delete $repository fast
	check 'with what it kept' delete $repository fast-original
done
check 'garbage is collected once more' collect --delete-untagged
check 'and nothing holds the layer any longer' not has_blob other "$layer"
stop_registry
finish
