#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Conversion is a function of its input: the same digests with another clock, directory, environment, number of cores and
# concurrency, for each format and file system.
# timeout: 400
# more: it takes minutes
# once: the convertor
# shellcheck source=selftests/lib.sh
. "$(dirname "$0")/../lib.sh"
requires "$BIN/convertor" taskset

tmp=$DISK/same
use_disk
mkdir -p "$tmp/elsewhere" && cd "$tmp" || die "cd $tmp"
"$PYTHON" "$SELFTESTS/lib/mkimage.py" layout latest "$SELFTESTS"/fixtures/layers/layer{1,2,3}.tar.gz > mk.log 2>&1 ||
	die "$(cat mk.log)"
digests() { # digests FS [COMMAND...]: of the turboOCI and the overlaybd image
	"${@:2}" "$BIN/convertor" -r "oci:$tmp/layout" -i latest --fastoci a -o b --no-upload --fstype "$1" -d "$tmp/scratch" \
		2>> convertor.log | sed 's/.*@//' | tr '\n' ' '
}
for fs in ext4 erofs; do
	want=$(digests $fs)
	is "$fs: there are two digests" "$(wc -w <<<"$want")" 2
	is "$fs: again" "$(digests $fs)" "$want"
	is "$fs: on one core" "$(digests $fs taskset -c 0)" "$want"
	is "$fs: in another environment" "$(digests $fs env -i HOME=/ TZ=Asia/Tokyo LC_ALL=C LANG=de_DE)" "$want"
	is "$fs: in another directory" "$(cd elsewhere && digests $fs)" "$want"
	is "$fs: as another version of malloc would place things" "$(digests $fs env MALLOC_PERTURB_=85 MALLOC_ARENA_MAX=1)" "$want"
	for n in 1 8; do
		is "$fs: $n layers at a time" \
			"$("$BIN/convertor" -r "oci:$tmp/layout" -i latest --fastoci a -o b --no-upload --fstype $fs -d scratch \
				--concurrency-limit $n 2>> convertor.log | sed 's/.*@//' | tr '\n' ' ')" "$want"
	done
	now=$(date +%s)
	date -s @2000000000 > /dev/null
	is "$fs: in 2033" "$(digests $fs)" "$want"
	date -s "@$now" > /dev/null
done
finish
