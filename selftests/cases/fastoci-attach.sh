#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fastoci with a registry: resolve, verify, assemble in the decoder's sandbox, attach, mount. No helper is needed, since
# only metadata is read.
# once: what fastoci does with a registry
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires docker-registry skopeo e2fsck curl openssl "$BIN/fastoci" "$BIN/convertor" "$BIN/fastoci-decoderd"

tmp=/dev/shm/attach
mkdir -p $tmp
cli() { "$BIN/fastoci" --state-dir $tmp/state --control $tmp/control.sock "$@"; }
exits() { # exits CODE COMMAND...
	local want=$1 got
	shift
	"$@" > $tmp/out 2>&1
	got=$?
	[ $got = "$want" ] || { echo "exit code $got, wanted $want"; cat $tmp/out; return 1; }
}
said() { grep -qE -- "$1" $tmp/out || { cat $tmp/out; return 1; }; }
attach() { cli attach --cache-device /dev/ram1 "$@"; }
layers() {
	mkdir -p $tmp/l1/etc $tmp/l1/bin $tmp/l2/etc || return 1
	echo one > $tmp/l1/etc/name
	head -c 300000 /dev/urandom > $tmp/l1/bin/big
	ln -s big $tmp/l1/bin/link
	touch $tmp/l2/etc/.wh.name
	echo two > $tmp/l2/etc/other
	tar -C $tmp/l1 -czf $tmp/l1.tar.gz . && tar -C $tmp/l2 -czf $tmp/l2.tar.gz .
}
blob_path() { echo "$DISK/registry/docker/registry/v2/blobs/sha256/${1:7:2}/${1:7}/data"; }
manifest() { curl -s -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://$REGISTRY/v2/demo/manifests/$1"; }

modprobe -a dm-mod loop ext4 && modprobe brd rd_nr=2 rd_size=8192 && load_crc || die modprobe
must insmod "$MODULE"
truncate -s 4M $tmp/cache
"$PYTHON" "$SELFTESTS/lib/mkext4meta.py" $tmp/unused.img $tmp/cache $tmp/unused > $tmp/mk.log 2>&1 || die "$(cat $tmp/mk.log)"
dd if=$tmp/cache of=/dev/ram1 bs=64K conv=fsync,notrunc 2>/dev/null
must layers
"$PYTHON" "$SELFTESTS/lib/mkimage.py" $tmp/layout latest $tmp/l1.tar.gz $tmp/l2.tar.gz || die mkimage
start_registry
push_image $tmp/layout:latest demo:latest
image=$REGISTRY/demo

check 'an ordinary image is refused' exits 7 attach "$image:latest"
check 'and how to make a FastOCI image is said' said 'convertor -r'
check 'a tag that is not there is not found' exits 3 attach "$image:none"
check 'a registry that is not there is unavailable' exits 4 attach 127.0.0.1:9/demo:latest
check 'a bad reference is refused' exits 7 attach 'http://x/y:z'
is 'nothing is left of these' "$(ls -A $tmp/state 2>/dev/null)" ''

convert demo latest latest_fastoci --oci
check 'attach and mount by tag' exits 0 attach "$image:latest_fastoci" --mount $tmp/mnt
is 'the name comes from the tag' "$(cli list --json | "$PYTHON" -c 'import json,sys; print(json.load(sys.stdin)[0]["name"])')" demo-latest_fastoci
is 'the tree is that of the image' "$(cd $tmp/mnt && ls -d bin/* etc/* | tr '\n' ' ')" 'bin/big bin/link etc/other '
is 'sizes are known' "$(stat -c %s $tmp/mnt/bin/big)" 300000
is 'links are there' "$(readlink $tmp/mnt/bin/link)" big
check 'attaching again says so' exits 0 attach "$image:latest_fastoci"
check 'in words' said 'already attached'
check 'detach by reference, keeping the meta image' exits 0 cli detach "$image:latest_fastoci" --keep
check 'attach with the kept one' exits 0 attach "$image:latest_fastoci"
check 'did not assemble again' bash -c "! grep -q assembling $tmp/out"
check 'another image of that name is refused' exits 6 attach "$image:latest" --name demo-latest_fastoci
check 'detach' exits 0 cli detach demo-latest_fastoci

check 'assemble to a file' exits 0 cli assemble "$image:latest_fastoci" -o $tmp/demo.img
check 'gives the same again' exits 0 cli assemble "$image:latest_fastoci" -o $tmp/demo2.img
check 'to the byte' cmp $tmp/demo.img $tmp/demo2.img
check 'attach of the file' exits 0 attach --meta-image $tmp/demo.img --name file --mount $tmp/mnt
check 'detach it' exits 0 cli detach $tmp/mnt

# The policy: signatures as cosign makes them, here by the openssl command.
sign() { # KEY TAG: signs the manifest of TAG with a private key
	local digest payload signature
	digest=sha256:$(manifest "$2" | sha256sum | cut -d' ' -f1)
	printf '{"critical":{"identity":{"docker-reference":"%s"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}' \
		"$image" "$digest" > $tmp/payload
	signature=$(openssl dgst -sha256 -sign "$1" $tmp/payload | base64 -w0)
	printf '{}' > $tmp/empty
	payload=$(push_blob $tmp/payload)
	curl -sf -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary @- \
		"http://$REGISTRY/v2/demo/manifests/${digest/:/-}.sig" <<-JSON
	{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
	 "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2, "digest": "$(push_blob $tmp/empty)"},
	 "layers": [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "size": $(stat -c %s $tmp/payload),
	  "digest": "$payload", "annotations": {"dev.cosignproject.cosign/signature": "$signature"}}]}
	JSON
}
push_blob() { # FILE: prints its digest
	local digest where
	digest=sha256:$(sha256sum < "$1" | cut -d' ' -f1)
	where=$(curl -sf -X POST -D - -o /dev/null "http://$REGISTRY/v2/demo/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
	curl -sf -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$1" "$where&digest=$digest" && echo "$digest"
}
for key in ours theirs; do
	openssl ecparam -genkey -name prime256v1 -noout -out $tmp/$key.key && openssl ec -in $tmp/$key.key -pubout -out $tmp/$key.pem
done 2> $tmp/keys.log || die "$(cat $tmp/keys.log)"
printf '{"signatures": {"%s": "%s"}}' "$image" $tmp/ours.pem > $tmp/policy.json
demanded() { attach --node-config $tmp/policy.json "$@"; }
check 'an image without the signature that is demanded is refused' exits 7 demanded "$image:latest_fastoci"
check 'with image, keys and reason' said "$image@sha256:.*$tmp/ours.pem.*there is none"
check 'another key signs it' sign $tmp/theirs.key latest_fastoci
check 'that is refused' exits 7 demanded "$image:latest_fastoci"
check 'with the reason' said 'no key of it made the one that is there'
is 'and leaves nothing' "$(ls -A $tmp/state)" ''
check 'ours signs it' sign $tmp/ours.key latest_fastoci
check 'that is attached' exits 0 demanded "$image:latest_fastoci"
check 'and detached' exits 0 cli detach "$image:latest_fastoci"
printf '{"signatures": {"*": "ours.pem"}}' > $tmp/policy.json
check 'a mistake in the policy lets nothing in' exits 7 demanded "$image:latest_fastoci"
check 'and has its place' said 'policy.json:1:17: '

convert demo latest latest_referrer --referrer
check 'attach by the original name, through its referrer' exits 0 attach "$image:latest" --mount $tmp/mnt
check 'detach that' exits 0 cli detach "$image:latest"

meta=$(manifest latest_fastoci | "$PYTHON" -c 'import json,sys; print(json.load(sys.stdin)["layers"][0]["digest"])')
printf 'x' | dd of="$(blob_path "$meta")" bs=1 seek=100 conv=notrunc 2>/dev/null
check 'a meta layer with a changed byte is refused' exits 7 attach "$image:latest_fastoci"
is 'and leaves nothing' "$(ls -A $tmp/state)" ''
layer=$(manifest latest | "$PYTHON" -c 'import json,sys; print(json.load(sys.stdin)["layers"][1]["digest"])')
# While the original's manifest is there, the registry keeps its layers, and attach asks for none of them.
original=$(manifest latest_referrer | "$PYTHON" -c 'import json,sys; print(json.load(sys.stdin)["subject"]["digest"])')
for gone in "manifests/$original" "blobs/$layer"; do curl -s -X DELETE "http://$REGISTRY/v2/demo/$gone" > /dev/null; done
check 'a missing original layer is not found' exits 3 attach "$image:latest_referrer"
check 'and is named' said "original layer $layer"

stop_registry
check 'nothing is left' nothing_left
finish
