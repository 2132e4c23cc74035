#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Many containers of several images at the same time; exec, commit, prune, image removal and garbage collection meanwhile.
# Each reads the right bytes, and nothing is left. MANY_POINTS: containers (10), of a fifth as many images.
# more: it takes minutes
# once: what it tests does not depend on the kernel
# One CPU: QEMU now and then runs code that the kernel patches for the first memory cgroup on the other one (int3).
# vm: -m 3G -c 1
# timeout: 600
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=selftests/lib/containerd.sh
. "$SELFTESTS/lib/containerd.sh"
requires docker-registry skopeo jq containerd ctr runc setfattr "$BIN/fastoci-snapshotter"

containers=${MANY_POINTS:-10} at_once=5
images=$((containers / 5 > 2 ? containers / 5 : 2))
image=$REGISTRY/many
# Of each three images one is FastOCI's, one overlaybd's, one ordinary.
tag_of() { # CONTAINER
	local kinds=(fast native plain) i=$(($1 % images))
	echo "${kinds[i % 3]}$i"
}
# batch COMMAND FIRST END: COMMAND with each number from FIRST on, a few at a time
batch() {
	local i j pids=() failed=0
	for ((i = $2; i < $3; i += at_once)); do
		pids=()
		for ((j = i; j < i + at_once && j < $3; j++)); do "$1" "$j" > "$WORK/batch.$j" 2>&1 & pids+=($!); done
		for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
	done
	[ $failed = 0 ] || { tail -n 5 "$WORK"/batch.*; return 1; }
}
make_image() { # NUMBER
	local dir=$DISK/many/$1 tag
	tag=$(tag_of "$1")
	mkdir -p "$dir/tree/data" && head -c 1500000 /dev/urandom > "$dir/tree/data/file" &&
		tar -C "$dir/tree" --sort=name --numeric-owner -czf "$dir/layer.tar.gz" data &&
		"$PYTHON" "$SELFTESTS/lib/mkimage.py" "$dir/layout" latest "$DISK/many/base.tar.gz" "$dir/layer.tar.gz" || return 1
	push_image "$dir/layout:latest" "many:plain$1"
	case $tag in
	fast*) convert many "plain$1" "$tag" ;;
	native*) "$BIN/convertor" -r "$image" -i "plain$1" -o "$tag" --plain ;;
	esac
}
pull_one() { rpull "$image:$(tag_of "$1")"; }
start_one() {
	ctr run --snapshotter fastoci -d "$image:$(tag_of "$1")" "c$1" /bin/sh -c 'sha256sum < /data/file > /tmp/sum; exec sleep 1000000'
}
remove_one() { remove_app "c$1"; }
sum_of() { sha256sum < "$DISK/many/$1/tree/data/file"; }
sums() { cat "$SNAP_ROOT"/snapshots/*/fs/tmp/sum; }
all_read() { [ "$(sums | wc -l)" = "$containers" ]; }

load_module
modprobe overlay
start_registry
mkdir -p "$DISK/many/base"/{bin,tmp,data,proc,sys,dev,etc,run}
cp /bin/busybox "$DISK/many/base/bin/"
for tool in sh sha256sum sleep; do ln -s busybox "$DISK/many/base/bin/$tool"; done
tar -C "$DISK/many/base" --sort=name --numeric-owner -czf "$DISK/many/base.tar.gz" .
for ((i = 0; i < images; i++)); do must make_image $i; done
start_helper
start_snapshotter
start_containerd

check "$images images are pulled, several at a time" batch pull_one 0 $images
check 'half of the containers start' batch start_one 0 $((containers / 2))
batch start_one $((containers / 2)) "$containers" > "$WORK/started" 2>&1 &
starting=$!
# Meanwhile:
is 'exec' "$(ctr task exec --exec-id e c0 /bin/sha256sum /data/file | cut -d' ' -f1)" "$(sum_of 0 | cut -d' ' -f1)"
check 'an upper over an image is prepared' ctr snapshots --snapshotter fastoci prepare scratch "$(chain_of "$image:fast0")"
check 'and committed' ctr snapshots --snapshotter fastoci commit kept scratch
check 'content is pruned' ctr content prune references
check 'an image with running containers is removed' remove_images "$image:fast0"
check 'a view of what was committed is to be had nevertheless' ctr snapshots --snapshotter fastoci view look kept
check 'both go' ctr snapshots --snapshotter fastoci rm look kept
check 'the image is pulled again' rpull "$image:fast0"
check 'the other half has started' wait $starting || note "$(cat "$WORK/started")"
check 'each has read its file' wait_for 120 all_read
is 'with the right bytes' "$(sums | sort -u)" "$(for ((i = 0; i < images; i++)); do sum_of $i; done | sort -u)"
devices=$(dmsetup ls | grep -c fastoci)
note "$containers containers of $images images, $devices devices"
check 'one device for all containers of an image' test "$devices" -le $images

check 'all are removed' batch remove_one 0 "$containers"
mapfile -t names < <(ctr images ls -q)
check 'and the images' remove_images "${names[@]}"
nothing_of_ours
finish
