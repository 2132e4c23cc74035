#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What the convertor writes, decoded by a reader of its own (lib/readimage.py), is the tree that applying the layers with
# Python's tarfile gives: names, types, modes, ids, times, links, extended attributes, contents. The fixtures' layers
# (whiteouts, opaque directories, capabilities, device nodes, sparse files, long names, ids over 2^21) and random ones, of
# the seeds in CONVERT_SEEDS.
# timeout: 900
# once: the convertor
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires zstd jq e2fsck fsck.erofs mkfs.ext4 "$BIN/convertor"

lib=$SELFTESTS/lib
tmp=$DISK/convert
use_disk
mkdir -p "$tmp/mnt"
cd "$tmp" || die "cd $tmp"
layers=$SELFTESTS/fixtures/layers
image() { "$PYTHON" "$lib/mkimage.py" layout "$@" > mkimage.log 2>&1 || die "$(cat mkimage.log)"; }
expected() { # expected TAG LAYER...: the tree that they make, as a list
	mkdir tree && "$PYTHON" "$lib/applylayers.py" tree "${@:2}" && "$PYTHON" "$lib/treelist.py" tree > "$1.want"
	local status=$?
	rm -rf tree
	return $status
}
convert_layout() { "$BIN/convertor" -r "oci:$tmp/layout" "$@" > convertor.log 2>&1 || { cat convertor.log; return 1; }; }
same_tree() { # same_tree TAG CONVERTED [mount options]
	mount -o "loop,ro${3:+,$3}" "$2.img" mnt || return 1
	"$PYTHON" "$lib/treelist.py" mnt > "$2.got"
	umount mnt
	diff "$1.want" "$2.got" > diff.out || { head -c 3000 diff.out; return 1; }
}
converted() { # converted TAG KIND: the converted image TAG_KIND reads back and holds the tree of TAG
	local name=$1_$2
	check "$name: the second reader understands it" "$PYTHON" "$lib/readimage.py" layout "$name" "$name.img" || return
	if [ "$2" = erofs ]; then
		check "$name: fsck.erofs finds nothing" fsck.erofs "$name.img"
		check "$name: the tree is the layers' tree" same_tree "$1" "$name"
	else
		check "$name: e2fsck finds nothing" e2fsck -fn "$name.img"
		check "$name: the tree is the layers' tree" same_tree "$1" "$name" noload
	fi
	rm -f "$name.img"
}

modprobe -a loop ext4 erofs && load_crc || die modprobe
image fixture "$layers"/layer{1,2,3}.tar.gz
check 'the expected tree of the fixture' expected fixture "$layers"/layer{1,2,3}.tar.gz
tags=(fixture)
for seed in ${CONVERT_SEEDS:-3}; do
	"$PYTHON" "$lib/mklayers.py" "$seed" 3 "r$seed" || die mklayers
	image "r$seed" "r$seed".*.tar.gz
	check "the expected tree of seed $seed" expected "r$seed" "r$seed".*.tar.gz
	tags+=("r$seed")
done
for tag in "${tags[@]}"; do
	check "$tag is converted to both formats" convert_layout -i "$tag" --fastoci "${tag}_ext4" -o "${tag}_native" &&
		converted "$tag" ext4
	check "$tag is converted to erofs" convert_layout -i "$tag" --fastoci "${tag}_erofs" --fstype erofs &&
		converted "$tag" erofs
done
converted fixture native

# The same layers in zstd: one frame, many of them, and gzip of many members on top.
n=0
for form in zstd frames members; do
	n=$((n + 1))
	must "$PYTHON" "$lib/recompress.py" "$layers/layer$n.tar.gz" "zstd.$n" $form
done
image zstd zstd.{1,2,3}
cp fixture.want zstd.want
check 'layers in zstd are converted' convert_layout -i zstd --fastoci zstd_ext4 && converted zstd ext4
# What overlaybd's snapshotter and reader make of it: of layers that turboOCI can describe the same device, and of images
# with any other layer nothing; the pull fails.
peer_agrees() {
	"$PYTHON" "$lib/readimage.py" layout "$1" ours.img && "$PYTHON" "$lib/peerpull.py" layout "$1" peer.img ours.img
}
peer_refuses() { "$PYTHON" "$lib/peerpull.py" layout "$1" peer.img; [ $? = 3 ]; }
for tag in fixture_{ext4,erofs,native}; do
	check "overlaybd reads $tag as we do" peer_agrees "$tag"
done
image mixed "$layers/layer1.tar.gz" zstd.2
image members zstd.3
for tag in zstd mixed members; do
	check "$tag is converted" convert_layout -i $tag --fastoci "${tag}_peer"
	matches 'with a word about overlaybd' "$(cat convertor.log)" 'overlaybd will not read it'
	check "whose pull of $tag fails" peer_refuses "${tag}_peer"
done
rm -f ours.img peer.img

# The second reader's own zstd: a native layer of another encoder.
must mkfs.ext4 -q -O ^has_journal -d "$lib" small.img 16M
must "$PYTHON" "$lib/mknative.py" small.zstd zstd small.img
image small overlaybd:small.zstd
check 'the second reader understands a ZFile in zstd' "$PYTHON" "$lib/readimage.py" layout small small.out
check 'which is the file system that went in' cmp small.img small.out

# On a base layer: with what mke2fs makes by default, and with the little that overlaybd's has.
on_base() { convert_layout --mkfs=false --base-layer base.zfile -i "r$seed" "$@"; }
while read -r kind flag features; do
	rm -f base.img && truncate -s 4G base.img
	must mkfs.ext4 -q -O "$features" base.img
	must "$PYTHON" "$lib/mknative.py" base.zfile zfile base.img
	check "$kind on a base layer with $features" on_base "$flag" "base_$kind" || continue
	must "$PYTHON" "$lib/readimage.py" layout "base_$kind" base.out
	check "$kind: e2fsck finds nothing" e2fsck -fn base.out
	check "$kind: it is mounted" mount -o loop,ro,noload base.out mnt
	is "$kind: the tree is the layers' tree" "$("$PYTHON" "$lib/treelist.py" mnt lost+found | diff "r$seed.want" -)" ''
	check "$kind: lost+found is that of the base layer" test -d mnt/lost+found
	umount mnt
done <<-KINDS
	turbo --fastoci metadata_csum,64bit,^has_journal
	native -o ^metadata_csum,^64bit,^has_journal,^resize_inode
KINDS
lowest() {
	jq -r '.layers[0] | [.mediaType, .annotations["containerd.io/snapshot/overlaybd/version"], .digest] | join(" ")' \
		"$1/manifest.json"
}
check 'the manifests are written out' on_base --fastoci a --no-upload --dump-manifest -d dump
is 'the lowest layer is the base layer as it is' "$(lowest dump)" \
	"application/vnd.docker.image.rootfs.diff.tar 0.1.0 sha256:$(sha256sum < base.zfile | cut -d' ' -f1)"
check 'once more, layer by layer' on_base --fastoci a --no-upload --dump-manifest -d again --concurrency-limit 1
check 'which gives the same' cmp dump/manifest.json again/manifest.json
check 'without a base layer there is no such image' not convert_layout --mkfs=false --base-layer none -i "r$seed" --fastoci b
matches 'and a word about what to do' "$(cat convertor.log)" 'base layer none: No such file.*install overlaybd.*--base-layer'
check 'nor on one that is not empty' not convert_layout --mkfs=false --base-layer small.zstd -i "r$seed" --fastoci b
finish
