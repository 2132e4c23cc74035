#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Containers of containerd: an application's image as FastOCI, overlaybd, mixed and ordinary; pulled by rpull, run by ctr.
# The right answer, the right tree, little fetched, and nothing left.
# once: what it tests does not depend on the kernel
# One CPU: QEMU now and then runs code that the kernel patches for the first memory cgroup on the other one (int3).
# vm: -m 3G -c 1
# timeout: 900
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/containerd.sh
. "$SELFTESTS/lib/containerd.sh"
requires docker-registry skopeo jq containerd ctr runc setfattr "$BIN/fastoci-snapshotter"

image=$REGISTRY/app
load_module
modprobe overlay
app_registry
start_helper
echo '{"prefetch": {"learn": true, "seconds": 60}}' > "$WORK/snapshotter.json"
echo '{}' > "$WORK/node.json"
start_snapshotter --config "$WORK/snapshotter.json" --node-config "$WORK/node.json"
start_containerd
image_bytes=$(cat "$APP"/[123].tar.gz | wc -c)

wanted() { if [ "$1" = mixed ]; then echo "$APP/wanted.mixed"; else echo "$APP/wanted"; fi; }
for tag in fast native mixed latest; do
	before=$(counter bytes_fetched)
	check "$tag: rpull" "$BIN/fastoci" rpull -a "$CONTAINERD" --json "$image:$tag"
	pulled=$(jq -c '[.layers, .taken, .fetched_bytes]' "$WORK/check.out")
	check "$tag: ctr run" run_app "$image:$tag" "$tag"
	check "$tag: it answers" wait_for 60 answers
	fetched=$(($(counter bytes_fetched) - before))
	note "$tag: layers, taken, downloaded: $pulled; then fetched until the answer: $fetched of $image_bytes bytes"
	[ $tag = latest ] || check "$tag: a fraction of the image was fetched" test $fetched -lt $((image_bytes / 4))
	is "$tag: exec in it" "$(ctr task exec --exec-id e$tag "$tag" /bin/cat /www/index.html)" 'the answer'
	check "$tag: its tree is that of the independent unpacker" same_image_tree "$image:$tag" "$(wanted $tag)"
	check "$tag: removed" remove_app "$tag"
done
is 'a second pull finds all there' "$(rpull --json "$image:fast" | jq -c '[.layers, .present, .taken]')" '[3,3,0]'
check 'a container writes' run_app "$image:fast" writer
is 'what it writes is its own' "$(ctr task exec --exec-id w writer /bin/sh -c 'echo new > /www/index.html; cat /www/index.html')" new
check 'and is removed' remove_app writer
for mode in dir dev; do
	check "writable $mode: ctr run" run_app "$image:fast" $mode \
		--snapshotter-label containerd.io/snapshot/overlaybd.writable=$mode \
		--snapshotter-label containerd.io/snapshot/disk_quota=64m
	check "writable $mode: it has what is in the image" wait_for 60 answers
	# shellcheck disable=SC2016 # for the container's shell
	matches "writable $mode: it writes to a device of its own" "$(ctr task exec --exec-id w$mode $mode /bin/sh -c \
		'echo new > /www/index.html; read -r mount < /proc/mounts; cat /www/index.html; echo "$mount"' | xargs)" \
		'^new /dev/mapper/fastociw-[0-9a-f]+-[0-9]+ / ext4 rw'
	check "writable $mode: a layer of it is refused" not ctr snapshots --snapshotter fastoci commit layer $mode
	check "writable $mode: removed" remove_app $mode
done
is 'what is written comes to no other container' "$(run_app "$image:fast" last && wait_for 60 answers && ctr task exec --exec-id l last /bin/cat /www/index.html)" 'the answer'
check 'and that is removed' remove_app last
matches 'an image of all platforms is refused' "$(rpull --all-platforms "$image:fast" 2>&1)" 'another platform cannot run here'
matches 'what is not there is said' "$(rpull "$image:none" 2>&1)" 'not found|404'

# prefetch.learn: the starts above were watched; now the cache holds nothing of the image.
learned() { ls "$SNAP_ROOT"/starts/ctd-*; }
check 'learn: what a start reads was learned' wait_for 120 learned
check 'learn: no device is left' wait_for 60 no_dm_devices
fresh_cache
check 'learn: the image is attached again' ctr snapshots --snapshotter fastoci prepare idle "$(chain_of "$image:fast")"
check 'learn: that is fetched before anybody reads' wait_for 60 read_ahead
note "fetched ahead: $(counter bytes_fetched) bytes"
ctr snapshots --snapshotter fastoci rm idle

# record: what a start reads is pushed beside the image, and a node that knows nothing of the image reads it ahead.
check 'record: a container until it answers' record --net-host --until-url http://127.0.0.1:8000/ --seconds 120 "$image:fast" -- "${server[@]}"
is 'record: it ended by that, and the trace is one of the image that was named' "$(recorded '.ended_by, .image_digest')" \
	"ready $(ctr images ls "name==$image:fast" | awk 'NR == 2 { print $3 }')"
note "recorded: runs, bytes, seconds, lost: $(recorded '.runs, .bytes, .seconds, .lost')"
is 'record: no container is left' "$(ctr containers ls -q)" ''
check 'record: the image is removed' remove_images "$image:fast" "$image:mixed"
check 'record: no device is left' wait_for 60 no_dm_devices
fresh_cache
check 'record: pulled again' rpull "$image:fast"
check 'record: what the trace names is fetched before there is a container' wait_for 60 read_ahead
check 'record: by what the registry has' said 'the registry has a start trace'

check 'the images are removed' remove_images "$image:fast" "$image:native" "$image:latest"
case $(containerd_version) in
2.*) # Its own pull asks the snapshotter first, as rpull does.
	check 'no snapshot is left of them' wait_for 60 no_snapshots
	check 'ctr images pull' ctr images pull --plain-http --snapshotter fastoci "$image:native"
	is 'takes the layers without a download' "$(kinds)" '3 native'
	check 'ctr run' run_app "$image:native" own
	check 'it answers' wait_for 60 answers
	check 'and is removed' remove_app own
	check 'with its image' remove_images "$image:native"
	;;
esac
echo '{"signatures": {"*": "/nonexistent.pem"}}' > "$WORK/node.json"
for tag in fast native mixed; do
	matches "$tag: without the signature that the node demands it is not pulled" "$(rpull "$image:$tag" 2>&1)" 'nonexistent.pem'
done
nothing_of_ours
finish
